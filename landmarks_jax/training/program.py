"""The compiled functions of a run."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import ml_collections
from jax.sharding import Mesh, NamedSharding

from landmarks_jax import compiling
from landmarks_jax.data import feed as feeds
from landmarks_jax.objective import Networks
from landmarks_jax.training import pose, sharding
from landmarks_jax.training import state as states
from landmarks_jax.training import step as steps
from landmarks_jax.training.state import TrainState
from landmarks_jax.training.step import Frozen

PREVIEW_ROWS = 6


class Program(NamedTuple):
    """The compiled functions of a run.

    Attributes:
      step: `(state, totals, canvases, frozen) -> (state, totals)`, the state donated.
      fresh_totals: `() -> totals` of no step.
      preview: `(state, canvases, frozen) -> Preview` of the first rows.

    Where `takes_points` says so, the photos' points come last in `step` and `preview`.
    """

    step: Any
    fresh_totals: Any
    preview: Any


def takes_points(config: ml_collections.ConfigDict) -> bool:
    """Whether steps look at the points that come with the photos."""
    return pose.is_trained(config) or bool(config.data.crop == "box")


def batch_shapes(
    config: ml_collections.ConfigDict, num_points: int, rows: NamedSharding | None = None
) -> tuple[jax.ShapeDtypeStruct, ...]:
    """A batch's canvases and, where `takes_points` says so, the points of its photos."""
    size, count = feeds.framing_of(config).canvas_size, config.train.batch_size
    canvases = jax.ShapeDtypeStruct((count, size, size, 3), jnp.uint8, sharding=rows)
    points = jax.ShapeDtypeStruct((count, num_points, 2), jnp.float32, sharding=rows)
    return (canvases, points) if takes_points(config) else (canvases,)


def compile_program(
    config: ml_collections.ConfigDict,
    networks: Networks,
    state: TrainState,
    frozen: Frozen,
    mesh: Mesh,
    *,
    restart: int = 0,
    num_points: int = 0,
) -> Program:
    """Compiles the step ahead of time, so that nothing in the loop can compile it again.

    `restart` is the step at which the optimiser last started afresh, `num_points` how many points
    come with a photo.
    """
    optimizer = states.make_optimizer(config, restart)
    whole = sharding.replicated(mesh)
    canvases, *points = batch_shapes(config, num_points, sharding.by_row(mesh))
    fresh_totals = jax.jit(functools.partial(steps.empty_totals, config), out_shardings=whole)
    step = jax.jit(
        functools.partial(
            steps.train_step,
            config=config,
            networks=networks,
            optimizer=optimizer,
            restart=restart,
        ),
        donate_argnames=("state",),
        out_shardings=whole,
    )
    show: Any = pose.preview if pose.is_trained(config) else steps.preview
    preview = jax.jit(
        functools.partial(show, config=config, networks=networks, num_rows=PREVIEW_ROWS),
        out_shardings=whole,
    )
    lowered = step.lower(state, fresh_totals(), canvases, frozen, *points)
    compiled = lowered.compile(compiler_options=compiling.compiler_options())
    return Program(compiled, fresh_totals, preview)
