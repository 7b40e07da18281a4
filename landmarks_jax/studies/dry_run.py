"""Every cell built and one step of it traced at its full width: shapes alone, nothing computed.

Neither photos nor weights nor a core are needed: the perceptual network's parameters, an adapted
detector's frozen kernels and the points that box views are made from are shapes too.
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from landmarks_jax import config as configuration
from landmarks_jax import objective
from landmarks_jax.evaluation.breakdown import FIVE_POINTS
from landmarks_jax.models.vgg import parameter_shapes
from landmarks_jax.studies.cells import Base, Cell, config_of
from landmarks_jax.studies.published_numbers import DETECTOR_PARAMETERS, GENERATOR_PARAMETERS
from landmarks_jax.tasks import task_of
from landmarks_jax.tasks.task import Frozen
from landmarks_jax.training import state as states
from landmarks_jax.training import step as steps
from landmarks_jax.training.batches import batch_shapes

# What the paper's counts of parameters are for: its view and the detector's width and depth.
_PAPER_DETECTOR = {"views.size": 128, "model.detector_channels": 256, "model.hourglass_depth": 4}
_PAPER_BLOCKS = 6


class Parameters(NamedTuple):
    """Counts of parameters.

    Attributes:
      detector: of the plain detector; of an adapted one as it is once it is folded.
      generator: of encoder and decoder.
    """

    detector: int
    generator: int


def trace(config: ConfigDict) -> Parameters:
    """Traces one step and counts the networks' parameters.

    Raises:
      ValueError: the step gives back a state of other shapes than it was given.
    """
    networks = task_of(config).build_networks(config)
    optimizer = states.make_optimizer(config)
    key = jax.eval_shape(lambda: jax.random.key(0))
    start = functools.partial(
        states.initial_state, config=config, networks=networks, optimizer=optimizer
    )
    state = jax.eval_shape(start, key)
    batch = batch_shapes(config, len(FIVE_POINTS))
    frozen = Frozen(key, _perceptual(networks), _floats(3), _floats(3), state.core)
    plain = jax.eval_shape(states.trained_variables, state)["params"]
    state = dataclasses.replace(state, core={})  # as in the loop
    step = functools.partial(
        steps.train_step, config=config, networks=networks, optimizer=optimizer
    )
    totals = steps.empty_totals(
        state, batch.canvases, frozen, batch.points, config=config, networks=networks
    )
    new_state, new_totals = jax.eval_shape(
        step, state, totals, batch.canvases, frozen, batch.points
    )
    for before, after in ((state, new_state), (totals, new_totals)):
        if _shapes(before) != _shapes(after):
            raise ValueError("a step changes the shapes of what it is given")
    return Parameters(_count(plain), _count(state.params["generator"]))


def _floats(*shape: int) -> Any:
    return jax.ShapeDtypeStruct(shape, jnp.float32)


def _perceptual(networks: objective.Networks) -> dict[str, Any]:
    """The shapes of the perceptual network's parameters, none without one."""
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
    """The parameters that detector and generator must have, None where the paper has no such."""
    model = config.model
    detector, generator = None, None
    fields = {"views.size": config.views.size}
    fields |= {f"model.{name}": model[name] for name in ("detector_channels", "hourglass_depth")}
    if fields == _PAPER_DETECTOR:
        detector = DETECTOR_PARAMETERS.get(model.num_landmarks)
    if model.residual_blocks == _PAPER_BLOCKS:
        generator = GENERATOR_PARAMETERS.get((model.generator_channels, model.num_landmarks))
    return detector, generator


def check(cells: Sequence[Cell], base: Base) -> tuple[str, bool]:
    """Traces a step of every cell and compares its parameters with the known counts.

    Cells that differ in weights of the loss alone have one trace.

    Returns:
      A line a cell, and whether all counts are right.

    Raises:
      ConfigError: a cell cannot work.
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
    """The configuration less what does not reach the shapes of a step."""
    config = config.copy_and_resolve_references()
    config.objective.pixel_weight = config.objective.gradient_weight = 1.0
    config.perceptual.weights = "some" * bool(config.perceptual.weights)
    return configuration.to_json(config)
