"""Errors of points in eye distances, their spread, and their equivariance to rotation.

All are computed in the view's normalised frame, which is anisotropic where the crop is.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from landmarks_jax import geometry
from landmarks_jax.system.errors import ConfigError, DataError

# uint8 views [N, S, S, 3] -> landmarks [N, K, 2], normalised.
Detect = Callable[[np.ndarray], np.ndarray]
# The labelled points of both eyes; an eye is the mean of its points.
Eyes = tuple[tuple[int, ...], tuple[int, ...]]

FIRST_TWO: Eyes = ((0,), (1,))
ANGLES = (-30.0, -15.0, 15.0, 30.0)
# Equivariance is reported in pixels of a view of this side, whatever the view's own.
REFERENCE_SIDE = 128
_TOGETHER = 0.01  # of a face: profiles have a third, and a hundredth is a pixel or less
# Views warped at a time: 256 float views of 128 x 128 are 50 MB.
_CHUNK = 256


def inter_ocular(
    labels: np.ndarray, eyes: Eyes = FIRST_TWO, names: Sequence[str] = ()
) -> np.ndarray:
    """Distance between the eyes of each face.

    Args:
      labels: `[N, P, 2]` labelled points, NaN for a missing one.
      eyes: the points of each eye; `((36, ..., 41), (42, ..., 47))` for the usual 68.
      names: names of the faces, for the message; empty for their numbers.

    Returns:
      `[N]` distances in the unit of the labels, float64; NaN where a point of the eyes is missing.

    Raises:
      ConfigError: `eyes` names a point that is not labelled.
      DataError: the eyes of a face coincide, to a hundredth of the larger side of its points' box.
    """
    labels = np.asarray(labels, np.float64)
    indices = [index for eye in eyes for index in eye]
    if not all(eyes) or min(indices) < 0 or max(indices) >= labels.shape[1]:
        raise ConfigError(
            f"eyes: {eyes} must name labelled points of both eyes, from 0 to {labels.shape[1] - 1}"
        )
    left, right = (labels[:, list(eye)].mean(1) for eye in eyes)
    distances = np.linalg.norm(left - right, axis=-1)
    together = distances <= _TOGETHER * larger_sides(labels)
    if together.any():
        face = int(together.argmax())
        name = names[face] if names else f"face {face} of {len(labels)} (counted from 0)"
        what = "the first two points (of a face: the eyes)" if eyes == FIRST_TWO else "both eyes"
        raise DataError(
            f"{name}: {what} are labelled at one place; correct the label or leave the photo out"
        )
    return distances


def larger_sides(points: np.ndarray) -> np.ndarray:
    """The larger side of the box of each photo's points.

    Args:
      points: `[N, P, 2]`; NaN for missing ones, but at least one of each photo is there.

    Returns:
      `[N]`, in the unit of the points.
    """
    sides: np.ndarray = (np.nanmax(points, axis=1) - np.nanmin(points, axis=1)).max(1)
    return sides


def point_errors(predicted: np.ndarray, target: np.ndarray, eye_distance: np.ndarray) -> np.ndarray:
    """Distance of each predicted point from its target, in per cent of the eye distance.

    The forward error is the mean of this over photos and labelled points; the backward error is
    the same over discovered points, with the eye distance of the same photo's labels.

    Args:
      predicted: `[N, P, 2]`.
      target: `[N, P, 2]`, in the same frame.
      eye_distance: `[N]`, from `inter_ocular`.

    Returns:
      `[N, P]` errors, %.

    Raises:
      ValueError: the shapes differ.
    """
    if predicted.shape != target.shape or eye_distance.shape != predicted.shape[:1]:
        raise ValueError(
            f"points {predicted.shape}, targets {target.shape} and eye distances "
            f"{eye_distance.shape} must be [N, P, 2], [N, P, 2] and [N]"
        )
    offsets = np.asarray(predicted, np.float64) - np.asarray(target, np.float64)
    return 100.0 * np.linalg.norm(offsets, axis=-1) / eye_distance[:, None]


def summary(errors: Sequence[np.ndarray]) -> dict[str, Any]:
    """Summary of the errors of one or more draws, rounded to 1e-4.

    Args:
      errors: for each draw, `[N, P]`.

    Returns:
      `mean` over everything; `std` over the draws' means (n - 1 in the denominator), None for one
      draw; `per_point`, the P means over photos and draws.
    """
    per_point = np.stack([draw.mean(0) for draw in errors])
    means = per_point.mean(1)
    return {
        "mean": round(float(means.mean()), 4),
        "std": round(float(means.std(ddof=1)), 4) if len(means) > 1 else None,
        "per_point": np.round(per_point.mean(0), 4).tolist(),
    }


def spread(landmarks: np.ndarray) -> np.ndarray:
    """Mean distance between the points of each photo, over all pairs; 0 where they collapse.

    Args:
      landmarks: `[N, K, 2]`.

    Returns:
      `[N]` distances in the unit of the landmarks; 0 for a single point.
    """
    landmarks = np.asarray(landmarks, np.float64)
    first, second = np.triu_indices(landmarks.shape[1], k=1)
    if not len(first):
        return np.zeros(len(landmarks))
    # A photo at a time, as below: the pairs of a thousand landmarks are many.
    return np.array([np.linalg.norm(p[first] - p[second], axis=-1).mean() for p in landmarks])


def mean_distances(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Mean distance over photos from each point of `first` to each of `second`.

    Args:
      first: `[N, K, 2]`, N > 0.
      second: `[N, L, 2]`, of the same photos.

    Returns:
      `[K, L]`, in the unit of the points.
    """
    total = np.zeros((first.shape[1], second.shape[1]))
    for one, other in zip(first, second, strict=True):
        x, y = one.T[:, :, None] - other.T[:, None]
        total += np.sqrt(x * x + y * y)
    return total / len(first)


def equivariance_error(
    detect: Detect,
    views: np.ndarray,
    angles: Sequence[float] = ANGLES,
    landmarks: np.ndarray | None = None,
) -> dict[str, float | int | None]:
    """Compares `D(R x)` with `R D(x)` for rotations `R` about the view's centre.

    Args:
      detect: the detector; called with all views of one angle, in order.
      views: uint8 `[N, S, S, 3]`.
      angles: degrees; positive rotates the x axis towards the y axis.
      landmarks: `[N, K, 2]`, `detect(views)` if already known.

    Returns:
      The mean distance as `error`, in pixels of a 128 view, rounded to 1e-4, None where every point
      left the view; the number of points `compared`, over all photos and angles, and of those
      `left_out`, which a rotation moves out of the view.
    """
    points = np.asarray(detect(views) if landmarks is None else landmarks, np.float64)
    distances, left_out = [], 0
    for angle in angles:
        expected = geometry.apply(_rotation(angle, np.float64), points)
        detected = np.asarray(detect(rotate_views(views, angle)), np.float64)
        inside = np.all(np.abs(expected) <= 1.0, axis=-1)
        # The view is 2 units wide.
        pixels = np.linalg.norm(detected - expected, axis=-1) * (REFERENCE_SIDE / 2)
        distances.append(pixels[inside])
        left_out += int(np.sum(~inside))
    compared = np.concatenate([np.zeros(0), *distances])
    error = round(float(compared.mean()), 4) if len(compared) else None
    return {"error": error, "compared": len(compared), "left_out": left_out}


def rotate_views(views: np.ndarray, angle: float) -> np.ndarray:
    """Rotates views about their centre, borders replicated: the point `p` moves to `R p`.

    Args:
      views: uint8 `[N, S, S, 3]`.
      angle: degrees; positive rotates the x axis towards the y axis (clockwise on a screen).

    Returns:
      uint8 `[N, S, S, 3]`.
    """
    # The warp maps output pixels to input pixels: the inverse rotation.
    source = np.broadcast_to(_rotation(-angle, np.float32), (len(views), 2, 3))
    return warp_views(views, source, views.shape[1])


def warp_views(images: np.ndarray, maps: np.ndarray, size: int) -> np.ndarray:
    """Resamples 8-bit images through affine maps, borders replicated; see `views.warp`.

    Args:
      images: uint8 `[N, C, C, 3]`.
      maps: `[N, 2, 3]` float32, from output to input coordinates, both normalised.
      size: side of the output, in pixels.

    Returns:
      uint8 `[N, size, size, 3]`.
    """
    # Imported here: point errors alone need no JAX.
    import jax  # noqa: PLC0415

    from landmarks_jax.views import warp  # noqa: PLC0415

    resample = jax.jit(warp, static_argnums=2)
    warped = np.empty((len(images), size, size, 3), np.uint8)
    for start in range(0, len(images), _CHUNK):
        part = slice(start, start + _CHUNK)
        floating = jax.device_get(resample(*jax.device_put((images[part], maps[part])), size))
        warped[part] = np.clip(np.rint(floating), 0, 255)
    return warped


def _rotation(degrees: float, dtype: type) -> np.ndarray:
    """The rotation `[2, 3]` about the centre of the view."""
    angle = np.deg2rad(np.full((), degrees, dtype))
    return geometry.similarity(angle, np.ones((), dtype), np.zeros(2, dtype))
