"""Photos with .pts files of the same name, as 300-W (Sagonas et al., ICCV Workshops 2013).

A .pts file holds 68 lines `x y`, with or without the usual frame; what follows `#` or `//` on a
line is a comment:

    version: 1
    n_points: 68
    {
    30.0 40.0
    ...
    }

The annotations follow MATLAB: the centre of the first pixel is (1, 1). Here it is (0, 0), so 1 is
subtracted from every coordinate.

The five points of the other face sets follow from the 68 (numbered from 0): the means of the six
points around each eye (36 to 41, 42 to 47), the tip of the nose (30) and the outer corners of the
mouth (48, 54), left and right as seen in the image.
"""

import os
import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from landmarks_jax.data import lists, photo_files
from landmarks_jax.data.sources import photos
from landmarks_jax.system.errors import ConfigError, DataError

ORIGIN = (
    "300-W (https://ibug.doc.ic.ac.uk/resources/facial-point-annotations/): folders of photos, "
    "each with its points beside it, such as lfpw/trainset/image_0001.png and image_0001.pts"
)
ENDING = ".pts"
NUM_POINTS = 68
NUM_REDUCED = 5
# The points of each eye, among the 68 and among the five.
EYES = {
    NUM_POINTS: (tuple(range(36, 42)), tuple(range(42, 48))),
    NUM_REDUCED: ((0,), (1,)),
}
_ORIGIN = 1.0  # what the files call the centre of the first pixel
_COMMENT = re.compile("(#|//).*")
_NOSE_TIP, _MOUTH_CORNERS = 30, (48, 54)


class PtsFaces(photos.PhotoFiles):
    """The photos below some folders that have a .pts file of the same name."""

    def __init__(
        self,
        roots: Sequence[str],
        exclude: Sequence[str] = (),
        num_points: int = NUM_REDUCED,
    ) -> None:
        """Finds the photos and reads their points.

        Args:
          roots: folders, searched recursively.
          exclude: lists of photos to leave out.
          num_points: 5, derived as above, or all 68.

        Raises:
          DataError: a file is malformed or lacks its photo, or no photo has one.
        """
        if num_points not in EYES:
            raise ValueError(f"{num_points} points; must be {NUM_REDUCED} or {NUM_POINTS}")
        files, annotations, folders, bare = [], [], [], 0
        for root in roots:
            paired, others = _pairs(root)
            files += [photo for photo, _ in paired]
            annotations += [path for _, path in paired]
            folders += [root] * len(paired)
            bare += others
        kept, excluded = lists.leave_out(files, exclude)
        remaining = [files[i] for i in kept]
        points = np.stack([read(annotations[i]) for i in kept])
        for root in roots:
            inside = [i for i, j in enumerate(kept) if folders[j] == root]
            sizes = lists.check_labelled([remaining[i] for i in inside], root)
            paths = [annotations[kept[i]] for i in inside]
            lists.check_points(points[inside], sizes, paths, origin=_ORIGIN)
        note = f"{bare:,} images without {ENDING} left out" if bare else ""
        summary = f"{len(kept):,} faces of {photo_files.some(roots)}, {num_points} points each"
        self._five = five_points(points)
        super().__init__(
            remaining,
            self._five if num_points == NUM_REDUCED else points,
            photos.one_line(summary, excluded, note),
        )

    def box_points(self, index: int) -> np.ndarray:
        """The five points `[5, 2]`, so that the box is that of other face sets."""
        return self._five[index]


def open_config(data: Any) -> PtsFaces:
    """Opens the photos of `config.data`."""
    if not data.roots:
        raise ConfigError("config.data.roots = (): source 'pts' needs folders of photos")
    return PtsFaces(tuple(data.roots), tuple(data.exclude))


def has_points(folder: str) -> bool:
    """Whether any .pts file lies below a folder."""
    _, others = photo_files.list_images(folder)
    return any(map(_is_pts, others))


def _is_pts(name: str) -> bool:
    return name.lower().endswith(ENDING)


def _pairs(root: str) -> tuple[list[tuple[photo_files.PhotoFile, str]], int]:
    """The photos with the paths of their .pts files, and the number of other images."""
    photos.need_folder(root, ORIGIN)
    images, others = photo_files.list_images(root)
    by_stem: dict[str, list[photo_files.PhotoFile]] = {}
    for photo in images:
        stem = os.path.splitext(os.path.relpath(photo.path, root).replace(os.sep, "/"))[0]
        by_stem.setdefault(stem, []).append(photo)
    pairs = []
    paths: dict[str, str] = {}
    for name in others:
        if not _is_pts(name):
            continue
        path, stem = os.path.join(root, name), name[: -len(ENDING)]
        candidates = by_stem.get(stem, [])
        if not candidates:
            raise DataError(f"{path}: no photo of that name beside it")
        if len(candidates) > 1:
            names = photo_files.some([photo.name for photo in candidates])
            raise DataError(f"{path}: several photos of that name beside it: {names}")
        if stem in paths:
            raise DataError(f"{path}: {paths[stem]} has the points of the same photo")
        paths[stem] = path
        pairs.append((candidates[0], path))
    if not pairs:
        raise DataError(f"{root}: no {ENDING} file in it. Needed: {ORIGIN}")
    return pairs, len(images) - len(pairs)


def read(path: str) -> np.ndarray:
    """Reads the 68 points `[68, 2]` float32 of a file; the first pixel's centre is (0, 0).

    Raises:
      DataError: a line is malformed, or there are not 68 points.
    """
    points: list[np.ndarray] = []
    braces = ""
    for place, written in lists.read_lines(path):
        line = _COMMENT.sub("", written).strip()
        key, colon, value = line.partition(":")
        if line in ("{", "}"):
            braces += line
            continue
        if not line or (colon and key.strip().lower() == "version"):
            continue
        if colon and key.strip().lower() == "n_points":
            if value.strip() != str(NUM_POINTS):
                raise DataError(f"{place}: {value.strip()} points, not {NUM_POINTS}")
            continue
        cells = line.split()
        if len(cells) != 2:
            raise DataError(f"{place}: must be a point, two numbers x y")
        points.append(lists.numbers(cells, place))
    if braces not in ("", "{}"):
        raise DataError(f"{path}: has no closing brace, so it may be cut short")
    if len(points) != NUM_POINTS:
        raise DataError(f"{path}: {len(points)} points, not {NUM_POINTS}")
    return np.stack(points) - np.float32(_ORIGIN)


def five_points(points: np.ndarray) -> np.ndarray:
    """Eyes, tip of the nose and corners of the mouth `[..., 5, 2]` of `[..., 68, 2]`."""
    left, right = (points[..., list(eye), :].mean(-2) for eye in EYES[NUM_POINTS])
    rest = [points[..., i, :] for i in (_NOSE_TIP, *_MOUTH_CORNERS)]
    return np.stack([left, right, *rest], axis=-2)
