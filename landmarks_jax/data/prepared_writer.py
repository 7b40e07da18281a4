"""The rows of a prepared folder while it is written: what a killed process leaves is gone on with.

    canvases.npy, points.npy   the rows so far, behind the head of the whole arrays
    progress.json              what they are made of, and how many are known to be on the disk

Rows are appended. Every so often they are brought to the disk, and only then their number is
noted; after a kill, or a loss of power, what lies beyond the noted number is written again. The
rows are used again only if the photos up to there, their points, the cut and Pillow are the same.
"""

import hashlib
import io
import json
import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import PIL

from landmarks_jax.data.box_canvas import Frame
from landmarks_jax.data.sources import registry
from landmarks_jax.system import files, parallel

PROGRESS = "progress.json"
CANVASES, POINTS = "canvases.npy", "points.npy"

_LOGGER = logging.getLogger(__name__)
_KEEP_EVERY = 1_000  # photos; 77 MB of canvases of 160 pixels


def write_rows(
    source: registry.Source, frame: Frame, folder: Path, made_of: Mapping[str, Any]
) -> None:
    """Writes `canvases.npy` `[N, C, C, 3]` uint8 and `points.npy` `[N, P, 2]` float32, in order.

    Args:
      source: the photos.
      frame: how they are cut.
      folder: where the arrays belong, and may lie in part.
      made_of: what the rows depend on besides the photos' files and points.
    """
    count, size = len(source), frame.canvas_size
    made_of = {**made_of, "count": count, "pillow": PIL.__version__}
    heads = (
        _head(np.dtype(np.uint8), (count, size, size, 3)),
        _head(np.dtype(np.float32), (count, source.num_points, 2)),
    )
    row_bytes = (size * size * 3, source.num_points * 2 * 4)
    photos = _Photos(source)
    _find_rows(folder, made_of, photos, heads, row_bytes)
    before = photos.count

    def cut(index: int) -> tuple[np.ndarray, np.ndarray]:
        return registry.cut_photo(source, frame, index)

    with (folder / CANVASES).open("ab") as canvases, (folder / POINTS).open("ab") as points:
        arrays = (canvases, points)
        for file, head, length in zip(arrays, heads, row_bytes, strict=True):
            _cut_back(file, head, before * length)
        try:
            rest = range(before, count)
            for rows in parallel.ordered_map(cut, rest, "preparing", before=before):
                for file, row in zip(arrays, rows, strict=True):
                    file.write(np.ascontiguousarray(row).tobytes())
                photos.add()
                if (photos.count - before) % _KEEP_EVERY == 0:
                    _keep(folder, arrays, made_of, photos)
        finally:
            _keep(folder, arrays, made_of, photos)
            if photos.count < count:
                _LOGGER.info(
                    "%s: %d of %d canvases are kept; the same command goes on",
                    folder,
                    photos.count,
                    count,
                )


class _Photos:
    """A fingerprint of the first `count` photos of a source: their files and their points."""

    def __init__(self, source: registry.Source) -> None:
        self._source = source
        self.restart()

    def restart(self) -> None:
        self._hash = hashlib.sha256()
        self.count = 0

    def add(self) -> None:
        stamp = getattr(self._source, "stamp", None)  # of photos in files of their own
        mark = json.dumps(stamp(self.count) if stamp else None)
        self._hash.update(mark.encode() + self._source.points(self.count).tobytes())
        self.count += 1

    def digest(self) -> str:
        return self._hash.hexdigest()


def _head(dtype: np.dtype, shape: tuple[int, ...]) -> bytes:
    """The first bytes of an .npy file of such an array, as `np.save` writes them."""
    file = io.BytesIO()
    description = np.lib.format.dtype_to_descr(dtype)
    header = {"descr": description, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, header)
    return file.getvalue()


def _find_rows(
    folder: Path,
    made_of: Mapping[str, Any],
    photos: _Photos,
    heads: Sequence[bytes],
    row_bytes: Sequence[int],
) -> None:
    """Counts in `photos` the rows of an earlier attempt that hold."""
    path = folder / PROGRESS
    if not path.exists():
        return
    try:
        progress = json.loads(path.read_text())
        done, digest = int(progress["done"]), progress["photos"]
        holds = progress["made_of"] == made_of and 0 <= done <= made_of["count"]
        for name, head, length in zip((CANVASES, POINTS), heads, row_bytes, strict=True):
            with (folder / name).open("rb") as file:
                holds = holds and file.read(len(head)) == head
            holds = holds and (folder / name).stat().st_size >= len(head) + done * length
    except (OSError, ValueError, KeyError, TypeError):
        holds = False
    if holds:
        for _ in range(done):
            photos.add()
        holds = photos.digest() == digest
    if holds:
        _LOGGER.info("%s: going on after %d canvases", folder, done)
        return
    _LOGGER.info("%s: is of other photos or cut otherwise; beginning anew", folder)
    photos.restart()
    path.unlink()  # before the rows go: a number without its rows would be believed next time


def _cut_back(file: BinaryIO, head: bytes, length: int) -> None:
    """Leaves the head and so many bytes of rows in a file opened for appending."""
    file.seek(0)
    if not length:
        file.truncate(0)
        file.write(head)
    file.truncate(len(head) + length)
    file.seek(0, os.SEEK_END)


def _keep(
    folder: Path, arrays: Sequence[BinaryIO], made_of: Mapping[str, Any], photos: _Photos
) -> None:
    """Brings the rows to the disk, then notes how many there are."""
    for array in arrays:
        array.flush()
        os.fsync(array.fileno())
    progress = {"made_of": made_of, "done": photos.count, "photos": photos.digest()}
    files.write_file(folder / PROGRESS, json.dumps(progress))
