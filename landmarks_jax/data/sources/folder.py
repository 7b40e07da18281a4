"""Any folders of pictures, with a landmarks table or without."""

import os
from collections.abc import Sequence

import numpy as np

from landmarks_jax.data import lists, photo_files
from landmarks_jax.data.sources import photos
from landmarks_jax.system.errors import ConfigError


class FolderPhotos(photos.PhotoFiles):
    """The pictures below some folders."""

    def __init__(
        self, roots: Sequence[str], exclude: Sequence[str] = (), landmarks: str | None = None
    ) -> None:
        """Finds the pictures.

        Args:
          roots: folders, searched whole.
          exclude: list files of photos to leave out, one name or id a line.
          landmarks: a table `file,x1,y1,...,xP,yP` with that header, files relative to a root or
            to the table's folder, points in pixels of the stored photo. Only listed photos are
            used then, in the table's order.

        Raises:
          DataError: nothing usable, a list is missing or malformed, or names a missing photo.
        """
        points, note = None, ""
        if landmarks:
            found, points = _labelled(roots, landmarks)
        elif roots:
            found, note = photo_files.usable_files(roots)
        else:
            raise ConfigError("config.data.roots = (): must name at least one folder of pictures")
        kept, excluded = lists.leave_out(found, exclude)
        where = landmarks or photo_files.some(roots)
        super().__init__(
            [found[i] for i in kept],
            None if points is None else points[kept],
            photos.one_line(f"{len(kept):,} photos of {where}", excluded, note),
        )


def _labelled(
    roots: Sequence[str], landmarks: str
) -> tuple[list[photo_files.PhotoFile], np.ndarray]:
    """The photos of a landmarks table and their points `[N, P, 2]` in pixels."""
    entries, points = lists.read_csv(landmarks)
    folders = [*roots, os.path.dirname(landmarks) or "."]
    found = lists.locate(entries, folders)
    lists.check_labelled(found, folders[-1])
    return found, points
