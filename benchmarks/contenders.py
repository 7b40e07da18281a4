"""The training steps that are compared: ours as `train.py` runs it, and PyTorch's.

All start from the same weights; `check_losses` compares their losses on the same views.
"""

import gc
import time
from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from benchmarks import harness, rounds
from benchmarks.problem import Problem, draw_views, first_state, input_shapes, make_problem, mesh
from landmarks_jax.tasks import landmarks
from landmarks_jax.training import memory, sharding
from landmarks_jax.training.batches import Batch
from landmarks_jax.training.program import compile_program
from landmarks_jax.training.state import TrainState
from landmarks_jax.views import Views


class TorchStep(NamedTuple):
    """A contender in PyTorch.

    Attributes:
      name: its name in results.
      variant: a class of `benchmarks.torch_step`.
      compiled: whether its loss goes through `torch.compile`.
    """

    name: str
    variant: str
    compiled: bool


# By flag.
TORCH = {
    "released": TorchStep("PyTorch as released", "AsReleased", False),
    "released-compiled": TorchStep("PyTorch as released, compiled", "AsReleased", True),
    "fused": TorchStep("PyTorch fused", "Fused", False),
    "fused-compiled": TorchStep("PyTorch fused, compiled", "Fused", True),
}
# The batch norm statistics of each class, as `config.objective.bn_groups`.
BN_GROUPS = {"AsReleased": "released", "Fused": "joint"}
CHECKED_ROWS = 4
# Of the losses, relative, in full float32. On a GPU cuDNN may choose other algorithms for each.
TOLERANCE = {"cpu": 1e-4, "cuda": 1e-3}


class Ours:
    """Our step as `train.py` runs it.

    Attributes:
      state: the state after the last step.
      compile_seconds: time of tracing and compiling.
      from_cache: whether the step was in JAX's cache, which makes that time short.
      loss: the loss of the first step; None before it.
    """

    def __init__(self, problem: Problem, steps_per_round: int) -> None:
        devices = mesh()
        self._steps = steps_per_round
        self.state = first_state(problem)
        self._frozen = problem.frozen
        self._program = compile_program(
            problem.config,
            problem.networks,
            self.state,
            self._frozen,
            devices,
            photos=input_shapes(problem.config, sharding.by_row(devices)),
        )
        self.compile_seconds = self._program.compilation.seconds
        self.from_cache = self._program.compilation.from_cache
        self._totals = self._program.fresh_totals()
        self._batch = [sharding.put_batch(devices, rows) for rows in problem.batch]
        self.loss: float | None = None

    def step(self, batch: Sequence[jax.Array] = ()) -> jax.Array:
        """Takes a step, on another batch if given; returns an array that is ready with it."""
        canvases, *points = batch or self._batch
        photos = Batch(canvases, points[0] if points else None)
        self.state, self._totals = self._program.step(
            self.state, self._totals, photos, self._frozen
        )
        return self._totals.steps

    def __call__(self) -> None:
        """Takes a round of steps."""
        if self.loss is None:
            self.step()
            self.loss = self.mean_loss()
        for _ in range(self._steps):
            self.step()
        jax.block_until_ready((self.state, self._totals))

    def mean_loss(self) -> float:
        """The mean over all steps so far."""
        return float(self._totals.sums["loss"] / self._totals.steps)

    def hlo(self) -> str:
        """The compiled step as XLA's text."""
        return str(self._program.step.as_text())

    def memory(self) -> dict[str, float]:
        """XLA's plan, and the device's peak so far, in MiB; those of both that there are."""
        plan: Any = self._program.step.memory_analysis()
        planned = {
            "arguments": "argument_size_in_bytes",
            "temporary": "temp_size_in_bytes",
            "code": "generated_code_size_in_bytes",
        }
        sizes = {name: getattr(plan, field, None) for name, field in planned.items()}
        return harness.mib({**sizes, "device_peak": memory.device_peak()})


class Theirs:
    """PyTorch's step.

    Attributes:
      compile_seconds: time of the first step.
      loss: the loss of the first step; None before it.
    """

    def __init__(self, problem: Problem, steps_per_round: int, step: Any) -> None:
        self._step, self._steps = step, steps_per_round
        self._batch = step.put(*draw_views(problem))
        self._memory: dict[str, float] = {}
        self.compile_seconds = 0.0
        self.loss: float | None = None

    def __call__(self) -> None:
        """Takes a round of steps."""
        import torch  # noqa: PLC0415

        on_gpu = self._step.device.type == "cuda"
        if self.loss is None:
            if on_gpu:
                torch.cuda.reset_peak_memory_stats()
            start = time.perf_counter()
            self.loss = float(self._step(self._batch))
            self.compile_seconds = time.perf_counter() - start
            if on_gpu:
                self._memory = harness.mib({"device_peak": torch.cuda.max_memory_allocated()})
        for _ in range(self._steps):
            self._step(self._batch)
        if on_gpu:
            torch.cuda.synchronize()

    def memory(self) -> dict[str, float]:
        """The peak of PyTorch's tensors on a GPU, in MiB; empty on a CPU."""
        return self._memory


def _allow_tf32(allowed: bool) -> None:
    """Sets whether PyTorch multiplies float32 as TF32 on a GPU, as JAX does by default."""
    import torch  # noqa: PLC0415

    torch.backends.cudnn.allow_tf32 = allowed
    torch.backends.cuda.matmul.allow_tf32 = allowed
    torch.backends.cudnn.benchmark = True


def torch_step(variant: str, problem: Problem, *, compiled: bool = False) -> Any:
    """One of `benchmarks.torch_step`'s variants with a problem's weights."""
    from benchmarks import torch_step as variants  # noqa: PLC0415

    frozen = jax.device_get((problem.frozen.vgg, problem.frozen.mean, problem.frozen.std))
    step = getattr(variants, variant)
    return step(
        problem.config, problem.variables, frozen, harness.torch_device(), compiled=compiled
    )


def check_losses(config: ConfigDict) -> tuple[dict[str, float], dict[str, str]]:
    """Compares the losses of a few rows in full float32.

    Returns:
      By variant: the relative difference to ours with the same `bn_groups`; and why one is not
      timed, because it failed or computes another loss.
    """
    config = config.copy_and_resolve_references()
    config.compute_dtype = "float32"
    config.train.batch_size = CHECKED_ROWS
    differences: dict[str, float] = {}
    wrong: dict[str, str] = {}
    for variant, groups in BN_GROUPS.items():
        config.objective.bn_groups = groups
        try:
            problem = make_problem(config)
            batch = draw_views(problem)
            with jax.default_matmul_precision("float32"):
                ours = _our_loss(problem, *batch)
            _allow_tf32(False)
            step = torch_step(variant, problem)
            theirs = float(step.loss(*step.put(*batch)).detach())
        except Exception as error:  # of a library's own, such as a missing kernel
            wrong[variant] = rounds.failure(error)
            continue
        differences[variant] = abs(theirs - ours) / abs(ours)
        if not differences[variant] <= TOLERANCE[harness.torch_device()]:
            wrong[variant] = f"its loss is {theirs:g}, ours {ours:g}"
    release_memory()
    return differences, wrong


def _our_loss(problem: Problem, first: Any, second: Any, auxiliary: Any) -> float:
    state = TrainState(
        step=jnp.int32(0), opt_state=None, averaged={}, tap_means={}, **problem.variables
    )
    identity: Any = np.tile(np.eye(2, 3, dtype=np.float32), (len(first), 1, 1))
    drawn = landmarks.Drawn((Views(first, identity), Views(second, identity)), auxiliary)
    loss = partial(landmarks.loss, config=problem.config, networks=problem.networks)
    run = jax.jit(lambda *args: loss(*args)[0])
    return float(run(state.params, state, drawn, problem.frozen))


def make_theirs(problem: Problem, flag: str, steps_per_round: int) -> Theirs:
    """A contender in PyTorch, after a round; whatever PyTorch raises is raised."""
    _allow_tf32(True)
    _, variant, compiled = TORCH[flag]
    run = Theirs(problem, steps_per_round, torch_step(variant, problem, compiled=compiled))
    run()
    return run


def release_memory() -> None:
    """Gives back what PyTorch holds of a GPU's memory and does not use."""
    gc.collect()
    if harness.why_no_torch() is None and harness.torch_device() == "cuda":
        import torch  # noqa: PLC0415

        torch.cuda.empty_cache()
