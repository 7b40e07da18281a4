"""AFLW as the VGG group cut and published it with Jakab et al. (NeurIPS 2018), aflw_release-2.

Faces cut tightly from AFLW's photos, each in its own size, with five points. The points are kept as
(row, column) in pixels of the cut face.
"""

import os
from collections.abc import Sequence

import numpy as np
from PIL import Image

from landmarks_jax.data import lists, photo_files
from landmarks_jax.data.sources import matlab, origins, photos
from landmarks_jax.system import parallel
from landmarks_jax.system.errors import DataError

FOLDER = "output"
PARTS = ("train", "test")
NUM_POINTS = 5  # left eye, right eye, nose, left and right mouth corner, as seen


class AflwFaces(photos.PhotoFiles):
    """The faces of one part, or of both, five points each, in the lists' order."""

    def __init__(self, root: str, part: str = "all", exclude: Sequence[str] = ()) -> None:
        """Reads the lists and finds the photos.

        Args:
          root: the folder that holds `aflw_train_images.txt`, `aflw_train_keypoints.mat`, the same
            of `test`, and the photos under `output/`.
          part: "train" (10,122 faces), "test" (2,991) or "all".
          exclude: list files of photos to leave out.

        Raises:
          DataError: a file is missing, malformed, or they do not fit together.
        """
        chosen = photos.parts(part, PARTS)
        origins.need_folder(os.path.join(root, FOLDER), origins.AFLW)
        found: list[photo_files.PhotoFile] = []
        points, sizes = [], []
        for name in chosen:
            entries, part_points, part_sizes = _read_part(root, name)
            found += lists.locate(entries, [os.path.join(root, FOLDER)])
            points.append(part_points)
            sizes.append(part_sizes)
        kept, excluded = lists.leave_out(found, exclude)
        remaining = [found[i] for i in kept]
        lists.check_labelled(remaining, root)
        moved, note = _in_stored_pixels(
            remaining, np.concatenate(points)[kept], np.concatenate(sizes)[kept]
        )
        which = root if part == "all" else f"{root} ({part})"
        summary = photos.one_line(f"{len(kept):,} faces of {which}", excluded, note)
        super().__init__(remaining, moved, summary)


def _read_part(root: str, part: str) -> tuple[list[tuple[str, str]], np.ndarray, np.ndarray]:
    """One part's photos by place `list:line`, points `[N, 5, 2]` (x, y), sizes `[N, 2]` (w, h)."""
    listed = os.path.join(root, f"aflw_{part}_images.txt")
    table = os.path.join(root, f"aflw_{part}_keypoints.mat")
    origins.need_file(listed, origins.AFLW)
    origins.need_file(table, origins.AFLW)
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
        raise DataError(f"{table}: hw, row {row + 1} ({entries[row][0]}): no size of a photo")
    return entries, points[..., ::-1], sizes[:, ::-1]


def _in_stored_pixels(
    found: Sequence[photo_files.PhotoFile], points: np.ndarray, sizes: np.ndarray
) -> tuple[np.ndarray, str]:
    """Points of photos of the annotated sizes in pixels of the photos as they are stored.

    Official photos have the annotated sizes and nothing changes. Photos stored in another size keep
    the places of their points: `(x + 0.5) / w` stays.

    Returns:
      The points `[N, 5, 2]` float32, and a note of how many were moved ("" for none).
    """
    stored = np.array(list(parallel.ordered_map(_size, found, "reading the photos' sizes")))
    factors = (stored / sizes)[:, None]
    moved = np.where(factors == 1.0, points, (points + 0.5) * factors - 0.5)
    count = int((stored != sizes).any(1).sum())
    note = f"{count:,} photos of other sizes than annotated, points scaled" if count else ""
    return moved.astype(np.float32), note


def _size(photo: photo_files.PhotoFile) -> tuple[int, int]:
    """`(width, height)`, from the file's head."""
    try:
        with Image.open(photo.path) as image:
            return image.size
    except OSError as error:
        raise DataError(f"{photo.path}: cannot be read as a picture ({error})") from error
