"""Times the training step against the same step in PyTorch, alternating within one run.

python -m benchmarks.train --out docs/results/benchmarks/train_cpu.json
python -m benchmarks.train --check docs/results/benchmarks/train_cpu.json

The second measures the first one's cells again and ends with 1 where ours has lost against PyTorch.
Ours is the very program of `train.py`: on canvases that lie on the device, it draws the views,
composes, and updates. PyTorch, which could not share our drawing, is given ready views. It does the
step in two ways, as the released code does it and shared out like ours (`benchmarks.torch_step`),
each also through `torch.compile`. Before anything is timed, the losses must be equal: the same
weights, views and auxiliaries, and for the two ways the two `bn_groups`.
"""

import argparse
import gc
import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import jax

from benchmarks import arguments, contenders, counting, records
from benchmarks.contenders import TORCH
from benchmarks.problem import PRESETS, configure, make_problem
from benchmarks.records import OURS
from landmarks_jax.system.errors import UserError
from landmarks_jax.training import memory

FEWEST = 5  # rounds of a cell


def measure_cell(
    config: Any, flags: Iterable[str], *, steps_a_round: int, seconds: float
) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """One configuration's rows, ours first; and why contenders were left out."""
    problem = make_problem(config)
    runs, left_out = contenders.line_up(problem, flags, steps_a_round)
    macs = counting.macs_per_photo(config)
    times = records.in_turn(runs, seconds=seconds, fewest=FEWEST, warm_up=1)
    rows = []
    for name, run in runs.items():
        row = {
            "channels": config.model.generator_channels,
            "dtype": config.compute_dtype,
            "batch": config.train.batch_size,
            "contender": name,
            "rounds": len(times[name]),
            "quartiles_ms": records.quartiles_ms(times[name], steps_a_round),
        }
        row["images_per_second"] = round(1e3 * config.train.batch_size / row["quartiles_ms"][1], 3)
        # Round by round, so that what slows a whole round falls out.
        ratios = [t / ours for t, ours in zip(times[name], times[OURS], strict=True)]
        row["over_ours"] = [round(q / 1e3, 4) for q in records.quartiles_ms(ratios)]
        row["tflops"] = round(2e-12 * macs * row["images_per_second"], 4)
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
    check_first: bool = True,
    **fields: Any,
) -> dict[str, Any]:
    """Times everything; plain JSON, the source of `to_markdown`.

    Args:
      preset: `paper` or `released`.
      cells: width of the generator, arithmetic and batch size of each.
      flags: of `TORCH`.
      steps_a_round: steps between two looks at the clock.
      seconds: that a cell's rounds take.
      check_first: whether the losses are compared before anything is timed.
      fields: what differs from the preset, as `problem.configure` takes it.

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
        if (
            check_first
            and flags
            and records.why_no_torch() is None
            and str(channels) not in checked
        ):
            checked[str(channels)] = contenders.check_the_same(config)
        found, missing = measure_cell(config, flags, steps_a_round=steps_a_round, seconds=seconds)
        rows += found
        where = f"c = {channels}, {dtype}, batch {batch}"
        left_out |= {f"{name}, {where}": why for name, why in missing.items()}
        release_memory()
    return {
        **records.surroundings("benchmarks.train", ("jax", "jaxlib", "torch", "numpy")),
        "preset": preset,
        "fields": fields,
        "steps_a_round": steps_a_round,
        "seconds": seconds,
        "matmul_gflops": {dtype: round(peak / 1e9, 1) for dtype, peak in peaks.items()},
        "loss_differences": checked,
        "left_out": left_out,
        **records.mib({"peak_rss_mib": memory.host_peak()}),
        "rows": rows,
    }


def release_memory() -> None:
    """Gives back what the last cell held."""
    gc.collect()
    if records.why_no_torch() is None and contenders.torch_device() == "cuda":
        import torch  # noqa: PLC0415

        torch.cuda.empty_cache()


def to_markdown(result: dict[str, Any]) -> str:
    """The table of a result: images a second, and ours over theirs."""
    names = list(dict.fromkeys(row["contender"] for row in result["rows"]))
    cells: dict[tuple[int, str, int], dict[str, dict[str, Any]]] = {}
    for row in result["rows"]:
        key = row["channels"], row["dtype"], row["batch"]
        cells.setdefault(key, {})[row["contender"]] = row
    others = [name for name in names if name != OURS]
    header = ["c", "Arithmetic", "Batch", *(f"{name}, images/s" for name in names)]
    header += [f"Ours over {name}" for name in others] + ["Of peak"]
    lines = []
    for (channels, dtype, batch), found in cells.items():
        rates = [
            f"{found[name]['images_per_second']:,.2f}" if name in found else "-" for name in names
        ]
        ratios = [f"{found[name]['over_ours'][1]:.2f}" if name in found else "-" for name in others]
        share = 1e3 * found[OURS]["tflops"] / result["matmul_gflops"][dtype]
        lines.append([str(channels), dtype, str(batch), *rates, *ratios, f"{share:.0%}"])
    worst = max(
        (value for ways in result["loss_differences"].values() for value in ways.values()),
        default=None,
    )
    notes = [
        records.ran_on(result),
        f"Preset {result['preset']}. Medians over rounds in turn; ours over theirs: the median "
        f"over rounds of their time over ours. Our step draws its views from canvases, PyTorch's "
        f"is given ready views. Of peak: the plain convolutions' operations over our time and the "
        f"best matrix product here ({records.peaks(result)}).",
    ]
    if worst is not None:
        notes.append(
            f"Before timing, in float32: the losses of both ways differ from ours by at most "
            f"{worst:.1e} of them."
        )
    notes += records.left_out(result)
    return records.page("The training step's speed", records.table(header, lines), notes)


def compare(stored: dict[str, Any], fresh: dict[str, Any], tolerance: float) -> list[str]:
    """What became worse: ours over each of PyTorch's, never seconds.

    Args:
      stored: an earlier result.
      fresh: the same cells measured again.
      tolerance: share of the stored ratio that may be lost.

    Returns:
      A line for each ratio that fell by more, or could not be measured.
    """

    def ratios(result: dict[str, Any]) -> dict[tuple[Any, ...], float]:
        names = ("channels", "dtype", "batch", "contender")
        rows = (row for row in result["rows"] if row["contender"] != OURS)
        return {tuple(row[name] for name in names): row["over_ours"][1] for row in rows}

    found, worse = ratios(fresh), []
    for cell, before in ratios(stored).items():
        channels, dtype, batch, contender = cell
        where = f"c = {channels}, {dtype}, batch {batch}: ours over {contender}"
        if cell not in found:
            worse.append(f"{where} was {before:.2f} and could not be measured")
        elif found[cell] < before * (1 - tolerance):
            worse.append(f"{where} was {before:.2f} and is {found[cell]:.2f}")
    return worse


def read_stored(path: Path) -> dict[str, Any]:
    """Reads an earlier result that can be measured again here.

    Raises:
      UserError: it cannot be read, is of another kind of device, or there is no PyTorch here.
    """
    result = arguments.stored(path, "benchmarks.train")
    cell = {"channels", "dtype", "batch", "contender", "over_ours"}
    head = {"preset", "fields", "steps_a_round", "seconds", "device", "rows"}
    rows = result.get("rows")
    if not head <= set(result) or not rows or not all(cell <= set(row) for row in rows):
        raise UserError(f"{path}: is not whole; measure it again with --out in place of --check")
    cpu = jax.default_backend() == "cpu"
    if cpu != result["device"].endswith("cpu"):
        raise UserError(
            f"{path}: was measured on {result['device']}, and here is {jax.devices()[0]}; compare "
            "on the same kind of device"
        )
    why = records.why_no_torch()
    if why is not None:
        raise UserError(f"--check {path}: compares ratios to PyTorch, and {why}")
    return result


def measure_again(stored: dict[str, Any]) -> dict[str, Any]:
    """Times the cells of an earlier result once more."""
    rows = stored["rows"]
    cells = dict.fromkeys((row["channels"], row["dtype"], row["batch"]) for row in rows)
    names = {row["contender"] for row in rows}
    return measure(
        stored["preset"],
        cells,
        [flag for flag, (name, *_) in TORCH.items() if name in names],
        steps_a_round=stored["steps_a_round"],
        seconds=stored["seconds"],
        **stored["fields"],
    )


def main() -> int:
    """Measures, and writes the JSON with its table beside it; or compares with an earlier one.

    Returns:
      The exit code: 1 where ours has become slower against PyTorch's.
    """
    # PyTorch needs its share of a GPU's memory; read when JAX first looks for devices.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    # Compile times are of compiling.
    jax.config.update("jax_enable_compilation_cache", False)
    gpu = jax.default_backend() == "gpu"
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--out", type=arguments.out_file, help="JSON file; the table gets the ending .md"
    )
    parser.add_argument("--preset", default="released", choices=tuple(PRESETS))
    parser.add_argument(
        "--widths", type=arguments.counts(1), default="32", help="c of the generator: 32, 64"
    )
    photos = "32,256" if gpu else "8"
    parser.add_argument("--batches", type=arguments.counts(2), default=photos, help="photos a step")
    parser.add_argument(
        "--dtypes",
        type=arguments.names(records.DTYPES),
        default=records.default_dtypes(),
        help=", ".join(records.DTYPES),
    )
    parser.add_argument(
        "--contenders",
        type=arguments.names(TORCH, none=True),
        default="released,fused",
        help=", ".join(TORCH),
    )
    steps = 10 if gpu else 1
    parser.add_argument("--steps", type=arguments.count(1), default=steps, help="steps a round")
    parser.add_argument(
        "--seconds", type=arguments.amount, default=120.0, help="of a cell's rounds"
    )
    parser.add_argument("--check", type=Path, help="an earlier JSON: measure its cells, compare")
    parser.add_argument(
        "--tolerance",
        type=arguments.amount,
        default=0.15,
        help="share of a ratio that --check lets go",
    )
    given = parser.parse_args()
    if given.check:
        stored = read_stored(given.check)
        result = measure_again(stored)
        worse = compare(stored, result, given.tolerance)
    else:
        cells = [
            (channels, dtype, batch)
            for channels in given.widths
            for dtype in given.dtypes
            for batch in given.batches
        ]
        result = measure(
            given.preset,
            cells,
            given.contenders,
            steps_a_round=given.steps,
            seconds=given.seconds,
        )
        worse = []
    records.write(given.out, result, to_markdown(result))
    for line in worse:
        print(f"slower: {line}", file=sys.stderr)
    return 1 if worse else 0


if __name__ == "__main__":
    arguments.run(main)
