"""Tables as Markdown, CSV and LaTeX."""

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

DASH = "-"  # a cell without a number
_LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "±": r"$\pm$",
    **{character: f"${character}$" for character in "<>|"},
    **{character: f"\\{character}" for character in "&%$#_{}"},
}


@dataclass(frozen=True)
class Table:
    """A table of text cells, with a title and notes.

    Attributes:
      header: N column titles. In LaTeX a comma starts a new line, which keeps columns narrow.
      rows: N cells each.
      title: above the table, or "".
      notes: sentences below it; empty ones are left out.
      labels: number of leading text columns; LaTeX aligns them left and the others right.
    """

    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    title: str = ""
    notes: Sequence[str] = field(default_factory=tuple)
    labels: int = 1

    def __post_init__(self) -> None:
        """Checks that the rows fit the header."""
        for row in self.rows:
            if len(row) != len(self.header):
                raise ValueError(f"{self.title}: row {row} does not have {len(self.header)} cells")

    def to_markdown(self, level: int = 3) -> str:
        """The table under a heading of the given level, each note a paragraph."""
        lines = [f"{'#' * level} {self.title}", ""] if self.title else []
        lines += [_line(self.header), _line(["---"] * len(self.header)), *map(_line, self.rows), ""]
        for note in filter(None, self.notes):
            lines += [note, ""]
        return "\n".join(lines)

    def to_latex(self) -> str:
        r"""A `table` environment for `\input`; it needs no package. Ends in a newline."""
        labels, numbers = self.header[: self.labels], self.header[self.labels :]
        rows = [" & ".join(map(latex_text, row)) + r" \\" for row in self.rows]
        lines = [
            r"\begin{table}",
            rf"\caption{{{latex_text(self.title)}}}",
            r"\footnotesize",
            rf"\begin{{tabular}}{{{'l' * len(labels)}{'r' * len(numbers)}}}",
            r"\hline",
            " & ".join([*map(latex_text, labels), *map(_stacked, numbers)]) + r" \\",
            r"\hline",
            *rows,
            r"\hline",
            r"\end{tabular}",
            *(rf"\par {latex_text(note)}" for note in self.notes if note),
            r"\end{table}",
        ]
        return "\n".join([*lines, ""])


def csv_lines(rows: Iterable[Sequence[Any]]) -> str:
    """Rows of cells as CSV; None is empty."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def to_csv(fields: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows by field name as CSV with a header; missing fields and None are empty.

    Raises:
      ValueError: a row has a field that is not among `fields`.
    """
    text = io.StringIO()
    writer = csv.DictWriter(text, fields, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def latex_text(text: str) -> str:
    """Text with LaTeX's special characters escaped."""
    escaped = "".join(_LATEX.get(character, character) for character in text)
    return escaped.replace("--", "-{}-")  # two hyphens, as in flags, would become a dash


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def _stacked(title: str) -> str:
    parts = r"\\".join(map(latex_text, title.split(", ")))
    return rf"\begin{{tabular}}[b]{{@{{}}r@{{}}}}{parts}\end{{tabular}}"
