"""What an extension costs: a loss term is one entry, a detector is one module."""

import sys
import types
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from landmarks_jax import config as configuration
from landmarks_jax import losses
from landmarks_jax.configs import base
from landmarks_jax.inference import packed_file
from landmarks_jax.inference.detector import ViewDetector
from landmarks_jax.models import detectors
from landmarks_jax.system.errors import ConfigError, WeightsError
from landmarks_jax.tasks import task_of
from landmarks_jax.tasks.task import Frozen
from landmarks_jax.training import sharding
from landmarks_jax.training import state as states
from landmarks_jax.training import step as steps
from tests.running import call, narrow

KEY = jax.random.key(0)
FROZEN = Frozen(KEY, {}, np.zeros(3, np.float32), np.ones(3, np.float32))
MODULE = "a_detector_of_the_user"


@pytest.fixture
def centered(monkeypatch):
    """A term that pulls landmarks to the centre of the view."""
    term = losses.Term(lambda inputs: (inputs.made.landmarks**2).mean(), "landmarks stay central")
    monkeypatch.setitem(losses.TERMS, "centered", term)


def metric_names(config):
    """The metrics of a step, traced and not computed."""
    networks = task_of(config).build_networks(config)
    start = partial(
        states.initial_state,
        config=config,
        networks=networks,
        optimizer=states.make_optimizer(config),
    )
    state = jax.eval_shape(start, KEY)
    canvases = jax.ShapeDtypeStruct((4, 20, 20, 3), jnp.uint8)
    options = {"config": config, "networks": networks}
    return set(steps.empty_totals(state, canvases, FROZEN, **options).sums)


def test_a_loss_term_is_one_entry(centered):
    config = narrow(objective__composition="baseline")
    assert config.objective.centered_weight == 0
    usual = {"loss", "pixel", "norm_detector", "norm_generator", "learning_rate"}
    assert metric_names(config) == usual  # a term of weight 0 is not computed
    config.objective.centered_weight = 0.5
    configuration.validate(config)
    assert metric_names(config) == {*usual, "centered"}
    assert losses.terms_not_in_paper(config) == "centered 0.5"
    with pytest.raises(ConfigError, match=r"objective\.centered_weight = -1\.0: must be from 0"):
        configuration.validate(narrow(objective__centered_weight=-1.0))
    line = "--config.objective.centered_weight: landmarks stay central, not in the paper"
    assert line in call("train", "--help")[1]


def test_every_term_has_a_field_and_a_line_of_help():
    text = losses.help_text()
    for name, field in losses.weight_fields().items():
        assert base.get_config().objective[f"{name}_weight"] == losses.TERMS[name].weight
        assert f"--config.{field}: {losses.TERMS[name].note}" in text
    assert losses.terms_not_in_paper(base.get_config()) == ""


class OneConvolution(nn.Module):
    """A detector of one convolution, with half the hourglass's stride."""

    num_landmarks: int
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, images, *, use_running_average):
        x = nn.Conv(self.num_landmarks, (3, 3), (2, 2))(images)
        return nn.BatchNorm(use_running_average)(x)


@pytest.fixture
def module(monkeypatch):
    own = types.ModuleType(MODULE)
    own.STRIDE, own.SIZES, own.check = 2, (), lambda config: None
    own.build = lambda config, bn_updates=(0,): OneConvolution(config.model.num_landmarks)
    monkeypatch.setitem(sys.modules, MODULE, own)
    return own


def test_a_detector_is_one_module(module, tmp_path, monkeypatch):
    config = narrow(
        model__detector=MODULE, objective__composition="baseline", model__residual_blocks=0
    )
    configuration.validate(config)
    networks = task_of(config).build_networks(config)
    optimizer = states.make_optimizer(config)
    state = states.start_state(config, networks, sharding.make_mesh(jax.devices()[:1]))
    canvases = np.random.default_rng(0).integers(0, 256, (8, 20, 20, 3), np.uint8)
    options = {"config": config, "networks": networks}
    totals = steps.empty_totals(state, canvases, FROZEN, **options)
    step = jax.jit(partial(steps.train_step, optimizer=optimizer, **options))
    after, totals = step(state, totals, canvases, FROZEN)
    assert np.isfinite(float(totals.sums["loss"]))
    kernels = [s.params["detector"]["Conv_0"]["kernel"] for s in (state, after)]
    assert np.abs(kernels[1] - kernels[0]).max() > 1e-5

    variables = jax.device_get(states.trained_variables(after))
    packed = packed_file.PackedDetector(packed_file.inference_config(config), variables, None, {})
    packed_file.write(tmp_path / "own", packed)
    back = packed_file.read(tmp_path / "own")
    views = np.random.default_rng(1).integers(0, 256, (2, 16, 16, 3), np.uint8)
    actual = ViewDetector(back.config, back.variables).find(views)
    assert actual["heatmaps"].shape == (2, 8, 8, 3)
    # Reading a file runs no code that is not loaded already.
    monkeypatch.delitem(sys.modules, MODULE)
    with pytest.raises(WeightsError, match=f"module '{MODULE}'; import that first"):
        packed_file.read(tmp_path / "own")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("no_such", "config.model.detector = 'no_such': must be a module"),
        ("generator", "'generator': the module has no SIZES"),
        ("json", "'json': the module has no STRIDE"),
        ("", "config.model.detector = '': must be a module"),
    ],
)
def test_what_is_no_detector_is_refused(name, message):
    with pytest.raises(ConfigError, match=message):
        configuration.validate(narrow(model__detector=name))


def test_a_file_names_detectors_of_this_package_or_imported_ones():
    assert detectors.is_trusted("hourglass")
    assert detectors.is_trusted("landmarks_jax.models.hourglass")
    assert not detectors.is_trusted("antigravity")
    assert not detectors.is_trusted("../hourglass")
