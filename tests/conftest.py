"""What several test files share: a narrow configuration and double precision."""

import jax
import pytest

from configs import base


@pytest.fixture(scope="session")
def narrow_config():
    def make(**changes):
        """The base configuration, narrow; `section__field=value` changes a field."""
        config = base.get_config()
        config.compute_dtype = "float64"
        config.data.canvas_size = 40
        config.views.size = 32
        config.model.num_landmarks = 3
        config.model.detector_channels = 8
        config.model.hourglass_depth = 1
        config.model.generator_channels = 2
        config.model.residual_blocks = 1
        config.train.batch_size = 4
        for name, value in changes.items():
            section, _, field = name.rpartition("__")
            setattr(config[section] if section else config, field, value)
        return config

    return make


@pytest.fixture
def x64():
    with jax.enable_x64(True):
        yield


@pytest.fixture(scope="module")
def module_x64():
    """Double precision for a whole file, so that its module fixtures live in it too."""
    with jax.enable_x64(True):
        yield
