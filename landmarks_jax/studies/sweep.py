"""The grids of Table II: the forward error over the number N of labelled photos."""

from collections.abc import Callable, Sequence

from landmarks_jax.evaluation.score_tables import CROPS_NOTE
from landmarks_jax.studies import grids
from landmarks_jax.studies.grids import STATISTICS, UNIT, Grid, Number, Row
from landmarks_jax.studies.published_numbers import TABLE_2, TABLE_2_COUNTS, TABLE_2_SOURCE
from landmarks_jax.studies.results import Gathered
from landmarks_jax.studies.runs import Key

_CONTROLS = {"untrained": "untrained detector", "mean_shape": "mean shape"}
_NOTES = (
    f"Forward error, {UNIT}, of a regressor fitted on N labelled photos. Published: MAFL, as "
    "printed. Measured, for N below all: mean ± deviation (n - 1) over draws of the photos; of "
    "several seeds also the deviation between them, in brackets.",
    "With one photo the centred regression is a constant, whatever the detector: our numbers at "
    "N = 1 are a control.",
    CROPS_NOTE,
)


def sweep_grids(gathered: Gathered, cell: str) -> list[Grid]:
    """The grid of methods and of the cell, and one of its controls where it was scored."""
    counts = [*sorted({n for n in (*TABLE_2_COUNTS, *_counts(gathered, cell)) if n}), None]
    printed = [dict(zip(TABLE_2_COUNTS, values, strict=True)) for values in TABLE_2.values()]
    methods = [grids.column(f"{title}, as published") for title in TABLE_2]
    columns, numbers = _columns(gathered, cell, STATISTICS)

    def rows(make: Callable[[int | None], Sequence[Number | None]], kind: str) -> list[Row]:
        lines = [grids.row(kind, [str(count or "all")], make(count), cell=cell) for count in counts]
        return [line for line in lines if any(line["numbers"])]

    def of_methods(count: int | None) -> list[Number | None]:
        known = [grids.printed(values.get(count), TABLE_2_SOURCE) for values in printed]
        return [*known, *(number(count) for number in numbers)]

    title = "Forward errors over the number of labelled photos"
    made = [grids.grid(title, ["N"], [*methods, *columns], rows(of_methods, "measured"), _NOTES)]
    if gathered.results_of(cell):
        columns, controls = _columns(gathered, cell, _CONTROLS)
        lines = rows(lambda count: [number(count) for number in controls], "control")
        made.append(grids.grid("Controls", ["N"], columns, lines, []))
    return made


def _columns(
    gathered: Gathered, cell: str, result_rows: dict[str, str]
) -> tuple[list[grids.Column], list[Callable[[int | None], Number | None]]]:
    """A column for each protocol, crop and row of the results, and what gives its numbers."""
    columns, numbers = [], []
    for key in gathered.keys:
        for name, words in result_rows.items():
            who = cell if name in STATISTICS else ""
            title = ", ".join(filter(None, (who, *key, words)))
            columns.append(grids.column(title, key, statistics=name if who else ""))
            numbers.append(_number_of(gathered, key, cell, name))
    return columns, numbers


def _number_of(
    gathered: Gathered, key: Key, cell: str, result_row: str
) -> Callable[[int | None], Number | None]:
    """What gives the number of a column for N labelled photos, None being all."""
    results = gathered.scored[key].get(cell, {})
    lacking = grids.missing(gathered, cell) if not results and result_row in STATISTICS else None

    def number(count: int | None) -> Number | None:
        entries = {}
        for seed, result in results.items():
            *some, everything = result["results"].get(result_row, {}).get("forward") or [None]
            by_count = {entry["n"]: entry for entry in some} | {None: everything}
            if by_count.get(count):
                entries[seed] = by_count[count]
        means = {seed: entry["mean"] for seed, entry in entries.items()}
        return grids.over_seeds(means, [e["std"] for e in entries.values()]) or lacking

    return number


def _counts(gathered: Gathered, cell: str) -> set[int]:
    """The numbers of photos below all that the cell's results have."""
    return {
        entry["n"]
        for scored in gathered.scored.values()
        for result in scored.get(cell, {}).values()
        for entry in result["results"]["running"]["forward"][:-1]
    }
