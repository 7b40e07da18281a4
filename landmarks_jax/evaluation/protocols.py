"""Scores detectors under one protocol: which faces fit the regressor, which are scored, which crop.

The result of `evaluate` is plain JSON, the only source of the tables and of the error curves:

    format            1
    protocol, crop    "aflw-995", "center" | "tight" | "box"
    num_landmarks     K, discovered
    num_points        P, labelled; point_names: P names
    fit, score        {"name", "faces"}
    view_size         S, the side of the views in pixels
    eyes, draws, seed as given; draws counts the repetitions of a fit on part of the labels
    notes             sentences to print under every table
    angles            degrees of the equivariance error
    results           row -> scores; rows are the names of the detectors ("running", "batch",
                      "untrained"), then "mean_shape" and "one_photo"
      forward         list over N labelled photos, ascending, the last one all of them:
                      {"n", "draws", "mean", "std" (None for one draw), "per_point": [P]}
      backward        the same with "per_point": [K] (detectors only)
      per_photo       [faces] forward errors with all labels (not in "one_photo")
      forward_without_intercept   Jakab et al.'s regression, all labels (detectors only)
      spread          mean distance between a photo's points (detectors only)
      consistency     of `consistency.of_landmarks` over the faces scored (detectors only); of the
                      mean shape, which stands still, what `consistency.of_standing` gives
      equivariance    {"error" (None: nothing compared), "compared", "left_out"}, or None where
                      not measured (detectors only)
    frame             {"shape": [P, 2] the mean shape, "labelled": the labelled points' own
                      consistency in it}; see `consistency`
    groups            the forward error by groups of faces, of every row with "per_photo"; see
                      `groups.breakdown`
    examples          of the first detector, for pictures: {"rows": [E] into the score set,
                      "landmarks": [E, K, 2], "predicted": [E, P, 2], "labels": [E, P, 2]}
    worst             the same of the faces with its largest errors, the largest first

"groups" and "worst" came later, "consistency" and "frame" later still: results of this format
without them are older, and fine.

Errors and spread are in per cent of the eye distance; "mean" is over photos, points and draws,
"std" over draws (n - 1); consistency is in per cent of the mean shape's eye distance, and
equivariance in pixels of a 128 view; points are normalised.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from landmarks_jax.data.framing import CROPS
from landmarks_jax.evaluation import breakdown, consistency, metrics, regression
from landmarks_jax.evaluation.metrics import Detect
from landmarks_jax.evaluation.regression import Parts, scores_by_count
from landmarks_jax.system.errors import ConfigError, DataError

COUNTS = (1, 2, 5, 10, 100, 500, 1000, 5000)
MIN_DRAWS = 10
NUM_WORST = 40


@dataclass(frozen=True)
class LabelledSet:
    """Views with labelled points.

    Attributes:
      views: uint8 `[N, S, S, 3]`.
      points: `[N, P, 2]`, normalised to the view.
      name: as tables and messages call it.
    """

    views: np.ndarray
    points: np.ndarray
    name: str

    def __post_init__(self) -> None:
        faces = len(self.views)
        if self.views.dtype != np.uint8 or self.views.shape[1:] != (*self.views.shape[1:2] * 2, 3):
            raise ValueError(f"{self.name}: views must be uint8 [N, S, S, 3]: {self.views.shape}")
        if self.points.ndim != 3 or len(self.points) != faces or self.points.shape[2] != 2:
            raise ValueError(f"{self.name}: points {self.points.shape} must be [{faces}, P, 2]")
        if not faces or not self.points.shape[1]:
            raise DataError(f"{self.name}: has no labelled face; check its list of files")
        if (bad := ~np.isfinite(self.points).all((1, 2))).any():
            raise DataError(f"{self.name}: the label of face {bad.argmax()} is not finite")


@dataclass(frozen=True)
class Protocol:
    """What is fitted on what and scored on what.

    Attributes:
      name: "aflw-995", for instance.
      crop: "center", "tight" or "box"; scores under different crops are not comparable.
      fit: the faces whose labels fit the regressor.
      score: the faces the errors are of.
      eyes: which labelled points are the eyes.
      point_names: P names of the labelled points, or nothing for their numbers.
    """

    name: str
    crop: str
    fit: LabelledSet
    score: LabelledSet
    eyes: metrics.Eyes = metrics.FIRST_TWO
    point_names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        num_points = self.fit.points.shape[1]
        if self.crop not in CROPS:
            raise ConfigError(f"crop: {self.crop!r} is not one of {', '.join(CROPS)}")
        if self.score.points.shape[1] != num_points:
            raise DataError(
                f"{self.fit.name} has {num_points} labelled points and {self.score.name} "
                f"{self.score.points.shape[1]}; a protocol needs the same points in both"
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
    draws: int = MIN_DRAWS,
    seed: int = 0,
    angles: Sequence[float] = metrics.ANGLES,
    notes: Sequence[str] = (),
    num_examples: int = 24,
) -> dict[str, Any]:
    """Scores detectors and controls under a protocol; the module's docstring has the structure.

    Args:
      protocol: what is fitted and scored.
      detectors: name -> detector, the headline ("running") first; "batch" and "untrained" beside
        it. A detector sees all views of a set at once, in order.
      counts: numbers of labelled photos; those the data can give are used, and all of it.
      draws: seeded draws, without replacement, for each number below all; at least 10.
      seed: of the draws; the same photos are drawn for every row.
      angles: degrees of the equivariance error; none leaves it out.
      notes: sentences that belong under every table, such as other perceptual weights.
      num_examples: how many scored photos, evenly spaced, have their points in the result.

    Raises:
      ConfigError: an argument cannot work.
      DataError: labels or landmarks cannot be scored.
    """
    if draws < MIN_DRAWS:
        raise ConfigError(f"draws: {draws} is too few to tell a deviation, at least {MIN_DRAWS}")
    if min(counts, default=1) < 1:
        raise ConfigError(f"counts: {list(counts)} must be 1 or more labelled photos each")
    labels = Parts(protocol.fit.points, protocol.score.points)
    try:
        eye_distance = metrics.inter_ocular(labels.score, protocol.eyes)
        frame = consistency.frames(labels.score, protocol.eyes)
    except DataError as error:
        raise DataError(f"{protocol.score.name}: {error}") from error
    drawn = regression.subsets(len(labels.fit), counts, draws, seed)
    found = {name: _detected(name, detect, protocol) for name, detect in detectors.items()}
    results = {
        name: _score_detector(pair, labels, eye_distance, drawn) for name, pair in found.items()
    }
    num_landmarks = {name: pair.fit.shape[1] for name, pair in found.items()}
    if len(set(num_landmarks.values())) != 1:
        raise ConfigError(f"detectors: {num_landmarks} landmarks; one number is needed")
    for name, detect in detectors.items():
        results[name]["consistency"] = consistency.of_landmarks(found[name].score, frame)
        results[name]["equivariance"] = None
        # An untrained detector's says nothing worth four more passes over the photos.
        if angles and name != "untrained":
            views, landmarks = protocol.score.views, found[name].score
            measured = metrics.equivariance_error(detect, views, angles, landmarks)
            results[name]["equivariance"] = measured.to_json()
    headline = next(iter(found))
    results |= _controls(labels, eye_distance, drawn, draws, seed)
    mean_shape = consistency.of_standing(labels.fit.mean(0, dtype=np.float64), frame)
    results["mean_shape"]["consistency"] = mean_shape
    errors = {row: scores["per_photo"] for row, scores in results.items() if "per_photo" in scores}
    rows = np.linspace(0, len(labels.score) - 1, num_examples).round().astype(int)
    worst = np.argsort(-np.array(errors[headline]), kind="stable")[:NUM_WORST]
    return {
        **_description(protocol, num_landmarks[headline]),
        "draws": draws,
        "seed": seed,
        "notes": list(notes),
        "angles": list(angles),
        "results": results,
        "frame": {
            "shape": np.round(frame.shape, 5).tolist(),
            "labelled": consistency.measure(frame(labels.score)),
        },
        "groups": breakdown.breakdown(labels.score, eye_distance, protocol.point_names, errors),
        "examples": _examples(found[headline], labels, np.unique(rows), decimals=5),
        "worst": _examples(found[headline], labels, worst, decimals=3),
    }


def _description(protocol: Protocol, num_landmarks: int) -> dict[str, Any]:
    """What was scored on what."""
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


def _detected(name: str, detect: Detect, protocol: Protocol) -> Parts:
    """Runs a detector on both parts of a protocol."""
    found = []
    for part in (protocol.fit, protocol.score):
        landmarks = np.asarray(detect(part.views), np.float64)
        if landmarks.ndim != 3 or len(landmarks) != len(part.views) or landmarks.shape[2] != 2:
            raise ValueError(
                f"detector {name!r}: {landmarks.shape} is not [{len(part.views)}, K, 2]"
            )
        bad = ~np.isfinite(landmarks).all((1, 2))
        if bad.any():
            raise DataError(
                f"detector {name!r}: the landmarks of {bad.sum()} photos of {part.name} are not "
                f"finite, first photo {bad.argmax()}; did the training diverge?"
            )
        found.append(landmarks)
    return Parts(*found)


def _score_detector(
    found: Parts, labels: Parts, eye_distance: np.ndarray, drawn: Sequence[np.ndarray]
) -> dict[str, Any]:
    """A detector's row, less its equivariance."""
    everything, fit, jakab = drawn[-1:], regression.fit, regression.fit_without_intercept
    predicted = fit(found.fit, labels.fit)(found.score)
    relative_spread = metrics.spread(found.score) / eye_distance
    return {
        "forward": scores_by_count(fit, found, labels, eye_distance, drawn),
        "backward": scores_by_count(fit, labels, found, eye_distance, drawn),
        "forward_without_intercept": scores_by_count(
            jakab, found, labels, eye_distance, everything
        )[0]["mean"],
        "per_photo": _per_photo(predicted, labels, eye_distance),
        "spread": round(100.0 * float(relative_spread.mean()), 4),
    }


def _per_photo(predicted: np.ndarray, labels: Parts, eye_distance: np.ndarray) -> list[float]:
    """The forward errors `[faces]`, means over the labelled points."""
    return np.round(metrics.point_errors(predicted, labels.score, eye_distance).mean(1), 3).tolist()


def _controls(
    labels: Parts, eye_distance: np.ndarray, drawn: Sequence[np.ndarray], draws: int, seed: int
) -> dict[str, Any]:
    """The rows that look at no photo: the mean of the drawn labels, and one drawn label."""
    mean = regression.fit_mean
    one = regression.subsets(len(labels.fit), (1,), draws, seed)[:1]
    predicted = mean(labels.fit, labels.fit)(labels.score)
    return {
        "mean_shape": {
            "forward": scores_by_count(mean, labels, labels, eye_distance, drawn),
            "per_photo": _per_photo(predicted, labels, eye_distance),
        },
        "one_photo": {"forward": scores_by_count(mean, labels, labels, eye_distance, one)},
    }


def _examples(found: Parts, labels: Parts, rows: np.ndarray, decimals: int) -> dict[str, Any]:
    """Points of some of the scored photos, predicted with all labels."""
    predicted = regression.fit(found.fit, labels.fit)(found.score[rows])
    shown = {"landmarks": found.score[rows], "predicted": predicted, "labels": labels.score[rows]}
    points = {
        name: np.round(array.astype(float), decimals).tolist() for name, array in shown.items()
    }
    return {"rows": rows.tolist(), **points}
