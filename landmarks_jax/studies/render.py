"""A table as Markdown, LaTeX and CSV, made from its JSON alone."""

import csv
import io
from typing import Any

from landmarks_jax.evaluation.score_tables import DASH, section
from landmarks_jax.studies.grids import Column, Grid, Number, Row

_LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "±": r"$\pm$",
    **{character: f"${character}$" for character in "<>|"},  # other signs in LaTeX's own fonts
    **{character: f"\\{character}" for character in "&%$#_{}"},
}
_CSV_FIELDS = (
    *("grid", "kind", "cell", "row", "column", "protocol", "crop", "statistics"),
    *("mean", "std", "draws_std", "seeds", "values", "source", "command"),
)


def to_markdown(table: dict[str, Any]) -> str:
    """Every grid, the remarks and notes, and the commands of what is missing."""
    sections = [
        section(
            grid["title"],
            [*grid["labels"], *(column["title"] for column in grid["columns"])],
            [_cells(row, grid) for row in grid["rows"]],
            grid["notes"],
        )
        for grid in table["grids"]
    ]
    lines = [*_bullets("What came out", table["remarks"]), *_bullets("Notes", table["notes"])]
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


def _cells(row: Row, grid: Grid) -> list[str]:
    """A row's texts."""
    pairs = zip(row["numbers"], grid["columns"], strict=True)
    return [*row["labels"], *(number_text(number, column) for number, column in pairs)]


def number_text(number: Number | None, column: Column) -> str:
    """`6.20`, `6.20 ± 0.04` over seeds, `7.50 ± 0.41 (± 0.04)` over draws and seeds.

    What is missing is its place in the list of what is: `missing (1)`.
    """
    if number is None:
        return DASH
    if "missing" in number:
        return f"missing ({number['missing']})"
    decimals = column["decimals"]
    text = f"{number['mean']:,.{decimals}f}"
    # Seeds that agree to the last digit are runs of one length, not a measurement.
    seeds = f"± {number['std']:,.{decimals}f}" if number.get("std") else ""
    if number.get("draws_std") is not None:
        text = f"{text} ± {number['draws_std']:,.{decimals}f}"
        seeds = f"({seeds})" * bool(seeds)
    return f"{text} {seeds}".rstrip()


def to_latex(table: dict[str, Any]) -> str:
    r"""A `table` for each grid, for `\input`; it needs no package."""
    lines = [f"% {table['title']}. Made by landmarks-jax reproduce table."]
    for grid in table["grids"]:
        alignment = "l" * len(grid["labels"]) + "r" * len(grid["columns"])
        titles = [*map(latex_text, grid["labels"])]
        titles += [_stacked(column["title"]) for column in grid["columns"]]
        rows = [" & ".join(map(latex_text, _cells(row, grid))) + r" \\" for row in grid["rows"]]
        lines += [
            r"\begin{table}",
            rf"\caption{{{latex_text(grid['title'])}}}",
            r"\footnotesize",
            rf"\begin{{tabular}}{{{alignment}}}",
            r"\hline",
            " & ".join(titles) + r" \\",
            r"\hline",
            *rows,
            r"\hline",
            r"\end{tabular}",
            *(rf"\par {latex_text(note)}" for note in grid["notes"]),
            r"\end{table}",
        ]
    said = [*table["remarks"], *table["notes"]]
    said += [
        f"Missing ({place}): {entry['cell']}, {entry['why']}."
        for place, entry in enumerate(table["missing"], 1)
    ]
    return "\n".join([*lines, *(rf"\par {latex_text(sentence)}" for sentence in said), ""])


def _stacked(title: str) -> str:
    """A column's title, a line for each of its parts, so that columns stay narrow."""
    parts = r"\\".join(map(latex_text, title.split(", ")))
    return rf"\begin{{tabular}}[b]{{@{{}}r@{{}}}}{parts}\end{{tabular}}"


def latex_text(text: str) -> str:
    """Text with what LaTeX takes for commands escaped."""
    escaped = "".join(_LATEX.get(character, character) for character in text)
    return escaped.replace("--", "-{}-")  # two hyphens would become a dash: those of flags


def to_csv(table: dict[str, Any]) -> str:
    """Every number, one a line.

    Columns: grid, kind (published, measured, control), cell, row (its labels), column, protocol,
    crop and statistics (empty where the number has none), mean, std (between seeds), draws_std,
    seeds and values (one a seed), source (of published ones), command (that makes a missing one).
    """
    text = io.StringIO()
    writer = csv.DictWriter(text, _CSV_FIELDS, restval="", lineterminator="\n")
    writer.writeheader()
    for grid in table["grids"]:
        for row in grid["rows"]:
            for number, column in zip(row["numbers"], grid["columns"], strict=True):
                if number is not None:
                    writer.writerow(_csv_line(grid, row, column, number, table))
    return text.getvalue()


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
