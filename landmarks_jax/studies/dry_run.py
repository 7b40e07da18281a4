"""Traces one training step of every cell at full width: shapes only, nothing is computed.

It needs neither photos nor weights nor a core: the perceptual network's parameters, an adapted
detector's frozen weights and the points of box views are shapes too.
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from ml_collections import ConfigDict

from landmarks_jax import config as configuration
from landmarks_jax import objective
from landmarks_jax.evaluation.breakdown import FIVE_POINTS
from landmarks_jax.models import detectors
from landmarks_jax.models.vgg import parameter_shapes
from landmarks_jax.studies.paper_cells import Base, Cell, config_of
from landmarks_jax.studies.published_numbers import DETECTOR_PARAMETERS, GENERATOR_PARAMETERS
from landmarks_jax.tasks import task_of
from landmarks_jax.tasks.task import Frozen
from landmarks_jax.training import sharding
from landmarks_jax.training import state as states
from landmarks_jax.training import step as steps
from landmarks_jax.training.batches import batch_shapes

# The networks that the paper's parameter counts are of.
_PAPER_DETECTOR = {
    "views.size": 128,
    "model.detector": detectors.DEFAULT,
    "model.detector_channels": 256,
    "model.hourglass_depth": 4,
}
_PAPER_BLOCKS = 6


class Parameters(NamedTuple):
    """Counts of parameters.

    Attributes:
      detector: parameters of the plain detector; of an adapted one after folding.
      generator: parameters of encoder and decoder.
    """

    detector: int
    generator: int


def trace(config: ConfigDict) -> Parameters:
    """Traces one step and counts the networks' parameters.

    Raises:
      ValueError: the step returns a state of other shapes than it takes.
    """
    networks = task_of(config).build_networks(config)
    state = states.abstract_state(config, networks, sharding.make_mesh())
    trace_step(config, networks, states.make_optimizer(config), state)
    plain = jax.eval_shape(states.trained_variables, state)["params"]
    return Parameters(_count(plain), _count(state.params["generator"]))


def trace_step(
    config: ConfigDict,
    networks: objective.Networks,
    optimizer: optax.GradientTransformation,
    state: states.TrainState,
) -> None:
    """Traces one step from the shapes of a state.

    Raises:
      ValueError: the step returns a state of other shapes than it takes.
    """
    batch = batch_shapes(config, len(FIVE_POINTS))
    frozen = Frozen(_key(), _perceptual(networks), _floats(3), _floats(3), state.core)
    state = dataclasses.replace(state, core={})  # as in the loop
    totals = steps.empty_totals(
        state, batch.canvases, frozen, batch.points, config=config, networks=networks
    )
    step = functools.partial(
        steps.train_step, config=config, networks=networks, optimizer=optimizer
    )
    new_state, new_totals = jax.eval_shape(
        step, state, totals, batch.canvases, frozen, batch.points
    )
    for before, after in ((state, new_state), (totals, new_totals)):
        if _shapes(before) != _shapes(after):
            raise ValueError("the step changes the shapes of its state or totals")


def _key() -> Any:
    return jax.eval_shape(lambda: jax.random.key(0))


def _floats(*shape: int) -> Any:
    return jax.ShapeDtypeStruct(shape, jnp.float32)


def _perceptual(networks: objective.Networks) -> dict[str, Any]:
    """The shapes of the perceptual network's parameters, {} without one."""
    vgg = networks.vgg
    if vgg is None:
        return {}
    shapes = parameter_shapes(vgg.network, vgg.taps)
    return {name: _floats(*shape) for name, shape in shapes.items()}


def _shapes(tree: Any) -> Any:
    return jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), tree)


def _count(tree: Any) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def expected(config: ConfigDict) -> tuple[int | None, int | None]:
    """The paper's parameter counts of detector and generator, None where it has no such network."""
    model = config.model
    detector, generator = None, None
    sizes = ("detector", "detector_channels", "hourglass_depth")
    fields = {"views.size": config.views.size, **{f"model.{name}": model[name] for name in sizes}}
    if fields == _PAPER_DETECTOR:
        detector = DETECTOR_PARAMETERS.get(model.num_landmarks)
    if model.residual_blocks == _PAPER_BLOCKS:
        generator = GENERATOR_PARAMETERS.get((model.generator_channels, model.num_landmarks))
    return detector, generator


def check(cells: Sequence[Cell], base: Base) -> tuple[str, bool]:
    """Traces a step of every cell and compares its parameters with the known counts.

    Cells that differ only in weights of the loss share a trace.

    Returns:
      A line a cell, and whether all counts are right.

    Raises:
      ConfigError: a cell's configuration is invalid.
    """
    traces: dict[str, Parameters] = {}
    lines, right = [], True
    for cell in cells:
        config = config_of(cell, base, seed=0)
        shape = _shape_of(config)
        if shape not in traces:
            traces[shape] = trace(config)
        words = []
        for name, count, known in zip(
            Parameters._fields, traces[shape], expected(config), strict=True
        ):
            verdict = "" if known is None else " as known" if count == known else f", not {known:,}"
            right &= known in (None, count)
            words.append(f"{name} {count:,} parameters{verdict}")
        taps = config.perceptual.taps if config.perceptual.weights else ()
        network = f"{config.perceptual.network} {', '.join(taps)}" if taps else "no network"
        lines.append(f"{cell.name}: {'; '.join(words)}; {network}")
    return "\n".join([*lines, f"{len(cells)} cells of {base.file} traced"]), right


def _shape_of(config: ConfigDict) -> str:
    """The configuration without what does not change the shapes of a step."""
    fields = dict.fromkeys(("objective.pixel_weight", "objective.gradient_weight"), 1.0)
    weights = "some" if config.perceptual.weights else ""
    return configuration.to_json(
        configuration.with_fields(config, {**fields, "perceptual.weights": weights})
    )
