"""Times the training step against the same step in PyTorch, alternating within one run.

python -m benchmarks.train --out docs/results/benchmarks/train_cpu.json
python -m benchmarks.train --check docs/results/benchmarks/train_cpu.json

The second measures the cells of the first again and exits with 1 where ours has become slower
against PyTorch. Ours is the program of `train.py`, which draws its views from canvases on the
device. PyTorch gets ready views, in two variants: as the released code, and with work shared like
ours (`benchmarks.torch_step`). Before anything is timed the losses are compared, on the same
weights and views.
"""

import argparse
import itertools
import os
import sys
from pathlib import Path
from typing import Any

import jax

from benchmarks import harness
from benchmarks.contenders import TORCH
from benchmarks.harness import OURS
from benchmarks.problem import PRESETS
from benchmarks.step_times import Cell, measure
from landmarks_jax.system.errors import UserError
from landmarks_jax.system.tables import DASH, Table


def to_markdown(result: dict[str, Any]) -> str:
    """The table of a result: images per second, and ours over theirs."""
    names = list(dict.fromkeys(row["contender"] for row in result["rows"]))
    others = [name for name in names if name != OURS]
    cells: dict[Cell, dict[str, dict[str, Any]]] = {}
    for row in result["rows"]:
        key = row["channels"], row["dtype"], row["batch"]
        cells.setdefault(key, {})[row["contender"]] = row
    header = ["c", "Arithmetic", "Batch", *(f"{name}, images/s" for name in names)]
    header += [*(f"Ours over {name}" for name in others), "Of peak"]

    def cell(row: dict[str, Any], field: str) -> str:
        value = row.get(field)
        if value is None:
            return DASH
        return f"{value[1] if field == 'over_ours' else value:,.2f}"

    rows = []
    for (channels, dtype, batch), by_name in cells.items():
        rates = [cell(by_name.get(name, {}), "images_per_second") for name in names]
        ratios = [cell(by_name.get(name, {}), "over_ours") for name in others]
        share = 1e3 * by_name[OURS]["tflops"] / result["matmul_gflops"][dtype]
        rows.append([str(channels), dtype, str(batch), *rates, *ratios, f"{share:.0%}"])
    differences = [d for variants in result["loss_differences"].values() for d in variants.values()]
    notes = [
        harness.provenance(result),
        f"Preset {result['preset']}. Medians over rounds in turn; ours over theirs: the median "
        "over rounds of their time over ours. Our step draws its views from canvases, PyTorch's "
        "is given ready views. Of peak: the plain convolutions' operations over our time and the "
        f"best matrix product here ({harness.peaks(result)}).",
    ]
    if differences:
        notes.append(harness.loss_differences(differences))
    notes += harness.left_out(result)
    return Table(header, rows, "The training step's speed", notes).to_markdown(1)


def compare(stored: dict[str, Any], fresh: dict[str, Any], tolerance: float) -> list[str]:
    """Lists the ratios of ours to PyTorch's that became worse; seconds are not compared.

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

    after, worse = ratios(fresh), []
    for cell, before in ratios(stored).items():
        channels, dtype, batch, contender = cell
        where = f"c = {channels}, {dtype}, batch {batch}: ours over {contender}"
        if cell not in after:
            worse.append(f"{where} was {before:.2f} and could not be measured")
        elif after[cell] < before * (1 - tolerance):
            worse.append(f"{where} was {before:.2f} and is {after[cell]:.2f}")
    return worse


def read_stored(path: Path) -> dict[str, Any]:
    """Reads an earlier result that can be measured again here.

    Raises:
      UserError: it cannot be read, is of another kind of device, or there is no PyTorch here.
    """
    remedy = "name a file that python -m benchmarks.train --out wrote"
    result = harness.read_json(path, remedy)
    head = {"command", "preset", "fields", "steps_per_round", "seconds", "device", "rows"}
    if not isinstance(result, dict) or not head <= set(result):
        raise UserError(f"{path}: not a result of benchmarks.train; {remedy}")
    if (jax.default_backend() == "cpu") != result["device"].endswith("cpu"):
        raise UserError(
            f"{path}: was measured on {result['device']}, but here is {jax.devices()[0]}; compare "
            "on the same kind of device"
        )
    missing = harness.why_no_torch()
    if missing is not None:
        raise UserError(f"--check {path}: compares with PyTorch, but {missing}")
    return result


def measure_again(stored: dict[str, Any], seconds: float) -> dict[str, Any]:
    """Times the cells of an earlier result once more."""
    rows = stored["rows"]
    names = {row["contender"] for row in rows}
    *_, result = measure(
        stored["preset"],
        dict.fromkeys((row["channels"], row["dtype"], row["batch"]) for row in rows),
        [flag for flag, torch in TORCH.items() if torch.name in names],
        steps_per_round=stored["steps_per_round"],
        seconds=seconds,
        **stored["fields"],
    )
    return result


def _parse() -> argparse.Namespace:
    gpu = jax.default_backend() == "gpu"
    read, at_least = harness.comma_separated, harness.at_least
    parser = harness.argument_parser(__doc__)
    parser.add_argument("--preset", default="released", choices=tuple(PRESETS))
    parser.add_argument(
        "--widths", type=read(at_least(1)), default="32", help="the generator's channels: 32,64"
    )
    batches = "32,256" if gpu else "8"
    parser.add_argument(
        "--batches", type=read(at_least(2)), default=batches, help="photos per step"
    )
    harness.add_dtypes(parser)
    parser.add_argument(
        "--contenders",
        type=read(harness.one_of(TORCH)),
        default="released,fused",
        help=",".join(TORCH),
    )
    steps = 10 if gpu else 1
    parser.add_argument("--steps", type=at_least(1), default=steps, help="steps per round")
    parser.add_argument(
        "--seconds", type=at_least(0.0), help="of a cell's rounds; default 120, or as --check's"
    )
    parser.add_argument("--check", type=Path, help="an earlier JSON: measure its cells, compare")
    parser.add_argument(
        "--tolerance", type=at_least(0.0), default=0.15, help="share of a ratio that may be lost"
    )
    return parser.parse_args()


def main() -> int:
    """Measures, and writes the JSON with its table beside it; or compares with an earlier one.

    Returns:
      The exit code: 1 where ours has become slower against PyTorch's.
    """
    # PyTorch needs its share of a GPU's memory; read when JAX first looks for devices.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    jax.config.update("jax_enable_compilation_cache", False)  # compiling is timed
    args = _parse()
    worse: list[str] = []
    if args.check:
        stored = read_stored(args.check)
        seconds = stored["seconds"] if args.seconds is None else args.seconds
        result = measure_again(stored, seconds)
        worse = compare(stored, result, args.tolerance)
    else:
        *_, result = measure(
            args.preset,
            itertools.product(args.widths, args.dtypes, args.batches),
            args.contenders,
            steps_per_round=args.steps,
            seconds=120.0 if args.seconds is None else args.seconds,
        )
    harness.write_result(args.out, result, to_markdown(result))
    for line in worse:
        print(f"slower: {line}", file=sys.stderr)
    return 1 if worse else 0


if __name__ == "__main__":
    harness.run_command(main)
