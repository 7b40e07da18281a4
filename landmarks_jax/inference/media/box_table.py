"""A list of boxes: which part of each picture to look at."""

import os
from collections.abc import Iterable

import numpy as np

from landmarks_jax.data import lists
from landmarks_jax.system.errors import DataError

_HEADER = ["file", "x0", "y0", "x1", "y1"]


class Boxes:
    """The boxes of a table `file,x0,y0,x1,y1` with that header, one a line.

    They are in pixel edges of the upright picture: 0, 0, W, H is the whole of it.
    """

    def __init__(self, path: str) -> None:
        """Reads the table.

        Args:
          path: its file. Pictures are relative to its folder, or else to where the program runs.

        Raises:
          DataError: a line is malformed or names a missing file; it is named by its number.
        """
        self._path = path
        self._boxes: dict[str, list[np.ndarray]] = {}
        lines = lists.read_lines(path)
        place, header = next(lines, (path, ""))
        if [cell.lower() for cell in lists.cells(header, place)] != _HEADER:
            raise DataError(f"{place}: the header must be {','.join(_HEADER)}")
        for place, line in lines:
            row = lists.cells(line, place)
            if len(row) != len(_HEADER):
                raise DataError(f"{place}: {len(row)} cells, the header has {len(_HEADER)}")
            box = lists.numbers(row[1:], place)
            if not (box[0] < box[2] and box[1] < box[3]):
                raise DataError(f"{place}: the box must have x0 < x1 and y0 < y1")
            file = _located(row[0], os.path.dirname(path), place)
            self._boxes.setdefault(os.path.realpath(file), []).append(box)
        if not self._boxes:
            raise DataError(f"{path}: no box is listed")

    def of(self, path: str) -> np.ndarray:
        """The boxes `[n, 4]` of a picture in the order of their lines; n may be 0."""
        return np.array(self._boxes.get(os.path.realpath(path), ()), np.float64).reshape(-1, 4)

    def check_inputs(self, paths: Iterable[str]) -> str:
        """Looks which boxes will be used.

        Returns:
          A note of how many files of the table are no input ("" where all are).

        Raises:
          DataError: no input has a box.
        """
        inputs = {os.path.realpath(path) for path in paths}
        unused = self._boxes.keys() - inputs
        if len(unused) == len(self._boxes):
            raise DataError(f"{self._path}: has no box for any of the {len(inputs):,} inputs")
        return f"{self._path}: {len(unused):,} of its files are no inputs" if unused else ""


def _located(name: str, folder: str, place: str) -> str:
    """A picture as the table names it: below the table's folder, or as it stands."""
    for path in (os.path.join(folder, name), name):
        if os.path.isfile(path):
            return path
    raise DataError(f"{place}: no such file {os.path.join(folder, name)}")
