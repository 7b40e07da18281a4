"""The compiled functions of a run."""

import functools
import time
from typing import Any, NamedTuple

import jax
import ml_collections
from jax.sharding import Mesh

from landmarks_jax.objective import Networks
from landmarks_jax.system import compiler
from landmarks_jax.training import batches, memory, pose, sharding
from landmarks_jax.training import preview as previews
from landmarks_jax.training import state as states
from landmarks_jax.training import step as steps
from landmarks_jax.training.batches import Batch, Resident
from landmarks_jax.training.state import TrainState
from landmarks_jax.training.step import Frozen, Totals

PREVIEW_ROWS = 6


class Program(NamedTuple):
    """The compiled functions of a run.

    Attributes:
      step: `(state, totals, photos, frozen) -> (state, totals)`, the state donated.
      fresh_totals: `() -> totals` of no step.
      preview: `(state, photos, frozen) -> Preview` of the first rows of the last step's photos.
      compilation: what the step took to compile, and takes to run.

    Photos are what `batches` gives for the step.
    """

    step: Any
    fresh_totals: Any
    preview: Any
    compilation: "Compilation"


class Compilation(NamedTuple):
    """What the step took to compile, and takes to run.

    Attributes:
      seconds: of tracing and compiling.
      from_cache: whether the compiled step was kept by an earlier run.
      planned: bytes of each device, by XLA's plan; None where it has none.
    """

    seconds: float
    from_cache: bool
    planned: int | None

    def summary(self) -> str:
        """One line for the log."""
        kept = ", kept by an earlier run" * self.from_cache
        plan = ""
        if self.planned is not None:
            plan = f"; XLA plans {self.planned / memory.MIB:,.0f} MiB on each device"
        return f"step compiled in {self.seconds:.1f} s{kept}{plan}"


def compile_program(
    config: ml_collections.ConfigDict,
    networks: Networks,
    state: TrainState,
    frozen: Frozen,
    mesh: Mesh,
    *,
    photos: Batch | Resident,
    restart: int = 0,
) -> Program:
    """Compiles the step ahead of time, so that nothing in the loop can compile it again.

    `photos` are the shapes of what steps are given, `restart` is the step at which the optimiser
    last started afresh.
    """
    optimizer = states.make_optimizer(config, restart)
    whole = sharding.replicated(mesh)
    fresh_totals = jax.jit(functools.partial(steps.empty_totals, config), out_shardings=whole)
    train_step = functools.partial(
        steps.train_step, config=config, networks=networks, optimizer=optimizer, restart=restart
    )
    show: Any = functools.partial(
        pose.preview if pose.is_trained(config) else previews.preview,
        config=config,
        networks=networks,
        num_rows=PREVIEW_ROWS,
    )

    def step(
        state: TrainState, totals: Totals, photos: Batch | Resident, frozen: Frozen
    ) -> tuple[TrainState, Totals]:
        batch = batches.gather(photos, state.step, mesh)
        return train_step(state, totals, batch.canvases, frozen, batch.points)

    def preview(state: TrainState, photos: Batch | Resident, frozen: Frozen) -> Any:
        batch = batches.gather(photos, state.step - 1, mesh)
        return show(state, batch.canvases, frozen, batch.points)

    jitted = jax.jit(step, donate_argnames=("state",), out_shardings=whole)
    compiled, compilation = _compile(jitted, state, fresh_totals(), photos, frozen)
    return Program(compiled, fresh_totals, jax.jit(preview, out_shardings=whole), compilation)


def _compile(function: Any, *inputs: Any) -> tuple[jax.stages.Compiled, Compilation]:
    """Traces and compiles a jitted function, and says what that took."""
    hits: list[str] = []

    def heard(event: str, **_: Any) -> None:
        if event == "/jax/compilation_cache/cache_hits":
            hits.append(event)

    started = time.monotonic()
    lowered = function.lower(*inputs)
    jax.monitoring.register_event_listener(heard)
    try:
        compiled: jax.stages.Compiled = lowered.compile(
            compiler_options=compiler.compiler_options()
        )
    finally:
        jax.monitoring.unregister_event_listener(heard)
    seconds = time.monotonic() - started
    return compiled, Compilation(seconds, bool(hits), memory.planned(compiled))
