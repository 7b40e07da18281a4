"""Times the training step against the same step in PyTorch, alternating within one run.

python -m benchmarks.train --out docs/results/benchmarks/train_cpu.json

Ours is the very program of `train.py`: on canvases that lie on the device, it draws the views,
composes, and updates. PyTorch, which could not share our drawing, is given ready views. It does the
step in two ways, as the released code does it and shared out like ours (`benchmarks.torch_step`),
each also through `torch.compile`. Before anything is timed, the losses must be equal: the same
weights, views and auxiliaries, and for the two ways the two `bn_groups`.
"""

import argparse
import gc
import os
import resource
import time
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict

from benchmarks import records
from benchmarks.records import OURS
from configs import paper, released
from landmarks_jax import config as configuration
from landmarks_jax import objective
from landmarks_jax.models import vgg as vggs
from landmarks_jax.training import sharding
from landmarks_jax.training import state as states
from landmarks_jax.training import step as steps
from landmarks_jax.training.program import batch_shapes, compile_program
from landmarks_jax.training.step import Frozen
from landmarks_jax.weights import vgg as vgg_weights

PRESETS = {"paper": paper, "released": released}
# Flag -> name, way, whether compiled. What the ways' batch norms see is in `GROUPS`.
TORCH = {
    "released": ("PyTorch as released", "AsReleased", False),
    "released-compiled": ("PyTorch as released, compiled", "AsReleased", True),
    "fused": ("PyTorch fused", "Fused", False),
    "fused-compiled": ("PyTorch fused, compiled", "Fused", True),
}
GROUPS = {"AsReleased": "released", "Fused": "joint"}
AS_RELEASED = TORCH["released"][0]
POINTS = 5  # of a photo, for box views
# Relative differences of losses: in full float32 of a few rows, and of the first step as timed,
# where a GPU computes float32 in TF32.
EXACT, LOOSE = 1e-4, {"float32": 2e-3, "bfloat16": 5e-2}
CHECKED_ROWS = 4
FEWEST = 5


class Problem(NamedTuple):
    """What all contenders compute on.

    Attributes:
      config: the configuration.
      networks: our modules.
      frozen: what steps read, on the device.
      variables: the first weights, `{"params", "batch_stats"}`, NumPy.
      batch: canvases, and the points where the views need them, NumPy.
    """

    config: ConfigDict
    networks: objective.Networks
    frozen: Frozen
    variables: dict[str, Any]
    batch: tuple[np.ndarray, ...]


def configure(preset: str, channels: int, dtype: str, batch: int, **fields: Any) -> ConfigDict:
    """A preset at a width of the generator; `fields` as `views__size=64`."""
    config = PRESETS[preset].get_config()
    config.compute_dtype = dtype
    config.train.batch_size = batch
    config.model.generator_channels = channels
    config.perceptual.weights = "random"
    for name, value in fields.items():
        section, field = name.split("__")
        config[section][field] = value
    configuration.validate(config)
    return config


def random_vgg(config: ConfigDict) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray]:
    """VGG's parameters drawn at random, and torchvision's mean and deviation if the preset's."""
    rng = np.random.default_rng(0)
    shapes = vggs.parameter_shapes(config.perceptual.network, config.perceptual.taps)
    params = {
        name: (rng.standard_normal(shape) * np.sqrt(2 / np.prod(shape[:-1]))).astype(np.float32)
        for name, shape in shapes.items()
    }
    params |= {n: np.zeros_like(array) for n, array in params.items() if n.startswith("bias")}
    if not config.perceptual.normalize:
        return params, np.zeros(3, np.float32), np.ones(3, np.float32)
    mean, std = vgg_weights.IMAGENET_MEAN, vgg_weights.IMAGENET_STD
    return params, np.array(mean, np.float32), np.array(std, np.float32)


def mesh() -> jax.sharding.Mesh:
    """The first device alone: PyTorch's step knows no other."""
    return sharding.make_mesh(jax.devices()[:1])


def make_problem(config: ConfigDict) -> Problem:
    """Draws weights, canvases and points."""
    networks = objective.build_networks(config)
    frozen = Frozen(jax.random.key(config.seed), *random_vgg(config))
    state = states.start_state(config, networks, mesh())
    variables = {"params": state.params, "batch_stats": state.batch_stats}
    rng = np.random.default_rng(1)
    canvases, *points = batch_shapes(config, POINTS)
    batch = [rng.integers(0, 256, canvases.shape, np.uint8)]
    batch += [rng.uniform(-0.4, 0.4, struct.shape).astype(np.float32) for struct in points]
    frozen = sharding.put_replicated(mesh(), frozen)
    return Problem(config, networks, frozen, jax.device_get(variables), tuple(batch))


def draw(problem: Problem) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The views and auxiliaries that our first step will draw."""
    run = jax.jit(partial(steps.draw, config=problem.config))
    drawn = run(problem.frozen.key, np.int32(0), problem.batch[0], points=(*problem.batch, None)[1])
    first, second = drawn.pair
    return jax.device_get((first.images, second.images, drawn.auxiliary))


class Ours:
    """Our step as `train.py` runs it.

    Attributes:
      compile_seconds: of tracing and compiling, without a cache.
      memory_mib: by XLA's own plan: what stays, and what the step takes besides.
      loss: of the first step; None before.
    """

    def __init__(self, problem: Problem, steps_a_round: int) -> None:
        here = mesh()
        self._steps = steps_a_round
        self._state = states.start_state(problem.config, problem.networks, here)
        self._frozen = problem.frozen
        start = time.perf_counter()
        self._program = compile_program(
            problem.config, problem.networks, self._state, self._frozen, here, num_points=POINTS
        )
        self.compile_seconds = time.perf_counter() - start
        self._totals = self._program.fresh_totals()
        self._batch = [sharding.put_batch(here, rows) for rows in problem.batch]
        self.loss: float | None = None

    def _step(self) -> None:
        self._state, self._totals = self._program.step(
            self._state, self._totals, self._batch[0], self._frozen, *self._batch[1:]
        )

    def __call__(self) -> None:
        """A round."""
        if self.loss is None:
            self._step()
            self.loss = float(self._totals.sums["loss"])
        for _ in range(self._steps):
            self._step()
        jax.block_until_ready((self._state, self._totals))

    def memory(self) -> dict[str, float]:
        """By XLA's plan, and the device's peak so far where it keeps one; in MiB."""
        plan: Any = self._program.step.memory_analysis()
        found = {
            "arguments": plan.argument_size_in_bytes,
            "temporary": plan.temp_size_in_bytes,
            "code": plan.generated_code_size_in_bytes,
        }
        stats = jax.devices()[0].memory_stats() or {}
        if "peak_bytes_in_use" in stats:
            found["device_peak"] = stats["peak_bytes_in_use"]
        return {name: round(size / 2**20, 1) for name, size in found.items()}


class Theirs:
    """PyTorch's step.

    Attributes:
      compile_seconds: of the first step.
      layout: of images and features in memory.
      loss: of the first step; None before.
    """

    def __init__(self, problem: Problem, steps_a_round: int, step: Any) -> None:
        self._step, self._steps = step, steps_a_round
        self._batch = step.put(*draw(problem))
        self.compile_seconds = 0.0
        self.loss: float | None = None

    def _wait(self) -> None:
        if self._step.device.type == "cuda":
            import torch  # noqa: PLC0415

            torch.cuda.synchronize()

    def __call__(self) -> None:
        """A round."""
        if self.loss is None:
            start = time.perf_counter()
            self.loss = float(self._step(self._batch))
            self.compile_seconds = time.perf_counter() - start
        for _ in range(self._steps):
            self._step(self._batch)
        self._wait()

    def memory(self) -> dict[str, float]:
        """The device's peak of PyTorch's tensors so far, in MiB; empty on a CPU."""
        if self._step.device.type != "cuda":
            return {}
        import torch  # noqa: PLC0415

        return {"device_peak": round(torch.cuda.max_memory_allocated() / 2**20, 1)}


def torch_device() -> str:
    """PyTorch's name of the kind of device that JAX uses; there, float32 as JAX has it."""
    if jax.default_backend() != "gpu":
        return "cpu"
    return "cuda"


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
        first, second, auxiliary = draw(problem)
        with jax.default_matmul_precision("float32"):
            ours = _our_loss(problem, first, second, auxiliary)
        step = torch_step(way, problem)
        theirs = float(step.loss(*step.put(first, second, auxiliary)).detach())
        differences[way] = abs(theirs - ours) / abs(ours)
        if not differences[way] <= EXACT:
            raise RuntimeError(f"{way}: the loss is {theirs:g}, ours {ours:g}")
    allow_tf32(True)
    return differences


def _our_loss(
    problem: Problem, first: np.ndarray, second: np.ndarray, auxiliary: np.ndarray
) -> float:
    from landmarks_jax.views import Views  # noqa: PLC0415

    state = states.start_state(problem.config, problem.networks, mesh())
    still = np.tile(np.eye(2, 3, dtype=np.float32), (len(first), 1, 1))
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


def contenders(
    problem: Problem, flags: Iterable[str], steps_a_round: int
) -> tuple[dict[str, Any], dict[str, str]]:
    """Ours and PyTorch's, each warmed up by a round; and why others are not among them."""
    runs: dict[str, Any] = {OURS: Ours(problem, steps_a_round)}
    runs[OURS]()
    left_out = {}
    channels_last: bool | None = None
    for flag in flags:
        name, way, compiled = TORCH[flag]
        why = records.why_no_torch()
        if why is not None:
            left_out[name] = why
            continue
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


def _check_first_loss(config: ConfigDict, way: str, theirs: float, ours: float) -> None:
    if config.objective.bn_groups != GROUPS[way]:
        return
    if not abs(theirs - ours) <= LOOSE[config.compute_dtype] * abs(ours):
        raise RuntimeError(f"{way}: the first step's loss is {theirs:g}, ours {ours:g}")


def measure_cell(
    config: ConfigDict, flags: Iterable[str], *, steps_a_round: int, seconds: float
) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """One configuration's rows, ours first; and why contenders were left out."""
    problem = make_problem(config)
    runs, left_out = contenders(problem, flags, steps_a_round)
    times = records.in_turn(runs, seconds=seconds, fewest=FEWEST, warm_up=1)
    rows = []
    for name, run in runs.items():
        row = {
            "channels": config.model.generator_channels,
            "dtype": config.compute_dtype,
            "batch": config.train.batch_size,
            "contender": name,
            "rounds": len(times[name]),
            "steps_a_round": steps_a_round,
            "quartiles_ms": records.quartiles_ms(times[name], steps_a_round),
        }
        row["images_per_second"] = round(1e3 * config.train.batch_size / row["quartiles_ms"][1], 3)
        # Round by round, so that what slows a whole round falls out.
        ratios = [t / ours for t, ours in zip(times[name], times[OURS], strict=True)]
        row["over_ours"] = [round(q / 1e3, 4) for q in records.quartiles_ms(ratios)]
        row |= {"first_loss": run.loss, "compile_seconds": round(run.compile_seconds, 1)}
        row["memory_mib"] = run.memory()
        rows.append(row)
        records.log(row)
    return rows, left_out


def measure(
    preset: str,
    cells: Iterable[tuple[int, str, int]],
    flags: Iterable[str],
    *,
    steps_a_round: int,
    seconds: float,
    **fields: Any,
) -> dict[str, Any]:
    """Times everything; plain JSON, the source of `to_markdown`.

    Args:
      preset: `paper` or `released`.
      cells: width of the generator, arithmetic and batch size of each.
      flags: of `TORCH`.
      steps_a_round: steps between two looks at the clock.
      seconds: that a cell's rounds take.
      fields: what differs from the preset, as `configure` takes it.

    Raises:
      RuntimeError: PyTorch computes another loss.
    """
    rows: list[dict[str, Any]] = []
    left_out: dict[str, str] = {}
    checked: dict[str, dict[str, float]] = {}
    flags = tuple(flags)
    cells = tuple(cells)
    peaks = {dtype: records.matmul_peak(dtype) for _, dtype, _ in cells}
    for channels, dtype, batch in cells:
        config = configure(preset, channels, dtype, batch, **fields)
        if flags and records.why_no_torch() is None and str(channels) not in checked:
            checked[str(channels)] = check_the_same(config)
        found, missing = measure_cell(config, flags, steps_a_round=steps_a_round, seconds=seconds)
        rows += found
        where = f"c = {channels}, {dtype}, batch {batch}"
        left_out |= {f"{name}, {where}": why for name, why in missing.items()}
        release_memory()
    return {
        **records.surroundings("benchmarks.train", ("jax", "jaxlib", "torch", "numpy")),
        "preset": preset,
        "fields": fields,
        "matmul_gflops": {dtype: round(peak / 1e9, 1) for dtype, peak in peaks.items()},
        "loss_differences": checked,
        "left_out": left_out,
        "peak_rss_mib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1),
        "rows": rows,
    }


def release_memory() -> None:
    """Gives back what the last cell held."""
    gc.collect()
    if records.why_no_torch() is None and torch_device() == "cuda":
        import torch  # noqa: PLC0415

        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def to_markdown(result: dict[str, Any]) -> str:
    """The table of a result: images a second, and ours over theirs."""
    names = list(dict.fromkeys(row["contender"] for row in result["rows"]))
    cells: dict[tuple[int, str, int], dict[str, dict[str, Any]]] = {}
    for row in result["rows"]:
        key = row["channels"], row["dtype"], row["batch"]
        cells.setdefault(key, {})[row["contender"]] = row
    others = [name for name in names if name != OURS]
    header = ["c", "Arithmetic", "Batch", *(f"{name}, images/s" for name in names)]
    header += [f"Ours over {name}" for name in others]
    lines = []
    for (channels, dtype, batch), found in cells.items():
        rates = [
            f"{found[name]['images_per_second']:,.2f}" if name in found else "-" for name in names
        ]
        ratios = [f"{found[name]['over_ours'][1]:.2f}" if name in found else "-" for name in others]
        lines.append([str(channels), dtype, str(batch), *rates, *ratios])
    worst = max(
        (value for ways in result["loss_differences"].values() for value in ways.values()),
        default=None,
    )
    notes = [
        records.ran_on(result),
        f"Preset {result['preset']}. Medians over rounds in turn; ours over theirs: the median "
        f"over rounds of their time over ours. Our step draws its views from canvases, PyTorch's "
        f"is given ready views. Best matrix product here: {records.peaks(result)}.",
    ]
    if worst is not None:
        notes.append(
            f"Before timing, in float32: the losses of both ways differ from ours by at most "
            f"{worst:.1e} of them."
        )
    notes += records.left_out(result)
    return records.page("The training step's speed", records.table(header, lines), notes)


def main() -> None:
    """Measures, and writes the JSON with its table beside it."""
    # PyTorch needs its share of a GPU's memory; read when JAX first looks for devices.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    # Compile times are of compiling.
    jax.config.update("jax_enable_compilation_cache", False)
    gpu = jax.default_backend() == "gpu"
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, help="JSON file; the table gets the ending .md")
    parser.add_argument("--preset", default="released", choices=tuple(PRESETS))
    parser.add_argument("--widths", default="32", help="c of the generator: 32, 64")
    parser.add_argument("--batches", default="32,256" if gpu else "8", help="photos a step")
    parser.add_argument("--dtypes", default=records.default_dtypes(), help="float32, bfloat16")
    parser.add_argument("--contenders", default="released,fused", help=", ".join(TORCH))
    parser.add_argument("--steps", type=int, default=10 if gpu else 1, help="steps a round")
    parser.add_argument("--seconds", type=float, default=120.0, help="of a cell's rounds")
    given = parser.parse_args()
    cells = [
        (int(channels), dtype, int(batch))
        for channels in given.widths.split(",")
        for dtype in given.dtypes.split(",")
        for batch in given.batches.split(",")
    ]
    flags = [flag for flag in given.contenders.split(",") if flag]
    result = measure(given.preset, cells, flags, steps_a_round=given.steps, seconds=given.seconds)
    records.write(given.out, result, to_markdown(result))


if __name__ == "__main__":
    main()
