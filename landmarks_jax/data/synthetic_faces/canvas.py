"""An image under construction, and the soft-edged shapes painted on it.

A shape is a signed distance: negative inside, positive outside, in the units of its coordinates.
"""

import math
from typing import TypeAlias

import numpy as np

Window: TypeAlias = tuple[slice, slice]


class Canvas:
    """A square image `[3, S, S]`, float32 RGB in [0, 1], and the coordinates of its pixels."""

    def __init__(self, size: int):
        self.size = size
        self.pixel = 2 / size  # its side, in normalised units
        self.pixels = np.empty((3, size, size), np.float32)
        centers = ((2 * np.arange(size) + 1) / size - 1).astype(np.float32)
        self.x, self.y = centers[None, :], centers[:, None]
        self.whole: Window = (slice(0, size), slice(0, size))

    def window(self, center: np.ndarray, radius: float) -> Window:
        """The pixels within `radius` of `center` `[2]` along each axis; normalised units."""
        return self._span(float(center[1]), radius), self._span(float(center[0]), radius)

    def _span(self, center: float, radius: float) -> slice:
        first = math.floor((center - radius + 1) / self.pixel)
        last = math.ceil((center + radius + 1) / self.pixel)
        return slice(min(max(first, 0), self.size), min(max(last, 0), self.size))

    def local(self, affine: np.ndarray, window: Window) -> tuple[np.ndarray, np.ndarray]:
        """The coordinates of a window's pixels `[h, w]` after an affine map `[2, 3]`."""
        x, y = self.x[:, window[1]], self.y[window[0]]
        (a, b, c), (d, e, f) = affine.astype(np.float32)
        return a * x + (b * y + c), d * x + (e * y + f)

    def paint(self, window: Window, alpha: np.ndarray, color: np.ndarray) -> None:
        """Blends `color` (`[3]` or `[3, h, w]`) in, by `alpha` `[h, w]`."""
        if color.ndim == 1:
            color = color.astype(np.float32)[:, None, None]
        below = self.pixels[(slice(None), *window)]
        below += alpha * (color - below)


def clamp(value: np.ndarray) -> np.ndarray:
    """Clips to [0, 1]; `np.clip` takes longer than these small windows do."""
    return np.minimum(np.maximum(value, 0), 1)


def fill(distance: np.ndarray, softness: float) -> np.ndarray:
    """How much of a pixel a shape covers, 0 to 1; its edge is `softness` wide."""
    return clamp(0.5 - distance * np.float32(1 / softness))


def stroke(distance: np.ndarray, weight: float, softness: float) -> np.ndarray:
    """A line of half thickness `weight` along an outline; thinner than a pixel, it grows paler."""
    drawn = max(weight, softness / 2)
    return fill(np.abs(distance) - drawn, softness) * np.float32(weight / drawn)


def blob(u: np.ndarray, v: np.ndarray, radius_u: float, radius_v: float) -> np.ndarray:
    """A soft hill: 1 in the middle, 0 from one radius on."""
    hill = 1 - np.square(u * np.float32(1 / radius_u)) - np.square(v * np.float32(1 / radius_v))
    return np.square(np.maximum(hill, 0))


def smoothstep(low: float, high: float, value: np.ndarray) -> np.ndarray:
    """0 below `low`, 1 above `high` (or the reverse, for low > high), smooth between."""
    t = clamp((value - np.float32(low)) * np.float32(1 / (high - low)))
    return t * t * (3 - 2 * t)


def ellipse(u: np.ndarray, v: np.ndarray, radius_u: float, radius_v: float) -> np.ndarray:
    """The distance to an ellipse about the origin, good near its edge."""
    ring = np.sqrt(
        np.square(u * np.float32(1 / radius_u)) + np.square(v * np.float32(1 / radius_v))
    )
    return (ring - 1) * np.float32(min(radius_u, radius_v))


def box(u: np.ndarray, v: np.ndarray, half_u: float, half_v: float, round_: float) -> np.ndarray:
    """The distance to a rectangle about the origin with corners of radius `round_`."""
    du = np.abs(u) - np.float32(half_u - round_)
    dv = np.abs(v) - np.float32(half_v - round_)
    outside = np.sqrt(np.square(np.maximum(du, 0)) + np.square(np.maximum(dv, 0)))
    return outside + np.minimum(np.maximum(du, dv), 0) - np.float32(round_)


def capsule(
    u: np.ndarray, v: np.ndarray, start: np.ndarray, end: np.ndarray, radii: tuple[float, float]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A thick line from `start` to `end` `[2]`, its radius going from one of `radii` to the other.

    Returns:
      The distance to it, the place along it (0 to 1) and the place across it (-1 to 1 inside).
    """
    ax, ay = (end - start).astype(np.float32)
    bx, by = start.astype(np.float32)
    length = np.float32(1 / max(np.hypot(ax, ay), 1e-6))
    u, v = u - bx, v - by
    along = clamp((u * ax + v * ay) * (length * length))
    radius = np.float32(radii[0]) + along * np.float32(radii[1] - radii[0])
    away = np.sqrt(np.square(u - along * ax) + np.square(v - along * ay))
    across = (u * ay - v * ax) * length / radius
    return away - radius, along, across
