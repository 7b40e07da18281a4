"""The training steps that are compared: ours as `train.py` runs it, and PyTorch's two ways.

All start from the same weights; `check_the_same` compares their losses on the same views.
"""

import time
from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from benchmarks import records, tracing
from benchmarks.problem import Problem, draw_views, first_state, make_problem, mesh
from benchmarks.records import OURS
from landmarks_jax.training import memory, sharding
from landmarks_jax.training import step as steps
from landmarks_jax.training.batches import Batch, batch_shapes
from landmarks_jax.training.program import compile_program
from landmarks_jax.training.state import TrainState
from landmarks_jax.views import Views

# Flag -> name, way, whether compiled. What the ways' batch norms see is in `GROUPS`.
TORCH = {
    "released": ("PyTorch as released", "AsReleased", False),
    "released-compiled": ("PyTorch as released, compiled", "AsReleased", True),
    "fused": ("PyTorch fused", "Fused", False),
    "fused-compiled": ("PyTorch fused, compiled", "Fused", True),
}
GROUPS = {"AsReleased": "released", "Fused": "joint"}
# Relative differences of losses: in full float32 of a few rows, and of the first step as timed,
# where a GPU computes float32 in TF32.
EXACT, LOOSE = 1e-4, {"float32": 2e-3, "bfloat16": 5e-2}
CHECKED_ROWS = 4


class Ours:
    """Our step as `train.py` runs it.

    Attributes:
      state: after the last step.
      compile_seconds: of tracing and compiling, few where JAX has the step in its cache.
      loss: of the first step; None before.
    """

    def __init__(self, problem: Problem, steps_a_round: int) -> None:
        here = mesh()
        self._steps = steps_a_round
        self.state = first_state(problem)
        self._frozen = problem.frozen
        self._program = compile_program(
            problem.config,
            problem.networks,
            self.state,
            self._frozen,
            here,
            photos=batch_shapes(problem.config, tracing.NUM_POINTS, sharding.by_row(here)),
        )
        self.compile_seconds = self._program.compilation.seconds
        self._totals = self._program.fresh_totals()
        self._batch = [sharding.put_batch(here, rows) for rows in problem.batch]
        self.loss: float | None = None

    def step(self, batch: Sequence[jax.Array] = ()) -> jax.Array:
        """One step, of another batch if given; what is ready when the step is."""
        canvases, *points = batch or self._batch
        photos = Batch(canvases, points[0] if points else None)
        self.state, self._totals = self._program.step(
            self.state, self._totals, photos, self._frozen
        )
        return self._totals.steps

    def __call__(self) -> None:
        """A round."""
        if self.loss is None:
            self.step()
            self.loss = float(self._totals.sums["loss"])
        for _ in range(self._steps):
            self.step()
        jax.block_until_ready((self.state, self._totals))

    def mean_loss(self) -> float:
        """Of all steps so far."""
        return float(self._totals.sums["loss"] / self._totals.steps)

    def text(self) -> str:
        """The compiled step in XLA's language."""
        return str(self._program.step.as_text())

    def memory(self) -> dict[str, float]:
        """By XLA's plan, and the device's peak so far where it keeps one; in MiB."""
        plan: Any = self._program.step.memory_analysis()
        return records.mib(
            {
                "arguments": plan.argument_size_in_bytes,
                "temporary": plan.temp_size_in_bytes,
                "code": plan.generated_code_size_in_bytes,
                "device_peak": memory.device_peak(),
            }
        )


class Theirs:
    """PyTorch's step.

    Attributes:
      compile_seconds: of the first step.
      loss: of the first step; None before.
    """

    def __init__(self, problem: Problem, steps_a_round: int, step: Any) -> None:
        self._step, self._steps = step, steps_a_round
        self._batch = step.put(*draw_views(problem))
        self._memory: dict[str, float] = {}
        self.compile_seconds = 0.0
        self.loss: float | None = None

    def __call__(self) -> None:
        """A round."""
        if self.loss is None:
            self._first()
        for _ in range(self._steps):
            self._step(self._batch)
        wait()

    def _first(self) -> None:
        import torch  # noqa: PLC0415

        on_gpu = self._step.device.type == "cuda"
        if on_gpu:
            torch.cuda.reset_peak_memory_stats()
        start = time.perf_counter()
        self.loss = float(self._step(self._batch))
        self.compile_seconds = time.perf_counter() - start
        if on_gpu:
            self._memory = records.mib({"device_peak": torch.cuda.max_memory_allocated()})

    def memory(self) -> dict[str, float]:
        """The device's peak of PyTorch's tensors in a step, in MiB; empty on a CPU."""
        return self._memory


def wait() -> None:
    """Until a GPU has done what PyTorch gave it."""
    import torch  # noqa: PLC0415

    if torch_device() == "cuda":
        torch.cuda.synchronize()


def torch_device() -> str:
    """PyTorch's name of the kind of device that JAX uses."""
    return "cuda" if jax.default_backend() == "gpu" else "cpu"


def allow_tf32(allowed: bool) -> None:
    """Whether PyTorch multiplies float32 in TF32, as JAX does on a GPU; no matter elsewhere."""
    import torch  # noqa: PLC0415

    torch.backends.cudnn.allow_tf32 = allowed
    torch.backends.cuda.matmul.allow_tf32 = allowed
    torch.backends.cudnn.benchmark = True


def torch_step(way: str, problem: Problem, **options: Any) -> Any:
    """One of `benchmarks.torch_step`'s ways with a problem's weights."""
    from benchmarks import torch_step as ways  # noqa: PLC0415

    frozen = jax.device_get((problem.frozen.vgg, problem.frozen.mean, problem.frozen.std))
    return getattr(ways, way)(problem.config, problem.variables, frozen, torch_device(), **options)


def check_the_same(config: ConfigDict) -> dict[str, float]:
    """Compares the losses of a few rows in full float32.

    Returns:
      For each way the relative difference to ours with its `bn_groups`.

    Raises:
      RuntimeError: a way computes another loss.
    """
    config = config.copy_and_resolve_references()
    with config.unlocked():
        config.compute_dtype = "float32"
        config.train.batch_size = CHECKED_ROWS
    allow_tf32(False)
    differences = {}
    for way, groups in GROUPS.items():
        with config.unlocked():
            config.objective.bn_groups = groups
        problem = make_problem(config)
        first, second, auxiliary = draw_views(problem)
        with jax.default_matmul_precision("float32"):
            ours = _our_loss(problem, first, second, auxiliary)
        step = torch_step(way, problem)
        theirs = float(step.loss(*step.put(first, second, auxiliary)).detach())
        differences[way] = abs(theirs - ours) / abs(ours)
        if not differences[way] <= EXACT:
            raise RuntimeError(f"{way}: the loss is {theirs:g}, ours {ours:g}")
    allow_tf32(True)
    return differences


def _our_loss(problem: Problem, first: Any, second: Any, auxiliary: Any) -> float:
    variables = problem.variables
    state = TrainState(
        step=jnp.int32(0),
        params=variables["params"],
        batch_stats=variables["batch_stats"],
        opt_state=None,
        averaged={},
        tap_means={},
    )
    still: Any = np.tile(np.eye(2, 3, dtype=np.float32), (len(first), 1, 1))
    drawn = steps.Drawn((Views(first, still), Views(second, still)), auxiliary)
    loss = partial(steps.loss_and_metrics, config=problem.config, networks=problem.networks)
    run = jax.jit(lambda *args: loss(*args)[0])
    return float(run(state.params, state, drawn, problem.frozen))


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether JAX or PyTorch ran out of the device's memory."""
    text = str(error)
    return "out of memory" in text.lower() or "RESOURCE_EXHAUSTED" in text


def faster_layout(problem: Problem) -> bool:
    """Whether PyTorch's fused step is faster with its channels last: a step each, warmed up."""
    times = {}
    for channels_last in (False, True):
        step = torch_step("Fused", problem, channels_last=channels_last)
        run = Theirs(problem, 1, step)
        run()
        times[channels_last] = min(records.seconds_of(run) for _ in range(2))
    return times[True] < times[False]


def line_up(
    problem: Problem, flags: Iterable[str], steps_a_round: int
) -> tuple[dict[str, Any], dict[str, str]]:
    """Ours and PyTorch's, each warmed up by a round; and why others are not among them."""
    runs: dict[str, Any] = {OURS: Ours(problem, steps_a_round)}
    runs[OURS]()
    left_out = {}
    channels_last: bool | None = None
    why = records.why_no_torch()
    if why is not None:
        return runs, {TORCH[flag][0]: why for flag in flags}
    allow_tf32(True)
    for flag in flags:
        name, way, compiled = TORCH[flag]
        try:
            if way == "Fused" and channels_last is None:
                channels_last = faster_layout(problem)
            last = way == "Fused" and bool(channels_last)
            step = torch_step(way, problem, channels_last=last, compiled=compiled)
            run = Theirs(problem, steps_a_round, step)
            run()
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            left_out[name] = "out of memory beside the others"
            continue
        _check_first_loss(problem.config, way, run.loss, runs[OURS].loss)
        runs[name] = run
    return runs, left_out


def _check_first_loss(config: ConfigDict, way: str, theirs: Any, ours: Any) -> None:
    """The first step as timed, with the views that it drew itself."""
    if config.objective.bn_groups != GROUPS[way]:
        return
    if not abs(theirs - ours) <= LOOSE[config.compute_dtype] * abs(ours):
        raise RuntimeError(f"{way}: the first step's loss is {theirs:g}, ours {ours:g}")
