"""The grids of the paper's tables: published numbers beside those of our runs, as plain JSON.

A grid is {"title", "notes": sentences, "labels": headers of the rows' labels, "columns", "rows"}:

    column  {"title", "decimals", "protocol", "crop", "statistics"}; each of the last three is ""
            where it does not apply, so a column never mixes two
    row     {"kind": "published" | "measured" | "control", "cell" (None: of no cell), "labels":
            texts, "numbers": one a column}
    number  None; {"missing": place in the table's list of missing cells, from 1}; published
            {"mean", "source"}; or measured {"mean"}, mostly with "values" and "seeds" that it is
            the mean of, "std" between them (n - 1, None for one) and "draws_std" over draws of
            labelled photos (None where all are used)
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from landmarks_jax.evaluation import scores
from landmarks_jax.evaluation.score_tables import CROPS_NOTE, Result
from landmarks_jax.studies.comparison import trained_on
from landmarks_jax.studies.paper_cells import Cell
from landmarks_jax.studies.paper_results import CellRuns, Number, over_seeds
from landmarks_jax.studies.published_numbers import (
    BACKWARD,
    TABLE_2,
    TABLE_2_COUNTS,
    TABLE_2_SOURCE,
    Published,
)
from landmarks_jax.studies.runs import Key
from landmarks_jax.system.tables import DASH
from landmarks_jax.weights.vgg_weights import NETWORK_NOTE

Column = dict[str, Any]
Grid = dict[str, Any]
Row = dict[str, Any]

# Detectors in a result, the headline first; then the controls.
STATISTICS = {"running": "running statistics", "batch": "batch statistics"}
CONTROLS = {"untrained": "untrained detector", "mean_shape": "mean shape"}
_FORWARD_NOTES = (
    "Forward error, % of eye distance, with all labelled photos. Published: as printed; numbers in "
    "brackets are the paper's references; the crop is given where it is known. Measured: mean over "
    "seeds, ± the deviation between them (n - 1).",
    "Batch norm: running statistics are the headline; batch statistics are those of the photos "
    "scored, in batches of 30.",
    CROPS_NOTE,
)
_COUNT_NOTES = (
    "Forward error, % of eye distance, of a regressor fitted on N labelled photos. Published: "
    "MAFL, as printed. Measured, for N below all: mean ± deviation (n - 1) over draws of the "
    "photos; for several seeds also the deviation between them, in brackets.",
    "With one photo the centred regression is a constant for every detector: our numbers at N = 1 "
    "are a control.",
    CROPS_NOTE,
)


def _column(
    title: str, key: Key | None = None, *, statistics: str = "", decimals: int = 2
) -> Column:
    protocol, crop = key or ("", "")
    place = {"protocol": protocol, "crop": crop, "statistics": statistics}
    return {"title": title, "decimals": decimals, **place}


def _row(kind: str, labels: Sequence[str], numbers: Sequence[Number | None], cell: str = "") -> Row:
    return {"kind": kind, "cell": cell or None, "labels": list(labels), "numbers": list(numbers)}


def _grid(
    title: str,
    labels: Sequence[str],
    columns: Sequence[Column],
    rows: Sequence[Row],
    notes: Sequence[str] = (),
) -> Grid:
    return {
        "title": title,
        "labels": list(labels),
        "columns": list(columns),
        "rows": list(rows),
        "notes": list(notes),
    }


def _printed(value: float | None, source: str) -> Number | None:
    return None if value is None else {"mean": value, "source": source}


_PRINTED = (_column("MAFL, as published"), _column("AFLW, as published"))


def forward_grid(entries: Sequence[Published], runs: CellRuns) -> Grid:
    """Tables I and III: published rows, each cell's own below its published one, then controls."""
    columns = [_column(f"{key[0]}, {key[1]}", key) for key in runs.keys]
    left = {cell.name: cell for cell in runs.cells}
    rows: list[Row] = []
    for entry in entries:
        rows.append(_published(entry, len(columns)))
        if cell := left.pop(entry.cell, None):
            rows += _measured(cell, runs)
    for cell in left.values():
        rows += _measured(cell, runs)
    rows += _controls(runs)
    labels = ["Method", "K", "", "Seeds"]
    return _grid("Forward errors", labels, [*_PRINTED, *columns], rows, _FORWARD_NOTES)


def _published(entry: Published, more: int) -> Row:
    """A published row; it has no numbers in the columns of our own protocols."""
    crop = f"{entry.crop} crop" if entry.crop else ""
    kind = ", ".join(filter(None, ("published", entry.group, crop)))
    labels = [entry.method, str(entry.num_landmarks or DASH), kind, DASH]
    numbers = [_printed(value, entry.source) for value in (entry.mafl, entry.aflw)]
    return _row("published", labels, [*numbers, *[None] * more], entry.cell)


def _measured(cell: Cell, runs: CellRuns) -> Iterator[Row]:
    """A cell's rows, one for each kind of batch norm."""
    missing = runs.number_missing(cell.name)
    for name, words in STATISTICS.items():
        numbers = [runs.score(key, cell.name, name) for key in runs.keys]
        if name == "running" or any(numbers):
            labels = [cell.name, str(cell.num_landmarks), f"measured, {words}"]
            labels.append(runs.seeds_text(cell.name))
            shown = [None, None, *(number or missing for number in numbers)]
            yield _row("measured", labels, shown, cell.name)


def _controls(runs: CellRuns) -> Iterator[Row]:
    """An untrained detector for each K, and the mean shape."""
    for count in dict.fromkeys(cell.num_landmarks for cell in runs.cells):
        # Cells of one K have the same untrained detector.
        names = [cell.name for cell in runs.cells if cell.num_landmarks == count]
        numbers = _first_of_each(runs, names, "untrained")
        labels = ["untrained detector", str(count), f"control, {STATISTICS['batch']}", DASH]
        if any(numbers):
            yield _row("control", labels, [None, None, *numbers])
    shapes = _first_of_each(runs, [cell.name for cell in runs.cells], "mean_shape")
    if any(shapes):
        # The same for every seed.
        numbers = [number and {"mean": number["mean"]} for number in shapes]
        yield _row("control", ["mean shape", DASH, "control", DASH], [None, None, *numbers])


def _first_of_each(runs: CellRuns, cells: Sequence[str], row: str) -> list[Number | None]:
    """For each protocol and crop the number of the first cell that has one."""
    numbers = ([runs.score(key, name, row) for name in cells] for key in runs.keys)
    return [next(filter(None, column), None) for column in numbers]


def count_grids(runs: CellRuns, cell: str) -> list[Grid]:
    """Table II: forward errors over the number of labelled photos, and those of the controls."""
    counts = [*sorted({n for n in (*TABLE_2_COUNTS, *_counts(runs, cell)) if n}), None]
    printed = [dict(zip(TABLE_2_COUNTS, values, strict=True)) for values in TABLE_2.values()]
    methods = [_column(f"{title}, as published") for title in TABLE_2]
    columns, numbers = _count_columns(runs, cell, STATISTICS)

    def rows(make: Callable[[int | None], Sequence[Number | None]], kind: str) -> list[Row]:
        lines = [_row(kind, [str(count or "all")], make(count), cell) for count in counts]
        return [line for line in lines if any(line["numbers"])]

    def of_methods(count: int | None) -> list[Number | None]:
        known = [_printed(values.get(count), TABLE_2_SOURCE) for values in printed]
        return [*known, *(number(count) for number in numbers)]

    title = "Forward errors over the number of labelled photos"
    lines = rows(of_methods, "measured")
    grids = [_grid(title, ["N"], [*methods, *columns], lines, _COUNT_NOTES)]
    if runs.results_of(cell):
        columns, controls = _count_columns(runs, cell, CONTROLS)
        lines = rows(lambda count: [number(count) for number in controls], "control")
        grids.append(_grid("Controls", ["N"], columns, lines))
    return grids


def _counts(runs: CellRuns, cell: str) -> set[int]:
    """The numbers of photos below all in a cell's results."""
    return {
        entry["n"]
        for scored in runs.scored.values()
        for result in scored.get(cell, {}).values()
        for entry in result["results"]["running"]["forward"][:-1]
    }


def _count_columns(
    runs: CellRuns, cell: str, names: Mapping[str, str]
) -> tuple[list[Column], list[Callable[[int | None], Number | None]]]:
    """A column for each protocol, crop and row of the results, and a function for its numbers."""
    columns, numbers = [], []
    for key in runs.keys:
        for name, words in names.items():
            measured = name in STATISTICS
            title = ", ".join(filter(None, (cell if measured else "", *key, words)))
            columns.append(_column(title, key, statistics=name if measured else ""))
            numbers.append(_number_of_count(runs, key, cell, name))
    return columns, numbers


def _number_of_count(
    runs: CellRuns, key: Key, cell: str, row: str
) -> Callable[[int | None], Number | None]:
    """A function from a number of labelled photos, None being all, to a column's number."""
    results = runs.scored[key].get(cell, {})
    missing = runs.number_missing(cell) if not results and row in STATISTICS else None

    def number(count: int | None) -> Number | None:
        entries = {}
        for seed, result in results.items():
            *some, everything = result["results"].get(row, {}).get("forward") or [None]
            by_count = {entry["n"]: entry for entry in some} | {None: everything}
            if by_count.get(count):
                entries[seed] = by_count[count]
        means = {seed: entry["mean"] for seed, entry in entries.items()}
        return over_seeds(means, [e["std"] for e in entries.values()]) or missing

    return number


def metric_grids(runs: CellRuns) -> list[Grid]:
    """All metrics of the cells, a grid for each protocol and crop."""
    rows = [r["results"]["running"] for c in runs.cells for r in runs.results_of(c.name).values()]
    metrics = scores.columns(rows)
    grids = []
    for key in runs.keys:
        columns = [_column(m.name.capitalize(), key, statistics="running") for m in metrics]
        lines = []
        for cell in runs.cells:
            numbers = [runs.score(key, cell.name, "running", m.name) for m in metrics]
            if any(numbers):
                labels = [cell.name, str(cell.num_landmarks), runs.seeds_text(cell.name)]
                lines.append(_row("measured", labels, numbers, cell.name))
        if lines:
            title = f"All errors: {key[0]}, {key[1]} crop"
            grids.append(_grid(title, ["Cell", "K", "Seeds"], columns, lines))
    if grids:
        grids[-1]["notes"].append(f"Running statistics. {scores.notes(metrics)}")
    return grids


def backward_grid() -> Grid:
    """Published backward errors."""
    rows = [
        _row("published", [entry.method], [_printed(entry.mafl, entry.source),
                                           _printed(entry.aflw, entry.source)])
        for entry in BACKWARD
    ]  # fmt: skip
    note = "Backward error, % of eye distance: from the labelled points to the discovered ones."
    return _grid("Backward errors, as published", ["Method"], _PRINTED, rows, [note])


def training_grids(runs: CellRuns) -> list[Grid]:
    """Length, hardware and perceptual loss of the cells' trainings; empty without any."""
    rows = []
    for cell in runs.cells:
        results = runs.results_of(cell.name)
        if not results:
            continue
        lengths = [
            over_seeds({seed: r["provenance"][name] for seed, r in results.items()})
            for name in ("steps", "training_minutes")
        ]
        losses = [
            network_of(result, runs.runs[cell.name, seed].digests["weights_digest"])
            for seed, result in results.items()
        ]
        texts = (losses, [trained_on(result) for result in results.values()])
        shown = ["; ".join(dict.fromkeys(filter(None, t))) or DASH for t in texts]
        labels = [cell.name, ", ".join(map(str, results)), *shown]
        rows.append(_row("measured", labels, lengths, cell.name))
    columns = [_column("Steps", decimals=0), _column("Minutes", decimals=1)]
    labels = ["Cell", "Seeds", "Perceptual loss", "Trained on"]
    return [_grid("Trainings", labels, columns, rows)] if rows else []


def network_of(result: Result, weights_digest: str) -> str:
    """The perceptual network of a run and its number of taps, such as `Caffe VGG-16, 3 taps`."""
    if not weights_digest:
        return "none"
    start = NETWORK_NOTE  # the paper's own network has no note
    notes = [note.removeprefix(start) for note in result["notes"] if note.startswith(start)]
    return notes[0].partition(" (")[0] if notes else "torchvision VGG-16, 4 taps"
