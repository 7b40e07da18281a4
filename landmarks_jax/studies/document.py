"""A whole table as plain JSON, the source of its Markdown, LaTeX and CSV.

format      1
table       "1" | "2" | "3" | "ablation" | "cells"
title       a sentence
config      the base configuration's file; overrides: its changed fields
grids       see `grids`; the first is the table itself
remarks     sentences: the order of the cells, and what comparing the runs says of them
missing     [{"cell", "seeds", "why", "command"}]
notes       sentences
"""

from typing import Any

from landmarks_jax import losses
from landmarks_jax.studies import ordering, other_errors, sweep
from landmarks_jax.studies.cells import as_flags
from landmarks_jax.studies.comparison import compare
from landmarks_jax.studies.forward_tables import forward_grid
from landmarks_jax.studies.published_numbers import LATER, TABLE_1, TABLE_3
from landmarks_jax.studies.results import Gathered

TITLES = {
    "1": "Table I: the four compositions and other methods",
    "2": "Table II: few labelled photos",
    "3": "Table III: perceptual network and losses",
    "ablation": "Ablation: the compositions and the losses",
    "cells": "Cells",
}


def contents(table: str, gathered: Gathered) -> dict[str, Any]:
    """All of a table; the module's docstring has the structure."""
    if table == "2":
        made = sweep.sweep_grids(gathered, gathered.cells[0].name)
    elif table == "1":
        made = [forward_grid((*TABLE_1, *LATER), gathered)]
    elif table == "3":
        made = [forward_grid(TABLE_3, gathered)]
    else:
        names = {cell.name for cell in gathered.cells}
        entries = {row.cell: row for row in (*TABLE_3, *TABLE_1) if row.cell in names}
        order = [entries[cell.name] for cell in gathered.cells if cell.name in entries]
        made = [forward_grid(order, gathered)]
    made += other_errors.other_errors(gathered)
    if table == "1":
        made.append(other_errors.published_backward())
    return {
        "format": 1,
        "table": table,
        "title": TITLES[table],
        "config": gathered.base.file,
        "overrides": {field: str(value) for field, value in gathered.base.overrides.items()},
        "grids": [*made, *other_errors.trainings(gathered)],
        "remarks": _remarks(gathered),
        "missing": gathered.missing,
        "notes": _notes(gathered),
    }


def _remarks(gathered: Gathered) -> list[str]:
    """The order of the cells under each protocol and crop; then the remarks of `compare`."""
    said = []
    for key in gathered.keys:
        errors = {
            cell: [r["results"]["running"]["forward"][-1]["mean"] for r in results.values()]
            for cell, results in gathered.scored[key].items()
        }
        said += ordering.sentences(f"{key[0]}, {key[1]} crop, running statistics", errors)
    said += ordering.published_sentence([cell.name for cell in gathered.cells])
    scored = [run for run in gathered.runs.values() if run.results]
    if scored:
        tables = compare(scored)["tables"]
        said += [
            f"{table['protocol']}, {table['crop']} crop: {remark}"
            for table in tables
            if (table["protocol"], table["crop"]) in gathered.keys
            for remark in table["remarks"]
        ]
    return said


def _notes(gathered: Gathered) -> list[str]:
    """What belongs under the table: faces, perceptual networks, and terms the paper has not."""
    config = gathered.base.config
    faces: dict[str, None] = {}
    own: dict[str, dict[str, None]] = {}
    for cell in gathered.cells:
        for (protocol, _), scored in gathered.scored.items():
            for result in scored.get(cell.name, {}).values():
                fit, score = result["fit"], result["score"]
                faces[
                    f"{protocol}: fitted on {fit['faces']:,} faces ({fit['name']}), scored on "
                    f"{score['faces']:,} ({score['name']})."
                ] = None
                for note in result["notes"]:
                    own.setdefault(note, {})[cell.name] = None
    said = list(faces)
    said += [f"{', '.join(cells)}: {note}." for note, cells in own.items()]
    changed = as_flags(gathered.base.overrides)
    base = " ".join([gathered.base.file, *changed])
    said.append(f"The cells' base is `{base}`; it trains on views of the {config.data.crop} crop.")
    if terms := losses.terms_beside_the_paper(config):
        said.append(f"The loss has terms that the paper does not have: {terms}.")
    if config.perceptual.balance:
        said.append("The taps' losses are balanced, which the paper does not do.")
    return said
