"""What the numbers of a comparison alone would not tell: rules in plain words, and who breaks them.

A forward error can be won by points that wander or collapse. So a run is remarked on where

- its spread is under half of the median of the other runs;
- it beats runs forward, but its backward or its equivariance error is more than a quarter above
  the median of those;
- its forward error is no better than that of the mean shape or of its own untrained detector.

Only runs with the same number of landmarks are compared.
"""

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

from landmarks_jax.evaluation.breakdown import BY_TURN, FIVE_POINTS
from landmarks_jax.evaluation.score_tables import Result
from landmarks_jax.studies.runs import Run

Row = dict[str, Any]

LOWEST_SPREAD = 0.5
HIGHEST_LOSS = 1.25


def remarks(
    rows: Sequence[Row],
    untrained: Sequence[Row],
    shapes: Sequence[Row],
    runs: Sequence[Run],
    results: Mapping[str, Result],
) -> list[str]:
    """The remarks under one table.

    Args:
      rows: of runs and seeds.
      untrained: the rows of untrained detectors.
      shapes: the rows of mean shapes.
      runs: all runs.
      results: of the runs scored, by name.
    """
    scored = [row for row in rows if row["kind"] == "run" and "forward" in row["values"]]
    said = [remark for row in scored for remark in _of_scores(row, scored)]
    for row in scored:
        controls: dict[str, float] = {}
        for control in (*untrained, *shapes):
            if row["name"] in control["runs"]:
                place = control["runs"].index(row["name"]) if control in untrained else 0
                controls[control["name"].split(":")[0]] = control["values"]["forward"][place]
        said += [
            f"{row['name']}: forward {_value(row, 'forward'):.2f} is no better than its control, "
            f"the {name} ({value:.2f})."
            for name, value in controls.items()
            if _value(row, "forward") >= value
        ]
    return [*said, *_of_runs(runs, results), *_of_faces(shapes, results), *_of_seeds(rows)]


def _of_scores(row: Row, scored: Sequence[Row]) -> list[str]:
    """Remarks on a run that collapses, or wins forward and loses otherwise."""
    others = [o for o in scored if o is not row and o["num_landmarks"] == row["num_landmarks"]]
    said = []
    spreads = [_value(other, "spread") for other in others if "spread" in other["values"]]
    if spreads and "spread" in row["values"]:
        spread, usual = _value(row, "spread"), median(spreads)
        if spread < LOWEST_SPREAD * usual:
            said.append(
                f"{row['name']}: its points collapse; spread {spread:.2f} is under half of the "
                f"median of the other runs ({usual:.2f}). It is not better, whatever its errors."
            )
    beaten = [other for other in others if _value(other, "forward") > _value(row, "forward")]
    for quantity in ("backward", "equivariance"):
        values = [_value(other, quantity) for other in beaten if quantity in other["values"]]
        if not values or quantity not in row["values"]:
            continue
        own, usual = _value(row, quantity), median(values)
        if own > HIGHEST_LOSS * usual:
            said.append(
                f"{row['name']}: wins forward and loses on {quantity}; {own:.2f} is more than a "
                f"quarter above the median of the runs that it beats forward ({usual:.2f}). Its "
                "points wander; it is not called better."
            )
    return said


def _of_runs(runs: Sequence[Run], results: Mapping[str, Result]) -> list[str]:
    """Remarks on how single runs were trained and scored."""
    said, older = [], []
    for run in runs:
        if run.config.data.get("crop") == "box":
            said.append(f"{run.name}: trained on box crops, which are made from the annotation.")
        result = results.get(run.name)
        if result is None:
            continue
        step = result.get("provenance", {}).get("steps")
        if None not in (step, run.steps) and run.steps != step:
            said.append(f"{run.name}: scored at step {step}, its log goes to step {run.steps}.")
        if "groups" not in result and result["point_names"] == list(FIVE_POINTS):
            older.append(run.name)
    if older:
        said.append(
            f"{', '.join(older)}: scored before errors by {BY_TURN.by} of the head were measured; "
            "rerun `landmarks-jax eval`."
        )
    return said


def _of_faces(shapes: Sequence[Row], results: Mapping[str, Result]) -> list[str]:
    """A remark where runs were scored on different faces."""
    faces = {tuple((r[part]["name"], r[part]["faces"]) for part in ("fit", "score"))
             for r in results.values()}  # fmt: skip
    if len(shapes) < 2 and len(faces) < 2:
        return []
    return ["The runs were not scored on the same faces: their errors are not comparable."]


def _of_seeds(rows: Sequence[Row]) -> list[str]:
    """A remark on runs of a single seed, where there is something to compare."""
    scored = [row for row in rows if "forward" in row["values"]]
    averaged = {name for row in scored if row["kind"] == "seeds" for name in row["runs"]}
    single = [row["name"] for row in scored if row["kind"] == "run" and row["name"] not in averaged]
    several = len([row for row in scored if row["kind"] == "run"]) > 1
    if not single or not several:
        return []
    return [f"Of one seed: {', '.join(single)}. Two at least say what a difference is worth."]


def _value(row: Row, quantity: str) -> float:
    """A single run's number."""
    return row["values"][quantity][0]
