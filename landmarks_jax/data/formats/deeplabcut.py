"""DeepLabCut's CSV of one animal: `CollectedData_*.csv` of labels, and the files of its analysis.

    scorer,me,me,me,me,me,me
    bodyparts,snout,snout,snout,tail,tail,tail
    coords,x,y,likelihood,x,y,likelihood
    labeled-data/clip/img000.png,12.5,20.25,0.99,40.0,21.5,0.98

Labels have no `likelihood`. Rows start with the path of an image, in one column or three, or with
the number of a video's frame. The centre of the first pixel is at 0, 0.
"""

import itertools
import math
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from landmarks_jax.data import lists
from landmarks_jax.data.formats.records import Found, Labels
from landmarks_jax.system import tables
from landmarks_jax.system.errors import DataError

HEADER = ("scorer", "bodyparts", "coords")
_PLAIN, _LIKELY = ["x", "y"], ["x", "y", "likelihood"]
_EMPTY = ("", "nan")
SCORER = "landmarks_jax"


def is_own(path: str) -> bool:
    """Whether a CSV file starts as DeepLabCut's do."""
    place, line = next(lists.read_lines(path), (path, ""))
    return lists.cells(line, place)[:1] == [HEADER[0]]


def read(path: str) -> Labels:
    """Reads the labels of images.

    Images are relative to the file's folder, or to the project's, two folders up. Points of this
    program, as the scorer, are in pixels of the upright image.

    Raises:
      DataError: a line is malformed, or the labels are of several animals or of a video's frames.
    """
    lines = lists.read_lines(path)
    first = itertools.islice(lines, len(HEADER))
    header = [(place, lists.cells(line, place)) for place, line in first]
    names, index, step = _check_header(path, header)
    entries, points = [], []
    for place, line in lines:
        cells = lists.cells(line, place)
        if len(cells) != index + step * len(names):
            expected = index + step * len(names)
            raise DataError(f"{place}: {len(cells)} cells, the header has {expected}")
        image = "/".join(filter(None, cells[:index])).replace("\\", "/")
        if image.isdecimal():
            raise DataError(f"{place}: {image} is a frame of a video; labels must be of images")
        entries.append((place, image))
        rows = [cells[i : i + 2] for i in range(index, len(cells), step)]
        points.append([_point(row, place) for row in rows])
    if not points:
        raise DataError(f"{path}: no image is listed")
    folder = os.path.dirname(path) or "."
    folders = (folder, os.path.join(folder, "..", ".."))
    own = header[0][1][index] == SCORER
    missing = () if own else lists.MISSING
    return Labels(entries, np.array(points), names, folders, missing, upright=own)


def _check_header(
    path: str, header: Sequence[tuple[str, list[str]]]
) -> tuple[tuple[str, ...], int, int]:
    """The names of the points, and the columns of the image's path and of each point."""
    if len(header) < len(HEADER):
        raise DataError(f"{path}: the header must be of the lines {', '.join(HEADER)}")
    for (place, cells), name in zip(header, HEADER, strict=True):
        if cells[:1] == ["individuals"]:
            raise DataError(f"{place}: labels of several animals; give those of one")
        if cells[:1] != [name] or len(cells) != len(header[0][1]):
            raise DataError(f"{place}: the header must be of the lines {', '.join(HEADER)}")
    (_, parts), (place, coords) = header[1:]
    index = next((i for i, cell in enumerate(coords) if i and cell), len(coords))
    form = _LIKELY if coords[index + 2 : index + 3] == _LIKELY[2:] else _PLAIN
    names = parts[index :: len(form)]
    columns = [(name, coord) for name in names for coord in form]
    if not names or list(zip(parts[index:], coords[index:], strict=True)) != columns:
        raise DataError(f"{place}: each point must have the columns x,y or x,y,likelihood")
    return tuple(names), index, len(form)


def _point(cells: Sequence[str], place: str) -> tuple[float, float]:
    if all(cell.lower() in _EMPTY for cell in cells):
        return math.nan, math.nan
    x, y = (lists.number(cell, place) for cell in cells)
    return x, y


def write(found: Sequence[Found], names: Sequence[str]) -> str:
    """The text of a file: a row for each image, or for each frame of one video.

    Frames up to the last that have no object have a row without points.

    Raises:
      DataError: images and videos, several videos, or several objects in an image.
    """
    videos = {one.file for one in found if one.frame is not None}
    if len(videos) > 1 or (videos and any(one.frame is None for one in found)):
        raise DataError(
            "DeepLabCut's files are of images or of one video; detect each video by itself"
        )
    rows: dict[str | int, Found] = {}
    for one in found:
        row = one.file if one.frame is None else one.frame
        if row in rows:
            frame = "" if one.frame is None else f", frame {one.frame}"
            raise DataError(
                f"{one.file}{frame}: several objects, but DeepLabCut's files are of one animal; "
                "write .json or .tps"
            )
        rows[row] = one
    bare = np.full((len(names), len(_LIKELY)), np.nan)
    listed = range(max(one.frame or 0 for one in found) + 1) if videos else rows
    values = {row: _likely(rows[row]) if row in rows else bare for row in listed}
    return _table(values, names, _LIKELY)


def write_labels(labels: Mapping[str, np.ndarray], names: Sequence[str]) -> str:
    """The text of a file of labels: for each image its points `[P, 2]`, NaN where missing.

    Raises:
      DataError: the path of an image cannot be written so that it is read back.
    """
    for image in labels:
        check_image(image)
    return _table(labels, names, _PLAIN)


def check_image(image: str) -> None:
    """Refuses an image's path that a file cannot hold: `read` takes a backslash for a slash."""
    if image != image.strip() or "\\" in image or not image.isprintable():
        raise DataError(
            f"{image!r}: has a backslash, spaces around it, or characters that are not printable; "
            "rename it"
        )


def _table(values: Mapping[Any, np.ndarray], names: Sequence[str], columns: list[str]) -> str:
    """A row for each image or frame, of values `[P, columns]`."""
    rows: list[list[Any]] = [
        [HEADER[0], *[SCORER] * len(columns) * len(names)],
        [HEADER[1], *(name for name in names for _ in columns)],
        [HEADER[2], *columns * len(names)],
    ]
    for row, numbers in values.items():
        cells = [repr(value) if math.isfinite(value) else "" for value in numbers.ravel().tolist()]
        rows.append([row, *cells])
    return tables.csv_lines(rows)


def _likely(found: Found) -> np.ndarray:
    return np.concatenate([found.points, found.confidence[:, None]], 1)
