"""Remarks on a comparison: where its numbers alone would mislead.

Landmarks that wander or collapse can still have a low forward error. A run is remarked on where

- its spread is under half of the median of the other runs;
- it beats runs forward, but its backward or its equivariance error is more than a quarter above
  the median of those;
- its forward error is no better than that of the mean shape or of its own untrained detector.

Only runs with the same number of landmarks are compared.
"""

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

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
      rows: the rows of runs and of means over seeds.
      untrained: the rows of untrained detectors.
      shapes: the rows of mean shapes.
      runs: all runs.
      results: results of the scored runs by name.
    """
    scored = [row for row in rows if row["kind"] == "run" and "forward" in row["values"]]
    sentences = [remark for row in scored for remark in _of_scores(row, scored)]
    for row in scored:
        controls: dict[str, float] = {}
        for control in (*untrained, *shapes):
            if row["name"] in control["runs"]:
                place = control["runs"].index(row["name"]) if control in untrained else 0
                controls[control["name"].split(":")[0]] = control["values"]["forward"][place]
        sentences += [
            f"{row['name']}: forward {_value(row, 'forward'):.2f} is no better than its control, "
            f"the {name} ({value:.2f})."
            for name, value in controls.items()
            if _value(row, "forward") >= value
        ]
    return [*sentences, *_of_runs(runs, results), *_of_faces(shapes, results), *_of_seeds(rows)]


def _of_scores(row: Row, scored: Sequence[Row]) -> list[str]:
    """Remarks on a run that collapses, or wins forward and loses on another metric."""
    others = [o for o in scored if o is not row and o["num_landmarks"] == row["num_landmarks"]]
    sentences = []
    spreads = [_value(other, "spread") for other in others if "spread" in other["values"]]
    if spreads and "spread" in row["values"]:
        spread, usual = _value(row, "spread"), median(spreads)
        if spread < LOWEST_SPREAD * usual:
            sentences.append(
                f"{row['name']}: its landmarks collapse; spread {spread:.2f} is under half of the "
                f"median of the other runs ({usual:.2f}). It is not better, whatever its errors."
            )
    beaten = [other for other in others if _value(other, "forward") > _value(row, "forward")]
    for quantity in ("backward", "equivariance"):
        values = [_value(other, quantity) for other in beaten if quantity in other["values"]]
        if not values or quantity not in row["values"]:
            continue
        own, usual = _value(row, quantity), median(values)
        if own > HIGHEST_LOSS * usual:
            sentences.append(
                f"{row['name']}: wins forward and loses on {quantity}; {own:.2f} is more than a "
                f"quarter above the median of the runs that it beats forward ({usual:.2f}). Its "
                "landmarks wander; it does not count as better."
            )
    return sentences


def _of_runs(runs: Sequence[Run], results: Mapping[str, Result]) -> list[str]:
    """Remarks on how single runs were trained and scored."""
    sentences = []
    for run in runs:
        if run.config.data.crop == "box":
            sentences.append(f"{run.name}: trained on box crops, which are made from annotations.")
        if run.name in results:
            step = results[run.name]["provenance"]["steps"]
            if run.steps is not None and run.steps != step:
                sentences.append(
                    f"{run.name}: scored at step {step}, its log ends at step {run.steps}."
                )
    return sentences


def _of_faces(shapes: Sequence[Row], results: Mapping[str, Result]) -> list[str]:
    """A remark where runs were scored on different faces."""
    faces = {
        tuple((result[part]["name"], result[part]["faces"]) for part in ("fit", "score"))
        for result in results.values()
    }
    if len(shapes) < 2 and len(faces) < 2:
        return []
    return ["The runs were not scored on the same faces: their errors are not comparable."]


def _of_seeds(rows: Sequence[Row]) -> list[str]:
    """A remark on runs of a single seed, where there is something to compare."""
    scored = [row for row in rows if "forward" in row["values"]]
    averaged = {name for row in scored if row["kind"] == "seeds" for name in row["runs"]}
    names = [row["name"] for row in scored if row["kind"] == "run"]
    single = [name for name in names if name not in averaged]
    if not single or len(names) < 2:
        return []
    return [f"Of one seed: {', '.join(single)}. A difference needs two seeds at least."]


def _value(row: Row, quantity: str) -> float:
    """A single run's number."""
    return row["values"][quantity][0]
