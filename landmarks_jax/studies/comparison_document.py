"""A comparison as Markdown and as CSV, made from its JSON alone."""

import csv
import io
from collections.abc import Sequence
from typing import Any

from landmarks_jax.evaluation.breakdown import BY_TURN
from landmarks_jax.evaluation.score_tables import (
    CONSISTENCY_NOTE,
    CROPS_NOTE,
    DASH,
    POSES_NOTE,
    limits_text,
    section,
)
from landmarks_jax.studies.comparison import Row

_DECIMALS = {"steps": 0, "minutes": 1}


def to_markdown(comparison: dict[str, Any]) -> str:
    """A table for each protocol and crop, and what differs between the runs."""
    sections = [_section(table) for table in comparison["tables"]]
    lines = ["### What differs between the runs", ""]
    for difference in comparison["differences"]:
        values = [
            f"{_text(entry['value'])} ({', '.join(entry['runs'])})"
            for entry in difference["values"]
        ]
        lines.append(f"- `{difference['field']}`: {'; '.join(values)}")
    if not comparison["differences"]:
        lines.append("Nothing but lengths, intervals and paths.")
    return "\n".join([*sections, *lines, ""])


def _text(value: Any) -> str:
    return "absent" if value is None else f"`{value}`"


def _section(table: dict[str, Any]) -> str:
    """One protocol and crop."""
    quantities = table["quantities"]
    header = ["", "K", "Seed", *(q[:1].upper() + q[1:] for q in quantities), "Trained on"]
    rows = [_cells(row, quantities) for row in table["rows"]]
    posed = any(name in quantities for name in BY_TURN.names)
    limits = zip(BY_TURN.names, (None, *BY_TURN.limits), (*BY_TURN.limits, None), strict=True)
    groups = ", ".join(
        f"{name} {limits_text({'low': low, 'high': high}, BY_TURN.unit)}"
        for name, low, high in limits
    )
    notes = [
        *(f"Remark: {remark}" for remark in table["remarks"]),
        "Each run's detector with running statistics, all labels. Forward, backward and spread: "
        "per cent of the eye distance; equivariance: pixels of a 128 view. Means of several seeds "
        "with their lowest and highest value. Trained on: not noted by earlier versions.",
        f"Consistency: {CONSISTENCY_NOTE}" * ("consistency" in quantities),
        f"Forward errors by turn of the head: {groups}. {POSES_NOTE}" * posed,
        CROPS_NOTE,
        *(f"Note: {note}" for note in table["notes"]),
    ]
    return section(f"{table['protocol']}, {table['crop']} crop", header, rows, notes)


def _cells(row: Row, quantities: Sequence[str]) -> list[str]:
    """A row of the table; the first number of a run that is not scored is how to score it."""
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
    command (that scores the run, where it is not scored); for every quantity its mean over the
    row's runs, and `_low` and `_high`, the lowest and the highest of them.
    """
    tables = comparison["tables"]
    quantities = dict.fromkeys(name for table in tables for name in table["quantities"])
    fields = ["protocol", "crop", "kind", "row", "runs", "num_landmarks", "seeds", "hardware"]
    numbers = [f"{name}{end}" for name in quantities for end in ("", "_low", "_high")]
    text = io.StringIO()
    writer = csv.DictWriter(text, [*fields, "command", *numbers], restval="", lineterminator="\n")
    writer.writeheader()
    for table in tables:
        for row in table["rows"]:
            line = {"protocol": table["protocol"], "crop": table["crop"], "row": row["name"]}
            line |= {key: row[key] for key in ("kind", "num_landmarks", "command")}
            line |= {key: "; ".join(map(str, row[key])) for key in ("runs", "seeds", "hardware")}
            for name, values in row["values"].items():
                if values:
                    mean = round(sum(values) / len(values), 4)
                    ends = {f"{name}_low": min(values), f"{name}_high": max(values)}
                    line |= {name: mean, **ends}
            writer.writerow(line)
    return text.getvalue()
