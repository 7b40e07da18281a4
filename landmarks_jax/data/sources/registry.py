"""Sources of photos: the protocol all of them follow, and the choice among them by config."""

import hashlib
import json
import os
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np

from landmarks_jax.data import box_canvas, framing
from landmarks_jax.data.sources import pts
from landmarks_jax.data.sources.aflw import AflwFaces
from landmarks_jax.data.sources.celeba import CelebaPhotos
from landmarks_jax.data.sources.celeba_tfds import CelebaRecords
from landmarks_jax.data.sources.folder import FolderPhotos
from landmarks_jax.data.sources.mafl import MaflFaces
from landmarks_jax.data.sources.mpii import MpiiPeople
from landmarks_jax.data.sources.mtfl import MtflFaces
from landmarks_jax.data.sources.pts import PtsFaces
from landmarks_jax.system import parallel
from landmarks_jax.system.errors import ConfigError, DataError

SOURCES = (
    *("synthetic", "folder", "celeba", "celeb_a", "mafl", "aflw", "mtfl", "pts", "mpii"),
    "prepared",
)
PARTS = ("all", "train", "validation", "test")


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


def _roots(data: Any, count: int) -> tuple[str, ...]:
    """The folders of a source that has so many; `ConfigError` where others are named."""
    if len(data.roots) != count:
        wanted = "one folder" if count == 1 else "CelebA's folder and that of the lists"
        raise ConfigError(
            f"config.data.roots = {tuple(data.roots)}: source {data.source!r} wants {wanted}"
        )
    return tuple(data.roots)


def open_source(data: Any) -> Source:
    """Opens the photos a config names; reads every file once if it never did.

    Args:
      data: `config.data`, with the fields `source`, `roots`, `exclude`, `landmarks`, `part`,
        `num_synthetic`, `synthetic_seed` and `canvas_size`.

    Raises:
      ConfigError: a field has a value that cannot work.
      DataError: the photos or their lists are missing or malformed.
    """
    if data.source not in SOURCES:
        allowed = ", ".join(SOURCES)
        raise ConfigError(f"config.data.source = {data.source!r}: must be one of {allowed}")
    if data.part != "all" and data.source not in ("celeba", "celeb_a", "mafl", "aflw", "mpii"):
        raise ConfigError(f"config.data.part = {data.part!r}: {data.source!r} has only 'all'")
    return _OPENERS[data.source](data, tuple(data.exclude))


def _open_synthetic(data: Any, _: tuple[str, ...]) -> Source:
    from landmarks_jax.data.sources import synthetic  # noqa: PLC0415  (draws; nobody else needs it)

    return synthetic.SyntheticFaces(data.synthetic_seed, data.num_synthetic, data.canvas_size)


def _open_records(data: Any, exclude: tuple[str, ...]) -> Source:
    root = _roots(data, 1)[0] if data.roots else None
    return CelebaRecords(root, exclude, data.part)


def _open_mafl(data: Any, exclude: tuple[str, ...]) -> Source:
    root, list_folder = _roots(data, 2)
    return MaflFaces(root, list_folder, data.part, exclude=exclude)


def _open_mtfl(data: Any, exclude: tuple[str, ...]) -> Source:
    if not data.landmarks:
        raise ConfigError("config.data.landmarks = '': source 'mtfl' wants its list file here")
    return MtflFaces(data.landmarks, _roots(data, 1)[0] if data.roots else None, exclude)


def _open_pts(data: Any, exclude: tuple[str, ...]) -> Source:
    if not data.roots:
        raise ConfigError("config.data.roots = (): source 'pts' wants folders of photos")
    return PtsFaces(tuple(data.roots), exclude)


def _refuse_prepared(*_: Any) -> Source:
    raise ConfigError("config.data.source = 'prepared': canvases already; photos are wanted")


_OPENERS: dict[str, Callable[[Any, tuple[str, ...]], Source]] = {
    "synthetic": _open_synthetic,
    "folder": lambda data, exclude: FolderPhotos(
        tuple(data.roots), exclude, data.landmarks or None
    ),
    "celeba": lambda data, exclude: CelebaPhotos(_roots(data, 1)[0], exclude, data.part),
    "celeb_a": _open_records,
    "mafl": _open_mafl,
    "aflw": lambda data, exclude: AflwFaces(_roots(data, 1)[0], data.part, exclude),
    "mtfl": _open_mtfl,
    "pts": _open_pts,
    "mpii": lambda data, exclude: MpiiPeople(_roots(data, 1)[0], data.part, exclude),
    "prepared": _refuse_prepared,
}


def open_labelled(path: str, num_points: int = pts.NUM_REDUCED) -> Source:
    """Opens a labelled set by its list: `.csv` a landmarks table, `.txt` a list as MTFL's.

    Photos are looked for from the list's own folder. A folder is one of photos with `.pts` files
    beside them, of which all 68 points are taken or five made.
    """
    if os.path.isdir(path) and pts.has_points(path):
        return PtsFaces([path], num_points=num_points)
    if not os.path.isfile(path):
        raise DataError(f"{path}: no such list of labelled photos")
    ending = os.path.splitext(path)[1].lower()
    if ending == ".csv":
        return FolderPhotos((), landmarks=path)
    if ending == ".txt":
        return MtflFaces(path)
    raise DataError(f"{path}: a labelled set is a .csv table or a .txt list in MTFL's form")


def check(source: Source, frame: box_canvas.Frame) -> None:
    """Refuses a source whose photos cannot be cut for want of points, before the first is cut.

    Raises:
      ConfigError: the crop needs points and the source has none.
      DataError: points are missing or have no box; the photos are named.
    """
    frame.check_points(source.num_points, summary(source))
    if isinstance(frame, framing.Framing):
        return

    def wrong_with(index: int) -> str:
        try:
            frame.check_box(source.points(index))
        except DataError as error:
            return f"{source.name(index)}: {error}"
        return ""

    count = len(source)
    rows = parallel.with_progress(range(count), count, "checking points")
    wrong = [text for text in map(wrong_with, rows) if text]
    if wrong:
        more = f" (and {len(wrong) - 1:,} more)" if len(wrong) > 1 else ""
        raise DataError(
            f"{wrong[0]}{more}; leave such photos out by config.data.exclude, or use "
            "config.data.crop = 'center' or 'tight'"
        )


def cut_photo(source: Source, frame: box_canvas.Frame, index: int) -> tuple[np.ndarray, np.ndarray]:
    """One canvas `[C, C, 3]` uint8 and its points `[P, 2]` float32 in the canvas frame."""
    try:
        return frame.cut(source.photo(index), source.points(index))
    except DataError as error:
        name = source.name(index)
        raise error if name in str(error) else DataError(f"{name}: {error}") from error
    except (ValueError, MemoryError) as error:
        raise DataError(f"{source.name(index)}: cannot be cut to a canvas ({error})") from error


def load_all(source: Source, frame: box_canvas.Frame) -> tuple[np.ndarray, np.ndarray]:
    """Every photo of a (small) source as a canvas, in order; needs no TensorFlow.

    Returns:
      Canvases `[N, C, C, 3]` uint8 and points `[N, P, 2]` float32, normalised to the canvas.
    """
    return _load(source, frame, frame.canvas_size, lambda canvas: canvas)


def load_views(source: Source, frame: framing.Framing) -> tuple[np.ndarray, np.ndarray]:
    """Every photo as its undistorted view, in order; what lies around the views is not kept.

    Returns:
      Views `[N, S, S, 3]` uint8 and points `[N, P, 2]` float32, normalised to the view.
    """
    views, points = _load(source, frame, frame.view_size, frame.central_view)
    return views, frame.points_in_view(points)


def _load(
    source: Source,
    frame: box_canvas.Frame,
    size: int,
    part: Callable[[np.ndarray], np.ndarray],
) -> tuple[np.ndarray, np.ndarray]:
    """A part of every canvas, `[N, size, size, 3]`, and the points in the canvas."""
    frame.check_points(source.num_points, summary(source))
    count = len(source)
    pictures = np.empty((count, size, size, 3), np.uint8)
    points = np.empty((count, source.num_points, 2), np.float32)

    def fill(index: int) -> None:
        canvas, points[index] = cut_photo(source, frame, index)
        pictures[index] = part(canvas)

    for _ in parallel.ordered_map(fill, range(count), "cutting canvases"):
        pass
    return pictures, points


def source_digest(source: Source) -> str:
    """A fingerprint of which photos these are, in which order: a run keeps it to notice a change.

    Names and their count enter, not pixels: moving the folder changes nothing, adding, renaming or
    losing a photo does.
    """
    return names_digest([source.name(i) for i in range(len(source))], source.num_points)


def names_digest(names: list[str], num_points: int) -> str:
    """The fingerprint of a list of photos, 64 hexadecimal digits."""
    return hashlib.sha256(json.dumps([num_points, names]).encode()).hexdigest()
