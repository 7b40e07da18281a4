"""CelebA in its official layout (Liu et al., ICCV 2015), aligned and cropped, 178 x 218 pixels."""

import os
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from landmarks_jax.data import lists, photo_files
from landmarks_jax.data.sources import photos
from landmarks_jax.system.errors import DataError

ORIGIN = (
    "CelebA, aligned (https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html): img_align_celeba.zip "
    "unpacked as img_align_celeba/000001.jpg and on, with list_landmarks_align_celeba.txt and "
    "list_eval_partition.txt beside that folder"
)
FOLDER = "img_align_celeba"
LANDMARKS = "list_landmarks_align_celeba.txt"
PARTITION = "list_eval_partition.txt"
SPLITS = ("train", "validation", "test")  # 0, 1 and 2 in the list
NUM_POINTS = 5  # left eye, right eye, nose, left and right mouth corner, as seen


class Label(NamedTuple):
    """A line of the list of points: its `file:line`, and `[5, 2]` float32 in pixels."""

    place: str
    points: np.ndarray


class CelebaPhotos(photos.PhotoFiles):
    """The photos `img_align_celeba/NNNNNN.jpg`, with five points if their list exists."""

    def __init__(self, root: str, exclude: Sequence[str] = (), split: str = "all") -> None:
        """Finds the photos.

        Args:
          root: the folder of `img_align_celeba`, of `list_landmarks_align_celeba.txt` for the
            points, and of `list_eval_partition.txt` for a split.
          exclude: lists of photos to leave out (MAFL's `testing.txt`).
          split: "all", "train", "validation" or "test".

        Raises:
          DataError: a file is missing or malformed.
        """
        folder = os.path.join(root, FOLDER)
        photos.need_folder(folder, ORIGIN)
        files, note = photo_files.usable_files([folder])
        if split != "all":
            files = _select(files, os.path.join(root, PARTITION), split)
        remaining, excluded = lists.leave_out(files, exclude)
        kept = [files[i] for i in remaining]
        table = os.path.join(root, LANDMARKS)
        points, labels = None, f"no points ({LANDMARKS} is missing)"
        if os.path.isfile(table):
            known = read_landmarks(table)
            points, labels = points_of(kept, known, table), f"{NUM_POINTS} points each"
            if absent := len(known.keys() - {lists.photo_id(photo.name) for photo in files}):
                what = "are missing" if split == "all" else "are of other splits or missing"
                note = photos.one_line(note, f"{absent:,} photos of {LANDMARKS} {what}")
        which = root if split == "all" else f"{root} ({split})"
        summary = photos.one_line(f"{len(kept):,} photos of {which}, {labels}", excluded, note)
        super().__init__(kept, points, summary)


def open_config(data: Any) -> CelebaPhotos:
    """Opens the photos of `config.data`."""
    (root,) = photos.roots_of(data, "the folder of img_align_celeba")
    return CelebaPhotos(root, tuple(data.exclude), data.split)


def read_landmarks(path: str) -> dict[str, Label]:
    """Reads the official list: a count, a header, then `000001.jpg x1 y1 ... x5 y5`.

    Returns:
      For each photo's id its points.
    """
    table: dict[str, Label] = {}
    lines = lists.read_lines(path)
    place, count = next(lines, (path, ""))
    if not count.isdecimal():
        raise DataError(f"{place}: the first line must be the number of photos")
    next(lines, None)  # the names of the ten columns
    for place, line in lines:
        name, *cells = line.split()
        if len(cells) != 2 * NUM_POINTS:
            raise DataError(f"{place}: {len(cells)} numbers after the file, not {2 * NUM_POINTS}")
        if (key := lists.photo_id(name)) in table:
            raise DataError(f"{place}: {name} is listed a second time")
        table[key] = Label(place, lists.numbers(cells, place).reshape(NUM_POINTS, 2))
    if len(table) != int(count):
        raise DataError(f"{path}: lists {len(table):,} photos, its first line says {int(count):,}")
    return table


def points_of(
    files: Sequence[photo_files.PhotoFile], table: dict[str, Label], path: str
) -> np.ndarray:
    """The points `[N, 5, 2]` of photos; `DataError` if the list at `path` lacks one."""
    missing = [photo.name for photo in files if lists.photo_id(photo.name) not in table]
    if missing:
        raise DataError(
            f"{path}: no points for {len(missing):,} photos: {photo_files.some(missing)}"
        )
    sizes = lists.check_labelled(files, os.path.dirname(files[0].path))
    labels = [table[lists.photo_id(photo.name)] for photo in files]
    points = np.stack([label.points for label in labels])
    lists.check_points(points, sizes, [label.place for label in labels])
    return points


def read_partition(path: str) -> dict[str, str]:
    """Reads the official list of lines `000001.jpg 0`: the split of each photo's id."""
    photos.need_file(path, ORIGIN)
    splits: dict[str, str] = {}
    for place, line in lists.read_lines(path):
        name, *cells = line.split()
        if len(cells) != 1 or cells[0] not in ("0", "1", "2"):
            raise DataError(f"{place}: must be a photo and 0, 1 or 2, such as 000001.jpg 0")
        splits[lists.photo_id(name)] = SPLITS[int(cells[0])]
    return splits


def _select(
    files: Sequence[photo_files.PhotoFile], path: str, split: str
) -> list[photo_files.PhotoFile]:
    """The photos of one split; `DataError` if the list at `path` lacks a photo."""
    splits = read_partition(path)
    missing = [photo.name for photo in files if lists.photo_id(photo.name) not in splits]
    if missing:
        raise DataError(
            f"{path}: does not name {len(missing):,} photos: {photo_files.some(missing)}"
        )
    kept = [photo for photo in files if splits[lists.photo_id(photo.name)] == split]
    if not kept:
        raise DataError(f"{path}: none of the {len(files):,} photos is in split {split!r}")
    return kept
