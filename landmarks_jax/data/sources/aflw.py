"""AFLW as the VGG group cut and published it with Jakab et al. (NeurIPS 2018), aflw_release-2.

Faces cut tightly from AFLW's photos, each in its own size, with five points. The points are kept as
(row, column) in pixels of the cut face.
"""

import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from landmarks_jax.data import lists, photo_files
from landmarks_jax.data.sources import matlab, photos
from landmarks_jax.system.errors import DataError

ORIGIN = (
    "AFLW as the VGG group cut it (http://www.robots.ox.ac.uk/~vgg/research/unsupervised_landmarks/"
    "resources/aflw_release-2.zip): unpacked it holds aflw_train_images.txt, "
    "aflw_train_keypoints.mat, the same of test, and the photos under output/"
)
FOLDER = "output"
SPLITS = ("train", "test")
NUM_POINTS = 5  # left eye, right eye, nose, left and right mouth corner, as seen


class AflwFaces(photos.PhotoFiles):
    """The faces of one or both splits, five points each, in the lists' order."""

    def __init__(self, root: str, split: str = "all", exclude: Sequence[str] = ()) -> None:
        """Reads the lists and finds the photos.

        Args:
          root: the folder that holds `aflw_train_images.txt`, `aflw_train_keypoints.mat`, the same
            of `test`, and the photos under `output/`.
          split: "train" (10,122 faces), "test" (2,991) or "all".
          exclude: lists of photos to leave out.

        Raises:
          DataError: a file is missing or malformed, or the files do not match.
        """
        chosen = photos.select_splits(split, SPLITS)
        photos.need_folder(os.path.join(root, FOLDER), ORIGIN)
        files: list[photo_files.PhotoFile] = []
        places, points, sizes = [], [], []
        for name in chosen:
            entries, split_points, split_sizes = _read_split(root, name)
            files += lists.locate(entries, [os.path.join(root, FOLDER)])
            places += [f"{_table(root, name)}: gt, row {i + 1}" for i in range(len(entries))]
            points.append(split_points)
            sizes.append(split_sizes)
        kept, excluded = lists.leave_out(files, exclude)
        remaining = [files[i] for i in kept]
        stored = lists.check_labelled(remaining, root)
        scaled, note = _in_stored_pixels(
            np.concatenate(points)[kept], np.concatenate(sizes)[kept], stored
        )
        lists.check_points(scaled, stored, [places[i] for i in kept], missing=())
        which = root if split == "all" else f"{root} ({split})"
        summary = photos.one_line(f"{len(kept):,} faces of {which}", excluded, note)
        super().__init__(remaining, scaled, summary)


def open_config(data: Any) -> AflwFaces:
    """Opens the photos of `config.data`."""
    (root,) = photos.roots_of(data, "the folder of aflw_release-2")
    return AflwFaces(root, data.split, tuple(data.exclude))


def _table(root: str, split: str) -> str:
    return os.path.join(root, f"aflw_{split}_keypoints.mat")


def _read_split(root: str, split: str) -> tuple[list[tuple[str, str]], np.ndarray, np.ndarray]:
    """A split's photos by place `list:line`, points `[N, 5, 2]` (x, y), sizes `[N, 2]` (w, h)."""
    listed = os.path.join(root, f"aflw_{split}_images.txt")
    table = _table(root, split)
    photos.need_file(listed, ORIGIN)
    photos.need_file(table, ORIGIN)
    entries = [(place, line.replace("\\", "/")) for place, line in lists.read_lines(listed)]
    if not entries:
        raise DataError(f"{listed}: no photo is listed")
    content = matlab.read(table, ("gt", "hw"))
    points = matlab.numbers(content["gt"], (-1, NUM_POINTS, 2), f"{table}: gt")
    sizes = matlab.numbers(content["hw"], (-1, 2), f"{table}: hw")
    for name, array in (("gt", points), ("hw", sizes)):
        if len(array) != len(entries):
            raise DataError(
                f"{table}: {name} has {len(array):,} faces, {listed} lists {len(entries):,}"
            )
    if (small := (sizes < 1).any(1)).any():
        row = int(small.argmax())
        raise DataError(f"{table}: hw, row {row + 1} ({entries[row][0]}): not the size of a photo")
    return entries, points[..., ::-1], sizes[:, ::-1]


def _in_stored_pixels(
    points: np.ndarray, sizes: np.ndarray, stored: np.ndarray
) -> tuple[np.ndarray, str]:
    """Scales points from annotated sizes `[N, 2]` to the sizes `[N, 2]` of the stored photos.

    Official photos have the annotated sizes, and their points stay as they are.

    Returns:
      The points `[N, 5, 2]` float32, and a note of how many photos were scaled ("" for none).
    """
    factors = (stored / sizes)[:, None]
    scaled = np.where(factors == 1.0, points, (points + 0.5) * factors - 0.5)
    count = int((stored != sizes).any(1).sum())
    note = f"{count:,} photos of other sizes than annotated, points scaled" if count else ""
    return scaled.astype(np.float32), note
