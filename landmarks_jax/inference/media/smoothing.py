"""Points smoothed over time by the one euro filter (Casiez, Roussel, Vogel; CHI 2012)."""

import math

import numpy as np

# At rest, frequencies above 1 Hz are damped, which removes jitter. A point that crosses the viewed
# part in a second is followed at up to 11 Hz, a lag of a frame or two.
_MIN_CUTOFF = 1.0  # Hz
_BETA = 10.0  # Hz per (side of the viewed part per second)
_SPEED_CUTOFF = 1.0  # Hz


class OneEuro:
    """An exponential filter whose cutoff frequency rises with the speed of each point.

    It is causal, for cameras, and takes time stamps, for any frame rate.
    """

    def __init__(self, side: float) -> None:
        """Initialises the filter; `side` is that of the viewed part, in pixels."""
        self._side = side
        self._time = 0.0
        self._points: np.ndarray | None = None
        self._speed = np.zeros(0)

    def __call__(self, points: np.ndarray, time: float) -> np.ndarray:
        """Filters the next points.

        Args:
          points: `[Q, 2]`, the same number in every call. Points that are not finite pass through;
            the next finite one restarts its filter.
          time: time stamp in seconds, not decreasing.

        Returns:
          `[Q, 2]` float64.
        """
        points = np.asarray(points, np.float64)
        if self._points is None:
            self._points, self._time, self._speed = points, time, np.zeros_like(points)
            return points
        step = time - self._time
        if step <= 0:
            return self._points
        usable = np.isfinite(self._points)
        before = np.where(usable, self._points, points)
        speed = np.where(usable, (points - before) / step, 0.0)
        speed = np.where(np.isfinite(speed), speed, 0.0)
        self._speed = self._speed + _weight(np.asarray(_SPEED_CUTOFF), step) * (speed - self._speed)
        # One cutoff for both axes, so that the point stays on its path.
        sides = np.linalg.norm(self._speed, axis=1, keepdims=True) / self._side
        weight = _weight(_MIN_CUTOFF + _BETA * sides, step)
        self._points, self._time = before + weight * (points - before), time
        return self._points


def _weight(cutoff: np.ndarray, step: float) -> np.ndarray:
    """Weight of a new value in an exponential filter with a cutoff in Hz, after `step` seconds."""
    return 1.0 / (1.0 + 1.0 / (2 * math.pi * cutoff * step))
