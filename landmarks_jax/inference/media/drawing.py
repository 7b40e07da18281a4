"""Landmarks drawn on pictures, by Pillow: dots in fixed colours, numbers, crosses, trails."""

import dataclasses
import functools
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from landmarks_jax.system.palette import crowding, landmark_colors

_CROSS = (255, 212, 0)
_BLACK = (0, 0, 0)
# Of the side of the shown part; with more points dots are smaller, as on evaluation's pages.
_DOT = 0.055
# Where a number can stand, the best first: the way from its dot, and Pillow's anchor of the text.
_SIDES = ((1, 0, "lm"), (-1, 0, "rm"), (0, -1, "ms"), (0, 1, "mt"))


@dataclasses.dataclass(frozen=True)
class Marks:
    """What is drawn of one view.

    Attributes:
      landmarks: `[K, 2]` in pixels, the centre of the first pixel at 0.
      side: of the part of the picture that the view shows, in pixels: dots scale with it.
      labelled: `[P, 2]` drawn as crosses, or None.
      trail: `[T, K, 2]` where the landmarks were, oldest first, with where they are; or None.
    """

    landmarks: np.ndarray
    side: float
    labelled: np.ndarray | None = None
    trail: np.ndarray | None = None


@functools.cache
def colors(count: int) -> list[tuple[int, int, int]]:
    """The landmarks' colours as bytes."""
    bytes_ = np.rint(255 * landmark_colors(count)).astype(int)
    return [(int(red), int(green), int(blue)) for red, green, blue in bytes_]


def radius(side: float, count: int) -> float:
    """Of a dot among `count`, in pixels: at least 1, so that it covers its pixel."""
    return max(1.0, _DOT * crowding(count) * side / 2)


def draw(pixels: np.ndarray, marks: Sequence[Marks], *, numbers: bool = False) -> Image.Image:
    """Draws on a copy of a picture.

    Args:
      pixels: `[H, W, 3]` uint8.
      marks: what to draw, view by view. Points that are not finite or far outside are left out.
      numbers: write each landmark's number beside it, from 1, as the table's columns have them.
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


def _seen(points: np.ndarray, size: tuple[int, int]) -> list[tuple[int, float, float]]:
    """Number, x and y of the points `[N, 2]` that are finite and not far outside the picture."""
    reach, (width, height) = max(size), size
    return [
        (number, x, y)
        for number, (x, y) in enumerate(points.tolist())
        if -reach < x < width + reach and -reach < y < height + reach
    ]


def _draw_dots(
    pen: ImageDraw.ImageDraw, points: np.ndarray, size: tuple[int, int], radius: float
) -> None:
    outline = 1 if radius < 12 else 2
    palette = colors(len(points))
    for number, x, y in _seen(points, size):
        for color, reach in ((_BLACK, radius + outline), (palette[number], radius)):
            # Pillow cuts coordinates off at whole pixels, which would pull dots up and left.
            edges = (round(x - reach), round(y - reach), round(x + reach), round(y + reach))
            pen.ellipse(edges, fill=color)


def _draw_crosses(
    pen: ImageDraw.ImageDraw, points: np.ndarray, size: tuple[int, int], radius: float
) -> None:
    width, arm = max(1, round(radius / 2.5)), max(2, round(radius))
    for _, x, y in _seen(points, size):
        column, row = round(x), round(y)
        for color, wide, reach in ((_BLACK, width + 2, arm + 1), (_CROSS, width, arm)):
            for turn in (reach, -reach):
                ends = (column - reach, row - turn, column + reach, row + turn)
                pen.line(ends, fill=color, width=wide)


def _draw_trails(
    pen: ImageDraw.ImageDraw, trail: np.ndarray, size: tuple[int, int], radius: float
) -> None:
    width = max(1, round(radius / 2))
    for index, color in enumerate(colors(trail.shape[1])):
        path = [(round(x), round(y)) for _, x, y in _seen(trail[:, index], size)]
        if len(path) > 1:
            pen.line(path, fill=color, width=width, joint="curve")


def _draw_numbers(
    pen: ImageDraw.ImageDraw, points: np.ndarray, size: tuple[int, int], radius: float
) -> None:
    """Each number where it hides the least of dots and of the numbers before it."""
    font, stroke = _font(max(8, round(2.4 * radius))), max(1, round(radius / 5))
    seen = _seen(points, size)
    dots = [(x - radius, y - radius, x + radius, y + radius) for _, x, y in seen]
    written: list[tuple[float, float, float, float]] = []
    for index, (number, x, y) in enumerate(seen):
        text, reach = str(number + 1), 1.3 * radius
        places = [((x + right * reach, y + down * reach), at) for right, down, at in _SIDES]
        boxes = [pen.textbbox(place, text, font, at, stroke_width=stroke) for place, at in places]
        others = [*dots[:index], *dots[index + 1 :], *written]
        hidden = [sum(_overlap(box, other) for other in others) for box in boxes]
        best = int(np.argmin(hidden))
        place, at = places[best]
        pen.text(place, text, "white", font, at, stroke_width=stroke, stroke_fill=_BLACK)
        written.append(boxes[best])


def _overlap(one: Sequence[float], other: Sequence[float]) -> float:
    """The area that two boxes `x0, y0, x1, y1` share."""
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    return max(width, 0.0) * max(height, 0.0)


@functools.cache
def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)
