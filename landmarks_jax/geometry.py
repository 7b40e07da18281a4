"""Coordinates and affine maps: the one convention of this program.

A point is `(x, y)`. Normalised coordinates span [-1, 1] over an image with half-pixel centres: the
centre of pixel `i` of `n` lies at `(2 i + 1) / n - 1`, so one number means one place at every
resolution. Pixel coordinates count pixel centres from 0 (the centre of the first pixel is 0.0) and
appear only where data comes in and results go out.

An affine map is an array `[..., 2, 3]`, the matrix `[A | t]` of `p -> A p + t`.

Every function takes NumPy or JAX arrays and returns the same kind.
"""

import types
from typing import Any

import numpy as np

# np.ndarray or jax.Array: the functions below follow their arguments.
Array = Any

# The random margin of a box view is clipped at this many standard deviations, so that its canvas
# covers every view that can be drawn.
MARGIN_DEVIATIONS = 4.0


def _namespace(*arrays: Array) -> types.ModuleType:
    """NumPy, or `jax.numpy` where any argument is a JAX array (without importing JAX here)."""
    for array in arrays:
        if not isinstance(array, np.ndarray | np.generic | float | int):
            return array.__array_namespace__()
    return np


def to_normalized(pixels: Array, size: tuple[int, int]) -> Array:
    """Converts pixel coordinates to normalised ones.

    Args:
      pixels: `[..., 2]` points in pixels, centres of pixels at whole numbers.
      size: `(width, height)` of the image, in pixels.

    Returns:
      `[..., 2]` points in [-1, 1] where they lie inside the image.
    """
    return (2.0 * pixels + 1.0) / _namespace(pixels).asarray(size, pixels.dtype) - 1.0


def to_pixels(points: Array, size: tuple[int, int]) -> Array:
    """Converts normalised coordinates to pixels: the inverse of `to_normalized`.

    Args:
      points: `[..., 2]` normalised points.
      size: `(width, height)` of the image, in pixels.

    Returns:
      `[..., 2]` points in pixels, centres of pixels at whole numbers.
    """
    return ((points + 1.0) * _namespace(points).asarray(size, points.dtype) - 1.0) / 2.0


def pixel_centers(n: int, dtype: Any = np.float32) -> np.ndarray:
    """The normalised coordinates `[n]` of the centres of `n` pixels in a row."""
    return ((2.0 * np.arange(n) + 1.0) / n - 1.0).astype(dtype)


def identity(dtype: Any = np.float32) -> np.ndarray:
    """The identity map `[2, 3]`."""
    return np.eye(2, 3, dtype=dtype)


def similarity(angle: Array, scale: Array, shift: Array) -> Array:
    """The map that rotates about the origin, scales, then shifts.

    Args:
      angle: `[...]` radians; positive takes the x axis to the y axis (clockwise on a screen).
      scale: `[...]` factor, 1 keeps sizes.
      shift: `[..., 2]` in normalised units.

    Returns:
      `[..., 2, 3]` affine maps.
    """
    xp = _namespace(angle, scale, shift)
    cos, sin = scale * xp.cos(angle), scale * xp.sin(angle)
    rows = [xp.stack([cos, -sin, shift[..., 0]], -1), xp.stack([sin, cos, shift[..., 1]], -1)]
    return xp.stack(rows, -2)


def rotated_box(points: Array, angle: Array, margin: Array) -> Array:
    """The map from a box view to the image: the upright box of the points of a rotated image.

    The image and its points are rotated by `-angle`. The view shows the upright box of the rotated
    points, each side moved outwards by `margin` times the mean of its width and height, and
    stretched to the view.

    Args:
      points: `[..., P, 2]` in the image, in units that are the same along both axes.
      angle: `[...]` radians, as `similarity` takes it.
      margin: `[...]` a share of the mean of the box's width and height, at least 0.

    Returns:
      `[..., 2, 3]` from the view, `[-1, 1]` along both axes, to the image: a scaling by the box's
      half sides, then a rotation by `angle`.
    """
    xp = _namespace(points, angle, margin)
    cos, sin = xp.cos(angle)[..., None], xp.sin(angle)[..., None]
    x, y = points[..., 0], points[..., 1]
    # Written out, because an accelerator may round the inputs of a matrix product.
    rotated = xp.stack([cos * x + sin * y, cos * y - sin * x], -1)
    low, high = rotated.min(-2), rotated.max(-2)
    half = (high - low) / 2.0 + margin[..., None] * (high - low).mean(-1, keepdims=True)
    center = (low + high) / 2.0
    # Columns: half the view's width, half its height, its centre; rotated back into the image.
    across = xp.stack([half[..., 0], 0.0 * half[..., 0], center[..., 0]], -1)
    down = xp.stack([0.0 * half[..., 1], half[..., 1], center[..., 1]], -1)
    return xp.stack([cos * across - sin * down, sin * across + cos * down], -2)


def apply(affine: Array, points: Array) -> Array:
    """Maps points `[..., N, 2]` by affine maps `[..., 2, 3]`; the leading axes broadcast."""
    x, y = points[..., 0, None], points[..., 1, None]
    # Products written out: accelerators round the operands of matrix products.
    moved = affine[..., None, :, 0] * x + affine[..., None, :, 1] * y
    return moved + affine[..., None, :, 2]


def compose(outer: Array, inner: Array) -> Array:
    """The map `[..., 2, 3]` that applies `inner` first and `outer` second."""
    xp = _namespace(outer, inner)
    # Written out as in `apply`.
    product = outer[..., 0, None] * inner[..., :1, :] + outer[..., 1, None] * inner[..., 1:, :]
    return xp.concatenate([product[..., :2], product[..., 2:] + outer[..., 2:]], -1)


def invert(affine: Array) -> Array:
    """The inverse `[..., 2, 3]` of affine maps `[..., 2, 3]`, in closed form.

    A singular map gives infinities or NaN, as a division by zero does.
    """
    xp = _namespace(affine)
    a, b, c, d = affine[..., 0, 0], affine[..., 0, 1], affine[..., 1, 0], affine[..., 1, 1]
    determinant = (a * d - b * c)[..., None, None]
    rows = [xp.stack([d, -b], -1), xp.stack([-c, a], -1)]
    linear = xp.stack(rows, -2) / determinant
    # Written out as in `apply`.
    shift = linear[..., :1] * affine[..., :1, 2:] + linear[..., 1:] * affine[..., 1:, 2:]
    return xp.concatenate([linear, -shift], -1)
