"""Injects seeded faults: damaged files, full disks, kills; counts silent and lost results.

python -m benchmarks.faults --out docs/results/benchmarks/faults_cpu.json [--count 1000]

Files of every kind that the program reads are damaged in a copy: a flipped bit, an end cut off, an
end of zeros. Commands run while no file can grow beyond a random size, and are stopped at random
moments by SIGKILL and SIGTERM, in processes of their own. Each must end with the right result, or
in one line. The exit code is 1 if any did not.
"""

import collections
import functools
import importlib
import json
import os
import tempfile
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unittest import mock

if __name__ == "__main__":  # before JAX is imported: compiling is what takes the time
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.2")
    os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"
    os.environ["JAX_PLATFORMS"] = "cpu"

import numpy as np

from benchmarks import fault_scenarios as scenarios
from benchmarks import fault_targets as targets
from benchmarks import harness
from benchmarks.fault_workers import (
    BAD,
    DAMAGES,
    FULL,
    KILL,
    TERM,
    TIMEOUT,
    Fault,
    fork,
    wait,
    work,
)
from landmarks_jax.system import cache
from landmarks_jax.system.errors import UserError
from landmarks_jax.system.tables import Table

VERDICTS = ("refused", "no effect", "unknowable", *BAD)
# How many of a thousand faults are of each kind.
_DAMAGES_EACH, _DISKS = 15, dict.fromkeys(("prepare", "export", "transfer", "detect"), 28)
_DISKS |= {"train": 25, "evaluate": 13}
_SIGNALS = {"train": 26, "prepare": 20, "evaluate": 8, "export": 15, "detect": 15}


def plan(count: int, seed: int) -> list[Fault]:
    """Faults of all kinds in a random order."""
    kinds = [(what, kind) for what in targets.TARGETS for kind in DAMAGES] * _DAMAGES_EACH
    kinds += [(what, FULL) for what, number in _DISKS.items() for _ in range(number)]
    for kind in (KILL, TERM):
        kinds += [(what, kind) for what, number in _SIGNALS.items() for _ in range(number)]
    order = np.random.default_rng(seed).permutation(len(kinds))
    chosen = [kinds[order[i % len(kinds)]] for i in range(count)]
    return [Fault(what, kind, seed + i) for i, (what, kind) in enumerate(chosen)]


def _build(base: Path) -> None:
    targets.build(base)
    scenarios.write_trajectory(base / "trajectory.json", base / "undisturbed")


def inject_all(faults: Sequence[Fault], jobs: int) -> list[list[Any]]:
    """Injects faults by several processes.

    Returns:
      A list `[what, kind, seed, verdict, why, seconds]` for each.

    Raises:
      UserError: the files cannot be made, or a process failed.
    """
    warnings.filterwarnings("ignore", message=".*fork", category=RuntimeWarning)
    warnings.filterwarnings("ignore", message=".*fork", category=DeprecationWarning)
    importlib.import_module(targets.DETECTOR)  # packed files may name it only then
    cache.enable_compilation_cache()  # where the user keeps them; other caches go with the faults
    with (
        tempfile.TemporaryDirectory(prefix="faults-") as name,
        mock.patch.dict(os.environ, XDG_CACHE_HOME=f"{name}/cache"),
    ):
        folder = Path(name)
        if wait(fork(lambda: _build(folder / "base")), 10 * TIMEOUT):
            raise UserError("the files to damage could not be made; see above")
        folders = [folder / f"injector{i}" for i in range(jobs)]
        pids = []
        for i, own in enumerate(folders):
            share = faults[i::jobs]
            pids.append(fork(functools.partial(work, share, own, folder / "base")))
        codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]
        if any(codes):
            raise UserError("a process that injects faults failed; see above")
        lines = [line for own in folders for line in (own / "found.jsonl").read_text().splitlines()]
    return [json.loads(line) for line in lines]


def to_markdown(result: dict[str, Any]) -> str:
    """The table of a result: verdicts by what was damaged or stopped."""
    rows = []
    for row in result["rows"]:
        counts = [str(row["verdicts"].get(verdict, 0)) for verdict in VERDICTS]
        rows.append([row["what"], row["kind"], str(row["faults"]), *counts])
    totals = [sum(row["verdicts"].get(v, 0) for row in result["rows"]) for v in VERDICTS]
    rows.append(["all", "", f"{result['count']:,}", *(f"{total:,}" for total in totals)])
    notes = [
        harness.provenance(result),
        f"{result['minutes']:.1f} minutes with {result['jobs']} processes. Refused: one line that "
        "names the file, or a warning. No effect: the same result as undamaged; after a stop or a "
        "full disk, once the command was run again. Unknowable: another result from files without "
        "a checksum, because people and other programs write them: JPEG photos, labels, boxes, "
        "config.json; and from the log of a run.",
        "Silent: another result, or half a file, with exit code 0. Lost: more steps than the "
        "interval under way and the one being saved; a log with gaps. The limit of a full disk is "
        "one of each file's size.",
    ]
    header = ["What", "Fault", "Faults", *(verdict.capitalize() for verdict in VERDICTS)]
    return Table(header, rows, "Seeded faults", notes).to_markdown(1)


def main() -> int:
    """Injects the faults, and writes the JSON with its table beside it."""
    parser = harness.argument_parser(__doc__)
    parser.add_argument("--count", type=harness.at_least(1), default=1000, help="faults")
    parser.add_argument("--seed", type=harness.at_least(0), default=0)
    parser.add_argument("--jobs", type=harness.at_least(1), default=os.cpu_count())
    parser.add_argument("--only", default="", help="faults whose kind or target contains this")
    args = parser.parse_args()
    faults = [f for f in plan(args.count, args.seed) if args.only in f"{f.kind}: {f.what}"]
    began = time.monotonic()
    found = inject_all(faults, args.jobs)
    minutes = (time.monotonic() - began) / 60
    verdicts: dict[tuple[str, str], collections.Counter[str]] = {}
    seconds: collections.Counter[tuple[str, str]] = collections.Counter()
    for what, kind, _, verdict, _, spent in found:
        verdicts.setdefault((what, kind), collections.Counter())[verdict] += 1
        seconds[what, kind] += spent
    result = {
        **harness.environment(("jax", "orbax-checkpoint", "numpy", "pillow")),
        "count": len(found),
        "seed": args.seed,
        "jobs": args.jobs,
        "minutes": round(minutes, 2),
        "rows": [
            {
                "what": what,
                "kind": kind,
                "faults": counts.total(),
                "seconds": round(seconds[what, kind], 1),
                "verdicts": dict(counts),
            }
            for (what, kind), counts in sorted(verdicts.items())
        ],
        "bad": [line for line in found if line[3] in BAD],
    }
    harness.write_result(args.out, result, to_markdown(result))
    return int(bool(result["bad"]))


if __name__ == "__main__":
    harness.run_command(main)
