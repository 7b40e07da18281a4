"""The forward error by yaw and roll of the head and by size of the face.

Head poses are estimated from five labelled points, eyes E1 and E2, the nose N and the corners of
the mouth M1 and M2. With E and M, the middles of the eyes and of the mouth,

    N - E = yaw (E2 - E1) + t (M - E)

`yaw` is the nose's offset from the line between the middles, along the eyes' axis and in eye
distances. It is invariant to affine maps of the image: shift, size, roll. For a symmetric head far
from the camera, rotated by `angle` about its upright axis, it is c tan(angle), where c is how far
the nose stands out of the plane of eyes and mouth, in eye distances: about 0.6.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from landmarks_jax.evaluation.metrics import REFERENCE_SIDE

FIVE_POINTS = ("left eye", "right eye", "nose", "left mouth corner", "right mouth corner")


@dataclass(frozen=True)
class Grouping:
    """Divides faces by a number: group i has `limits[i - 1] <= number < limits[i]`.

    Attributes:
      by: the name of the number: "yaw", "roll" or "size".
      unit: the number's unit.
      names: names of the groups, one more than limits.
      limits: rising.
    """

    by: str
    unit: str
    names: tuple[str, ...]
    limits: tuple[float, ...]


# Rotations of about 9 and 23 degrees.
BY_YAW = Grouping("yaw", "eye distances", ("frontal", "medium yaw", "large yaw"), (0.1, 0.25))
BY_ROLL = Grouping("roll", "degrees", ("upright", "tilted", "strongly tilted"), (10.0, 20.0))


def yaws(points: np.ndarray) -> np.ndarray:
    """Yaw of heads, as in the module's docstring.

    Args:
      points: `[N, 5, 2]` in the order of `FIVE_POINTS`, any unit.

    Returns:
      `[N]` in eye distances, positive where the nose is nearer the second eye; infinite where the
      mouth's middle is on the line through the eyes.
    """
    first, second, nose, *mouth = np.moveaxis(np.asarray(points, np.float64), 1, 0)
    eyes, down = (first + second) / 2, (mouth[0] + mouth[1] - first - second) / 2
    across, span = _cross(nose - eyes, down), _cross(second - first, down)
    return np.divide(across, span, out=np.full(len(across), np.inf), where=span != 0)


def rolls(points: np.ndarray) -> np.ndarray:
    """Roll of heads: angles of the line through the eyes with the x axis.

    Args:
      points: `[N, 5, 2]` in the order of `FIVE_POINTS`.

    Returns:
      `[N]` degrees from -180 to 180, positive where the second eye is the lower one.
    """
    x, y = np.moveaxis(np.asarray(points, np.float64)[:, 1] - points[:, 0], -1, 0)
    return np.degrees(np.arctan2(y, x))


def breakdown(
    points: np.ndarray,
    eye_distance: np.ndarray,
    point_names: Sequence[str],
    errors: Mapping[str, Sequence[float] | np.ndarray],
) -> list[dict[str, Any]]:
    """Mean errors of each group of faces.

    Args:
      points: `[N, P, 2]` labelled points of the faces scored, normalised.
      eye_distance: `[N]`, normalised.
      point_names: names of the points; poses are left out unless they are `FIVE_POINTS`.
      errors: row -> `[N]` forward errors, %.

    Returns:
      For each grouping {"by", "unit", "groups"}, the groups as {"name", "low", "high" (None: no
      limit), "faces", "forward": row -> mean (None without faces)}. Sizes are eye distances in
      pixels of a 128 view, divided in thirds of these faces.
    """
    sizes = np.asarray(eye_distance, np.float64) * (REFERENCE_SIDE / 2)
    low, high = np.quantile(sizes, (1 / 3, 2 / 3)).round(1).tolist()
    by_size = Grouping("size", "pixels of a 128 view", ("small", "medium", "large"), (low, high))
    numbers = [(by_size, sizes)]
    if tuple(point_names) == FIVE_POINTS:
        poses = [(BY_YAW, np.abs(yaws(points))), (BY_ROLL, np.abs(rolls(points)))]
        numbers = [*poses, *numbers]
    return [
        {
            "by": grouping.by,
            "unit": grouping.unit,
            "groups": _means(grouping, np.searchsorted(grouping.limits, values, "right"), errors),
        }
        for grouping, values in numbers
    ]


def _means(
    grouping: Grouping, group: np.ndarray, errors: Mapping[str, Sequence[float] | np.ndarray]
) -> list[dict[str, Any]]:
    """The groups of a grouping; `group` `[N]` is each face's."""
    bounds = (None, *grouping.limits, None)
    means = []
    for index, name in enumerate(grouping.names):
        inside = group == index
        forward = {
            row: round(float(np.asarray(values)[inside].mean()), 3) if inside.any() else None
            for row, values in errors.items()
        }
        limits = {"low": bounds[index], "high": bounds[index + 1]}
        means.append({"name": name, **limits, "faces": int(inside.sum()), "forward": forward})
    return means


def _cross(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The areas `[N]` spanned by vectors `[N, 2]`."""
    return a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0]
