"""Grids: the JSON of which tables consist, and their parts.

A grid is {"title", "notes": sentences, "labels": headers of the rows' labels, "columns", "rows"}:

    column  {"title", "decimals", "protocol", "crop", "statistics"}; each of the last three "" where
            the numbers have none, so that a column never mixes two
    row     {"kind": "published" | "measured" | "control", "cell" (None: of no cell), "labels":
            texts, "numbers": one a column}
    number  None; {"missing": place in the table's list of missing cells, from 1}; where published,
            in whatever row, {"mean", "source"}; or {"mean"} and, where measured, also "values" and
            "seeds" that it is the mean of, "std" between them (n - 1, None for one), "draws_std"
            over draws of labelled photos (None where all are used)
"""

from collections.abc import Mapping, Sequence
from statistics import mean, stdev
from typing import Any

from landmarks_jax.studies.comparison import scores_of
from landmarks_jax.studies.results import Gathered
from landmarks_jax.studies.runs import Key

Column = dict[str, Any]
Grid = dict[str, Any]
Number = dict[str, Any]
Row = dict[str, Any]

UNIT = "per cent of the distance between the eyes"
# Rows of a result, the headline first.
STATISTICS = {"running": "running statistics", "batch": "batch statistics"}


def grid(
    title: str,
    labels: Sequence[str],
    columns: Sequence[Column],
    rows: Sequence[Row],
    notes: Sequence[str],
) -> Grid:
    """A grid; its rows must have as many labels and numbers as there are headers."""
    for row in rows:
        if (len(row["labels"]), len(row["numbers"])) != (len(labels), len(columns)):
            raise ValueError(f"{title}: {row['labels']} does not fit the headers")
    return {
        "title": title,
        "labels": list(labels),
        "columns": list(columns),
        "rows": list(rows),
        "notes": list(notes),
    }


def column(
    title: str, key: Key | None = None, *, statistics: str = "", decimals: int = 2
) -> Column:
    """A column, of a protocol and crop where `key` names them."""
    protocol, crop = key or ("", "")
    place = {"protocol": protocol, "crop": crop, "statistics": statistics}
    return {"title": title, "decimals": decimals, **place}


def row(
    kind: str,
    labels: Sequence[str],
    numbers: Sequence[Number | None],
    *,
    cell: str = "",
) -> Row:
    """A row."""
    start = {"kind": kind, "cell": cell or None}
    return {**start, "labels": list(labels), "numbers": list(numbers)}


def printed(value: float | None, source: str) -> Number | None:
    """A published number; None where none was printed."""
    return None if value is None else {"mean": value, "source": source}


def over_seeds(
    values: Mapping[int, float], draws_std: Sequence[float | None] = ()
) -> Number | None:
    """A measured number; None where no run has it.

    Args:
      values: by seed.
      draws_std: the deviation over draws of labelled photos in each run, None without draws.
    """
    if not values:
        return None
    known = [std for std in draws_std if std is not None]
    return {
        "mean": round(mean(values.values()), 4),
        "std": round(stdev(values.values()), 4) if len(values) > 1 else None,
        "draws_std": round(mean(known), 4) if known else None,
        "seeds": list(values),
        "values": list(values.values()),
    }


def score(
    gathered: Gathered, key: Key, cell: str, result_row: str, quantity: str = "forward"
) -> Number | None:
    """A quantity of a cell's results with all labels, over its seeds.

    Args:
      gathered: the runs.
      key: protocol and crop.
      cell: by name.
      result_row: of the result: `running`, `batch`, `untrained` or `mean_shape`.
      quantity: as `comparing.rows.scores_of` calls it.
    """
    scores = {
        seed: scores_of(result, result_row)
        for seed, result in gathered.scored[key].get(cell, {}).items()
        if result_row in result["results"]
    }
    return over_seeds({seed: s[quantity] for seed, s in scores.items() if quantity in s})


def missing(gathered: Gathered, cell: str) -> Number | None:
    """What stands in place of a cell's number; None where the cell lacks nothing."""
    place = gathered.number_missing(cell)
    return None if place is None else {"missing": place}
