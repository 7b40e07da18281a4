"""Face lists in the form of MTFL (Zhang et al., ECCV 2014), whose AFLW part is often a test set."""

import os
from collections.abc import Sequence

import numpy as np

from landmarks_jax.data import lists, photos
from landmarks_jax.errors import DataError

NUM_POINTS = 5  # left eye, right eye, nose, left and right mouth corner, as seen


class MtflFaces(photos.PhotoFiles):
    """The faces of one list, five labelled points each, in the list's order."""

    def __init__(
        self, list_file: str, root: str | None = None, exclude: Sequence[str] = ()
    ) -> None:
        r"""Reads the list and finds its photos.

        Args:
          list_file: lines `path x1 ... x5 y1 ... y5 [attributes]`, points in pixels of the stored
            photo; `\` in a path separates folders, as in the original lists.
          root: the folder the paths start from; the list's own by default.
          exclude: list files of photos to leave out.

        Raises:
          DataError: a line is malformed, or a photo missing or unreadable.
        """
        entries, points = read_list(list_file)
        folder = root or os.path.dirname(list_file) or "."
        found = lists.locate(entries, [folder])
        kept, excluded = lists.leave_out(found, exclude)
        remaining = [found[i] for i in kept]
        lists.check_labelled(remaining, folder)
        note = photos.one_line(f"{len(kept):,} faces of {list_file}", excluded)
        super().__init__(remaining, points[kept], note)


def read_list(path: str) -> tuple[list[tuple[str, str]], np.ndarray]:
    """Reads a list.

    Returns:
      For each face its place `list:line` and its photo's path, and the points `[N, 5, 2]` float32.
    """
    entries, points = [], []
    for place, line in lists.read_lines(path):
        name, *cells = line.split()
        if len(cells) < 2 * NUM_POINTS:
            raise DataError(
                f"{place}: {len(cells)} numbers after the photo, at least {2 * NUM_POINTS} wanted "
                "(x1 ... x5 y1 ... y5)"
            )
        entries.append((place, name.replace("\\", "/").removeprefix("./")))
        points.append(lists.numbers(cells[: 2 * NUM_POINTS], place).reshape(2, NUM_POINTS).T)
    if not points:
        raise DataError(f"{path}: no face is listed")
    return entries, np.stack(points)
