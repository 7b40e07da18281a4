"""Canvases for box views: enough of a photo around its points to rotate it first.

With crop `box` a training view is the box of the *rotated* points with a random margin
(`geometry.rotated_box`), so its place is not known when the photo is cut. The canvas therefore
covers a square of the photo, centred on the box of the upright points, that contains every view
that can be drawn; beyond the photo it is replicated border. The square keeps its shape: an angle in
the canvas is the same angle in the photo.

Size of the square: let the points' box have the half sides `a` and `b`, the angle be `t`, the
margin `m`. The box of the rotated points has half sides of at most `a cos t + b sin t` and
`b cos t + a sin t`. The view extends it by `m` times their sum on each side; rotated back, it
reaches in the photo at most

    a + b sin 2t + m (a + b) (1 + sin 2t)   along x,   and with a and b exchanged along y.

The square's half side is the larger of both for the largest angle and margin. The canvas has
so many pixels that each pixel of the upright view with the mean margin is one pixel of the canvas
if `a = b`.

The margin is a share of the box at every size. Only evaluation uses 8 pixels for boxes of under 20
pixels; in training that would show small faces at another size than the others.
"""

import dataclasses
import math

import numpy as np

from landmarks_jax import geometry
from landmarks_jax.data import framing
from landmarks_jax.data.framing import Framing, Rectangle
from landmarks_jax.system.errors import DataError

_MULTIPLE = 4  # the canvas's side is a multiple of this, in pixels
_SMALLEST_BOX = 1.0  # mean of width and height in pixels
# As a share of the photo; a larger box is an annotation error, whose canvas would fill the memory.
_LARGEST_BOX = 1.5


@dataclasses.dataclass(frozen=True)
class BoxCanvas:
    """How photos become canvases for box views.

    Attributes:
      view_size: side of the view in pixels.
      rotation_limit: the largest angle of a view, in degrees.
      margin: the mean margin of a view, as a share of the mean of its box's width and height.
      margin_std: standard deviation of the margin.
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
    def _sin_2t(self) -> float:
        """`sin 2t` of the formula above, at its largest within the limit."""
        return math.sin(math.radians(2.0 * min(self.rotation_limit, 45.0)))

    @property
    def _largest_margin(self) -> float:
        return self.margin + geometry.MARGIN_DEVIATIONS * self.margin_std

    @property
    def canvas_size(self) -> int:
        """Side of the canvas in pixels."""
        largest, mean = 1.0 + 2.0 * self._largest_margin, 1.0 + 2.0 * self.margin
        pixels = self.view_size * (1.0 + self._sin_2t) * largest / mean
        return _MULTIPLE * math.ceil(round(pixels / _MULTIPLE, 6))

    def check_points(self, num_points: int, what: str) -> None:
        """Raises `ConfigError` if `what` has no points."""
        framing.need_points(num_points, what)

    def check_box(self, points: np.ndarray) -> None:
        """Raises `DataError` if points `[P, 2]`, in pixels of the photo, have no box."""
        if len(points) == 0 or not np.isfinite(points).all():
            raise DataError("a point is missing, and the box crop needs all of them")
        sides = np.ptp(points, axis=0)
        if sides.mean() < _SMALLEST_BOX:
            width, height = sides.tolist()
            raise DataError(
                f"the box of its points is {width:g} x {height:g} pixels, too small for the box "
                "crop"
            )

    def canvas_rectangle(self, points: np.ndarray) -> Rectangle:
        """The square of the photo that the canvas covers, in pixel edges; may reach beyond it.

        Args:
          points: `[P, 2]` in pixels of the photo, pixel centres at integers.
        """
        self.check_box(points)
        low, high = points.min(0).astype(np.float64), points.max(0).astype(np.float64)
        a, b = (high - low) / 2.0
        rotated = max(a + b * self._sin_2t, b + a * self._sin_2t)
        half = rotated + self._largest_margin * (a + b) * (1.0 + self._sin_2t)
        x, y = (low + high) / 2.0 + 0.5
        return float(x - half), float(y - half), float(x + half), float(y + half)

    def cut(
        self, photo: np.ndarray, points: np.ndarray, box_points: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Cuts the canvas out of a photo, as `Framing.cut` does; views are cut around `points`."""
        height, width = photo.shape[:2]
        rectangle = self.canvas_rectangle(points)
        across, down = np.ptp(points, axis=0).tolist()
        if max(across, down) > _LARGEST_BOX * max(width, height):
            raise DataError(
                f"the box of its points, {across:g} x {down:g} pixels, is larger than the photo, "
                f"{width} x {height}"
            )
        return framing.cut_canvas(photo, points, rectangle, self.canvas_size)


Frame = Framing | BoxCanvas
"""How photos become canvases: by a crop alone, or with room to draw box views."""
