"""Frames of a video: their pixels, upright, and how they are shown."""

from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np

# A display matrix within about a degree of a quarter turn is taken for one.
_SKEW = 0.02


class Frame(NamedTuple):
    """A video frame.

    Attributes:
      number: frame number from 0.
      time: seconds since the first frame.
      image: PyAV's frame, as stored.
      aspect: width of a pixel of the upright frame, relative to its height.
    """

    number: int
    time: float
    image: Any
    aspect: Fraction = Fraction(1)


class Orientation(NamedTuple):
    """How a stored image becomes upright: transposed first, then mirrored.

    Attributes:
      transpose: whether rows become columns.
      flip_rows: whether the order of the rows is reversed.
      flip_columns: whether the order of the columns is reversed.
    """

    transpose: bool
    flip_rows: bool
    flip_columns: bool


AS_STORED = Orientation(False, False, False)


def orientation(image: Any) -> Orientation | None:
    """How a PyAV frame becomes upright, by its display matrix; None if no orientation does that.

    ISO 14496-12: the matrix `a b u, c d v, x y w` shows the stored pixel (p, q) at
    (a p + c q + x, b p + d q + y). Its scale is in the sample aspect ratio already.
    """
    try:
        data = image.side_data.get("DISPLAYMATRIX")
    except ValueError:  # PyAV lists no side data beside a kind that it does not know, such as EXIF
        return _rotation(image.rotation)
    if data is None:
        return AS_STORED
    a, b, _, c, d = np.frombuffer(data, np.int32)[:5].tolist()
    if max(abs(b), abs(c)) <= _SKEW * min(abs(a), abs(d)) and a and d:
        return Orientation(False, d < 0, a < 0)
    if max(abs(a), abs(d)) <= _SKEW * min(abs(b), abs(c)) and b and c:
        return Orientation(True, b < 0, c < 0)
    return None


def _rotation(degrees: float) -> Orientation:
    """The quarter turn closest to a rotation, counter-clockwise in degrees."""
    quarters = round(degrees / 90) % 4
    return Orientation(quarters % 2 == 1, quarters in (1, 2), quarters in (2, 3))


def upright(image: Any) -> np.ndarray:
    """A PyAV frame as uint8 RGB `[H, W, 3]`, rotated and mirrored as its display matrix says.

    A frame that no orientation makes upright stays as stored.
    """
    pixels = image.to_ndarray(format="rgb24")
    transpose, flip_rows, flip_columns = orientation(image) or AS_STORED
    if transpose:
        pixels = pixels.transpose(1, 0, 2)
    pixels = pixels[:: -1 if flip_rows else 1, :: -1 if flip_columns else 1]
    return np.ascontiguousarray(pixels)
