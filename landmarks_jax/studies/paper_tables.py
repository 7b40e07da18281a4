"""The paper's tables from finished runs: plain JSON, and from it Markdown, LaTeX and CSV.

The JSON of a table:

    format      1
    table       "1" | "2" | "3" | "ablation" | "cells"
    title       a sentence
    config      the base configuration's file; overrides: its changed fields
    grids       see `paper_grids`; the first is the table itself
    remarks     sentences: the order of the cells, and the remarks of `comparison`
    missing     [{"cell", "seeds", "why", "command"}]
    notes       sentences
"""

import json
from collections.abc import Mapping, Sequence
from itertools import pairwise
from math import sqrt
from pathlib import Path
from statistics import mean, variance
from typing import Any

from landmarks_jax import losses
from landmarks_jax.studies import paper_grids, paper_render
from landmarks_jax.studies.comparison import compare
from landmarks_jax.studies.paper_cells import TABLES, Base, as_flags, cells_of
from landmarks_jax.studies.paper_results import CellRuns, read_cells
from landmarks_jax.studies.published_numbers import LATER, TABLE_1, TABLE_3
from landmarks_jax.system import files
from landmarks_jax.system.errors import ConfigError, WorkdirError

TITLES = {
    "1": "Table I: the four compositions and other methods",
    "2": "Table II: few labelled photos",
    "3": "Table III: perceptual network and losses",
    "ablation": "Ablation: the compositions and the losses",
    "cells": "Cells",
}


def write_tables(
    base: Base,
    runs: str,
    *,
    tables: Sequence[str],
    cells: Sequence[str],
    protocols: Sequence[str],
    seeds: Sequence[int] = (),
    out: str | None = None,
) -> str:
    """Makes tables of finished runs.

    Args:
      base: the configuration that the cells change.
      runs: the folder of the runs' folders.
      tables: some of `paper_cells.TABLES`.
      cells: names of cells for a table of their own.
      protocols: protocols of the cells' scores.
      seeds: seeds that every cell should have; empty takes those that exist.
      out: a folder for `table1.md`, `.tex`, `.csv` and `.json`, for instance; None writes nothing.

    Returns:
      The tables, as Markdown.

    Raises:
      UserError: a run has another configuration than its cell, is damaged, or nothing can be
        written.
    """
    if not tables and not cells:
        raise ConfigError(f"name a --table ({', '.join(TABLES)}) or --cells")
    chosen = {name: cells_of((name,), ()) for name in tables}
    if cells:
        chosen["cells"] = cells_of((), cells)
    markdown = []
    for name, members in chosen.items():
        cell_runs = read_cells(members, base, runs, protocols=protocols, seeds=seeds)
        table = document(name, cell_runs)
        markdown.append(paper_render.to_markdown(table))
        if out is not None:
            stem = f"table{name}" if name.isdigit() else name
            _write(Path(out) / stem, table)
    return "\n".join(markdown)


def _write(path: Path, table: dict[str, Any]) -> None:
    text = json.dumps(table, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    for ending, content in (
        ("json", text),
        ("md", paper_render.to_markdown(table)),
        ("tex", paper_render.to_latex(table)),
        ("csv", paper_render.to_csv(table)),
    ):
        files.write_file(path.with_suffix(f".{ending}"), content, WorkdirError)


def document(table: str, runs: CellRuns) -> dict[str, Any]:
    """A table as JSON; the module's docstring has the structure."""
    if table == "2":
        grids = paper_grids.count_grids(runs, runs.cells[0].name)
    elif table == "1":
        grids = [paper_grids.forward_grid((*TABLE_1, *LATER), runs)]
    elif table == "3":
        grids = [paper_grids.forward_grid(TABLE_3, runs)]
    else:
        entries = {row.cell: row for row in (*TABLE_3, *TABLE_1)}
        order = [entries[cell.name] for cell in runs.cells if cell.name in entries]
        grids = [paper_grids.forward_grid(order, runs)]
    grids += paper_grids.metric_grids(runs)
    if table == "1":
        grids.append(paper_grids.backward_grid())
    return {
        "format": 1,
        "table": table,
        "title": TITLES[table],
        "config": runs.base.file,
        "overrides": {field: str(value) for field, value in runs.base.overrides.items()},
        "grids": [*grids, *paper_grids.training_grids(runs)],
        "remarks": _remarks(runs),
        "missing": runs.missing,
        "notes": _notes(runs),
    }


def _remarks(runs: CellRuns) -> list[str]:
    """The order of the cells under each protocol and crop, then the remarks of the comparison."""
    sentences = []
    for key in runs.keys:
        errors = {
            cell: [r["results"]["running"]["forward"][-1]["mean"] for r in results.values()]
            for cell, results in runs.scored[key].items()
        }
        sentences += order_sentences(f"{key[0]}, {key[1]} crop, running statistics", errors)
    sentences += _published_order([cell.name for cell in runs.cells])
    scored = [run for run in runs.runs.values() if run.results]
    for table in compare(scored)["tables"] if scored else ():
        if (table["protocol"], table["crop"]) in runs.keys:
            start = f"{table['protocol']}, {table['crop']} crop"
            sentences += [f"{start}: {remark}" for remark in table["remarks"]]
    return sentences


def order_sentences(where: str, errors: Mapping[str, Sequence[float]]) -> list[str]:
    """The order of cells by their errors, and which of them differ by more than seeds do.

    Args:
      where: the start of each sentence: what the errors are of.
      errors: each cell's errors, one a seed.
    """
    if len(errors) < 2:
        return []
    means = {cell: mean(values) for cell, values in errors.items()}
    order = sorted(means, key=lambda cell: means[cell])
    listed = ", ".join(f"{cell} {means[cell]:.2f}" for cell in order)
    sentences = [f"{where}, from best to worst: {listed}."]
    repeated = [values for values in errors.values() if len(values) > 1]
    if not repeated:
        return [*sentences, f"{where}: one seed each, so differences have no scale."]
    squares = sum((len(values) - 1) * variance(values) for values in repeated)
    deviation = sqrt(squares / sum(len(values) - 1 for values in repeated))
    pairs = pairwise(order)
    close = [f"{a} and {b}" for a, b in pairs if means[b] - means[a] < deviation]
    verdict = (
        f"neighbours that differ by less, and cannot be told apart: {'; '.join(close)}"
        if close
        else "all neighbours differ by more"
    )
    pooled = f"the deviation between seeds is {deviation:.2f} (pooled over {len(repeated)} cells)"
    return [*sentences, f"{where}: {pooled}; {verdict}."]


def _published_order(cells: Sequence[str]) -> list[str]:
    """The paper's own order of these cells, on AFLW."""
    known = {row.cell: row.aflw for row in (*TABLE_1, *TABLE_3) if row.aflw is not None}
    errors = {cell: known[cell] for cell in cells if cell in known}
    if len(errors) < 2:
        return []
    listed = [f"{cell} {error:.2f}" for cell, error in sorted(errors.items(), key=lambda e: e[1])]
    return [f"The paper's order on AFLW, as published: {', '.join(listed)}."]


def _notes(runs: CellRuns) -> list[str]:
    """The faces, the runs' own notes, the base, and its terms that the paper does not have."""
    config = runs.base.config
    faces: dict[str, None] = {}
    own: dict[str, dict[str, None]] = {}
    for cell in runs.cells:
        for (protocol, _), scored in runs.scored.items():
            for result in scored.get(cell.name, {}).values():
                fit, score = result["fit"], result["score"]
                faces[
                    f"{protocol}: fitted on {fit['faces']:,} faces ({fit['name']}), scored on "
                    f"{score['faces']:,} ({score['name']})."
                ] = None
                for note in result["notes"]:
                    own.setdefault(note, {})[cell.name] = None
    sentences = [*faces, *(f"{', '.join(cells)}: {note}." for note, cells in own.items())]
    base = " ".join([runs.base.file, *as_flags(runs.base.overrides)])
    sentences.append(
        f"The cells' base is `{base}`; it trains on views of the {config.data.crop} crop."
    )
    if terms := losses.terms_not_in_paper(config):
        sentences.append(f"The loss has terms that the paper does not have: {terms}.")
    if config.perceptual.balance:
        sentences.append("The taps' losses are balanced, which the paper does not do.")
    return sentences
