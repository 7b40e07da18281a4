"""Every metric of an evaluation, one entry each: a new one is a function and a line of `METRICS`.

The result's JSON, its tables and CSV, comparisons of runs, the paper's tables and the notes under
all of them follow from the entry.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from landmarks_jax.evaluation import consistency, metrics, regression
from landmarks_jax.evaluation.consistency import Frames
from landmarks_jax.evaluation.regression import Fitter, Split
from landmarks_jax.system.tables import DASH

CsvRow = dict[str, Any]

_EYES = "% of eye distance"
_PIXELS = f"pixels of a {metrics.REFERENCE_SIDE} view"


@dataclass(frozen=True)
class Case:
    """A row of a result, and what it is scored against.

    Attributes:
      labels: the labelled points `[N, P, 2]`.
      eye_distance: `[faces]` of the photos scored.
      frame: frames of the photos scored.
      drawn: labelled photos to fit on, from `regression.subsets`; the last are all of them.
      views: uint8 `[faces, S, S, 3]` of the photos scored.
      angles: degrees of the equivariance error.
      source: the points to predict from: landmarks, or for a control the labels.
      fitter: fits the map from `source` to the labels.
      constant: the `[P, 2]` points that the mean shape answers for every photo.
      landmarks: a detector's landmarks `[N, K, 2]`, None for a control.
      detect: the detector, where its equivariance is to be measured.
    """

    labels: Split
    eye_distance: np.ndarray
    frame: Frames
    drawn: Sequence[np.ndarray]
    views: np.ndarray
    angles: Sequence[float]
    source: Split
    fitter: Fitter
    constant: np.ndarray | None = None
    landmarks: Split | None = None
    detect: metrics.Detect | None = None


@dataclass(frozen=True)
class Metric:
    """A metric.

    Attributes:
      name: its key in a result's rows and its name in tables.
      unit: unit of its numbers.
      note: its meaning, printed under tables that show it.
      measure: maps a case to the metric's JSON, None if it does not apply.
      number: maps that JSON to the number in tables and comparisons, None if there is none.
      text: maps that JSON to a table's cell; None prints the number with two decimals.
      csv_rows: maps that JSON, the labelled points' names and the landmarks' numbers to rows for
        the CSV; None writes the number.
      column: whether tables show it; otherwise it is in JSON and CSV alone.
    """

    name: str
    unit: str
    note: str
    measure: Callable[[Case], Any]
    number: Callable[[Any], float | None] = lambda measured: measured
    text: Callable[[Any], str] | None = None
    csv_rows: Callable[[Any, Sequence[str], Sequence[str]], Iterable[CsvRow]] | None = None
    column: bool = True

    def of(self, scores: Mapping[str, Any]) -> float | None:
        """The number of a result's row, None where it has none."""
        return self.number(scores[self.name]) if self.name in scores else None

    def cell(self, scores: Mapping[str, Any]) -> str:
        """A table's cell for a result's row."""
        if self.name not in scores:
            return DASH
        if self.text:
            return self.text(scores[self.name])
        return decimals(self.number(scores[self.name]))

    def to_csv(
        self, scores: Mapping[str, Any], labelled: Sequence[str], discovered: Sequence[str]
    ) -> Iterable[CsvRow]:
        """Rows for the CSV of a result."""
        if self.name in scores:
            plain = [{"mean": self.of(scores)}]
            rows = self.csv_rows and self.csv_rows(scores[self.name], labelled, discovered)
            for row in plain if rows is None else rows:
                yield {"quantity": self.name, "unit": self.unit, **row}


def measure(case: Case) -> dict[str, Any]:
    """All metrics that a case has, by name, as plain JSON."""
    values = {name: metric.measure(case) for name, metric in METRICS.items()}
    return {name: value for name, value in values.items() if value is not None}


def columns(rows: Iterable[Mapping[str, Any]]) -> list[Metric]:
    """The metrics that tables of these rows show: those that any row has."""
    names = {name for row in rows for name in row}
    return [metric for name, metric in METRICS.items() if metric.column and name in names]


def notes(shown: Sequence[Metric]) -> str:
    """The note under a table of metrics: each with its unit and meaning."""
    return " ".join(
        f"{metric.name.capitalize()} ({metric.unit}): {metric.note}" for metric in shown
    )


def decimals(number: float | None) -> str:
    """A number with two decimals, or a dash."""
    return DASH if number is None else f"{number:.2f}"


def with_std(entry: Mapping[str, Any]) -> str:
    """`6.20`, or `7.50 ± 0.41` over several draws."""
    mean = decimals(entry["mean"])
    return mean if entry["std"] is None else f"{mean} ± {entry['std']:.2f}"


def consistency_text(measured: Mapping[str, Any]) -> str:
    """`9.31 (median 5.10, still 24.02)`: of one landmark, or the means of all."""
    return "{rms:.2f} (median {median:.2f}, still {still:.2f})".format(**measured)


def relative_spread(landmarks: np.ndarray, eye_distance: np.ndarray) -> float:
    """The mean spread of landmarks `[N, K, 2]`, % of eye distances `[N]`, rounded to 1e-4."""
    return round(100.0 * float((metrics.spread(landmarks) / eye_distance).mean()), 4)


def _forward(case: Case) -> Any:
    return regression.scores_by_count(
        case.fitter, case.source, case.labels, case.eye_distance, case.drawn
    )


def _backward(case: Case) -> Any:
    if case.landmarks is None:
        return None
    return regression.scores_by_count(
        regression.fit, case.labels, case.landmarks, case.eye_distance, case.drawn
    )


def _forward_without_intercept(case: Case) -> Any:
    if case.landmarks is None:
        return None
    fitter, everything = regression.fit_without_intercept, case.drawn[-1:]
    return regression.scores_by_count(
        fitter, case.landmarks, case.labels, case.eye_distance, everything
    )[0]["mean"]


def _consistency(case: Case) -> Any:
    if case.landmarks is not None:
        return consistency.of_landmarks(case.landmarks.score, case.frame)
    return None if case.constant is None else consistency.of_standing(case.constant, case.frame)


def _spread(case: Case) -> Any:
    if case.landmarks is None:
        return None
    return relative_spread(case.landmarks.score, case.eye_distance)


def _equivariance(case: Case) -> Any:
    if case.landmarks is None or case.detect is None or not case.angles:
        return None
    return metrics.equivariance_error(case.detect, case.views, case.angles, case.landmarks.score)


def _by_count_rows(entries: Any, points: Sequence[str]) -> Iterable[CsvRow]:
    for entry in entries:
        row = {key: entry[key] for key in ("n", "draws")}
        yield row | {"mean": entry["mean"], "std": entry["std"]}
        for point, mean in zip(points, entry["per_point"], strict=True):
            yield row | {"point": point, "mean": mean}


def _consistency_rows(
    measured: Any, labelled: Sequence[str], discovered: Sequence[str]
) -> Iterable[CsvRow]:
    # Only landmarks are compared with what they would have standing still.
    points = discovered if "still" in measured else labelled
    for key, ending in (("rms", ""), ("median", "_median"), ("still", "_standing_still")):
        if key in measured:
            quantity = {"quantity": f"consistency{ending}"}
            yield {**quantity, "mean": measured[key]}
            for point, numbers in zip(points, measured["per_point"], strict=True):
                yield {**quantity, "point": point, "mean": numbers[key]}


def _equivariance_rows(measured: Any, *_: Any) -> Iterable[CsvRow]:
    yield {"mean": measured["error"]}
    for count in ("compared", "left_out"):
        row = {"quantity": f"equivariance_{count}", "mean": measured[count]}
        yield {**row, "unit": "points"}


METRICS = {
    metric.name: metric
    for metric in (
        Metric(
            "forward",
            _EYES,
            "error of the labelled points, predicted from the landmarks by a map fitted on all "
            "labelled faces.",
            _forward,
            number=lambda entries: entries[-1]["mean"],
            text=lambda entries: with_std(entries[-1]),
            csv_rows=lambda entries, labelled, _: _by_count_rows(entries, labelled),
        ),
        Metric(
            "backward",
            _EYES,
            "error of the landmarks, predicted from the labelled points.",
            _backward,
            number=lambda entries: entries[-1]["mean"],
            text=lambda entries: with_std(entries[-1]),
            csv_rows=lambda entries, _, discovered: _by_count_rows(entries, discovered),
        ),
        Metric(
            "consistency",
            _EYES,
            "root mean square distance of a landmark from its mean place in the frame of the "
            "face's labelled points, in the mean shape's eye distances. Collapsed landmarks score "
            "well here too: see the spread.",
            _consistency,
            number=lambda measured: measured["rms"],
            csv_rows=_consistency_rows,
        ),
        Metric("forward_without_intercept", _EYES, "", _forward_without_intercept, column=False),
        Metric(
            "spread",
            _EYES,
            "mean distance between the landmarks of a photo. Collapsed landmarks have little, and "
            "score well backward.",
            _spread,
        ),
        Metric(
            "equivariance",
            _PIXELS,
            "distance between the landmarks of a rotated view and the rotated landmarks; those "
            "that leave the view are left out.",
            _equivariance,
            number=lambda measured: measured["error"],
            text=lambda m: f"{decimals(m['error'])} ({m['left_out']} left out)",
            csv_rows=_equivariance_rows,
        ),
    )
}
