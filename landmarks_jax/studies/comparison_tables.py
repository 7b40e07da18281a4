"""A comparison as Markdown and CSV, made from its JSON alone."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from landmarks_jax.evaluation import scores
from landmarks_jax.evaluation.breakdown import BY_YAW
from landmarks_jax.evaluation.score_tables import CROPS_NOTE, POSES_NOTE, limits_text
from landmarks_jax.studies.comparison import Row, compare
from landmarks_jax.studies.runs import read_runs
from landmarks_jax.system import files
from landmarks_jax.system.errors import WorkdirError
from landmarks_jax.system.tables import DASH, Table
from landmarks_jax.system.tables import to_csv as csv_of

_DECIMALS = {"steps": 0, "minutes": 1}
_CSV_FIELDS = (
    *("protocol", "crop", "kind", "row", "runs", "num_landmarks"),
    *("seeds", "hardware", "command"),
)


def compare_runs(folders: Sequence[str], out: str | None = None) -> str:
    """Compares finished runs.

    Args:
      folders: the runs' folders.
      out: folder for `compare.md`, `compare.csv` and `compare.json`; None writes nothing.

    Returns:
      The tables, as Markdown.

    Raises:
      WorkdirError: a folder is not a run, or nothing can be written.
    """
    comparison = compare(read_runs(folders))
    markdown = to_markdown(comparison)
    if out is not None:
        text = json.dumps(comparison, indent=2, allow_nan=False) + "\n"
        files.write_file(Path(out) / "compare.md", markdown, WorkdirError)
        files.write_file(Path(out) / "compare.csv", to_csv(comparison), WorkdirError)
        files.write_file(Path(out) / "compare.json", text, WorkdirError)
    return markdown


def to_markdown(comparison: dict[str, Any]) -> str:
    """A table for each protocol and crop, and the differences between the runs."""
    tables = [_table(table).to_markdown() for table in comparison["tables"]]
    lines = ["### What differs between the runs", ""]
    for difference in comparison["differences"]:
        values = [
            f"{_text(entry['value'])} ({', '.join(entry['runs'])})"
            for entry in difference["values"]
        ]
        lines.append(f"- `{difference['field']}`: {'; '.join(values)}")
    if not comparison["differences"]:
        lines.append("Only lengths, intervals and paths.")
    return "\n".join([*tables, *lines, ""])


def _text(value: Any) -> str:
    return "absent" if value is None else f"`{value}`"


def _table(table: dict[str, Any]) -> Table:
    quantities = table["quantities"]
    header = ["", "K", "Seed", *(q[:1].upper() + q[1:] for q in quantities), "Trained on"]
    measured = [metric for name, metric in scores.METRICS.items() if name in quantities]
    notes = [
        *(f"Remark: {remark}" for remark in table["remarks"]),
        "Each run's detector with running statistics, all labels; for several seeds the mean and "
        f"the lowest and highest value. {scores.notes(measured)}",
        _yaw_note() if any(name in quantities for name in BY_YAW.names) else "",
        CROPS_NOTE,
        *(f"Note: {note}" for note in table["notes"]),
    ]
    title = f"{table['protocol']}, {table['crop']} crop"
    return Table(header, [_cells(row, quantities) for row in table["rows"]], title, notes)


def _yaw_note() -> str:
    bounds = (None, *BY_YAW.limits, None)
    groups = [
        f"{name} {limits_text({'low': bounds[index], 'high': bounds[index + 1]}, BY_YAW.unit)}"
        for index, name in enumerate(BY_YAW.names)
    ]
    return f"Forward errors by yaw of the head: {', '.join(groups)}. {POSES_NOTE}"


def _cells(row: Row, quantities: Sequence[str]) -> list[str]:
    """A row's cells; the first number of an unscored run is the command that scores it."""
    landmarks = DASH if row["num_landmarks"] is None else str(row["num_landmarks"])
    seeds = ", ".join(map(str, row["seeds"])) or DASH
    numbers = [_number(row["values"].get(name, []), _DECIMALS.get(name, 2)) for name in quantities]
    if row["command"]:
        numbers[0] = f"not scored: `{row['command']}`"
    return [row["name"], landmarks, seeds, *numbers, "; ".join(row["hardware"]) or DASH]


def _number(values: Sequence[float], decimals: int) -> str:
    """`15.66`, or of several runs `15.80 (15.66 to 15.94)`."""
    if not values:
        return DASH
    mean = f"{sum(values) / len(values):.{decimals}f}"
    low, high = (f"{end(values):.{decimals}f}" for end in (min, max))
    return mean if low == high else f"{mean} ({low} to {high})"


def to_csv(comparison: dict[str, Any]) -> str:
    """Every row of every table.

    Columns: protocol, crop, kind (run, seeds, control), row, runs, num_landmarks, seeds, hardware,
    command (that scores the run, where it is not scored); and for every quantity its mean over the
    row's runs with `_low` and `_high`, the lowest and the highest of them.
    """
    lines = []
    for table in comparison["tables"]:
        for row in table["rows"]:
            line = {"protocol": table["protocol"], "crop": table["crop"], "row": row["name"]}
            line |= {key: row[key] for key in ("kind", "num_landmarks", "command")}
            line |= {key: "; ".join(map(str, row[key])) for key in ("runs", "seeds", "hardware")}
            for name in table["quantities"]:
                if values := row["values"].get(name):
                    line[name] = round(sum(values) / len(values), 4)
                    line |= {f"{name}_low": min(values), f"{name}_high": max(values)}
            lines.append(line)
    quantities = dict.fromkeys(name for t in comparison["tables"] for name in t["quantities"])
    numbers = [f"{name}{end}" for name in quantities for end in ("", "_low", "_high")]
    return csv_of((*_CSV_FIELDS, *numbers), lines)
