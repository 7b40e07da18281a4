"""The grid of Tables I and III: published methods and our cells, forward errors with all labels."""

from collections.abc import Iterator, Sequence

from landmarks_jax.evaluation.score_tables import CROPS_NOTE, DASH
from landmarks_jax.studies import grids
from landmarks_jax.studies.cells import Cell
from landmarks_jax.studies.grids import STATISTICS, UNIT, Grid, Number, Row
from landmarks_jax.studies.published_numbers import Published
from landmarks_jax.studies.results import Gathered

PRINTED = (grids.column("MAFL, as published"), grids.column("AFLW, as published"))
NOTES = (
    f"Forward error, {UNIT}, with all labelled photos. Published: as printed, numbers in "
    "brackets are the paper's references; the crop is named where it is known. Measured: mean over "
    "seeds, ± the deviation between them (n - 1).",
    "Batch norm: running statistics is the headline; batch statistics are those of the photos "
    "scored, in batches of 30.",
    CROPS_NOTE,
)


def forward_grid(entries: Sequence[Published], gathered: Gathered) -> Grid:
    """Published rows, each cell's own below the published one, and the controls.

    Args:
      entries: published rows, in order.
      gathered: the cells' runs.
    """
    columns = [grids.column(f"{key[0]}, {key[1]}", key) for key in gathered.keys]
    left = {cell.name: cell for cell in gathered.cells}
    rows: list[Row] = []
    for entry in entries:
        rows.append(_published(entry, len(columns)))
        if cell := left.pop(entry.cell, None):
            rows += _measured(cell, gathered)
    for cell in left.values():
        rows += _measured(cell, gathered)
    rows += _controls(gathered)
    labels = ["Method", "K", "", "Seeds"]
    return grids.grid("Forward errors", labels, [*PRINTED, *columns], rows, NOTES)


def _published(entry: Published, more: int) -> Row:
    """A published row; its numbers are of no protocol that is measured here."""
    crop = f"{entry.crop} crop" if entry.crop else ""
    kind = ", ".join(filter(None, ("published", entry.group, crop)))
    labels = [entry.method, str(entry.num_landmarks or DASH), kind, DASH]
    numbers = [grids.printed(value, entry.source) for value in (entry.mafl, entry.aflw)]
    return grids.row("published", labels, [*numbers, *[None] * more], cell=entry.cell)


def _measured(cell: Cell, gathered: Gathered) -> Iterator[Row]:
    """A cell's rows, one for each kind of batch norm."""
    lacking = grids.missing(gathered, cell.name)
    for name, words in STATISTICS.items():
        found = [grids.score(gathered, key, cell.name, name) for key in gathered.keys]
        if name == "running" or any(found):
            labels = [cell.name, str(cell.num_landmarks), f"measured, {words}"]
            labels.append(gathered.seeds_text(cell.name))
            numbers = [None, None, *(number or lacking for number in found)]
            yield grids.row("measured", labels, numbers, cell=cell.name)


def _controls(gathered: Gathered) -> Iterator[Row]:
    """Detectors that learned nothing, one for each K, and the mean shape, which sees no photo."""
    counts = dict.fromkeys(cell.num_landmarks for cell in gathered.cells)
    for count in counts:
        # Cells of one K start from the same detectors: the first that has it stands for them.
        names = [cell.name for cell in gathered.cells if cell.num_landmarks == count]
        found = _first_of_each(gathered, names, "untrained")
        labels = ["untrained detector", str(count), f"control, {STATISTICS['batch']}", DASH]
        if any(found):
            yield grids.row("control", labels, [None, None, *found])
    found = _first_of_each(gathered, [cell.name for cell in gathered.cells], "mean_shape")
    if any(found):
        # The same labels, whatever the seed of the training.
        numbers = [number and {"mean": number["mean"]} for number in found]
        labels = ["mean shape", DASH, "control", DASH]
        yield grids.row("control", labels, [None, None, *numbers])


def _first_of_each(
    gathered: Gathered, cells: Sequence[str], result_row: str
) -> list[Number | None]:
    """For each protocol and crop the number of the first cell that has it."""
    numbers = (
        [grids.score(gathered, key, name, result_row) for name in cells] for key in gathered.keys
    )
    return [next(filter(None, found), None) for found in numbers]
