"""From photo to canvas: cuts a rectangle out of a photo and stretches it to a square.

The *view rectangle* is the part of the photo that an undistorted view shows; the *canvas* covers
that rectangle enlarged about its centre by `canvas_size / view_size`, so that a rotated or shifted
view still lies on it. Beyond the photo the canvas is replicated border.

Rectangles are `(left, top, right, bottom)` in pixel *edges*: pixel `i` covers `[i, i + 1)`, so the
whole photo is `(0, 0, width, height)` and a pixel centre `x` lies at the edge coordinate `x + 0.5`.

Crops, for a photo of `w x h` pixels:
  center  the canvas is the whole photo, the view its central `view_size / canvas_size`.
  tight   the view is the whole photo (for photos that are cropped to the face, such as AFLW's).
  box     the view is the box of the annotated points, each side moved outwards by a margin
          (Sanchez et al.); both corner pixels belong to it, unless it is `half_open`.

Training with crop `box` rotates the photo before it takes the box, from canvases of `box_canvas`.
"""

import dataclasses
import math
from typing import Any

import numpy as np
from PIL import Image

from landmarks_jax.system.errors import ConfigError, DataError

CROPS = ("center", "tight", "box")

# The box crop's margin, as a share of the mean of the box's width and height: evaluation's, and the
# mean and deviation of training's.
BOX_MARGIN, BOX_MARGIN_STD = 0.7, 0.04
_SMALL_BOX = 20.0  # pixels; if the mean is smaller ...
_SMALL_MARGIN = 8  # ... this is the margin, in pixels
# A canvas of many times the view is mostly replicated border, and the memory to make it grows with
# the square of the ratio.
_MAX_RATIO = 4

Rectangle = tuple[float, float, float, float]


def box_rectangle(
    points: np.ndarray, size: tuple[int, int], *, half_open: bool = False
) -> Rectangle:
    """The box of the points with its margin.

    The corners are pixels: rounded (halves to even) and clipped to `[0, w - 1]`, `[0, h - 1]`. Both
    are inside, so `x0..x1` becomes the edges `x0` to `x1 + 1`, and no box is ever empty.

    Args:
      points: `[P, 2]` points in pixels, P at least 1.
      size: `(width, height)` of the photo in pixels.
      half_open: whether the lower right corner is outside, as in the released code, which slices
        `x0:x1` and `y0:y1`: the edges are `x0` and `x1`. A box of one pixel stays one.
    """
    low, high = points.min(0).astype(np.float64), points.max(0).astype(np.float64)
    mean = float((high - low).mean())
    margin = _SMALL_MARGIN if mean < _SMALL_BOX else int(BOX_MARGIN * mean)
    last = np.asarray(size) - 1
    x0, y0 = np.clip(np.rint(low - margin), 0, last)
    x1, y1 = np.clip(np.rint(high + margin), 0, last)
    if half_open:
        return float(x0), float(y0), float(max(x1, x0 + 1)), float(max(y1, y0 + 1))
    return float(x0), float(y0), float(x1) + 1.0, float(y1) + 1.0


def _enlarge(rectangle: Rectangle, ratio: float) -> Rectangle:
    """The rectangle scaled about its centre."""
    left, top, right, bottom = rectangle
    cx, cy = (left + right) / 2, (top + bottom) / 2
    dx, dy = (right - left) / 2 * ratio, (bottom - top) / 2 * ratio
    return cx - dx, cy - dy, cx + dx, cy + dy


def _span(low: float, high: float, length: int, scale: float) -> np.ndarray:
    """Indices of the pixels of one axis to copy for `[low, high)`; may lie outside the photo.

    Inside the photo the copy extends by one filter width, for the resampling.
    """
    support = math.ceil(max(scale, 1.0)) + 1
    start, stop = math.floor(low), math.ceil(high)
    start, stop = min(start, max(0, start - support)), max(stop, min(length, stop + support))
    return np.arange(start, stop)


def stretch(photo: np.ndarray, rectangle: Rectangle, size: int) -> np.ndarray:
    """Cuts a rectangle out of a photo and stretches it to a square.

    Bilinear, antialiased where it shrinks; first along rows, then along columns, rounded to 8 bits
    after each. Beyond the photo its border is replicated.

    Args:
      photo: `[H, W, 3]` uint8.
      rectangle: in pixel edges; may reach beyond the photo.
      size: side of the result in pixels.

    Returns:
      `[size, size, 3]` uint8.
    """
    height, width = photo.shape[:2]
    left, top, right, bottom = rectangle
    columns = _span(left, right, width, (right - left) / size)
    rows = _span(top, bottom, height, (bottom - top) / size)
    box = (left - columns[0], top - rows[0], right - columns[0], bottom - rows[0])
    columns, rows = np.clip(columns, 0, width - 1), np.clip(rows, 0, height - 1)
    # First a slice, which copies nothing, so that the rest of a large photo costs no memory.
    source = photo[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    if source.shape[:2] != (len(rows), len(columns)):
        source = source[rows - rows[0]][:, columns - columns[0]]
    # In one call Pillow would resample columns first where that is cheaper, and round differently.
    bilinear, (x0, y0, x1, y1) = Image.Resampling.BILINEAR, box
    across = Image.fromarray(source).resize((size, len(rows)), bilinear, box=(x0, 0, x1, len(rows)))
    return np.asarray(across.resize((size, size), bilinear, box=(0, y0, size, y1)))


def cut_canvas(
    photo: np.ndarray, points: np.ndarray, rectangle: Rectangle, size: int
) -> tuple[np.ndarray, np.ndarray]:
    """Cuts a rectangle out of a photo as a canvas, with its points.

    Args:
      photo: `[H, W, 3]` uint8.
      points: `[P, 2]` in pixels of the photo, pixel centres at integers.
      rectangle: in pixel edges; may reach beyond the photo.
      size: side of the canvas in pixels.

    Returns:
      The canvas `[size, size, 3]` uint8, and the points `[P, 2]` float32, normalised to the canvas.
    """
    left, top, right, bottom = rectangle
    origin = np.array([left, top])
    extent = np.array([right - left, bottom - top])
    normalised = 2.0 * (np.asarray(points, np.float64) + 0.5 - origin) / extent - 1.0
    return stretch(photo, rectangle, size), normalised.astype(np.float32).reshape(-1, 2)


def need_points(num_points: int, what: str) -> None:
    """Raises `ConfigError` if `what` has no points, which the box crop needs."""
    if num_points == 0:
        raise ConfigError(
            f"config.data.crop = 'box' needs annotated points and {what} has none: "
            "give landmarks, or use crop 'center' or 'tight'"
        )


@dataclasses.dataclass(frozen=True)
class Framing:
    """How photos become canvases.

    Attributes:
      canvas_size: side of the canvas in pixels; `canvas_size - view_size` is even, so that the
        undistorted view is an exact slice of the canvas.
      view_size: side of the view in pixels.
      crop: "center", "tight" or "box".
      half_open: see `box_rectangle`; other crops do not depend on it.
    """

    canvas_size: int
    view_size: int
    crop: str
    half_open: bool = False

    def __post_init__(self) -> None:
        if self.crop not in CROPS:
            raise ConfigError(
                f"config.data.crop = {self.crop!r}: must be one of {', '.join(CROPS)}"
            )
        border = self.canvas_size - self.view_size
        if border < 0 or border % 2 or self.canvas_size > _MAX_RATIO * self.view_size:
            raise ConfigError(
                f"config.data.canvas_size = {self.canvas_size}: must be config.views.size = "
                f"{self.view_size} plus an even number, and at most {_MAX_RATIO * self.view_size}"
            )

    def check_points(self, num_points: int, what: str) -> None:
        """Raises `ConfigError` if the crop needs points and `what` has none."""
        if self.crop == "box":
            need_points(num_points, what)

    def view_rectangle(self, size: tuple[int, int], points: np.ndarray) -> Rectangle:
        """The part of a photo that the undistorted view shows, in pixel edges.

        Args:
          size: `(width, height)` of the photo in pixels.
          points: `[P, 2]` in pixels of the photo; only the box crop uses them.
        """
        whole = (0.0, 0.0, float(size[0]), float(size[1]))
        if self.crop == "tight":
            return whole
        if self.crop == "center":
            return _enlarge(whole, self.view_size / self.canvas_size)
        if len(points) == 0 or not np.isfinite(points).all():
            raise DataError("the box crop needs finite points")
        return box_rectangle(points, size, half_open=self.half_open)

    def canvas_rectangle(self, size: tuple[int, int], points: np.ndarray) -> Rectangle:
        """The part of a photo that the canvas covers, in pixel edges; may reach beyond it."""
        if self.crop == "center":  # exactly: a rounding error would add a border
            return 0.0, 0.0, float(size[0]), float(size[1])
        return _enlarge(self.view_rectangle(size, points), self.canvas_size / self.view_size)

    def cut(
        self, photo: np.ndarray, points: np.ndarray, box_points: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Cuts the canvas out of a photo.

        Args:
          photo: `[H, W, 3]` uint8.
          points: `[P, 2]` in pixels of the photo, pixel centres at integers.
          box_points: `[Q, 2]`, what the box crop is cut around; None takes `points`.

        Returns:
          The canvas `[C, C, 3]` uint8, and the points `[P, 2]` float32, normalised to the canvas.
        """
        height, width = photo.shape[:2]
        around = points if box_points is None else box_points
        rectangle = self.canvas_rectangle((width, height), around)
        return cut_canvas(photo, points, rectangle, self.canvas_size)

    def central_view(self, canvases: np.ndarray) -> np.ndarray:
        """The undistorted views `[..., S, S, 3]` of canvases `[..., C, C, 3]`: a slice, no copy."""
        border = (self.canvas_size - self.view_size) // 2
        inside = slice(border, border + self.view_size)
        return canvases[..., inside, inside, :]

    def points_in_view(self, points: np.ndarray) -> np.ndarray:
        """Points `[..., 2]` of the canvas frame in the frame of the undistorted view."""
        return points * (self.canvas_size / self.view_size)


def of_config(config: Any) -> Framing:
    """How photos are cut for undistorted views of the detector of a configuration.

    Raises:
      ConfigError: the sizes cannot work.
    """
    return Framing(config.data.canvas_size, config.views.size, config.data.crop)
