"""A paper table as Markdown, LaTeX and CSV, made from its JSON alone."""

from typing import Any

from landmarks_jax.studies.paper_grids import Column, Grid, Row
from landmarks_jax.studies.paper_results import Number
from landmarks_jax.system.tables import DASH, Table, latex_text
from landmarks_jax.system.tables import to_csv as csv_of

_CSV_FIELDS = (
    *("grid", "kind", "cell", "row", "column", "protocol", "crop", "statistics"),
    *("mean", "std", "draws_std", "seeds", "values", "source", "command"),
)


def to_markdown(table: dict[str, Any]) -> str:
    """Every grid, the remarks and notes, and the commands of what is missing."""
    sections = [_table(grid).to_markdown() for grid in table["grids"]]
    lines = [*_bullets("Results", table["remarks"]), *_bullets("Notes", table["notes"])]
    if table["missing"]:
        lines += ["### Missing", ""]
        lines += [
            f"{place}. {entry['cell']} ({entry['why']}): `{entry['command']}`"
            for place, entry in enumerate(table["missing"], 1)
        ]
        lines.append("")
    return "\n".join([f"## {table['title']}", "", *sections, *lines])


def _bullets(title: str, sentences: list[str]) -> list[str]:
    items = [f"- {sentence}" for sentence in sentences]
    return [f"### {title}", "", *items, ""] if items else []


def to_latex(table: dict[str, Any]) -> str:
    r"""A `table` environment for each grid, for `\input`, and the remarks and notes."""
    tables = [_table(grid).to_latex() for grid in table["grids"]]
    sentences = [*table["remarks"], *table["notes"]]
    sentences += [
        f"Missing ({place}): {entry['cell']}, {entry['why']}."
        for place, entry in enumerate(table["missing"], 1)
    ]
    below = [rf"\par {latex_text(sentence)}" + "\n" for sentence in sentences]
    return "".join([f"% {table['title']}. Made by landmarks-jax reproduce.\n", *tables, *below])


def _table(grid: Grid) -> Table:
    header = [*grid["labels"], *(column["title"] for column in grid["columns"])]
    rows = [
        [
            *row["labels"],
            *(number_text(n, c) for n, c in zip(row["numbers"], grid["columns"], strict=True)),
        ]
        for row in grid["rows"]
    ]
    return Table(header, rows, grid["title"], grid["notes"], labels=len(grid["labels"]))


def number_text(number: Number | None, column: Column) -> str:
    """`6.20`, `6.20 ± 0.04` over seeds, `7.50 ± 0.41 (± 0.04)` over draws and seeds.

    A missing number refers to its place in the list of missing cells: `missing (1)`.
    """
    if number is None:
        return DASH
    if "missing" in number:
        return f"missing ({number['missing']})"
    decimals = column["decimals"]
    text = f"{number['mean']:,.{decimals}f}"
    # A deviation of 0 is of runs of equal length, not a measurement.
    seeds = f"± {number['std']:,.{decimals}f}" if number.get("std") else ""
    if number.get("draws_std") is not None:
        text += f" ± {number['draws_std']:,.{decimals}f}"
        seeds = f"({seeds})" if seeds else ""
    return f"{text} {seeds}".rstrip()


def to_csv(table: dict[str, Any]) -> str:
    """Every number, one a line.

    Columns: grid, kind (published, measured, control), cell, row (its labels), column, protocol,
    crop and statistics (empty where they do not apply), mean, std (between seeds), draws_std,
    seeds and values (one a seed), source (of published ones), command (that makes a missing one).
    """
    lines = [
        _csv_line(grid, row, column, number, table)
        for grid in table["grids"]
        for row in grid["rows"]
        for number, column in zip(row["numbers"], grid["columns"], strict=True)
        if number is not None
    ]
    return csv_of(_CSV_FIELDS, lines)


def _csv_line(
    grid: Grid, row: Row, column: Column, number: Number, table: dict[str, Any]
) -> dict[str, Any]:
    line = {"grid": grid["title"], "column": column["title"]}
    line |= {name: column[name] for name in ("protocol", "crop", "statistics")}
    line |= {"kind": row["kind"], "cell": row["cell"], "row": "; ".join(row["labels"])}
    if "missing" in number:
        return line | {"command": table["missing"][number["missing"] - 1]["command"]}
    if "source" in number:
        return line | {"kind": "published", "mean": number["mean"], "source": number["source"]}
    line |= {name: number.get(name) for name in ("mean", "std", "draws_std")}
    return line | {name: "; ".join(map(str, number.get(name, ()))) for name in ("seeds", "values")}
