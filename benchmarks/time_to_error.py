"""Trains a configuration and scores it now and then: how long until the error is under a level.

python -m benchmarks.time_to_error --config best_cpu --every 250 --until 11 --seeds 0,1 \
    --workdir runs/time_to_error --out docs/results/benchmarks/time_to_error_best_cpu.json

Any field is set with --config.SECTION.FIELD=value, as of `landmarks-jax train`. Each seed trains in
a process of its own, in pieces of --every steps. The start of the first one counts, with
compiling, and so does making targets. Scoring does not, nor does starting again, which is measured
as a piece of one step. A rerun continues.
"""

import argparse
import os
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from absl import logging

from benchmarks import harness
from benchmarks.timed_run import TimedRun, read_lines
from landmarks_jax.cli import main as cli
from landmarks_jax.cli import presets
from landmarks_jax.cli.command import Call, Command
from landmarks_jax.evaluation import labelled_faces
from landmarks_jax.system import cache
from landmarks_jax.system.errors import UserError
from landmarks_jax.system.tables import DASH, Table

LEVELS = (12.0, 11.0, 10.0, 9.0, 8.0, 7.0)


def scored(lines: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """The lines of a run that have an error."""
    return [line for line in lines if line["error"] is not None]


def crossing(lines: Iterable[dict[str, Any]], level: float) -> dict[str, Any] | None:
    """The first line whose error is at most `level`, None if there is none."""
    return next((line for line in scored(lines) if line["error"] <= level), None)


def to_markdown(result: dict[str, Any]) -> str:
    """The table of a result: the first crossing of each level, and the last score."""
    header = [
        "Error at most",
        "Seed",
        "Error, %",
        "Steps",
        "Core-minutes",
        "Minutes",
        "Of training",
    ]
    header += ["Matrix products, TFLOP", "Multiply-adds, T"]
    rows = [
        [f"{level:g}", str(run["seed"]), *_cells(crossing(run["lines"], level))]
        for level in result["levels"]
        for run in result["runs"]
    ]
    for run in result["runs"]:
        lines = scored(run["lines"])
        rows.append(["last", str(run["seed"]), *_cells(lines[-1] if lines else None)])
    peaks = [line["matmul_gflops"] for run in result["runs"] for line in run["lines"]]
    notes = [
        harness.provenance(result),
        f"`{result['config']}`, {result['num_landmarks']} landmarks. Forward error on "
        f"{result['protocol']}, center crop, scored every {result['every']:,} steps. Minutes: with "
        "start-up, compiling and making targets, without scoring, previews and starting again "
        "after it; of training: without start-up and compiling, the run's own clock. Matrix "
        "products: what the best float32 product of the same minutes "
        f"({min(peaks, default=0):,.0f} to {max(peaks, default=0):,.0f} GFLOP/s) would have "
        "computed in those minutes. Multiply-adds: of the plain convolutions, with their gradients "
        "and the features that targets are made from.",
    ]
    return Table(header, rows, "Time to an error", notes).to_markdown(1)


def _cells(line: dict[str, Any] | None) -> list[str]:
    if line is None:
        return [DASH] * 7
    macs = DASH if line["macs"] is None else f"{line['macs'] / 1e12:,.1f}"
    clocks = ("core_seconds", "seconds", "trained_seconds")
    minutes = [f"{line[clock] / 60:.1f}" for clock in clocks]
    product = f"{line['matmul_tflop']:,.0f}"
    return [f"{line['error']:.2f}", f"{line['steps']:,}", *minutes, product, macs]


def _workdir_of(args: argparse.Namespace, call: Call, seed: int) -> Path:
    return args.workdir / f"{Path(call.config_file).stem}-{seed}"


def train_seed(args: argparse.Namespace, call: Call) -> int:
    """Trains and scores the run of the first seed, in this process."""
    config, seed = call.flags.config, args.seeds[0]
    config.seed = seed
    logging.set_verbosity(logging.ERROR)
    timed = TimedRun(config, _workdir_of(args, call, seed))
    opened = labelled_faces.open_protocols(args.protocol, config)
    faces = next(protocol for protocol in opened if protocol.crop == "center")
    return timed.run(faces, every=args.every, until=args.until)


def train_all(args: argparse.Namespace, call: Call, words: Sequence[str]) -> list[dict[str, Any]]:
    """Trains every seed in a process of its own, whose first step is compiled anew.

    Raises:
      UserError: a process failed or was interrupted.
    """
    runs = []
    for seed in args.seeds:
        workdir = _workdir_of(args, call, seed)
        compilations = str((workdir / "compilations").absolute())
        command = [sys.executable, "-m", "benchmarks.time_to_error", *words]
        command += ["--child", "--seeds", str(seed)]
        environment = {**os.environ, cache.COMPILATIONS: compilations}
        done = subprocess.run(command, env=environment, stdout=sys.stderr, check=False)
        if done.returncode:
            raise UserError(f"{workdir}: stopped (exit code {done.returncode}); rerun to continue")
        runs.append({"seed": seed, "lines": read_lines(workdir)})
    return runs


def main() -> int:
    """Trains, and writes the JSON with its table beside it."""
    parser, read = harness.argument_parser(__doc__), harness.comma_separated
    at_least = harness.at_least
    parser.add_argument("--workdir", type=harness.out_folder, default="runs/time_to_error")
    parser.add_argument("--every", type=at_least(2), default=250, help="steps between two scores")
    parser.add_argument("--until", type=at_least(0.0), default=0.0, help="error to stop at, %%")
    parser.add_argument("--seeds", type=read(at_least(0)), default="0", help="by commas")
    levels = ",".join(f"{level:g}" for level in LEVELS)
    parser.add_argument("--levels", type=read(at_least(0.0)), default=levels, help="errors, %%")
    protocols = harness.one_of(labelled_faces.PROTOCOLS)
    parser.add_argument("--protocol", type=protocols, default="aflw-dev", help="faces to score on")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    args, rest = parser.parse_known_args()
    command = Command(lambda _: None, config="The configuration.", default_config="best_cpu")
    call = cli.parse("time_to_error", command, rest)
    if args.child:
        return train_seed(args, call)
    runs = train_all(args, call, sys.argv[1:])
    result = {
        **harness.environment(("jax", "jaxlib", "flax", "optax")),
        "config": presets.short_name(presets.path_of(call.config_file)),
        "num_landmarks": call.flags.config.model.num_landmarks,
        "protocol": args.protocol,
        "every": args.every,
        "until": args.until,
        "levels": list(args.levels),
        "runs": runs,
    }
    harness.write_result(args.out, result, to_markdown(result))
    return 0


if __name__ == "__main__":
    harness.run_command(main)
