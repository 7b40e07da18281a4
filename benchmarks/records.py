"""The records: the forward error against the time to train, a line for each change that helped.

python -m benchmarks.records docs/results/records.json
python -m benchmarks.records docs/results/records.json --add RESULT.json --change "what changed"

The second adds a line from a result of `benchmarks.time_to_error`: of each seed the last score, or
with --level the first one at or under it. Both write the table beside the JSON.
"""

import argparse
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import harness
from benchmarks.time_to_error import crossing, scored
from landmarks_jax.system.errors import UserError
from landmarks_jax.system.files import write_file
from landmarks_jax.system.tables import DASH, Table


def record_of(
    result: dict[str, Any], source: str, change: str, level: float | None = None
) -> dict[str, Any]:
    """The line of a result.

    Args:
      result: of `benchmarks.time_to_error`.
      source: its file.
      change: what was changed.
      level: the error to reach, %; None takes the last score.

    Raises:
      UserError: a run has no such score.
    """
    found = []
    for run in result["runs"]:
        lines = scored(run["lines"])
        line = crossing(lines, level) if level is not None else lines[-1] if lines else None
        if line is None:
            below = "" if level is None else f" at or under {level:g} %"
            raise UserError(f"{source}: seed {run['seed']} has no score{below}")
        found.append(line)
    return {
        "change": change,
        "config": result["config"],
        "num_landmarks": result["num_landmarks"],
        "seeds": [run["seed"] for run in result["runs"]],
        "errors": {result["protocol"]: [line["error"] for line in found]},
        "steps": [line["steps"] for line in found],
        "core_minutes": [round(line["core_seconds"] / 60, 2) for line in found],
        "minutes": [round(line["seconds"] / 60, 2) for line in found],
        "machine": result["machine"],
        "source": source,
    }


def to_markdown(records: Sequence[dict[str, Any]]) -> str:
    """The table of the records, in order."""
    protocols = list(dict.fromkeys(name for record in records for name in record["errors"]))
    header = ["Change", "Configuration", "K", *(f"{name}, %" for name in protocols)]
    header += ["Core-minutes", "Minutes", "Seeds", "From"]
    rows = [
        [
            record["change"],
            f"`{record['config']}`",
            str(record["num_landmarks"]),
            *(_numbers(record["errors"].get(name, ()), 2) for name in protocols),
            _numbers(record["core_minutes"], 1),
            _numbers(record["minutes"], 1),
            ", ".join(map(str, record["seeds"])),
            f"`{record['source']}`",
        ]
        for record in records
    ]
    notes = [
        "Forward error, center crop, and what training took until then: the mean over seeds, and "
        "each. Core-minutes: the time of all cores together; Minutes: on the clock. Both with "
        "making targets and their features.",
        *(record["note"] for record in records if "note" in record),
    ]
    return Table(header, rows, "Records", notes).to_markdown(1)


def _numbers(values: Sequence[float], digits: int) -> str:
    if not values:
        return DASH
    mean = f"{statistics.fmean(values):.{digits}f}"
    each = ", ".join(f"{value:.{digits}f}" for value in values)
    return f"{mean} ({each})" if len(values) > 1 else mean


def main() -> None:
    """Adds a line if one is given, and writes the table beside the JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("records", type=Path, help="JSON file; its table is written beside it")
    parser.add_argument("--add", type=Path, help="a result of benchmarks.time_to_error")
    parser.add_argument("--change", help="with --add: what was changed")
    parser.add_argument("--level", type=harness.at_least(0.0), help="with --add: the error, %%")
    args = parser.parse_args()
    if (args.add is None) != (args.change is None):
        parser.error("--add and --change go together")
    records = harness.read_json(args.records, "name docs/results/records.json")
    if args.add is not None:
        result = harness.read_json(args.add, "name a result of benchmarks.time_to_error")
        records.append(record_of(result, str(args.add), args.change, args.level))
        harness.write_json(args.records, records)
    markdown = to_markdown(records)
    write_file(args.records.with_suffix(".md"), markdown, UserError)
    print(markdown)


if __name__ == "__main__":
    harness.run_command(main)
