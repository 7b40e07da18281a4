"""Scores detectors under one protocol: which faces fit the regressor, which are scored, which crop.

The result of `evaluate` is plain JSON, the only source of tables and error curves:

    format            1
    protocol, crop    "aflw-995", "center" | "tight" | "box"
    num_landmarks     K, discovered
    num_points        P, labelled; point_names: P names
    fit, score        {"name", "faces"}
    view_size         S, the side of the views in pixels
    eyes              the labelled points of both
    draws, seed       the number of fits on each subset of the labels, and what they are drawn by
    notes             sentences to print under every table
    angles            degrees of the equivariance error
    results           row -> {metric: value}. Rows are the names of the detectors ("running",
                      "batch", "untrained"), then "mean_shape" and "one_photo"; each has those
                      metrics of `scores.METRICS` that apply to it:
      forward         list over N labelled photos, ascending, the last one all of them:
                      {"n", "draws", "mean", "std" (None for one draw), "per_point": [P]}
      backward        the same with "per_point": [K]
      consistency     of `consistency.of_landmarks`; of the mean shape `consistency.of_standing`
      equivariance    {"error" (None: nothing compared), "compared", "left_out"}
      per_photo       no metric: [faces] forward errors with all labels (not in "one_photo")
    frame             {"shape": [P, 2] the mean shape, "labelled": the labelled points' own
                      consistency in it}; see `consistency`
    breakdown         of `breakdown.breakdown`, for every row with "per_photo"
    examples          of the first detector, for figures: {"rows": [E] into the score set,
                      "landmarks": [E, K, 2], "predicted": [E, P, 2], "labels": [E, P, 2]}
    worst             the same for the faces with its largest errors, the largest first

Errors and spread are in per cent of the eye distance; "mean" is over photos, points and draws,
"std" over draws (n - 1); consistency is in per cent of the mean shape's eye distance, and
equivariance in pixels of a 128 view; points are normalised.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from landmarks_jax.data.framing import CROPS
from landmarks_jax.evaluation import breakdown, consistency, metrics, regression, scores
from landmarks_jax.evaluation.duplicates import Faces
from landmarks_jax.evaluation.metrics import Detect
from landmarks_jax.evaluation.regression import Split
from landmarks_jax.evaluation.scores import Case
from landmarks_jax.system.errors import ConfigError, DataError

COUNTS = (1, 2, 5, 10, 100, 500, 1000, 5000)
NUM_EXAMPLES = 24
NUM_WORST = 40
_DRAWS = 10  # for each number of labelled photos below all
_SEED = 0  # the same photos are drawn for every row


@dataclass(frozen=True)
class LabelledSet:
    """Views with labelled points.

    Attributes:
      views: uint8 `[N, S, S, 3]`.
      points: `[N, P, 2]`, normalised to the view; NaN for a missing one, if `partial`.
      name: name in tables and messages.
      names: the photos' names.
      photos: what their photos are compared by, None where they are not at hand.
      point_names: P names of the points, or empty.
      partial: whether photos may lack points; such a set can be scored by leave-one-out alone.
    """

    views: np.ndarray
    points: np.ndarray
    name: str
    names: Sequence[str] = ()
    photos: Faces | None = None
    point_names: tuple[str, ...] = ()
    partial: bool = False

    def __post_init__(self) -> None:
        faces = len(self.views)
        if self.views.dtype != np.uint8 or self.views.shape[1:] != (*self.views.shape[1:2] * 2, 3):
            raise ValueError(f"{self.name}: views must be uint8 [N, S, S, 3]: {self.views.shape}")
        if self.points.ndim != 3 or len(self.points) != faces or self.points.shape[2] != 2:
            raise ValueError(f"{self.name}: points {self.points.shape} must be [{faces}, P, 2]")
        if not faces or not self.points.shape[1]:
            raise DataError(f"{self.name}: has no labelled face; check its list of files")
        usable = np.isfinite(self.points) | (self.partial & np.isnan(self.points))
        if (bad := ~usable.all((1, 2))).any():
            raise DataError(f"{self.name}: the label of face {bad.argmax()} is not finite")


@dataclass(frozen=True)
class Protocol:
    """The faces that fit the regressor and the faces that are scored.

    Attributes:
      name: "aflw-995", for instance.
      crop: "center", "tight" or "box"; scores under different crops are not comparable.
      fit: the faces whose labels fit the regressor.
      score: the faces that errors are measured on; `fit` itself where nothing is to be scored.
      eyes: which labelled points are the eyes.
      point_names: P names of the labelled points; empty for their numbers.
      notes: sentences about the faces, to print under every table.
    """

    name: str
    crop: str
    fit: LabelledSet
    score: LabelledSet
    eyes: metrics.Eyes = metrics.FIRST_TWO
    point_names: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        num_points = self.fit.points.shape[1]
        if self.crop not in CROPS:
            raise ConfigError(f"crop: {self.crop!r} is not one of {', '.join(CROPS)}")
        if self.score.points.shape[1] != num_points:
            raise DataError(
                f"{self.fit.name} has {num_points} labelled points and {self.score.name} "
                f"{self.score.points.shape[1]}; a protocol needs the same points in both"
            )
        names = self.fit.point_names, self.score.point_names
        if all(names) and names[0] != names[1]:
            raise DataError(
                f"{self.fit.name} has the points {', '.join(names[0])}, and {self.score.name} "
                f"{', '.join(names[1])}; a protocol needs the same points in the same order"
            )
        if self.score.views.shape[1] != self.fit.views.shape[1]:
            raise ValueError("both parts of a protocol must have views of one size")
        if self.point_names and len(self.point_names) != num_points:
            raise ConfigError(f"point_names: {len(self.point_names)} names for {num_points} points")


def evaluate(
    protocol: Protocol,
    detectors: Mapping[str, Detect],
    *,
    counts: Sequence[int] = COUNTS,
    angles: Sequence[float] = metrics.ANGLES,
    notes: Sequence[str] = (),
) -> dict[str, Any]:
    """Scores detectors and controls under a protocol; the module's docstring has the structure.

    Args:
      protocol: the labelled faces.
      detectors: name -> detector, the headline ("running") first. A detector is called with all
        views of a set at once, in order.
      counts: numbers of labelled photos; those that the data can give are used, and all of it.
      angles: degrees of the equivariance error; empty leaves it out.
      notes: sentences to print under every table, such as the perceptual weights.

    Raises:
      ConfigError: an argument is invalid.
      DataError: labels or landmarks cannot be scored.
    """
    if min(counts, default=1) < 1:
        raise ConfigError(f"counts: {list(counts)} must be 1 or more labelled photos each")
    num_faces = len(protocol.fit.points)
    drawn = regression.subsets(num_faces, counts, _DRAWS, _SEED)
    control = _control(protocol, drawn, angles)
    cases = _detector_cases(protocol, detectors, control)
    headline = next(iter(cases.values()))
    one = regression.subsets(num_faces, (1,), _DRAWS, _SEED)[:1]
    cases["mean_shape"] = control
    cases["one_photo"] = dataclasses.replace(control, drawn=one, constant=None)
    results = {name: scores.measure(case) for name, case in cases.items()}
    errors = {name: _per_photo(case) for name, case in cases.items() if name != "one_photo"}
    for name, values in errors.items():
        results[name]["per_photo"] = values.tolist()
    labels, eye_distance = control.labels, control.eye_distance
    spaced = np.linspace(0, len(labels.score) - 1, NUM_EXAMPLES).round().astype(int)
    worst = np.argsort(-next(iter(errors.values())), kind="stable")[:NUM_WORST]
    return {
        **_description(protocol, headline.source.fit.shape[1]),
        "draws": _DRAWS,
        "seed": _SEED,
        "notes": [*notes, *protocol.notes],
        "angles": list(angles),
        "results": results,
        "frame": consistency.describe(control.frame, labels.score),
        "breakdown": breakdown.breakdown(labels.score, eye_distance, protocol.point_names, errors),
        "examples": _examples(headline, np.unique(spaced), decimals=5),
        "worst": _examples(headline, worst, decimals=3),
    }


def _control(protocol: Protocol, drawn: Sequence[np.ndarray], angles: Sequence[float]) -> Case:
    """The mean shape: a control that answers the mean of the drawn labels for every photo."""
    labels = Split(protocol.fit.points, protocol.score.points)
    try:
        eye_distance = metrics.inter_ocular(labels.score, protocol.eyes, protocol.score.names)
        frame = consistency.frames(labels.score, protocol.eyes)
    except DataError as error:
        raise DataError(f"{protocol.score.name}: {error}") from error
    return Case(
        labels=labels,
        eye_distance=eye_distance,
        frame=frame,
        drawn=drawn,
        views=protocol.score.views,
        angles=angles,
        source=labels,
        fitter=regression.fit_mean,
        constant=labels.fit.mean(0, dtype=np.float64),
    )


def _detector_cases(
    protocol: Protocol, detectors: Mapping[str, Detect], control: Case
) -> dict[str, Case]:
    """The detectors' landmarks on both sets, to score like the control."""
    landmarks = {name: _detect(name, detector, protocol) for name, detector in detectors.items()}
    counts = {name: points.fit.shape[1] for name, points in landmarks.items()}
    if len(set(counts.values())) != 1:
        raise ConfigError(f"detectors: {counts} landmarks; one number is needed")
    return {
        name: dataclasses.replace(
            control,
            source=points,
            fitter=regression.fit,
            constant=None,
            landmarks=points,
            # An untrained detector's equivariance is not worth four more passes over the photos.
            detect=None if name == "untrained" else detectors[name],
        )
        for name, points in landmarks.items()
    }


def _description(protocol: Protocol, num_landmarks: int) -> dict[str, Any]:
    num_points = protocol.fit.points.shape[1]
    return {
        "format": 1,
        "protocol": protocol.name,
        "crop": protocol.crop,
        "num_landmarks": num_landmarks,
        "num_points": num_points,
        "point_names": list(protocol.point_names or map(str, range(num_points))),
        "fit": {"name": protocol.fit.name, "faces": len(protocol.fit.views)},
        "score": {"name": protocol.score.name, "faces": len(protocol.score.views)},
        "view_size": protocol.score.views.shape[1],
        "eyes": [list(eye) for eye in protocol.eyes],
    }


def _detect(name: str, detect: Detect, protocol: Protocol) -> Split:
    """Runs a detector on both sets of a protocol."""
    both = []
    for faces in (protocol.fit, protocol.score):
        landmarks = np.asarray(detect(faces.views), np.float64)
        if landmarks.ndim != 3 or len(landmarks) != len(faces.views) or landmarks.shape[2] != 2:
            raise ValueError(
                f"detector {name!r}: {landmarks.shape} is not [{len(faces.views)}, K, 2]"
            )
        bad = ~np.isfinite(landmarks).all((1, 2))
        if bad.any():
            raise DataError(
                f"detector {name!r}: the landmarks of {bad.sum()} photos of {faces.name} are not "
                f"finite, first photo {bad.argmax()}; did the training diverge?"
            )
        both.append(landmarks)
    return Split(*both)


def _per_photo(case: Case) -> np.ndarray:
    """The forward errors `[faces]` with all labels, means over the labelled points."""
    predicted = case.fitter(case.source.fit, case.labels.fit)(case.source.score)
    errors = metrics.point_errors(predicted, case.labels.score, case.eye_distance)
    return np.round(errors.mean(1), 3)


def _examples(case: Case, rows: np.ndarray, decimals: int) -> dict[str, Any]:
    """Points of some of the scored photos, predicted with all labels."""
    source, labels = case.source, case.labels
    predicted = case.fitter(source.fit, labels.fit)(source.score[rows])
    shown = {"landmarks": source.score[rows], "predicted": predicted, "labels": labels.score[rows]}
    points = {
        name: np.round(array.astype(float), decimals).tolist() for name, array in shown.items()
    }
    return {"rows": rows.tolist(), **points}
