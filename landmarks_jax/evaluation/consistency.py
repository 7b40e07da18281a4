"""Consistency: how little a landmark's place varies between faces, in the labelled points' frame.

Each face's labelled points `l` define a frame: the similarity (rotation, scale and shift) that maps
them by least squares to the mean shape `m` of all faces scored. With points as complex numbers,

    T(p) = a (p - mean l) + mean m,  a = sum conj(l - mean l) (m - mean m) / sum |l - mean l|^2

The mean shape is the full Procrustes mean (Kent 1994): the leading eigenvector of the sum of
`z z^H` over the faces, where `z` is a face's labelled points less their mean, at unit size. It
depends on the shapes of the faces alone, not on their poses in the views. Its first eye is at
(-1/2, 0) and its second at (1/2, 0), so the frame's unit is its eye distance.

A landmark's *consistency* is the root mean square distance of its `T(u)` from their mean, over the
faces scored: 0 for a landmark that keeps its place on a face of unchanging shape. Noise of standard
deviation s on each of its coordinates gives sqrt(2) s. The *median* is that of the distances from
the coordinates' medians: where it is much lower, the landmark keeps its place on most faces and is
elsewhere on a few.

Four numbers to compare a consistency with:

- that of the labelled points: faces differ in shape and yaw, which no similarity undoes;
- that of the landmark *standing still* at its mean place in the view: a detector that sees nothing;
- that of the mean shape standing still: the same for the labelled points;
- the spread of the landmarks: collapsed landmarks are consistent too.

Everything is in the view's normalised frame, which is anisotropic where the crop is.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from landmarks_jax.evaluation.metrics import FIRST_TWO, Eyes
from landmarks_jax.system.errors import DataError


@dataclass(frozen=True)
class Frames:
    """The frames of the labelled points of N faces.

    Attributes:
      shape: `[P, 2]` the mean shape, in its eye distances.
      origin: `[N]` complex, the means of the faces' labelled points.
      factor: `[N]` complex, the rotation and scale from a face to the mean shape.
    """

    shape: np.ndarray
    origin: np.ndarray
    factor: np.ndarray

    def __call__(self, points: np.ndarray) -> np.ndarray:
        """Maps points `[N, Q, 2]` of the faces' views into the frame, in its eye distances."""
        placed = self.factor[:, None] * (_complex(points) - self.origin[:, None])
        return _real(placed + _complex(self.shape).mean())


def frames(labels: np.ndarray, eyes: Eyes = FIRST_TWO) -> Frames:
    """The frames of labelled points.

    Args:
      labels: `[N, P, 2]`, normalised; in no face do all points coincide.
      eyes: the points of each eye.

    Raises:
      DataError: the mean shape has both eyes at one place.
    """
    points = _complex(labels)
    origin = points.mean(1)
    centred = points - origin[:, None]
    unit = centred / np.linalg.norm(centred, axis=1)[:, None]
    shape = np.linalg.eigh(unit.T @ unit.conj())[1][:, -1]
    first, second = (shape[list(eye)].mean() for eye in eyes)
    if abs(second - first) < 1e-9:
        raise DataError("the mean of the labelled shapes has both eyes at one place")
    shape = (shape - (first + second) / 2) / (second - first)
    target = shape - shape.mean()
    factor = centred.conj() @ target / (abs(centred) ** 2).sum(1)
    return Frames(_real(shape), origin, factor)


def measure(placed: np.ndarray) -> dict[str, Any]:
    """The consistency of points.

    Args:
      placed: `[N, Q, 2]` in a frame.

    Returns:
      Plain JSON: `rms` and `median`, in per cent of the frame's unit, means over the points; and
      `per_point`, for each of Q its own `rms` and `median`, and its mean `place` in the frame.
    """
    places = placed.mean(0)
    distances = np.linalg.norm(placed - np.median(placed, 0), axis=-1)
    numbers = {
        "rms": 100.0 * np.sqrt(((placed - places) ** 2).sum(-1).mean(0)),
        "median": 100.0 * np.median(distances, 0),
    }
    points = [
        {name: _rounded(values[index]) for name, values in numbers.items()}
        | {"place": np.round(place, 5).tolist()}
        for index, place in enumerate(places)
    ]
    return {
        **{name: _rounded(values.mean()) for name, values in numbers.items()},
        "per_point": points,
    }


def of_landmarks(landmarks: np.ndarray, frame: Frames) -> dict[str, Any]:
    """The consistency of landmarks, and of the same standing still at their mean places.

    Args:
      landmarks: `[N, K, 2]`, normalised to the views.
      frame: the frames of the same faces.

    Returns:
      What `measure` returns, and `still`: the `rms` standing still, for each point and the mean.
    """
    measured = measure(frame(landmarks))
    standing = of_standing(np.asarray(landmarks, np.float64).mean(0), frame)
    for point, still in zip(measured["per_point"], standing["per_point"], strict=True):
        point["still"] = still["rms"]
    return measured | {"still": standing["rms"]}


def describe(frame: Frames, labels: np.ndarray) -> dict[str, Any]:
    """The mean shape of a frame, and the consistency of the labelled points that give it."""
    return {"shape": np.round(frame.shape, 5).tolist(), "labelled": measure(frame(labels))}


def of_standing(points: np.ndarray, frame: Frames) -> dict[str, Any]:
    """The consistency of points `[Q, 2]` that stand still in the views."""
    count = len(frame.origin)
    return measure(frame(np.broadcast_to(points, (count, *np.shape(points)))))


def _rounded(percent: float) -> float:
    return round(float(percent), 4)


def _complex(points: np.ndarray) -> np.ndarray:
    """Points `[..., 2]` as complex numbers `[...]`, double precision."""
    points = np.asarray(points, np.float64)
    return points[..., 0] + 1j * points[..., 1]


def _real(points: np.ndarray) -> np.ndarray:
    """Complex numbers `[...]` as points `[..., 2]`."""
    return np.stack([points.real, points.imag], -1)
