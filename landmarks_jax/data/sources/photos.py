"""The base classes of sources of photos: of any, and of those that read image files."""

import abc
import hashlib
import json
import os
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from landmarks_jax.data import decoding, photo_files
from landmarks_jax.system import files
from landmarks_jax.system.errors import ConfigError, DataError


class Source(abc.ABC):
    """Photos by index; an index always gives the same photo.

    Attributes:
      num_points: annotated points of each photo, 0 without annotation.
      summary: one line for the log: how many photos from where, and what was left out.
      point_names: the names of the points, empty if its files have none.
    """

    num_points: int
    summary: str
    point_names: tuple[str, ...] = ()

    @abc.abstractmethod
    def __len__(self) -> int:
        """Number of photos."""

    @abc.abstractmethod
    def photo(self, index: int) -> np.ndarray:
        """One photo of any size, `[H, W, 3]` uint8 RGB."""

    @abc.abstractmethod
    def points(self, index: int) -> np.ndarray:
        """Its points `[P, 2]` float32 `(x, y)` in pixels; the first pixel's centre is (0, 0)."""

    @abc.abstractmethod
    def name(self, index: int) -> str:
        """The photo's name, independent of where its folder lies."""

    def box_points(self, index: int) -> np.ndarray:
        """The points `[Q, 2]` that the box crop of a photo is cut around: by default all."""
        return self.points(index)

    def path(self, index: int) -> str | None:
        """The photo's file; None if it has none of its own."""
        return None

    def stamp(self, index: int) -> list[int] | None:
        """What changes when the photo's file does; None if it has none of its own."""
        return None


class PhotoFiles(Source):
    """A source of image files."""

    def __init__(
        self,
        photos: Sequence[photo_files.PhotoFile],
        points: np.ndarray | None,
        summary: str,
        *,
        upright: bool = False,
    ) -> None:
        """Takes readable files and their points `[N, P, 2]` in pixels, if any.

        Photos with points are not rotated as their EXIF tags say, unless `upright`.

        From now on the files must stay as they are: `photo` refuses one that has changed, as its
        points and its place in the run may be wrong.
        """
        self._photos = list(photos)
        self._stamps = [photo_files.stamp(photo.path) for photo in self._photos]
        self._points = np.zeros((len(photos), 0, 2), np.float32) if points is None else points
        if len(self._points) != len(self._photos):
            raise ValueError(f"points of {len(self._points)} photos, {len(self._photos)} photos")
        self.num_points = self._points.shape[1]
        self._upright = upright or self.num_points == 0
        self.summary = summary

    def __len__(self) -> int:
        return len(self._photos)

    def photo(self, index: int) -> np.ndarray:
        """One photo, `[H, W, 3]` uint8 RGB, rotated as its EXIF tag says or as it is stored.

        Raises:
          DataError: it cannot be read any more, or has changed.
        """
        path = self._photos[index].path
        pixels, _ = decoding.decode(path, upright=self._upright)
        if photo_files.stamp(path) != self._stamps[index]:
            raise DataError(f"{path}: has changed since this program started")
        return pixels

    def size(self, index: int) -> tuple[int, int]:
        """Width and height of `photo(index)`, from the file's header."""
        return decoding.read_size(self._photos[index].path, upright=self._upright)

    def small_photo(self, index: int, side: int) -> np.ndarray:
        """The photo, a JPEG reduced in decoding, to no less than `side` pixels a side."""
        return decoding.decode(self._photos[index].path, upright=self._upright, side=side)[0]

    def points(self, index: int) -> np.ndarray:
        """Its points `[P, 2]` float32 `(x, y)` in pixels; the first pixel's centre is (0, 0)."""
        return self._points[index]

    def path(self, index: int) -> str:
        """The photo's file."""
        return self._photos[index].path

    def stamp(self, index: int) -> list[int]:
        """Size and modification time of the photo's file."""
        return self._stamps[index]

    def name(self, index: int) -> str:
        """The photo's name, independent of where its folder lies."""
        return self._photos[index].name


def one_line(*notes: str) -> str:
    """The notes that are not empty, joined."""
    return "; ".join(filter(None, notes))


def source_digest(source: Source) -> str:
    """A fingerprint of the photos' names and order, with which a run detects changes.

    Moving the folder does not change it; adding, renaming or removing a photo does.
    """
    return names_digest([source.name(i) for i in range(len(source))], source.num_points)


def names_digest(names: list[str], num_points: int) -> str:
    """The fingerprint of a list of names, 64 hexadecimal digits."""
    return hashlib.sha256(json.dumps([num_points, names]).encode()).hexdigest()


def select_splits(split: str, splits: Iterable[str], source: str = "") -> list[str]:
    """The splits of a data set that `split` stands for: one of them, or "all".

    Raises:
      ConfigError: the data set has no such split; `source` is its name, for the message.
    """
    known = list(splits)
    if split == "all":
        return known
    if split not in known:
        raise ConfigError(
            f"config.data.split = {split!r}: must be one of {', '.join(['all', *known])}"
            + (f" for source {source!r}" if source else "")
        )
    return [split]


def roots_of(data: Any, *folders: str) -> tuple[str, ...]:
    """`config.data.roots`, one for each of `folders`, which describe them.

    Raises:
      ConfigError: there are more or fewer roots.
    """
    if len(data.roots) != len(folders):
        raise ConfigError(
            f"config.data.roots = {tuple(data.roots)}: source {data.source!r} needs "
            f"{' and '.join(folders)}"
        )
    return tuple(data.roots)


def need_file(path: str, origin: str) -> None:
    """Raises `DataError` unless the file exists; `origin` says where to get it."""
    if problem := files.not_regular(path):
        raise DataError(f"{path}: {problem}. Needed: {origin}. See docs/datasets.md")


def need_folder(path: str, origin: str) -> None:
    """Raises `DataError` unless the folder exists; `origin` says where to get it."""
    if not os.path.isdir(path):
        raise DataError(f"{path}: no such folder. Needed: {origin}. See docs/datasets.md")
