"""The common input of all contenders: a preset, random weights, a batch of random canvases."""

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict

from landmarks_jax import config as configuration
from landmarks_jax import objective
from landmarks_jax.configs import paper, released
from landmarks_jax.models import detectors
from landmarks_jax.models import vgg as vggs
from landmarks_jax.tasks import landmarks, task_of
from landmarks_jax.tasks.task import Frozen
from landmarks_jax.training import sharding
from landmarks_jax.training import state as states
from landmarks_jax.training.batches import Batch, batch_shapes, num_points
from landmarks_jax.weights import vgg_weights

PRESETS = {"paper": paper, "released": released}
BY_WIDTH = {64: "paper", 32: "released"}  # presets, by the generator's channels
PAPER_STEPS = 85_000  # of the paper's training
_NUM_POINTS = 5  # of a photo, where views are cut around boxes


class Problem(NamedTuple):
    """The common input of all contenders.

    Attributes:
      config: the configuration.
      networks: our modules.
      frozen: constants of the steps, on the device.
      variables: initial weights, `{"params", "batch_stats"}`, NumPy.
      batch: canvases, and the points where the views need them, NumPy.
    """

    config: ConfigDict
    networks: objective.Networks
    frozen: Frozen
    variables: dict[str, Any]
    batch: tuple[np.ndarray, ...]


def configure(
    preset: str, channels: int | None, dtype: str, batch: int, **fields: Any
) -> ConfigDict:
    """A preset with other fields.

    Args:
      preset: one of `PRESETS`.
      channels: the generator's; None for the preset's own.
      dtype: `config.compute_dtype`.
      batch: photos per step.
      fields: any other, as `views__size=64`.
    """
    config = PRESETS[preset].get_config()
    config.compute_dtype = dtype
    config.train.batch_size = batch
    config.model.generator_channels = channels or config.model.generator_channels
    config.perceptual.weights = "random"
    for name, value in fields.items():
        section, field = name.split("__")
        config[section][field] = tuple(value) if isinstance(value, list) else value
    configuration.validate(config)
    return config


def random_vgg(config: ConfigDict) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray]:
    """VGG's parameters drawn at random, and the mean and deviation of its input."""
    params = random_layers(config.perceptual.network, config.perceptual.taps)
    if not config.perceptual.normalize:
        return params, np.zeros(3, np.float32), np.ones(3, np.float32)
    mean, std = vgg_weights.IMAGENET_MEAN, vgg_weights.IMAGENET_STD
    return params, np.array(mean, np.float32), np.array(std, np.float32)


def random_layers(network: str, taps: Sequence[str]) -> dict[str, np.ndarray]:
    """The parameters that VGG's taps need: He's normal kernels, biases of 0."""
    rng = np.random.default_rng(0)
    shapes = vggs.parameter_shapes(network, taps)
    params = {
        name: (rng.standard_normal(shape) * np.sqrt(2 / np.prod(shape[:-1]))).astype(np.float32)
        for name, shape in shapes.items()
    }
    return params | {n: np.zeros_like(array) for n, array in params.items() if n.startswith("bias")}


def _random_core(config: ConfigDict) -> dict[str, Any]:
    """The frozen weights of the detector."""
    if not detectors.reads_vgg(config):
        return {}
    model = config.model
    params = random_layers(model.features_network, (model.features_tap,))
    mean, std = np.zeros(3, np.float32), np.ones(3, np.float32)
    return {detectors.FEATURES: {"mean": mean, "std": std, "vgg": params}}


def mesh() -> jax.sharding.Mesh:
    """The first device alone, as PyTorch's step uses no other."""
    return sharding.make_mesh(jax.devices()[:1])


def input_shapes(config: ConfigDict, sharding: Any = None) -> Batch:
    """The shapes of a batch."""
    return batch_shapes(config, num_points(config, _NUM_POINTS), sharding)


def num_parameters(config: ConfigDict) -> int:
    """How many parameters are trained."""
    state = states.abstract_state(config, task_of(config).build_networks(config), mesh())
    return sum(leaf.size for leaf in jax.tree.leaves(state.params))


def make_problem(config: ConfigDict) -> Problem:
    """Draws weights, canvases and points in NumPy, which compiles nothing."""
    networks = task_of(config).build_networks(config)
    variables = _random_variables(config, networks)
    rng = np.random.default_rng(1)
    canvases, points = input_shapes(config)
    batch = [rng.integers(0, 256, canvases.shape, np.uint8)]
    if points is not None:
        batch.append(rng.uniform(-0.4, 0.4, points.shape).astype(np.float32))
    frozen = Frozen(jax.random.key(config.seed), *random_vgg(config), _random_core(config))
    frozen = sharding.put_replicated(mesh(), frozen)
    return Problem(config, networks, frozen, variables, tuple(batch))


def _random_variables(config: ConfigDict, networks: objective.Networks) -> dict[str, Any]:
    """Weights of an initialiser's size; batch norms are not the identity."""
    state: Any = states.abstract_state(config, networks, mesh())
    rng = np.random.default_rng(0)

    def draw(path: Any, leaf: jax.ShapeDtypeStruct) -> np.ndarray:
        name = jax.tree_util.keystr(path[-1:], simple=True)
        if name in ("scale", "var"):
            return rng.uniform(0.7, 1.3, leaf.shape).astype(leaf.dtype)
        bound = np.prod(leaf.shape[:-1]) ** -0.5 if name == "kernel" else 0.1
        return rng.uniform(-bound, bound, leaf.shape).astype(leaf.dtype)

    variables = {"params": state.params, "batch_stats": state.batch_stats}
    return jax.tree_util.tree_map_with_path(draw, variables)


def first_state(problem: Problem) -> states.TrainState:
    """The state before the first step, on the device."""
    config = problem.config
    shapes = states.abstract_state(config, problem.networks, mesh()).tap_means
    means = jax.tree.map(lambda mean: np.zeros(mean.shape, mean.dtype), shapes)
    averaged = problem.variables["params"] if config.optimizer.ema_decay else {}
    kept = {**problem.variables, "averaged": averaged, "tap_means": means, "core": {}}
    return states.state_with_new_optimizer(config, kept, 0, mesh())


def draw_views(problem: Problem, step: int = 0) -> tuple[Any, Any, Any]:
    """The views and auxiliary rows that the given step of ours will draw."""
    run = jax.jit(partial(landmarks.draw, config=problem.config))
    canvases, points = (*problem.batch, None)[:2]
    drawn = run(problem.frozen.key, np.int32(step), canvases, points=points)
    first, second = drawn.pair
    return jax.device_get((first.images, second.images, drawn.auxiliary))
