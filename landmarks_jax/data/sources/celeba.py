"""CelebA in its official layout (Liu et al., ICCV 2015), aligned and cropped, 178 x 218 pixels."""

import os
from collections.abc import Sequence

import numpy as np

from landmarks_jax.data import lists, photo_files
from landmarks_jax.data.sources import origins, photos
from landmarks_jax.system.errors import DataError

FOLDER = "img_align_celeba"
LANDMARKS = "list_landmarks_align_celeba.txt"
PARTITION = "list_eval_partition.txt"
PARTITIONS = ("train", "validation", "test")  # 0, 1 and 2 in the list
NUM_POINTS = 5  # left eye, right eye, nose, left and right mouth corner, as seen


class CelebaPhotos(photos.PhotoFiles):
    """The photos `img_align_celeba/NNNNNN.jpg`, with five points where their list is there."""

    def __init__(self, root: str, exclude: Sequence[str] = (), part: str = "all") -> None:
        """Finds the photos.

        Args:
          root: the folder that holds `img_align_celeba`, for the points
            `list_landmarks_align_celeba.txt`, and for a partition `list_eval_partition.txt`.
          exclude: list files of photos to leave out (MAFL's `testing.txt`).
          part: "all", "train", "validation" or "test".

        Raises:
          DataError: the layout is another, or a list is malformed.
        """
        folder = os.path.join(root, FOLDER)
        origins.need_folder(folder, origins.CELEBA)
        found, note = photo_files.usable_files([folder])
        if part != "all":
            found = _part_of(found, os.path.join(root, PARTITION), part)
        remaining, excluded = lists.leave_out(found, exclude)
        kept = [found[i] for i in remaining]
        table = os.path.join(root, LANDMARKS)
        points, labels = None, f"no points ({LANDMARKS} is not there)"
        if os.path.isfile(table):
            known = read_landmarks(table)
            points, labels = points_of(kept, known, table), f"{NUM_POINTS} points each"
            if absent := len(known.keys() - {lists.photo_id(photo.name) for photo in found}):
                what = "are not there" if part == "all" else "are of other parts or not there"
                note = photos.one_line(note, f"{absent:,} photos of {LANDMARKS} {what}")
        which = root if part == "all" else f"{root} ({part})"
        summary = photos.one_line(f"{len(kept):,} photos of {which}, {labels}", excluded, note)
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
        if (key := lists.photo_id(name)) in table:
            raise DataError(f"{place}: {name} is listed a second time")
        table[key] = lists.numbers(cells, place).reshape(NUM_POINTS, 2)
    if len(table) != int(count):
        raise DataError(f"{path}: lists {len(table):,} photos, its first line says {int(count):,}")
    return table


def points_of(
    found: Sequence[photo_files.PhotoFile], table: dict[str, np.ndarray], path: str
) -> np.ndarray:
    """The points `[N, 5, 2]` of photos, each of which the list at `path` must name."""
    missing = [photo.name for photo in found if lists.photo_id(photo.name) not in table]
    if missing:
        raise DataError(
            f"{path}: no points for {len(missing):,} photos: {photo_files.some(missing)}"
        )
    lists.check_labelled(found, os.path.dirname(found[0].path))
    return np.stack([table[lists.photo_id(photo.name)] for photo in found])


def read_partition(path: str) -> dict[str, str]:
    """Reads the official list of `000001.jpg 0` lines: for each photo's id its part."""
    origins.need_file(path, origins.CELEBA)
    parts: dict[str, str] = {}
    for place, line in lists.read_lines(path):
        name, *cells = line.split()
        if len(cells) != 1 or cells[0] not in ("0", "1", "2"):
            raise DataError(f"{place}: must be a photo and 0, 1 or 2, such as 000001.jpg 0")
        parts[lists.photo_id(name)] = PARTITIONS[int(cells[0])]
    return parts


def _part_of(
    found: Sequence[photo_files.PhotoFile], path: str, part: str
) -> list[photo_files.PhotoFile]:
    """The photos of one part, all of which the list must name."""
    parts = read_partition(path)
    missing = [photo.name for photo in found if lists.photo_id(photo.name) not in parts]
    if missing:
        raise DataError(
            f"{path}: does not name {len(missing):,} photos: {photo_files.some(missing)}"
        )
    kept = [photo for photo in found if parts[lists.photo_id(photo.name)] == part]
    if not kept:
        raise DataError(f"{path}: none of the {len(found):,} photos there is of part {part!r}")
    return kept
