"""The error of the labelled points by leave-one-out, where no other photos are labelled (ours).

The JSON of `measure`:

    protocol, crop    the labelled photos' name, "center" | "tight" | "box"
    photos            N, labelled
    unit              of the errors
    penalty           of the ridge regression over the largest entry of X^T X; None: infinite, which
                      leaves the mean shape
    error             of the points of each photo, predicted by the map fitted on all others: the
                      mean over photos and labelled points
    mean_shape        the control: the same of the mean of all others
    points            for each point {"name", "photos", "error", "mean_shape"}; errors are None
                      where no photo has the point and those that make up the unit
    worst             the photos with the largest errors {"name", "error"}, the largest first
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from landmarks_jax.evaluation import metrics, regression, scores
from landmarks_jax.evaluation.protocols import Protocol
from landmarks_jax.inference.linear_map import LinearMap
from landmarks_jax.system.errors import DataError
from landmarks_jax.system.tables import Table

# Of two, each predicts the other by its own labels, whatever the penalty.
_MIN_PHOTOS = 3
_ALL = "all points"
_NUM_WORST = 3


def check(protocol: Protocol) -> None:
    """Refuses labels that leave-one-out cannot score.

    Raises:
      DataError: a point is in too few photos, or none has the points that make up the unit.
    """
    faces = protocol.fit
    counts = np.isfinite(faces.points).all(2).sum(0)
    if len(faces.points) < _MIN_PHOTOS:
        raise DataError(
            f"{faces.name}: {len(faces.points)} labelled photos; the linear map needs at least "
            f"{_MIN_PHOTOS}, 20 are better"
        )
    for name, count in zip(_names(protocol), counts, strict=True):
        if count < _MIN_PHOTOS:
            raise DataError(
                f"{faces.name}: {name} is labelled in {count} of {len(faces.points)} photos; the "
                f"linear map needs it in at least {_MIN_PHOTOS}"
            )
    if np.isnan(_unit(protocol)[0]).all():
        raise DataError(
            f"{faces.name}: no photo has both of the first two points, whose distance is the unit "
            "of errors; label both in some photo"
        )


def measure(protocol: Protocol, landmarks: np.ndarray) -> tuple[LinearMap, dict[str, Any]]:
    """Fits the linear map to labels without others to score, and measures it by leave-one-out.

    Args:
      protocol: one that `check` accepts.
      landmarks: `[N, K, 2]` of its photos.

    Returns:
      The map, and the JSON of this module.
    """
    labels, (distances, unit) = protocol.fit.points, _unit(protocol)
    fitted = regression.fit_leave_one_out(landmarks, labels)
    errors = {
        "error": metrics.point_errors(fitted.predicted, labels, distances),
        "mean_shape": metrics.point_errors(fitted.mean_shape, labels, distances),
    }
    counts = np.isfinite(labels).all(2).sum(0).tolist()
    points = [
        {"name": name, "photos": count, **{k: _mean(e[:, i]) for k, e in errors.items()}}
        for i, (name, count) in enumerate(zip(_names(protocol), counts, strict=True))
    ]
    photos = [
        (error, name)
        for name, row in zip(protocol.fit.names, errors["error"], strict=True)
        if (error := _mean(row)) is not None
    ]
    worst = sorted(photos, key=lambda photo: -photo[0])[:_NUM_WORST]
    return fitted.map, {
        "protocol": protocol.name,
        "crop": protocol.crop,
        "photos": len(labels),
        "unit": unit,
        "penalty": fitted.penalty if np.isfinite(fitted.penalty) else None,
        **{key: _mean(values) for key, values in errors.items()},
        "points": points,
        "worst": [{"name": name, "error": error} for error, name in worst],
    }


def to_markdown(result: Mapping[str, Any], notes: Sequence[str]) -> str:
    """The table of a result, with `notes` below."""
    rows = [
        [
            point["name"],
            str(point["photos"]),
            scores.decimals(point["error"]),
            scores.decimals(point["mean_shape"]),
        ]
        for point in (*result["points"], {**result, "name": _ALL})
    ]
    penalty = "infinite: the landmarks predict nothing, and every photo gets the mean shape"
    if result["penalty"] is not None:
        penalty = f"{result['penalty']:.2g} of the largest entry of X^T X"
    about = (
        f"Errors in {result['unit']}. The points of each photo are predicted by a linear map that "
        "is fitted on all other labelled photos. Mean shape: the mean of the others instead, for "
        "which no landmark is needed."
    )
    chosen = (
        f"Ridge penalty (ours; the paper's is fixed), which has the least squared error: {penalty}."
    )
    worst = ", ".join(f"{one['name']} ({one['error']:.1f})" for one in result["worst"])
    look = (
        f"Largest errors: {worst}. Correct a wrong label, and leave out a photo in which the "
        "landmarks are at a wrong place: one such photo spoils a map of few labels."
    )
    title = f"Error by leave-one-out: {result['protocol']}, {result['crop']} crop"
    header = ["Point", "Photos", "This detector", "Mean shape"]
    listed = [f"Note: {note}" for note in dict.fromkeys(notes)]
    return Table(header, rows, title, [about, chosen, look, *listed]).to_markdown()


def _unit(protocol: Protocol) -> tuple[np.ndarray, str]:
    """What errors are in per cent of, for each photo `[N]`, and its name."""
    points, names = protocol.fit.points, _names(protocol)
    if len(names) == 1:
        return np.full(len(points), 2.0), "% of the view's side"
    distances = metrics.inter_ocular(points, protocol.eyes, protocol.fit.names)
    if protocol.eyes != metrics.FIRST_TWO:
        return distances, "% of eye distance"
    return distances, f"% of the distance from {names[0]} to {names[1]}"


def _names(protocol: Protocol) -> Sequence[str]:
    numbers = range(1, protocol.fit.points.shape[1] + 1)
    return protocol.point_names or [f"point {number}" for number in numbers]


def _mean(errors: np.ndarray) -> float | None:
    """The mean of those that are there, rounded to 1e-4."""
    there = errors[np.isfinite(errors)]
    return round(float(there.mean()), 4) if len(there) else None
