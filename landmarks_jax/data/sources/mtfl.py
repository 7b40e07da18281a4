r"""Face lists of MTFL (Zhang et al., ECCV 2014) and CNN_FacePoint (Sun et al., CVPR 2013).

Both list photos of `lfw_5590` and `net_7876`, MTFL also of `AFLW`. A line is one of

    path x1 ... x5 y1 ... y5
    path x1 ... x5 y1 ... y5 gender smile glasses pose      (MTFL)
    path left right top bottom x1 y1 ... x5 y5              (CNN_FacePoint)

with points in pixels of the stored photo and `\` between folders. The last two both have 14
numbers: if the last four are integers from 1 to 5 they are attributes, as no mouth's right corner
lies there. All lines of a list must be of one kind.
"""

import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from landmarks_jax.data import lists
from landmarks_jax.data.sources import photos
from landmarks_jax.system.errors import ConfigError, DataError

ORIGIN = (
    "MTFL (https://mmlab.ie.cuhk.edu.hk/projects/TCDCN.html) and CNN_FacePoint "
    "(https://mmlab.ie.cuhk.edu.hk/archive/CNN_FacePoint.htm): the lists training.txt and "
    "testing.txt, or trainImageList.txt and testImageList.txt, beside the folders lfw_5590, "
    "net_7876 and AFLW"
)
NUM_POINTS = 5  # left eye, right eye, nose, left and right mouth corner, as seen
_PLAIN, _LONG = 2 * NUM_POINTS, 2 * NUM_POINTS + 4  # numbers of a line
_ATTRIBUTES = range(1, 6)


class MtflFaces(photos.PhotoFiles):
    """The faces of one list, five points each, in the list's order."""

    def __init__(
        self, list_file: str, root: str | None = None, exclude: Sequence[str] = ()
    ) -> None:
        """Reads the list and finds its photos.

        Args:
          list_file: in one of the formats above.
          root: the folder that paths are relative to; the list's own by default.
          exclude: lists of photos to leave out.

        Raises:
          DataError: a line is malformed, or a photo missing or unreadable.
        """
        entries, points = read_list(list_file)
        folder = root or os.path.dirname(list_file) or "."
        files = lists.locate(entries, [folder])
        kept, excluded = lists.leave_out(files, exclude)
        remaining = [files[i] for i in kept]
        sizes = lists.check_labelled(remaining, folder)
        lists.check_points(points[kept], sizes, [entries[i][0] for i in kept])
        note = photos.one_line(f"{len(kept):,} faces of {list_file}", excluded)
        super().__init__(remaining, points[kept], note)


def open_config(data: Any) -> MtflFaces:
    """Opens the photos of `config.data`."""
    if not data.landmarks:
        raise ConfigError("config.data.landmarks = '': source 'mtfl' needs its list file here")
    root = photos.roots_of(data, "at most one folder")[0] if data.roots else None
    return MtflFaces(data.landmarks, root, tuple(data.exclude))


def read_list(path: str) -> tuple[list[tuple[str, str]], np.ndarray]:
    """Reads a list.

    Returns:
      For each face its place `list:line` and its photo's path, and the points `[N, 5, 2]` float32.
    """
    photos.need_file(path, ORIGIN)
    entries, points = [], []
    kind = ""
    for place, line in lists.read_lines(path):
        name, *cells = line.split()
        if len(cells) not in (_PLAIN, _LONG):
            raise DataError(
                f"{place}: {len(cells)} numbers after the photo, must be {_PLAIN} or {_LONG} "
                "(x1 ... x5 y1 ... y5, four attributes after them, or a box and x1 y1 ... x5 y5)"
            )
        values = lists.numbers(cells, place)
        if len(cells) == _LONG:
            own = "attributes" if _has_attributes(values) else "a box"
            if kind and own != kind:
                raise DataError(f"{place}: 14 numbers with {own}, the lines before with {kind}")
            kind = own
        entries.append((place, name.replace("\\", "/").removeprefix("./")))
        points.append(_points(values, place))
    if not points:
        raise DataError(f"{path}: no face is listed")
    return entries, np.stack(points)


def _has_attributes(values: np.ndarray) -> bool:
    return all(float(value) in _ATTRIBUTES for value in values[_PLAIN:])


def _points(values: np.ndarray, place: str) -> np.ndarray:
    """The points `[5, 2]` of a line's numbers."""
    if len(values) == _PLAIN or _has_attributes(values):
        return values[:_PLAIN].reshape(2, NUM_POINTS).T
    left, right, top, bottom = values[:4]
    if not (left < right and top < bottom):
        raise DataError(
            f"{place}: neither four attributes from 1 to 5 at the end, nor a box "
            "(left right top bottom) at the start"
        )
    return values[4:].reshape(NUM_POINTS, 2)
