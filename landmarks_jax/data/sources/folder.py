"""Any folders of images, with or without a table of landmarks."""

import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from landmarks_jax.data import lists, photo_files
from landmarks_jax.data.sources import photos
from landmarks_jax.system.errors import ConfigError


class FolderPhotos(photos.PhotoFiles):
    """The images below some folders."""

    def __init__(
        self, roots: Sequence[str], exclude: Sequence[str] = (), landmarks: str = ""
    ) -> None:
        """Finds the images.

        Args:
          roots: folders, searched recursively.
          exclude: lists of photos to leave out, one name or id a line.
          landmarks: a CSV table `file,x1,y1,...,xP,yP` with that header; files are relative to a
            root or to the table's folder, points are in pixels of the stored image. Only the
            listed photos are used, in the table's order.

        Raises:
          ConfigError: neither folders nor a table.
          DataError: no usable image, or the table is malformed or lists a missing photo.
        """
        points: np.ndarray | None = None
        note = ""
        if landmarks:
            entries, points = lists.read_csv(landmarks)
            folders = [*roots, os.path.dirname(landmarks) or "."]
            files = lists.locate(entries, folders)
        elif roots:
            files, note = photo_files.usable_files(roots)
        else:
            raise ConfigError("config.data.roots = (): must name at least one folder of images")
        kept, excluded = lists.leave_out(files, exclude)
        if points is not None:
            sizes = lists.check_labelled([files[i] for i in kept], folders[-1])
            lists.check_points(points[kept], sizes, [entries[i][0] for i in kept])
        where = landmarks or photo_files.some(roots)
        super().__init__(
            [files[i] for i in kept],
            None if points is None else points[kept],
            photos.one_line(f"{len(kept):,} photos of {where}", excluded, note),
        )


def open_config(data: Any) -> FolderPhotos:
    """Opens the photos of `config.data`."""
    return FolderPhotos(tuple(data.roots), tuple(data.exclude), data.landmarks)
