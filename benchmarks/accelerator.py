"""Runs all measurements on a machine with a GPU by one command.

python -m benchmarks.accelerator --out runs/accelerator --minutes 9

Stages run one after the other, the most important first, each in a process of its own that writes
`STAGE.json` beside its log, so one that fails or runs out of memory costs no other. A stage that
would not fit into the minutes left is skipped; rerun the command to continue with the stages that
have no JSON yet. `summary.json` and `summary.md` are made from what there is.
"""

import argparse
import os
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from benchmarks import detector, harness, profiling, roofline, train
from benchmarks.contenders import Ours
from benchmarks.harness import OURS
from benchmarks.problem import PAPER_STEPS, configure, make_problem, mesh
from landmarks_jax.system.errors import UserError
from landmarks_jax.system.files import write_file
from landmarks_jax.system.tables import DASH, Table
from landmarks_jax.training.sharding import put_batch

MAX_IN_FLIGHT = 2  # steps on the device while the host goes on, as in `training.loop`
PRESETS = {64: "paper", 32: "released"}
# Fields that make a preset small enough for any CPU.
TINY = {
    "views__size": 16,
    "data__canvas_size": 20,
    "model__num_landmarks": 3,
    "model__detector_channels": 8,
    "model__hourglass_depth": 1,
    "model__residual_blocks": 1,
    "perceptual__taps": ("relu1_2",),
}
TINY_BATCH = 4


def _configure(channels: int, dtype: str, batch: int, *, tiny: bool) -> ConfigDict:
    batch = TINY_BATCH if tiny else batch
    return configure(PRESETS[channels], channels, dtype, batch, **(TINY if tiny else {}))


def _machine(*, tiny: bool) -> dict[str, Any]:
    del tiny
    head = harness.environment("benchmarks.accelerator", ("jax", "jaxlib", "torch", "numpy"))
    return {
        **head,
        "command": head["command"].replace(" --stage machine", ""),
        "peak": {dtype: harness.matmul_peak(dtype) for dtype in ("bfloat16", "float32")},
        "bandwidth": harness.copy_bandwidth(),
        "memory": jax.devices()[0].memory_stats(),
    }


def _train(channels: int, dtype: str, batch: int, *, tiny: bool) -> dict[str, Any]:
    return train.measure(
        PRESETS[channels],
        [(channels, dtype, TINY_BATCH if tiny else batch)],
        ("released", "fused"),
        steps_per_round=1 if tiny else 10,
        seconds=0.0 if tiny else 15.0,
        check_losses=dtype == "bfloat16" and batch == 32,
        **(TINY if tiny else {}),
    )


def _steps(channels: int, *, tiny: bool) -> dict[str, Any]:
    """Steps in a row, each on a batch sent from the host, as a run takes them."""
    config = _configure(channels, "bfloat16", 32, tiny=tiny)
    problem, devices = make_problem(config), mesh()
    ours = Ours(problem, 1)
    windows, size = (2, 2) if tiny else (20, 100)
    in_flight: deque[jax.Array] = deque()

    def take(count: int) -> float:
        start = time.perf_counter()
        for _ in range(count):
            in_flight.append(ours.step([put_batch(devices, rows) for rows in problem.batch]))
            if len(in_flight) > MAX_IN_FLIGHT:
                in_flight.popleft().block_until_ready()
        return (time.perf_counter() - start) / count

    take(2)
    times = [take(size) for _ in range(windows)]
    return {
        "channels": channels,
        "batch": config.train.batch_size,
        "steps": windows * size,
        "quartiles_ms": harness.quartiles(times, 1e3),
        "minutes_of_85000": round(PAPER_STEPS * sum(times) / windows / 60, 2),
        "mean_loss": ours.mean_loss(),
        "memory_mib": ours.memory(),
    }


def _profile(channels: int, batch: int, *, tiny: bool) -> dict[str, Any]:
    return profiling.measure(_configure(channels, "bfloat16", batch, tiny=tiny))


def _detector(*, tiny: bool) -> dict[str, Any]:
    widths, batches = (["small"], [1]) if tiny else (["paper"], [1, 8, 64, 256])
    return detector.measure(widths, batches, ["bfloat16", "float32"])


# By name, the most important first: seconds on a GPU, compiling included, and what to run.
STAGES: dict[str, tuple[float, Callable[..., dict[str, Any]]]] = {
    "machine": (30, _machine),
    "train_64_bfloat16_32": (150, partial(_train, 64, "bfloat16", 32)),
    "steps_64": (120, partial(_steps, 64)),
    "train_32_bfloat16_32": (150, partial(_train, 32, "bfloat16", 32)),
    "steps_32": (100, partial(_steps, 32)),
    "train_64_bfloat16_256": (150, partial(_train, 64, "bfloat16", 256)),
    "profile_64_32": (45, partial(_profile, 64, 32)),
    "train_32_bfloat16_256": (150, partial(_train, 32, "bfloat16", 256)),
    "profile_64_256": (45, partial(_profile, 64, 256)),
    "train_64_float32_32": (150, partial(_train, 64, "float32", 32)),
    "train_32_float32_32": (150, partial(_train, 32, "float32", 32)),
    "detector": (180, _detector),
}


def run_stage(name: str, out: Path, *, tiny: bool) -> None:
    """Measures a stage in this process, and writes its JSON."""
    # PyTorch needs its share of the memory; what one stage compiled the next may reuse.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    jax.config.update("jax_compilation_cache_dir", str(out / "compiled"))
    start = time.perf_counter()
    result = STAGES[name][1](tiny=tiny) | {"tiny": tiny}
    result["stage_seconds"] = round(time.perf_counter() - start, 1)
    harness.write_json(out / f"{name}.json", result)


def read_stages(out: Path, *, tiny: bool) -> dict[str, dict[str, Any]]:
    """The stages that have a result, by name.

    Raises:
      UserError: one cannot be read, or was measured with the other size of networks.
    """
    stages = {}
    for name in STAGES:
        path = out / f"{name}.json"
        if not path.exists():
            continue
        result = harness.read_json(path, "remove it")
        if not isinstance(result, dict):
            raise UserError(f"{path}: not a stage's result; remove it")
        if result.get("tiny", False) != tiny:
            how = "without" if tiny else "with"
            raise UserError(f"{path}: was measured {how} --tiny; choose another --out")
        stages[name] = result
    return stages


def run_stages(out: Path, names: Iterable[str], minutes: float, *, tiny: bool) -> dict[str, str]:
    """Runs the stages that have no JSON yet, in order, while there is time.

    Returns:
      The stages without a result, and why.
    """
    end = time.monotonic() + 60 * minutes
    left_out: dict[str, str] = {}
    for name in names:
        if (out / f"{name}.json").exists():
            continue
        left = end - time.monotonic()
        if left <= 0 or (not tiny and STAGES[name][0] > left):
            left_out[name] = f"would not fit into the {max(left, 0):.0f} s left"
            continue
        command = [sys.executable, "-m", "benchmarks.accelerator", "--out", str(out)]
        command += ["--stage", name, *(["--tiny"] if tiny else [])]
        print(f"{name} ...", file=sys.stderr, flush=True)
        with (out / f"{name}.log").open("w") as log:
            try:
                code = subprocess.run(
                    command, stdout=log, stderr=log, timeout=max(left, 1), check=False
                ).returncode
            except subprocess.TimeoutExpired:
                left_out[name] = "ran out of time"
                continue
        if code:
            left_out[name] = f"ended with {code}; see {name}.log"
        write_summary(out, left_out, tiny=tiny)
    return left_out


def write_summary(out: Path, left_out: dict[str, str], *, tiny: bool) -> str:
    """Merges the stages' JSON into `summary.json`, and its Markdown, which is returned."""
    stages = read_stages(out, tiny=tiny)
    result: dict[str, Any] = {"left_out": left_out, "stages": stages, "rows": []}
    if "machine" in stages:
        result["rows"] = [
            row | _against_floors(row, stages["machine"], tiny=tiny)
            for name, stage in stages.items()
            if name.startswith("train_")
            for row in stage["rows"]
        ]
    markdown = to_markdown(result)
    harness.write_json(out / "summary.json", result)
    write_file(out / "summary.md", markdown, UserError)
    return markdown


def _against_floors(row: dict[str, Any], machine: dict[str, Any], *, tiny: bool) -> dict[str, Any]:
    """A row's shares of the measured matrix product and of the roofline's floor."""
    config = _configure(row["channels"], row["dtype"], row["batch"], tiny=tiny)
    floors = roofline.floors(config, machine)
    milliseconds = row["quartiles_ms"][1]
    return {
        "of_peak": round(floors["compute_ms"] / milliseconds, 4),
        "of_roofline": round(floors["roofline_ms"] / milliseconds, 4),
    }


def to_markdown(result: dict[str, Any]) -> str:
    """The tables of a summary: steps against PyTorch's and the floors, long runs, kernels."""
    stages = result["stages"]
    header = ["c", "Arithmetic", "Batch", "Contender", "ms a step", "Images/s", "Ours over it"]
    header += ["Of peak", "Of roofline", "MiB"]
    rows = []
    for row in result["rows"]:
        memory = row["memory_mib"].get("device_peak")
        cells = [str(row["channels"]), row["dtype"], str(row["batch"]), row["contender"]]
        cells += [f"{row['quartiles_ms'][1]:,.2f}", f"{row['images_per_second']:,.0f}"]
        cells += [DASH if row["contender"] == OURS else f"{row['over_ours'][1]:.2f}"]
        cells += [f"{row['of_peak']:.0%}", f"{row['of_roofline']:.0%}"]
        rows.append([*cells, DASH if memory is None else f"{memory:,.0f}"])
    notes = ["The stage `machine` has no result."]
    if "machine" in stages:
        machine = stages["machine"]
        rates = [f"{rate / 1e12:,.4g} TFLOP/s in {d}" for d, rate in machine["peak"].items()]
        copy = f"a copy {machine['bandwidth'] / 1e9:,.4g} GB/s"
        notes = [harness.provenance(machine), f"Measured there: {', '.join(rates)}; {copy}."]
    notes += harness.left_out(result)
    pages = [Table(header, rows, "On an accelerator", notes).to_markdown(1)]
    header = ["c", "Batch", "Steps", "ms a step", f"Minutes of {PAPER_STEPS:,}"]
    rows = [
        [
            str(stage["channels"]),
            str(stage["batch"]),
            f"{stage['steps']:,}",
            f"{stage['quartiles_ms'][1]:,.2f}",
            f"{stage['minutes_of_85000']:,.1f}",
        ]
        for name, stage in stages.items()
        if name.startswith("steps_")
    ]
    if rows:
        title = "Steps in a row, batches sent from the host"
        pages.append(Table(header, rows, title).to_markdown(2))
    pages += [_kernels(stage) for name, stage in stages.items() if name.startswith("profile_")]
    if "detector" in stages:
        pages.append(detector.to_markdown(stages["detector"], level=2))
    return "\n".join(pages)


def _kernels(stage: dict[str, Any]) -> str:
    """The table of a profile."""
    header = ["Kernel", "ms a step", "Share", "Calls a step", "Mostly for"]
    rows = [
        [
            f"`{kernel['kernel'][:80]}`",
            f"{kernel['ms']:,.3f}",
            f"{kernel['share']:.1%}",
            f"{kernel['calls']:,.1f}",
            f"`{kernel['mostly'][-90:]}`",
        ]
        for kernel in stage["longest"]
    ]
    parts = [
        f"{part} {direction} {ms:,.2f}"
        for part, directions in stage["parts_ms"].items()
        for direction, ms in directions.items()
    ]
    title = f"Profile, c = {stage['channels']}, {stage['dtype']}, batch {stage['batch']}"
    note = (
        f"{stage['kernels']:,.0f} kernels a step take {stage['kernel_ms']:,.2f} of its "
        f"{stage['wall_ms']:,.2f} ms. By part, in ms: {', '.join(parts)}."
    )
    return Table(header, rows, title, [note]).to_markdown(2)


def main() -> int:
    """Runs the stages, or the one that this process is for.

    Returns:
      The exit code: 1 where a stage has no result.
    """
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=harness.out_folder, required=True, help="for the results")
    parser.add_argument("--minutes", type=harness.at_least(0.0), default=60.0, help="for all")
    names = harness.comma_separated(harness.one_of(STAGES))
    parser.add_argument("--stages", type=names, default=",".join(STAGES), help="which, in order")
    parser.add_argument("--tiny", action="store_true", help="tiny networks, to try the command")
    parser.add_argument("--stage", choices=tuple(STAGES), help="this one, in this process")
    args = parser.parse_args()
    if args.stage:
        run_stage(args.stage, args.out, tiny=args.tiny)
        return 0
    jax.config.update("jax_platforms", "cpu")  # a GPU's memory is for the stages
    read_stages(args.out, tiny=args.tiny)
    left_out = run_stages(args.out, args.stages, args.minutes, tiny=args.tiny)
    print(write_summary(args.out, left_out, tiny=args.tiny))
    return 1 if left_out else 0


if __name__ == "__main__":
    harness.run_command(main)
