"""Sources of photos: the protocol all of them follow, and the choice among them by config."""

import hashlib
import json
import os
from typing import Any, Protocol

import numpy as np

from landmarks_jax.data import framing, parallel
from landmarks_jax.data.celeba import CelebaPhotos
from landmarks_jax.data.folder import FolderPhotos
from landmarks_jax.data.mtfl import MtflFaces
from landmarks_jax.errors import ConfigError, DataError

SOURCES = ("synthetic", "folder", "celeba", "mtfl", "prepared")


class Source(Protocol):
    """Photos by number: NumPy in and out, the same photo for the same number.

    Attributes:
      num_points: annotated points of each photo, 0 without annotation.
    """

    num_points: int

    def __len__(self) -> int:
        """Number of photos."""
        ...

    def photo(self, index: int) -> np.ndarray:
        """One photo, `[H, W, 3]` uint8 RGB; any size."""
        ...

    def points(self, index: int) -> np.ndarray:
        """Its points `[P, 2]` float32 `(x, y)` in pixels, centres of pixels at whole numbers."""
        ...

    def name(self, index: int) -> str:
        """What to call the photo in a message."""
        ...


def summary(source: Source) -> str:
    """One line for the log: how many photos of where, and what was left out."""
    return getattr(source, "summary", f"{len(source):,} photos of {type(source).__name__}")


def one_root(data: Any) -> str:
    """The folder of a source that has just one; `ConfigError` where several or none are named."""
    if len(data.roots) != 1:
        raise ConfigError(
            f"config.data.roots = {tuple(data.roots)}: source {data.source!r} wants one folder"
        )
    return data.roots[0]


def open_source(data: Any) -> Source:
    """Opens the photos a config names; reads every file once if it never did.

    Args:
      data: `config.data`, with the fields `source`, `roots`, `exclude`, `landmarks`,
        `num_synthetic`, `synthetic_seed` and `canvas_size`.

    Raises:
      ConfigError: a field has a value that cannot work.
      DataError: the photos or their lists are missing or malformed.
    """
    exclude = tuple(data.exclude)
    if data.source == "synthetic":
        from landmarks_jax.data import synthetic  # noqa: PLC0415  (draws; nobody else needs it)

        return synthetic.SyntheticFaces(data.synthetic_seed, data.num_synthetic, data.canvas_size)
    if data.source == "folder":
        return FolderPhotos(tuple(data.roots), exclude, data.landmarks or None)
    if data.source == "celeba":
        return CelebaPhotos(one_root(data), exclude)
    if data.source == "mtfl":
        if not data.landmarks:
            raise ConfigError("config.data.landmarks = '': source 'mtfl' wants its list file here")
        return MtflFaces(data.landmarks, one_root(data) if data.roots else None, exclude)
    if data.source == "prepared":
        raise ConfigError("config.data.source = 'prepared': canvases already; photos are wanted")
    raise ConfigError(f"config.data.source = {data.source!r}: must be one of {', '.join(SOURCES)}")


def open_labelled(path: str) -> Source:
    """Opens a labelled set by its list: `.csv` a landmarks table, `.txt` a list as MTFL's.

    Photos are looked for from the list's own folder.
    """
    if not os.path.isfile(path):
        raise DataError(f"{path}: no such list of labelled photos")
    ending = os.path.splitext(path)[1].lower()
    if ending == ".csv":
        return FolderPhotos((), landmarks=path)
    if ending == ".txt":
        return MtflFaces(path)
    raise DataError(f"{path}: a labelled set is a .csv table or a .txt list in MTFL's form")


def cut_photo(source: Source, frame: framing.Framing, index: int) -> tuple[np.ndarray, np.ndarray]:
    """One canvas `[C, C, 3]` uint8 and its points `[P, 2]` float32 in the canvas frame."""
    try:
        return frame.cut(source.photo(index), source.points(index))
    except DataError as error:
        name = source.name(index)
        raise error if name in str(error) else DataError(f"{name}: {error}") from error
    except (ValueError, MemoryError) as error:
        raise DataError(f"{source.name(index)}: cannot be cut to a canvas ({error})") from error


def load_all(source: Source, frame: framing.Framing) -> tuple[np.ndarray, np.ndarray]:
    """Every photo of a (small) source as a canvas, in order; needs no TensorFlow.

    Returns:
      Canvases `[N, C, C, 3]` uint8 and points `[N, P, 2]` float32, normalised to the canvas.
    """
    frame.check_points(source.num_points, summary(source))
    count, size = len(source), frame.canvas_size
    canvases = np.empty((count, size, size, 3), np.uint8)
    points = np.empty((count, source.num_points, 2), np.float32)

    def fill(index: int) -> None:
        canvases[index], points[index] = cut_photo(source, frame, index)

    for _ in parallel.ordered_map(fill, range(count), "cutting canvases"):
        pass
    return canvases, points


def source_digest(source: Source) -> str:
    """A fingerprint of which photos these are, in which order: a run keeps it to notice a change.

    Names and their count enter, not pixels: moving the folder changes nothing, adding, renaming or
    losing a photo does.
    """
    return names_digest([source.name(i) for i in range(len(source))], source.num_points)


def names_digest(names: list[str], num_points: int) -> str:
    """The fingerprint of a list of photos, 64 hexadecimal digits."""
    return hashlib.sha256(json.dumps([num_points, names]).encode()).hexdigest()
