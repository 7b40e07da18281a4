"""The photos to label and their points, saved to a CSV file after every photo."""

import io
import math
import os
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from landmarks_jax.data import decoding, lists
from landmarks_jax.data.formats import deeplabcut
from landmarks_jax.data.formats.records import Labels
from landmarks_jax.data.photo_files import PhotoFile
from landmarks_jax.inference import photo_choice
from landmarks_jax.inference.photo_choice import Describe
from landmarks_jax.system import files, palette
from landmarks_jax.system.errors import DataError

_QUALITY = 95
_FAR = 1e6  # pixels; no photo is so large


class Session:
    """Photos with their labels.

    Attributes:
      photos: the photos to label, those of the file first; each name is its path in the file.
    """

    def __init__(self, out: Path, names: Sequence[str]) -> None:
        """Reads the labels of an earlier session.

        Args:
          out: the file of labels, in DeepLabCut's format; there may be none yet.
          names: of the points.

        Raises:
          DataError: the file is malformed, of other points or of another program, or lacks a photo.
        """
        self._out, self._names = out, tuple(names)
        self._lock = threading.Lock()
        self._labels: dict[str, np.ndarray] = {}
        self.photos: list[PhotoFile] = []
        if os.path.lexists(out):
            labels = _read(out, self._names)
            self.photos = lists.locate(labels.entries, labels.folders)
            self._labels = {p.name: row for p, row in zip(self.photos, labels.points, strict=True)}

    @property
    def labelled(self) -> int:
        """How many photos are labelled."""
        return len(self._labels)

    def choose(self, photos: Sequence[PhotoFile], count: int, describe: Describe) -> None:
        """Adds the photos that differ most from those labelled and from each other.

        Args:
          photos: those to choose from.
          count: how many photos shall be labelled in all.
          describe: see `photo_choice.describer`.

        Raises:
          DataError: a photo cannot be read, or named in the file.
        """
        before, count = len(self.photos), count - len(self.photos)
        labelled = {os.path.realpath(photo.path) for photo in self.photos}
        others = [photo for photo in photos if os.path.realpath(photo.path) not in labelled]
        others = [PhotoFile(photo.path, _name(photo.path, self._out)) for photo in others]
        if 0 < count < len(others):
            descriptors = describe([*self.photos, *others])
            rows = photo_choice.farthest(descriptors, count, range(before))
            others = [others[row - before] for row in rows]
        self.photos += others[: max(0, count)]

    def describe(self) -> dict[str, Any]:
        """What the page shows, as plain JSON; missing points are null."""
        return {
            "file": str(self._out),
            "names": self._names,
            "colors": palette.hex_colors(len(self._names)),
            "photos": [
                {"name": photo.name, "points": _as_json(self._labels.get(photo.name))}
                for photo in self.photos
            ],
        }

    def jpeg(self, index: int) -> bytes:
        """The upright photo as a JPEG without metadata.

        Raises:
          DataError: it cannot be read.
        """
        pixels, _ = decoding.decode(self.photos[index].path)
        encoded = io.BytesIO()
        try:
            Image.fromarray(pixels).save(encoded, "JPEG", quality=_QUALITY, subsampling=0)
        except (OSError, ValueError) as error:
            size = f"{pixels.shape[1]} x {pixels.shape[0]}"
            raise DataError(
                f"{self.photos[index].path}: {size} pixels are too many to be shown; shrink it"
            ) from error
        return encoded.getvalue()

    def save(self, index: Any, points: Any) -> int:
        """Stores the points of a photo in the file.

        Args:
          index: number of the photo.
          points: for each point x and y in pixels of the upright photo, or None if it is missing.

        Returns:
          How many photos are labelled.

        Raises:
          ValueError: the photo or a point cannot be.
          DataError: the file cannot be written; nothing has changed.
        """
        if type(index) is not int or not 0 <= index < len(self.photos):
            raise ValueError(f"no photo {index}")
        if not isinstance(points, list) or len(points) != len(self._names):
            raise ValueError(f"there must be {len(self._names)} points")
        row = np.array([_point(point) for point in points], float)
        with self._lock:
            labels = {**self._labels, self.photos[index].name: row}
            files.write_file(self._out, deeplabcut.write_labels(labels, self._names))
            self._labels = labels
            return len(labels)


def _read(out: Path, names: tuple[str, ...]) -> Labels:
    path = str(out)
    labels = deeplabcut.read(path) if deeplabcut.is_own(path) else None
    if labels is None or not labels.upright:
        raise DataError(f"{out}: not a file of `landmarks-jax label`; name a new one")
    if labels.names != names:
        have = ",".join(labels.names)
        raise DataError(f"{out}: has the points {have}; give --points {have}, or name a new file")
    places: dict[str, str] = {}
    for place, image in labels.entries:
        if image in places:
            raise DataError(f"{place}: {image} is in {places[image]} too; remove one")
        places[image] = place
    return labels


def _name(path: str, out: Path) -> str:
    """The path of a photo relative to the folder of a file, through no link between them."""
    folder, base = os.path.split(path)
    place = os.path.join(os.path.realpath(folder), base)
    name = Path(os.path.relpath(place, os.path.realpath(out.parent))).as_posix()
    deeplabcut.check_image(name)
    return name


def _as_json(points: np.ndarray | None) -> list[list[float] | None] | None:
    if points is None:
        return None
    return [None if math.isnan(x) else [x, y] for x, y in points.tolist()]


def _point(point: Any) -> tuple[float, float]:
    if point is None:
        return math.nan, math.nan
    x, y = map(float, point) if isinstance(point, list) and len(point) == 2 else (math.nan,) * 2
    if not max(abs(x), abs(y)) < _FAR:
        raise ValueError(f"{point} is not a point")
    return x, y
