"""MAFL: 20,000 photos of CelebA by two lists (Zhang et al., ECCV 2014)."""

import os
from collections.abc import Sequence

from landmarks_jax.data import lists, photo_files
from landmarks_jax.data.sources import celeba, origins, photos
from landmarks_jax.system.errors import DataError

LISTS = {"train": "training.txt", "test": "testing.txt"}
# Three training photos that the code released with the paper drops.
NOT_AS_RELEASED = ("031524", "179577", "139803")


class MaflFaces(photos.PhotoFiles):
    """The faces of one list, or of both, with CelebA's five points, in the lists' order."""

    def __init__(
        self,
        root: str,
        list_folder: str,
        part: str = "all",
        *,
        exclude: Sequence[str] = (),
        as_released: bool = False,
    ) -> None:
        """Finds the photos of the lists.

        Args:
          root: CelebA's folder, with `img_align_celeba` and `list_landmarks_align_celeba.txt`.
          list_folder: the folder of `training.txt` and `testing.txt`.
          part: "train", "test" or "all".
          exclude: list files of photos to leave out.
          as_released: without the three photos that the released code drops from training.

        Raises:
          DataError: a list, a photo or its points are missing, or a line is malformed.
        """
        paths = [os.path.join(list_folder, LISTS[name]) for name in photos.parts(part, LISTS)]
        entries = [entry for path in paths for entry in _read_list(path)]
        if as_released:
            entries = [entry for entry in entries if entry[1] not in NOT_AS_RELEASED]
        folder = os.path.join(root, celeba.FOLDER)
        origins.need_folder(folder, origins.CELEBA)
        table = os.path.join(root, celeba.LANDMARKS)
        origins.need_file(table, origins.CELEBA)
        found = lists.locate(
            [(place, f"{celeba.FOLDER}/{key}.jpg") for place, key in entries], [root]
        )
        kept, excluded = lists.leave_out(found, exclude)
        remaining = [found[i] for i in kept]
        known = celeba.read_landmarks(table)
        points = celeba.points_of(remaining, known, table)
        dropped = "less the three that the released code drops" if as_released else ""
        summary = f"{len(kept):,} faces of {photo_files.some(paths)}"
        super().__init__(remaining, points, photos.one_line(summary, dropped, excluded))


def _read_list(path: str) -> list[tuple[str, str]]:
    """For each photo of a list its place `list:line` and its id."""
    origins.need_file(path, origins.MAFL)
    entries: dict[str, str] = {}
    for place, line in lists.read_lines(path):
        key = lists.photo_id(line)
        if not (key.isdigit() and len(key) == len("000001")):
            raise DataError(f"{place}: must be one photo of CelebA such as 000001.jpg")
        if key in entries:
            raise DataError(f"{place}: {line} is listed a second time")
        entries[key] = place
    if not entries:
        raise DataError(f"{path}: no photo is listed")
    return [(place, key) for key, place in entries.items()]
