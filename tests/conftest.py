"""What several test files share: quick compilation, a narrow configuration, double precision."""

import os
import tempfile
from functools import partial
from importlib.metadata import version

# Before JAX starts. Compiling is what takes the tests' time, so it is cheap, and done once: the
# cache is shared with the processes that tests start, and gone at the end.
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:  # pytest's workers have their parent's
    _CACHE = tempfile.TemporaryDirectory(prefix="landmarks_jax-test-compilations-")
    os.environ["JAX_COMPILATION_CACHE_DIR"] = _CACHE.name
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.2"
os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"
if version("jaxlib").startswith("0.10."):  # later ones do not know the flag and would abort
    _FLAGS = os.environ.get("XLA_FLAGS", "")
    os.environ["XLA_FLAGS"] = f"{_FLAGS} --xla_cpu_use_fusion_emitters=false"  # compiles faster
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"  # a passing test prints nothing

import jax
import numpy as np
import pytest

from landmarks_jax.configs import base
from landmarks_jax.inference import api, packed_file
from landmarks_jax.system import compiler
from tests import packing


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    """With CI=true a test whose extra is not installed fails."""
    return _refuse_missing_extras((yield))


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector):
    """The same for files."""
    return _refuse_missing_extras((yield))


def _refuse_missing_extras(report):
    if report.skipped and os.environ.get("CI") == "true" and "extra `" in str(report.longrepr):
        report.outcome, report.longrepr = "failed", f"With CI=true: {report.longrepr}"
    return report


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
def default_fusion(monkeypatch):
    """Compiles steps as outside the tests, so that two forms of a step are equal to the bit."""
    monkeypatch.setitem(compiler._OPTIONS["cpu"], "xla_cpu_use_fusion_emitters", True)
    compiler.compiler_options()  # tries the options now, which compiles


@pytest.fixture
def x64():
    with jax.enable_x64(True):
        yield


@pytest.fixture(scope="module")
def module_x64():
    """Double precision for a whole file, so that its module fixtures live in it too."""
    with jax.enable_x64(True):
        yield


@pytest.fixture(scope="session")
def filled():
    def fill(module, *inputs, seed=0, dtype=np.float32, **keywords):
        """Variables of a module drawn by NumPy, in no need of compiling its initialisation."""
        structs = [jax.ShapeDtypeStruct(shape, dtype) for shape in inputs]
        init = partial(module.init, **keywords)
        rng = np.random.default_rng(seed)

        def draw(path, leaf):
            name = jax.tree_util.keystr(path[-1:], simple=True)
            if name in ("scale", "var"):
                return rng.uniform(0.7, 1.3, leaf.shape).astype(leaf.dtype)
            bound = np.sqrt(1.0 / np.prod(leaf.shape[:-1])) if name == "kernel" else 0.1
            return rng.uniform(-bound, bound, leaf.shape).astype(leaf.dtype)

        return jax.tree_util.tree_map_with_path(
            draw, jax.eval_shape(init, jax.random.key(0), *structs)
        )

    return fill


@pytest.fixture(scope="session")
def packed(narrow_config, filled):
    """A narrow packed detector; tests must not change it."""
    return packing.make(narrow_config, filled)


@pytest.fixture(scope="session")
def packed_path(packed, tmp_path_factory):
    path = tmp_path_factory.mktemp("packed") / "narrow.safetensors"
    packed_file.write(path, packed)
    return path


@pytest.fixture(scope="session")
def landmark_detector(packed):
    """The narrow detector, whose programs are compiled once for all files."""
    return api.LandmarkDetector(packed)


@pytest.fixture(scope="session")
def home(tmp_path_factory):
    """The browser's folder: profile, downloads and test images."""
    return tmp_path_factory.mktemp("browser")


@pytest.fixture(scope="session")
def browser(home):
    from tests import browsing  # noqa: PLC0415

    driver = browsing.open_browser(home)
    yield driver
    driver.quit()
