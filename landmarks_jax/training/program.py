"""The compiled functions of a run."""

import functools
import time
from typing import Any, NamedTuple

import jax
import ml_collections
from jax.sharding import Mesh

from landmarks_jax.objective import Networks
from landmarks_jax.system import compiler
from landmarks_jax.tasks import task_of
from landmarks_jax.tasks.task import Frozen, Panel
from landmarks_jax.training import accumulation, batches, memory, sharding
from landmarks_jax.training import state as states
from landmarks_jax.training import step as steps
from landmarks_jax.training.batches import Batch, Resident
from landmarks_jax.training.state import TrainState
from landmarks_jax.training.step import Totals

PREVIEW_ROWS = 6


class Program(NamedTuple):
    """The compiled functions of a run.

    Attributes:
      step: `(state, totals, photos, frozen) -> (state, totals)`, the state donated.
      fresh_totals: `() -> totals` of zero steps.
      preview: `(state, photos, frozen) -> panels`: the first rows of the last step's photos, or of
        its first micro-batch, as the next step would draw them.
      compilation: compile time and memory plan of the step.

    Photos are the item that the iterator of `batches` yields for the step.
    """

    step: Any
    fresh_totals: Any
    preview: Any
    compilation: "Compilation"


class Compilation(NamedTuple):
    """Compile time and memory plan of the training step.

    Attributes:
      seconds: of tracing and compiling.
      from_cache: whether the step came from the compilation cache.
      planned: bytes on each device in XLA's plan; None without a plan.
    """

    seconds: float
    from_cache: bool
    planned: int | None

    def summary(self) -> str:
        """One line for the log."""
        parts = [f"step compiled in {self.seconds:.1f} s"]
        if self.from_cache:
            parts[0] += " (cached)"
        if self.planned is not None:
            parts.append(f"XLA plans {self.planned / memory.MIB:,.0f} MiB on each device")
        return "; ".join(parts)


def compile_program(
    config: ml_collections.ConfigDict,
    networks: Networks,
    state: TrainState,
    frozen: Frozen,
    mesh: Mesh,
    *,
    photos: Batch | Resident,
    optimizer_start: int = 0,
) -> Program:
    """Compiles the step ahead of time, so that nothing in the loop can compile it again.

    Args:
      config: the configuration.
      networks: the modules.
      state: the first state.
      frozen: inputs that steps do not change.
      mesh: the devices.
      photos: the shapes of the items that `batches` yields.
      optimizer_start: see `state.learning_rate`.
    """
    task, accumulate = task_of(config), config.train.accumulate

    def preview(state: TrainState, photos: Batch | Resident, frozen: Frozen) -> tuple[Panel, ...]:
        canvases, points = batches.gather(photos, state.step - 1, mesh)
        microbatch = None
        if accumulate > 1:
            microbatch = 0
            canvases, points = accumulation.first((canvases, points), accumulate)
        drawn = task.draw(
            frozen.key, state.step, canvases, points, config=config, microbatch=microbatch
        )
        _, outcome = task.loss(state.params, state, drawn, frozen, config=config, networks=networks)
        panels = task.panels(drawn, outcome.made)
        return jax.tree.map(lambda leaf: leaf[:PREVIEW_ROWS], panels)

    train_step, inputs = step_and_inputs(
        config, networks, state, frozen, mesh, photos=photos, optimizer_start=optimizer_start
    )
    _, totals, *_ = inputs
    fresh_totals = functools.partial(steps.zero_totals, totals.sums)
    jit = functools.partial(jax.jit, out_shardings=sharding.replicated(mesh))
    compiled, compilation = _compile(train_step, *inputs)
    preview_program = jit(preview, compiler_options=compiler.compiler_options())
    return Program(compiled, jit(fresh_totals), preview_program, compilation)


def step_and_inputs(
    config: ml_collections.ConfigDict,
    networks: Networks,
    state: TrainState,
    frozen: Frozen,
    mesh: Mesh,
    *,
    photos: Batch | Resident,
    optimizer_start: int = 0,
) -> tuple[Any, tuple[Any, ...]]:
    """The jitted step, and inputs that it can be lowered with.

    The devices of the mesh need not be there: of the inputs only shapes and shardings matter. The
    arguments are those of `compile_program`.
    """
    options: dict[str, Any] = {"config": config, "networks": networks}
    train_step: Any = functools.partial(
        steps.train_step,
        optimizer=states.make_optimizer(config, optimizer_start),
        optimizer_start=optimizer_start,
        **options,
    )

    def step(
        state: TrainState, totals: Totals, photos: Batch | Resident, frozen: Frozen
    ) -> tuple[TrainState, Totals]:
        batch = batches.gather(photos, state.step, mesh)
        return train_step(state, totals, batch.canvases, frozen, batch.points)

    batch = jax.eval_shape(functools.partial(batches.gather, mesh=mesh), photos, state.step)
    empty = functools.partial(steps.empty_totals, **options)
    totals = jax.eval_shape(empty, state, batch.canvases, frozen, batch.points)
    totals = sharding.replicated_shapes(mesh, totals)
    replicated = sharding.replicated(mesh)
    jitted = jax.jit(step, donate_argnames=("state",), out_shardings=replicated)
    return jitted, (state, totals, photos, frozen)


def _compile(function: Any, *inputs: Any) -> tuple[jax.stages.Compiled, Compilation]:
    hits: list[str] = []

    def listen(event: str, **_: Any) -> None:
        if event == "/jax/compilation_cache/cache_hits":
            hits.append(event)

    started = time.monotonic()
    lowered = function.lower(*inputs)
    jax.monitoring.register_event_listener(listen)
    try:
        compiled: jax.stages.Compiled = lowered.compile(
            compiler_options=compiler.compiler_options()
        )
    finally:
        jax.monitoring.unregister_event_listener(listen)
    seconds = time.monotonic() - started
    return compiled, Compilation(seconds, bool(hits), memory.planned(compiled))
