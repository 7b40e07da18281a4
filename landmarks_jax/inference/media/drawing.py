"""Landmarks drawn on images by Pillow: dots in fixed colours, numbers, crosses, trails."""

import dataclasses
import functools
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from landmarks_jax.system.palette import byte_colors, crowding

_CROSS = (255, 212, 0)
_BLACK = (0, 0, 0)
_DOT = 0.055  # diameter of a dot, of the side of the viewed part
# Where a number may stand, by preference: direction from its dot, and Pillow's text anchor.
_SIDES = ((1, 0, "lm"), (-1, 0, "rm"), (0, -1, "ms"), (0, 1, "mt"))


@dataclasses.dataclass(frozen=True)
class Marks:
    """What to draw of one view.

    Attributes:
      landmarks: `[K, 2]` in pixels; the centre of the first pixel is at (0, 0).
      side: side of the part of the image that the view shows, in pixels; dots scale with it.
      labelled: `[P, 2]` drawn as crosses, or None.
      trail: `[T, K, 2]`, previous landmarks, oldest first, and the current ones; or None.
    """

    landmarks: np.ndarray
    side: float
    labelled: np.ndarray | None = None
    trail: np.ndarray | None = None


def radius(side: float, count: int) -> float:
    """Radius of a dot among `count`, in pixels; at least 1, to cover its pixel."""
    return max(1.0, _DOT * crowding(count) * side / 2)


def draw(pixels: np.ndarray, marks: Sequence[Marks], *, numbers: bool = False) -> Image.Image:
    """Draws on a copy of an image.

    Args:
      pixels: `[H, W, 3]` uint8.
      marks: what to draw, per view. Points that are not finite or far outside are skipped.
      numbers: draw each landmark's number beside it, from 1 as in the result files.
    """
    image = Image.fromarray(pixels)
    pen = ImageDraw.Draw(image)
    for mark in marks:
        size = radius(mark.side, len(mark.landmarks))
        if mark.trail is not None:
            _draw_trails(pen, mark.trail, image.size, size)
        if mark.labelled is not None:
            _draw_crosses(pen, mark.labelled, image.size, size)
        _draw_dots(pen, mark.landmarks, image.size, size)
        if numbers:
            _draw_numbers(pen, mark.landmarks, image.size, size)
    return image


def _visible(points: np.ndarray, size: tuple[int, int]) -> list[tuple[int, float, float]]:
    """Index, x and y of the points `[N, 2]` that are finite and not far outside the image."""
    margin, (width, height) = max(size), size
    return [
        (index, x, y)
        for index, (x, y) in enumerate(points.tolist())
        if -margin < x < width + margin and -margin < y < height + margin
    ]


def _draw_dots(
    pen: ImageDraw.ImageDraw, points: np.ndarray, size: tuple[int, int], radius: float
) -> None:
    outline = 1 if radius < 12 else 2
    colors = byte_colors(len(points))
    for index, x, y in _visible(points, size):
        for color, r in ((_BLACK, radius + outline), (colors[index], radius)):
            # Pillow truncates coordinates to whole pixels, which would shift dots up and left.
            pen.ellipse((round(x - r), round(y - r), round(x + r), round(y + r)), fill=color)


def _draw_crosses(
    pen: ImageDraw.ImageDraw, points: np.ndarray, size: tuple[int, int], radius: float
) -> None:
    width, arm = max(1, round(radius / 2.5)), max(2, round(radius))
    for _, x, y in _visible(points, size):
        column, row = round(x), round(y)
        for color, wide, reach in ((_BLACK, width + 2, arm + 1), (_CROSS, width, arm)):
            for down in (reach, -reach):
                ends = (column - reach, row - down, column + reach, row + down)
                pen.line(ends, fill=color, width=wide)


def _draw_trails(
    pen: ImageDraw.ImageDraw, trail: np.ndarray, size: tuple[int, int], radius: float
) -> None:
    width = max(1, round(radius / 2))
    for index, color in enumerate(byte_colors(trail.shape[1])):
        path = [(round(x), round(y)) for _, x, y in _visible(trail[:, index], size)]
        if len(path) > 1:
            pen.line(path, fill=color, width=width, joint="curve")


def _draw_numbers(
    pen: ImageDraw.ImageDraw, points: np.ndarray, size: tuple[int, int], radius: float
) -> None:
    """Draws each number where it overlaps dots and earlier numbers the least."""
    font, stroke = _font(max(8, round(2.4 * radius))), max(1, round(radius / 5))
    visible = _visible(points, size)
    dots = [(x - radius, y - radius, x + radius, y + radius) for _, x, y in visible]
    drawn: list[tuple[float, float, float, float]] = []
    for i, (index, x, y) in enumerate(visible):
        text, reach = str(index + 1), 1.3 * radius
        places = [((x + right * reach, y + down * reach), at) for right, down, at in _SIDES]
        boxes = [pen.textbbox(place, text, font, at, stroke_width=stroke) for place, at in places]
        others = np.array([*dots[:i], *dots[i + 1 :], *drawn]).reshape(-1, 4)
        best = int(np.argmin([_overlap(np.array(box), others) for box in boxes]))
        place, at = places[best]
        pen.text(place, text, "white", font, at, stroke_width=stroke, stroke_fill=_BLACK)
        drawn.append(boxes[best])


def _overlap(box: np.ndarray, others: np.ndarray) -> float:
    """Areas of the intersections of a box `x0, y0, x1, y1` with others `[N, 4]`, their sum."""
    sides = np.minimum(box[2:], others[:, 2:]) - np.maximum(box[:2], others[:, :2])
    return float(sides.clip(0).prod(1).sum())


@functools.cache
def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)
