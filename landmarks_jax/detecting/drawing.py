"""Landmarks drawn on pictures, by Pillow: dots in fixed colours, numbers, crosses, trails."""

import dataclasses
import functools
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from landmarks_jax.palette import landmark_colors

_CROSS = (255, 212, 0)
_BLACK = (0, 0, 0)
# Of the side of the shown part; with more points dots are smaller, as on evaluation's pages.
_DOT = 0.055
_CROWDS = ((15, 1.0), (35, 0.75))
_CROWDED = 0.6


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
    share = next((share for most, share in _CROWDS if count <= most), _CROWDED)
    return max(1.0, _DOT * share * side / 2)


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
    font, stroke = _font(max(8, round(2.4 * radius))), max(1, round(radius / 5))
    for number, x, y in _seen(points, size):
        place, text = (x + 1.3 * radius, y), str(number + 1)
        pen.text(place, text, "white", font, "lm", stroke_width=stroke, stroke_fill=_BLACK)


@functools.cache
def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)
