"""Two steps of the presets' choices, narrow and in double precision, held against stored numbers.

The numbers were made before the modules were rearranged: a step must not change by accident. Where
it changes on purpose, `python -m tests.test_golden` stores them anew.
"""

import importlib
import json
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from landmarks_jax.models import vgg
from landmarks_jax.tasks import task_of
from landmarks_jax.tasks.task import Frozen
from landmarks_jax.training import sharding
from landmarks_jax.training import state as states
from landmarks_jax.training import step as steps
from tests.running import shrink

GOLDEN = Path(__file__).with_name("golden.json")
IDLE = tuple(f"['detector']['{layer}']['bias']" for layer in ("stem", "last", "head"))
PRESETS = ("synthetic", "released", "mpii_pretrain")


def narrow(preset):
    config = importlib.import_module(f"landmarks_jax.configs.{preset}").get_config()
    shrink(config)
    config.compute_dtype = "float64"
    config.train.batch_size = 4
    if preset == "released":
        config.perceptual.weights, config.perceptual.taps = "vgg.npz", ("relu1_2", "relu2_2")
    if preset == "mpii_pretrain":
        config.model.num_landmarks = 16
    return config


def measure(preset):
    """The metrics of both steps, and of each leaf of the last state its sum and its norm."""
    config, rng = narrow(preset), np.random.default_rng(0)
    networks = task_of(config).build_networks(config)
    weights = {}
    if networks.vgg is not None:
        shapes = vgg.parameter_shapes("vgg16", config.perceptual.taps)
        weights = {name: rng.normal(0, 0.1, shape) for name, shape in shapes.items()}
    frozen = Frozen(jax.random.key(0), weights, np.full(3, 0.45), np.full(3, 0.25))
    num_points = {"box": 5}.get(config.data.crop, 18 if config.objective.task == "pose" else 0)
    points = rng.uniform(-0.4, 0.4, (4, num_points, 2)) if num_points else None
    optimizer = states.make_optimizer(config)
    options = {"config": config, "networks": networks}
    step = jax.jit(partial(steps.train_step, optimizer=optimizer, **options))
    state = states.start_state(config, networks, sharding.make_mesh(jax.devices()[:1]))
    metrics = []
    for _ in range(2):
        canvases = rng.integers(0, 256, (4, 20, 20, 3), np.uint8)
        totals = steps.empty_totals(state, canvases, frozen, points, **options)
        state, totals = step(state, totals, canvases, frozen, points)
        metrics.append({name: float(value) for name, value in totals.sums.items()})
    leaves = jax.tree_util.tree_leaves_with_path((state.params, state.batch_stats))
    norms = [np.linalg.norm(np.asarray(leaf)) for leaf in jax.tree.leaves(state.opt_state)]
    return {
        "metrics": metrics,
        "optimizer": float(np.linalg.norm(norms)),
        "state": {jax.tree_util.keystr(path): summary(leaf) for path, leaf in leaves},
    }


def summary(leaf):
    return [float(leaf.sum()), float(jnp.linalg.norm(leaf.ravel()))]


@pytest.mark.parametrize("preset", PRESETS)
def test_two_steps_are_those_stored(preset, x64):
    stored, measured = json.loads(GOLDEN.read_text())[preset], measure(preset)
    for actual, expected in zip(measured["metrics"], stored["metrics"], strict=True):
        # A term of weight 0 is not computed; it was when the numbers were stored.
        assert {"loss", "norm_detector"} <= actual.keys() <= expected.keys()
        assert actual == pytest.approx({name: expected[name] for name in actual}, rel=1e-9)
    assert measured["optimizer"] == pytest.approx(stored["optimizer"], rel=1e-9)
    assert measured["state"].keys() == stored["state"].keys()
    for name, (total, norm) in stored["state"].items():
        # A sum may cancel: its rounding error is that of the norm. The gradient of a bias before a
        # batch norm or the softmax is nothing but rounding, which Adam amplifies.
        within = 1e-5 if name.endswith(IDLE) else 1e-8
        close = pytest.approx([total, norm], rel=within, abs=within * max(norm, 1e-9))
        assert measured["state"][name] == close, name


if __name__ == "__main__":
    with jax.enable_x64(True):
        golden = {preset: measure(preset) for preset in PRESETS}
    GOLDEN.write_text(json.dumps(golden, indent=1) + "\n")
