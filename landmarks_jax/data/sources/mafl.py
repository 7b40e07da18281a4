"""MAFL: 20,000 photos of CelebA in two lists (Zhang et al., ECCV 2014)."""

import os
from collections.abc import Sequence
from typing import Any

from landmarks_jax.data import lists, photo_files
from landmarks_jax.data.sources import celeba, photos
from landmarks_jax.system.errors import DataError

ORIGIN = (
    "MAFL's lists (https://github.com/zhzhanp/TCDCN-face-alignment): training.txt with 19,000 and "
    "testing.txt with 1,000 photos of CelebA, one a line, such as 000001.jpg"
)
LISTS = {"train": "training.txt", "test": "testing.txt"}
SPLITS = tuple(LISTS)
# Three training photos that the code released with the paper drops.
NOT_AS_RELEASED = ("031524", "179577", "139803")


class MaflFaces(photos.PhotoFiles):
    """The faces of one or both lists, with CelebA's five points, in the lists' order."""

    def __init__(
        self,
        root: str,
        list_folder: str,
        split: str = "all",
        *,
        exclude: Sequence[str] = (),
        as_released: bool = False,
    ) -> None:
        """Finds the photos of the lists.

        Args:
          root: CelebA's folder, with `img_align_celeba` and `list_landmarks_align_celeba.txt`.
          list_folder: the folder of `training.txt` and `testing.txt`.
          split: "train", "test" or "all".
          exclude: lists of photos to leave out.
          as_released: without the three photos that the released code drops from training.

        Raises:
          DataError: a list, a photo or its points are missing, or a line is malformed.
        """
        paths = [os.path.join(list_folder, LISTS[s]) for s in photos.select_splits(split, SPLITS)]
        entries = [entry for path in paths for entry in _read_list(path)]
        if as_released:
            entries = [entry for entry in entries if entry[1] not in NOT_AS_RELEASED]
        photos.need_folder(os.path.join(root, celeba.FOLDER), celeba.ORIGIN)
        table = os.path.join(root, celeba.LANDMARKS)
        photos.need_file(table, celeba.ORIGIN)
        files = lists.locate([(at, f"{celeba.FOLDER}/{key}.jpg") for at, key in entries], [root])
        kept, excluded = lists.leave_out(files, exclude)
        remaining = [files[i] for i in kept]
        points = celeba.points_of(remaining, celeba.read_landmarks(table), table)
        dropped = "without the three that the released code drops" if as_released else ""
        summary = f"{len(kept):,} faces of {photo_files.some(paths)}"
        super().__init__(remaining, points, photos.one_line(summary, dropped, excluded))


def open_config(data: Any) -> MaflFaces:
    """Opens the photos of `config.data`."""
    root, list_folder = photos.roots_of(data, "CelebA's folder", "the folder of MAFL's lists")
    return MaflFaces(root, list_folder, data.split, exclude=tuple(data.exclude))


def _read_list(path: str) -> list[tuple[str, str]]:
    """For each photo of a list, `list:line` and its id."""
    photos.need_file(path, ORIGIN)
    entries: dict[str, str] = {}
    for place, line in lists.read_lines(path):
        key = lists.photo_id(line)
        if not (key.isdecimal() and len(key) == len("000001")):
            raise DataError(f"{place}: must be one photo of CelebA such as 000001.jpg")
        if key in entries:
            raise DataError(f"{place}: {line} is listed a second time")
        entries[key] = place
    if not entries:
        raise DataError(f"{path}: no photo is listed")
    return [(place, key) for key, place in entries.items()]
