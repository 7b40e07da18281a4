"""Everything that is to be measured on a machine with a GPU, by one command.

python -m benchmarks.accelerator --out runs/accelerator --minutes 9

Stages run one after the other, the most important first, each in a process of its own with a JSON
of its own, `STAGE.json` beside its log: one that fails or runs out of memory takes no other with
it. A stage is left out once it would not fit into the minutes; the same command again goes on with
those that have no JSON yet. `summary.json` and its Markdown are made from what there is.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax

from benchmarks import (
    arguments,
    counting,
    detector,
    endurance,
    profiling,
    records,
    roofline,
    train,
)
from benchmarks.problem import PAPER_STEPS, configure
from benchmarks.records import OURS
from landmarks_jax.system.errors import UserError

PRESETS = {64: "paper", 32: "released"}
EAGER, COMPILED = ("released", "fused"), ("released-compiled", "fused-compiled")
# What makes a configuration one that a processor computes at once.
TINY = {
    "views__size": 16,
    "data__canvas_size": 20,
    "model__num_landmarks": 3,
    "model__detector_channels": 8,
    "model__hourglass_depth": 1,
    "model__residual_blocks": 1,
    "perceptual__taps": ("relu1_2",),
}


class Scale(NamedTuple):
    """How much is measured.

    Attributes:
      fields: what differs from the presets.
      rounds: seconds of a cell's rounds.
      steps_a_round: steps between two looks at the clock.
      steps: measured on end, and how many of them between two looks.
      views: of the detector at once.
    """

    fields: dict[str, Any]
    rounds: float
    steps_a_round: int
    steps: tuple[int, int]
    views: tuple[int, ...]


FULL = Scale({}, 15.0, 10, (2_000, 100), (1, 8, 64, 256))
SMALL = Scale(TINY, 0.0, 1, (4, 2), (1,))


class Stage(NamedTuple):
    """Something measured.

    Attributes:
      seconds: that it may take on such a machine, compiling included.
      run: gives its JSON.
    """

    seconds: float
    run: Callable[[Scale], dict[str, Any]]


def _machine(scale: Scale) -> dict[str, Any]:
    del scale
    peaks = {dtype: records.matmul_peak(dtype) for dtype in ("bfloat16", "float32")}
    where = records.surroundings("benchmarks.accelerator", ("jax", "jaxlib", "torch", "numpy"))
    return {
        **where,
        "command": where["command"].replace(" --stage machine", ""),
        "peak": peaks,
        "bandwidth": records.copy_bandwidth(),
        "memory": jax.devices()[0].memory_stats(),
    }


def _train(channels: int, dtype: str, batch: int, flags: tuple[str, ...], checks: bool) -> Any:
    def run(scale: Scale) -> dict[str, Any]:
        return train.measure(
            PRESETS[channels],
            [(channels, dtype, batch)],
            flags,
            steps_a_round=scale.steps_a_round,
            seconds=scale.rounds,
            check_first=checks,
            **scale.fields,
        )

    return run


def _configuration(channels: int, batch: int, scale: Scale) -> Any:
    return configure(PRESETS[channels], channels, "bfloat16", batch, **scale.fields)


def _steps(channels: int) -> Any:
    return lambda scale: endurance.measure(_configuration(channels, 32, scale), *scale.steps)


def _profile(channels: int, batch: int) -> Any:
    return lambda scale: profiling.measure(_configuration(channels, batch, scale))


def _detector(scale: Scale) -> dict[str, Any]:
    width = "small" if scale.fields else "paper"
    return detector.measure([width], list(scale.views), ["bfloat16", "float32"])


# Name -> stage, the most important first.
STAGES: dict[str, Stage] = {
    "machine": Stage(30, _machine),
    "train_64_bfloat16_32": Stage(150, _train(64, "bfloat16", 32, EAGER, True)),
    "steps_64": Stage(120, _steps(64)),
    "train_32_bfloat16_32": Stage(150, _train(32, "bfloat16", 32, EAGER, True)),
    "steps_32": Stage(100, _steps(32)),
    "train_64_bfloat16_256": Stage(150, _train(64, "bfloat16", 256, EAGER, False)),
    "profile_64_32": Stage(45, _profile(64, 32)),
    "train_32_bfloat16_256": Stage(150, _train(32, "bfloat16", 256, EAGER, False)),
    "profile_64_256": Stage(45, _profile(64, 256)),
    "compiled_64_bfloat16_32": Stage(240, _train(64, "bfloat16", 32, COMPILED, False)),
    "compiled_32_bfloat16_32": Stage(240, _train(32, "bfloat16", 32, COMPILED, False)),
    "train_64_float32_32": Stage(150, _train(64, "float32", 32, EAGER, False)),
    "train_32_float32_32": Stage(150, _train(32, "float32", 32, EAGER, False)),
    "detector": Stage(180, _detector),
    "compiled_64_bfloat16_256": Stage(240, _train(64, "bfloat16", 256, COMPILED, False)),
    "train_64_float32_256": Stage(150, _train(64, "float32", 256, EAGER, False)),
    "train_32_float32_256": Stage(150, _train(32, "float32", 256, EAGER, False)),
}


def run_stage(name: str, out: Path, scale: Scale) -> None:
    """Measures a stage in this process, and writes its JSON."""
    # What one stage compiled the next need not; PyTorch needs its share of the memory.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    jax.config.update("jax_compilation_cache_dir", str(out / "compiled"))
    start = time.perf_counter()
    found = STAGES[name].run(scale) | {"tiny": scale == SMALL}
    found["stage_seconds"] = round(time.perf_counter() - start, 1)
    part = out / f"{name}.json.part"
    part.write_text(json.dumps(found, indent=1) + "\n")
    part.replace(out / f"{name}.json")


def check_folder(out: Path, *, tiny: bool) -> None:
    """Refuses stages that cannot be read, or were tried with the other size of networks.

    Raises:
      UserError: naming the file.
    """
    for name in STAGES:
        path = out / f"{name}.json"
        try:
            found = json.loads(path.read_text())
        except FileNotFoundError:
            continue
        except (OSError, ValueError) as error:
            raise UserError(f"{path}: cannot be read ({error}); remove it") from error
        if not isinstance(found, dict):
            raise UserError(f"{path}: is no stage's result; remove it")
        if found.get("tiny", False) != tiny:
            how = "without" if tiny else "with"
            raise UserError(f"{path}: was measured {how} --tiny; name another folder by --out")


def run_stages(out: Path, names: Sequence[str], minutes: float, *, tiny: bool) -> dict[str, str]:
    """Runs what has no JSON yet, in order, while there is time.

    Returns:
      What has none now, and why.
    """
    out.mkdir(parents=True, exist_ok=True)
    end = time.monotonic() + 60 * minutes
    left_out: dict[str, str] = {}
    for name in names:
        if (out / f"{name}.json").exists():
            continue
        left = end - time.monotonic()
        if left <= 0 or (not tiny and STAGES[name].seconds > left):
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
    """Gathers the stages' JSON into one, and its Markdown; returns that."""
    stages = {
        name: json.loads((out / f"{name}.json").read_text())
        for name in STAGES
        if (out / f"{name}.json").exists()
    }
    result: dict[str, Any] = {"left_out": left_out, "stages": stages, "rows": []}
    if "machine" in stages:
        result["rows"] = [
            row | _against_floors(row, stages["machine"], SMALL if tiny else FULL)
            for name, stage in stages.items()
            if name.startswith(("train_", "compiled_"))
            for row in stage["rows"]
        ]
    (out / "summary.json").write_text(json.dumps(result, indent=1) + "\n")
    markdown = to_markdown(result)
    (out / "summary.md").write_text(markdown)
    return markdown


def _against_floors(row: dict[str, Any], machine: dict[str, Any], scale: Scale) -> dict[str, Any]:
    """A row's shares of the measured matrix product and of the roofline's floor."""
    channels, dtype, batch = row["channels"], row["dtype"], row["batch"]
    config = configure(PRESETS[channels], channels, dtype, batch, **scale.fields)
    floors = roofline.floors(config, machine)
    milliseconds = row["quartiles_ms"][1]
    return {
        "gmac_per_photo": round(counting.macs_per_photo(config) / 1e9, 3),
        "of_peak": round(floors["compute_ms"] / milliseconds, 4),
        "of_roofline": round(floors["roofline_ms"] / milliseconds, 4),
        "of_library": round(floors["library_ms"] / milliseconds, 4),
    }


def to_markdown(result: dict[str, Any]) -> str:
    """The tables of a summary: steps against PyTorch's and the floors, minutes, kernels."""
    stages, pages = result["stages"], []
    header = ["c", "Arithmetic", "Batch", "Contender", "ms a step", "Images/s", "Ours over it"]
    header += ["Of peak", "Of roofline", "Of library", "MiB"]
    lines = []
    for row in result["rows"]:
        ratio = "" if row["contender"] == OURS else f"{row['over_ours'][1]:.2f}"
        line = [str(row["channels"]), row["dtype"], str(row["batch"]), row["contender"]]
        line += [f"{row['quartiles_ms'][1]:,.2f}", f"{row['images_per_second']:,.0f}", ratio]
        line += [f"{row[share]:.0%}" for share in ("of_peak", "of_roofline", "of_library")]
        peak = row["memory_mib"].get("device_peak")
        lines.append([*line, "-" if peak is None else f"{peak:,.0f}"])
    notes = ["No stage told of the machine."]
    if "machine" in stages:
        machine = stages["machine"]
        rates = [f"{rate / 1e12:,.4g} TFLOP/s in {d}" for d, rate in machine["peak"].items()]
        copied = f"a copy {machine['bandwidth'] / 1e9:,.4g} GB/s"
        notes = [records.ran_on(machine), f"Measured there: {', '.join(rates)}; {copied}."]
    notes += records.left_out(result)
    pages.append(records.page("On an accelerator", records.table(header, lines), notes))
    header = ["c", "Batch", "Steps", "ms a step", f"Minutes of {PAPER_STEPS:,}"]
    lines = [
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
    if lines:
        title = "Steps on end, batches sent from the host"
        pages.append(records.page(title, records.table(header, lines), [], level=2))
    for name, stage in stages.items():
        if name.startswith("profile_"):
            pages.append(_kernels(stage))
        elif name == "detector":
            pages.append(detector.to_markdown(stage).replace("# ", "## ", 1))
    return "\n".join(pages)


def _kernels(stage: dict[str, Any]) -> str:
    """The longest kernels of a profile, and its parts."""
    header = ["Kernel", "ms a step", "Share", "Calls a step", "Mostly for"]
    lines = [
        [
            f"`{found['kernel'][:80]}`",
            f"{found['ms']:,.3f}",
            f"{found['share']:.1%}",
            f"{found['calls']:,.1f}",
            f"`{found['mostly'][-90:]}`",
        ]
        for found in stage["longest"]
    ]
    parts = ", ".join(
        f"{part} {direction} {ms:,.2f}"
        for part, spent in stage["parts_ms"].items()
        for direction, ms in spent.items()
    )
    title = f"Profile, c = {stage['channels']}, {stage['dtype']}, batch {stage['batch']}"
    notes = [
        f"{stage['kernels']:,.0f} kernels a step take {stage['kernel_ms']:,.2f} of its "
        f"{stage['wall_ms']:,.2f} ms. By part, in ms: {parts}."
    ]
    return records.page(title, records.table(header, lines), notes, level=2)


def main() -> int:
    """Runs the stages, or the one that this process is for.

    Returns:
      The exit code: 1 where a stage has no JSON.
    """
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--out", type=arguments.out_folder, required=True, help="folder of the JSON files"
    )
    parser.add_argument("--minutes", type=arguments.amount, default=60.0, help="for all")
    every = ",".join(STAGES)
    which = arguments.names(STAGES)
    parser.add_argument("--stages", type=which, default=every, help="which, in which order")
    parser.add_argument("--tiny", action="store_true", help="tiny networks: to try the command")
    parser.add_argument("--stage", choices=tuple(STAGES), help="this one, in this process")
    given = parser.parse_args()
    if given.stage:
        run_stage(given.stage, given.out, SMALL if given.tiny else FULL)
        return 0
    # This process computes nothing: a GPU's memory is its stages'.
    jax.config.update("jax_platforms", "cpu")
    check_folder(given.out, tiny=given.tiny)
    left_out = run_stages(given.out, given.stages, given.minutes, tiny=given.tiny)
    print(write_summary(given.out, left_out, tiny=given.tiny))
    return 1 if left_out else 0


if __name__ == "__main__":
    arguments.run(main)
