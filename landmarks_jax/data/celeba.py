"""CelebA in its official layout (Liu et al., ICCV 2015), aligned and cropped, 178 x 218 pixels."""

import os
from collections.abc import Sequence

import numpy as np

from landmarks_jax.data import files, lists, photos
from landmarks_jax.errors import DataError

FOLDER = "img_align_celeba"
LANDMARKS = "list_landmarks_align_celeba.txt"
NUM_POINTS = 5  # left eye, right eye, nose, left and right mouth corner, as seen


class CelebaPhotos(photos.PhotoFiles):
    """The photos `img_align_celeba/NNNNNN.jpg`, with five points where their list is there."""

    def __init__(self, root: str, exclude: Sequence[str] = ()) -> None:
        """Finds the photos.

        Args:
          root: the folder that holds `img_align_celeba` and, for the points,
            `list_landmarks_align_celeba.txt`.
          exclude: list files of photos to leave out (MAFL's `testing.txt`).

        Raises:
          DataError: the layout is another, or the list is malformed.
        """
        folder = os.path.join(root, FOLDER)
        if not os.path.isdir(folder):
            raise DataError(
                f"{root}: no folder {FOLDER} in it; CelebA's aligned photos belong there"
            )
        found, note = files.usable_files([folder])
        remaining, excluded = lists.leave_out(found, exclude)
        kept = [found[i] for i in remaining]
        table = os.path.join(root, LANDMARKS)
        points = _points_of(kept, table) if os.path.isfile(table) else None
        labels = f"{NUM_POINTS} points each" if points is not None else f"no points ({LANDMARKS})"
        summary = photos.one_line(f"{len(kept):,} photos of {root}, {labels}", excluded, note)
        super().__init__(kept, points, summary)


def read_landmarks(path: str) -> dict[str, np.ndarray]:
    """Reads the official list: a count, a header, then `000001.jpg x1 y1 ... x5 y5`.

    Returns:
      For each photo's id its points `[5, 2]` float32 in pixels.
    """
    table: dict[str, np.ndarray] = {}
    lines = lists.read_lines(path)
    place, count = next(lines, (path, ""))
    if not count.isdigit():
        raise DataError(f"{place}: the first line must be the number of photos")
    next(lines, None)  # the names of the ten columns
    for place, line in lines:
        name, *cells = line.split()
        if len(cells) != 2 * NUM_POINTS:
            raise DataError(f"{place}: {len(cells)} numbers after the file, not {2 * NUM_POINTS}")
        table[lists.photo_id(name)] = lists.numbers(cells, place).reshape(NUM_POINTS, 2)
    if len(table) != int(count):
        raise DataError(f"{path}: lists {len(table):,} photos, its first line says {int(count):,}")
    return table


def _points_of(found: Sequence[files.PhotoFile], path: str) -> np.ndarray:
    """The points `[N, 5, 2]` of the photos, each of which the list must name."""
    table = read_landmarks(path)
    missing = [photo.name for photo in found if lists.photo_id(photo.name) not in table]
    if missing:
        raise DataError(f"{path}: no points for {len(missing):,} photos: {files.some(missing)}")
    lists.check_labelled(found, os.path.dirname(found[0].path))
    return np.stack([table[lists.photo_id(photo.name)] for photo in found])
