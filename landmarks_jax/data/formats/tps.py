"""TPS: the files of tpsDig and tpsUtil (Rohlf), which geomorph, Morpho and MorphoJ read.

    LM=2
    10.50000 989.50000
    20.00000 980.00000
    IMAGE=wing.jpg
    ID=0
    SCALE=0.004213

`LM=` and so many points start an image; other lines are `KEY=value`. Points are in pixels from the
lower left corner of the image, y upwards: an image `H` high shows `y` at the height `H - y`. So the
centre of the lower left pixel is at 0.5, 0.5. `SCALE` is the length of a pixel.
"""

import math
import os
import re
from collections.abc import Iterator, Sequence

import numpy as np

from landmarks_jax.data import lists
from landmarks_jax.data.formats.records import Found, Labels, same_number
from landmarks_jax.system.errors import DataError

_ORIGIN = 0.5  # the centre of the first pixel, right of and above the corner
_MISSING = ((0.0, 0.0), (-1.0, -1.0))  # as geomorph and tpsDig write what was not digitised
_ABSENT = "NA"
# Lines of numbers may follow these, besides LM= and POINTS=.
_BLOCKS = frozenset(("VARIABLES", "RADII", "RADIIXY", "CHAIN"))
_ABSOLUTE = re.compile(r"[A-Za-z]:/|/")


def read(path: str) -> Labels:
    """Reads the landmarks of a file; curves, outlines and `SCALE` do not count.

    Photos are relative to the file's folder; an absolute path that is not there, such as one of
    another machine, is looked for by its name. Images without landmarks are left out.

    Raises:
      DataError: a line is malformed, or an image has other points than those before.
    """
    labelled: list[tuple[tuple[str, str], np.ndarray]] = []
    bare = 0
    for place, points, photo in _images(path):
        if not len(points):
            bare += 1
            continue
        if not photo:
            raise DataError(f"{place}: its image is not named by a line IMAGE=")
        same_number(place, len(points), len(labelled[0][1]) if labelled else 0)
        labelled.append(((place, photo), points))
    if not labelled:
        raise DataError(f"{path}: no image with landmarks is listed")
    entries, points = zip(*labelled, strict=True)
    return Labels(
        list(entries),
        np.stack(points),
        folders=(os.path.dirname(path) or ".",),
        note=f"{bare:,} images without landmarks left out" if bare else "",
        to_pixels=to_pixels,
    )


def to_pixels(points: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Points `[N, P, 2]` as in a file, in pixels of its photos of the sizes `[N, 2]` (w, h)."""
    x, y = points[..., 0], points[..., 1]
    return np.stack([x - _ORIGIN, sizes[:, None, 1] - _ORIGIN - y], -1)


def _images(path: str) -> Iterator[tuple[str, np.ndarray, str]]:
    """For each image the place of its `LM=`, its points `[P, 2]` and its photo's path or ""."""
    lines = lists.read_lines(path)
    image: tuple[str, np.ndarray, str] | None = None
    before = ""
    for place, line in lines:
        key, equals, value = (part.strip() for part in line.partition("="))
        key = key.upper()
        if key == "LM" and equals:
            if image:
                yield image
            image = place, _points(lines, place, value), ""
        elif not equals and before in _BLOCKS:
            continue
        elif not equals:
            raise DataError(f"{place}: {line[:40]!r} is neither KEY=value nor one of the points")
        elif key == "LM3" or image is None:
            raise DataError(f"{place}: an image must start with LM= and its number of points")
        elif key == "POINTS":
            _points(lines, place, value)
        elif key == "SCALE":
            lists.number(value, place)
        elif key == "IMAGE":
            image = image[0], image[1], _photo(value)
        before = key
    if image:
        yield image


def _points(lines: Iterator[tuple[str, str]], place: str, count: str) -> np.ndarray:
    """The next `count` lines as points `[count, 2]`, NaN where they are missing."""
    if not (count.isascii() and count.isdecimal()):
        raise DataError(f"{place}: {count!r} is not a number of points")
    points = []
    for number in range(int(count)):
        where, line = next(lines, ("", "="))
        if "=" in line:
            raise DataError(f"{place}: {number} of {int(count)} points follow")
        cells = line.split()
        if len(cells) != 2:
            raise DataError(f"{where}: must be a point, two numbers x y")
        if all(cell.upper() == _ABSENT for cell in cells):
            points.append((math.nan, math.nan))
            continue
        x, y = (lists.number(cell, where) for cell in cells)
        points.append((math.nan, math.nan) if (x, y) in _MISSING else (x, y))
    return np.array(points, float).reshape(-1, 2)


def _photo(written: str) -> str:
    name = written.replace("\\", "/")
    if _ABSOLUTE.match(name) and not os.path.isfile(name):
        return name.rpartition("/")[2]
    return name


def write(found: Sequence[Found], scale: float | None = None) -> str:
    """The text of a file; images are numbered from 0, frames and boxes stand in a comment.

    Args:
      found: the objects, an image each.
      scale: the length of a pixel, for `SCALE=`.

    Raises:
      DataError: a file's name has a line break.
    """
    lines = []
    for number, one in enumerate(found):
        if len(one.file.splitlines()) != 1:
            raise DataError(f"{one.file!r}: a line break in its name, which TPS cannot hold")
        lines.append(f"LM={len(one.points)}")
        for x, y in one.points.tolist():
            there = math.isfinite(x) and math.isfinite(y)
            written = x + _ORIGIN, one.size[1] - _ORIGIN - y
            lines.append("{:.5f} {:.5f}".format(*written) if there else f"{_ABSENT} {_ABSENT}")
        lines += [f"IMAGE={one.file}", f"ID={number}"]
        if scale is not None:
            lines.append(f"SCALE={scale:.10g}")
        parts = {"frame": one.frame, "box": one.box}
        if comment := ", ".join(f"{name} {n}" for name, n in parts.items() if n is not None):
            lines.append(f"COMMENT={comment}")
    return "".join(f"{line}\n" for line in lines)
