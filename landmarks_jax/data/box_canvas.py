"""Canvases for box views: so much of a photo around its points that it can be turned first.

With crop `box` a training view is the box of the *turned* points with a random margin
(`geometry.turned_box`), so what it shows is not known when the photo is cut. The canvas therefore
covers a square of the photo, centred on the box of the upright points, that holds every view that
may be drawn; what lies beyond the photo is its replicated border. The square is not stretched: an
angle in the canvas is the same angle in the photo.

How large the square is: let the points' box have the half sides `a` and `b`, the angle be `t`, the
margin `m`. The box of the turned points has half sides of at most `a cos t + b sin t` and
`b cos t + a sin t`, and the view, `m` times their sum larger on each side and turned back, reaches
in the photo at most

    a + b sin 2t + m (a + b) (1 + sin 2t)   along x,   and with a and b exchanged along y.

The square's half side is the larger of both for the largest angle and margin. How many pixels its
canvas has: as many as give the middle view, upright with the mean margin, one pixel of the canvas
for each of its own where `a = b`.

The margin is a share of the box whatever its size. That a box of under 20 pixels gets 8 pixels is
evaluation's alone: it would show small faces in another size than all others.
"""

import dataclasses
import math

import numpy as np

from landmarks_jax import geometry
from landmarks_jax.data import framing
from landmarks_jax.data.framing import Framing, Rectangle
from landmarks_jax.system.errors import DataError

# Canvases are so many pixels a side or a multiple of it.
_PIXELS = 4
# A smaller box of points, the mean of its width and height in pixels, shows nothing.
_SMALLEST_BOX = 1.0
# A larger one, as a share of the photo, comes of a wrong number; its canvas would fill the memory.
_LARGEST_BOX = 1.5


@dataclasses.dataclass(frozen=True)
class Surroundings:
    """How photos become canvases for box views.

    Attributes:
      view_size: side of the view in pixels.
      rotation_limit: the largest angle of a view, in degrees.
      margin: the mean margin of a view, as a share of the mean of its box's width and height.
      margin_std: deviation of the margin.
    """

    view_size: int
    rotation_limit: float
    margin: float
    margin_std: float

    @property
    def crop(self) -> str:
        """The crop of the configuration."""
        return "box"

    @property
    def _turn(self) -> float:
        """`sin 2t` of the formula above, at its largest within the limit."""
        return math.sin(math.radians(2.0 * min(self.rotation_limit, 45.0)))

    @property
    def _largest_margin(self) -> float:
        return self.margin + geometry.MARGIN_DEVIATIONS * self.margin_std

    @property
    def canvas_size(self) -> int:
        """Side of the canvas in pixels."""
        largest, usual = 1.0 + 2.0 * self._largest_margin, 1.0 + 2.0 * self.margin
        pixels = self.view_size * (1.0 + self._turn) * largest / usual
        return _PIXELS * math.ceil(round(pixels / _PIXELS, 6))

    def check_points(self, num_points: int, what: str) -> None:
        """Raises `ConfigError` where `what` has no points."""
        framing.need_points(num_points, what)

    def check_box(self, points: np.ndarray) -> None:
        """Raises `DataError` where points `[P, 2]`, in pixels of the photo, have no box."""
        if len(points) == 0 or not np.isfinite(points).all():
            raise DataError("a point of it is missing, and the box crop needs all of them")
        sides = np.ptp(points, axis=0)
        if sides.mean() < _SMALLEST_BOX:
            width, height = sides.tolist()
            raise DataError(
                f"the box of its points is {width:g} x {height:g} pixels, and the box crop needs "
                "one to cut around"
            )

    def canvas_rectangle(self, points: np.ndarray) -> Rectangle:
        """The square of the photo that the canvas covers, in pixel edges; may reach beyond it.

        Args:
          points: `[P, 2]` in pixels of the photo, centres of pixels at whole numbers.
        """
        self.check_box(points)
        low, high = points.min(0).astype(np.float64), points.max(0).astype(np.float64)
        a, b = (high - low) / 2.0
        turned = max(a + b * self._turn, b + a * self._turn)
        half = turned + self._largest_margin * (a + b) * (1.0 + self._turn)
        x, y = (low + high) / 2.0 + 0.5
        return float(x - half), float(y - half), float(x + half), float(y + half)

    def cut(self, photo: np.ndarray, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Cuts the canvas out of a photo, as `Framing.cut` does."""
        height, width = photo.shape[:2]
        rectangle = self.canvas_rectangle(points)
        across, down = np.ptp(points, axis=0).tolist()
        if max(across, down) > _LARGEST_BOX * max(width, height):
            raise DataError(
                f"the box of its points, {across:g} x {down:g} pixels, is larger than the photo, "
                f"{width} x {height}"
            )
        return framing.cut_canvas(photo, points, rectangle, self.canvas_size)


# However photos become canvases: by a crop alone, or so that box views can be drawn on them.
Frame = Framing | Surroundings
