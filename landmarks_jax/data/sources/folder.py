"""Any folders of images, with or without a file of labelled points."""

import hashlib
import logging
from collections.abc import Sequence
from typing import Any

import numpy as np

from landmarks_jax.data import lists, photo_files
from landmarks_jax.data.formats import label_files
from landmarks_jax.data.formats.records import Labels
from landmarks_jax.data.sources import photos
from landmarks_jax.system.errors import ConfigError, DataError

_LOGGER = logging.getLogger(__name__)


class FolderPhotos(photos.PhotoFiles):
    """The images below some folders."""

    def __init__(
        self,
        roots: Sequence[str],
        exclude: Sequence[str] = (),
        landmarks: str = "",
        *,
        partial: bool = False,
        max_photos: int = 0,
    ) -> None:
        """Finds the images.

        Args:
          roots: folders, searched recursively, image files, and globs.
          exclude: lists of photos to leave out, one name or id a line.
          landmarks: a file of labelled points: a CSV table `file,x1,y1,...,xP,yP` with that header,
            or one of `formats`. Photos are relative to a root or to the file's folder, points are
            in pixels of the stored image, or of the upright one if the file is this program's. Only
            the listed photos are used, in the file's order, without those that lack a point.
          partial: keep photos that have some point; the others are then NaN.
          max_photos: at most so many are used, chosen by a hash of their names; 0 uses all.

        Raises:
          ConfigError: neither folders nor labelled points.
          DataError: no usable image, or the file is malformed or lists a missing photo.
        """
        labels: Labels | None = None
        note = ""
        if landmarks:
            labels = label_files.read(landmarks)
            note = labels.note
            files = lists.locate(labels.entries, [*roots, *labels.folders])
        elif roots:
            files, note = photo_files.usable_files(roots)
        else:
            raise ConfigError("config.data.roots = (): must name at least one folder of images")
        kept, excluded = lists.leave_out(files, exclude)
        if labels:
            kept, lacking = _without_missing(labels, kept, landmarks, partial)
            note = photos.one_line(note, lacking)
        if 0 < max_photos < len(kept):
            note = photos.one_line(note, f"chosen of {len(kept):,} (config.data.max_photos)")
            kept = _chosen(files, kept, max_photos)
        remaining = [files[i] for i in kept]
        self.point_names = labels.names if labels else ()
        where = landmarks or photo_files.some(roots)
        super().__init__(
            remaining,
            _checked(labels, kept, remaining) if labels else None,
            photos.one_line(f"{len(kept):,} photos of {where}", excluded, note),
            upright=labels is None or labels.upright,
        )


def _chosen(files: Sequence[photo_files.PhotoFile], kept: Sequence[int], count: int) -> list[int]:
    """Some of the photos, in their order; nearly the same ones when a few are added."""
    names = {i: hashlib.sha256(files[i].name.encode("utf-8", "surrogateescape")) for i in kept}
    return sorted(sorted(kept, key=lambda i: names[i].digest())[:count])


def _without_missing(
    labels: Labels, kept: Sequence[int], path: str, partial: bool
) -> tuple[list[int], str]:
    """The photos that have all points, or some, and a note of how many do not; also a warning."""
    missing = np.isnan(labels.points).any(2)
    lacking = missing.all(1) if partial else missing.any(1)
    usable = [i for i in kept if not lacking[i]]
    if not usable and partial:
        raise DataError(f"{path}: every point is missing in every photo; label some")
    if not usable:
        raise DataError(f"{path}: a point is missing in every photo; label some photos whole")
    if len(usable) == len(kept):
        return usable, ""
    what = "without a point" if partial else "with missing points"
    note = f"{len(kept) - len(usable):,} photos {what} left out"
    _LOGGER.warning("warning: %s: %s", path, note)
    return usable, note


def _checked(
    labels: Labels, kept: Sequence[int], files: Sequence[photo_files.PhotoFile]
) -> np.ndarray:
    """The points `[N, P, 2]` float32 in pixels of the photos that are kept."""
    places = [labels.entries[i][0] for i in kept]
    sizes = lists.check_labelled(files, labels.folders[0], labels.upright)
    if labels.annotated is not None:
        annotated = labels.annotated[kept]
        for row in np.flatnonzero((annotated > 0).all(1) & (annotated != sizes).any(1))[:1]:
            (width, height), stored = annotated[row], sizes[row]
            raise DataError(
                f"{places[row]}: annotated at {width} x {height} pixels, but {files[row].path} has "
                f"{stored[0]} x {stored[1]}"
            )
    points = labels.points[kept]
    if labels.to_pixels is not None:
        points = labels.to_pixels(points, sizes)
    points = points.astype(np.float32)
    lists.check_points(points, sizes, places, missing=labels.missing)
    return points


def open_config(data: Any) -> FolderPhotos:
    """Opens the photos of `config.data`."""
    return FolderPhotos(
        tuple(data.roots), tuple(data.exclude), data.landmarks, max_photos=data.max_photos
    )
