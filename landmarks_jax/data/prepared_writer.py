"""Writes the rows of a prepared folder so that an interrupted call can be resumed.

    canvases.npy, points.npy   the rows so far, after the header of the complete arrays
    progress.json              the inputs, and how many rows are known to be on disk

Rows are appended. They are flushed to disk periodically, and only then is their number recorded;
after a kill or a power failure, rows beyond that number are written again. Rows are reused only if
the photos up to there, their points, the cut and Pillow's version are the same.
"""

import hashlib
import io
import json
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import PIL

from landmarks_jax.data import cutting
from landmarks_jax.data.box_canvas import Frame
from landmarks_jax.data.sources.photos import Source
from landmarks_jax.system import files, parallel

PROGRESS = "progress.json"
CANVASES, POINTS = "canvases.npy", "points.npy"

_LOGGER = logging.getLogger(__name__)
_FLUSH_EVERY = 1_000  # photos; 77 MB of canvases of 160 pixels


def write_rows(source: Source, frame: Frame, folder: Path, inputs: Mapping[str, Any]) -> None:
    """Writes `canvases.npy` `[N, C, C, 3]` uint8 and `points.npy` `[N, P, 2]` float32, in order.

    Args:
      source: the photos.
      frame: how they are cut.
      folder: where the arrays are written or continued.
      inputs: what the rows depend on besides the photos' files and points.
    """
    count, size = len(source), frame.canvas_size
    inputs = {**inputs, "count": count, "pillow": PIL.__version__}
    arrays = [
        _ArrayFile(folder / CANVASES, (count, size, size, 3), np.uint8),
        _ArrayFile(folder / POINTS, (count, source.num_points, 2), np.float32),
    ]
    photos = _Fingerprint(source)
    _find_rows(folder, inputs, photos, arrays)
    done = photos.count

    def flush() -> None:
        """Flushes the rows to disk, then records their number."""
        for array in arrays:
            array.flush()
        progress = {"inputs": inputs, "done": photos.count, "photos": photos.digest()}
        files.write_file(folder / PROGRESS, json.dumps(progress))

    for array in arrays:
        array.open(done)
    try:
        rows = parallel.ordered_map(
            lambda index: cutting.cut_photo(source, frame, index),
            range(done, count),
            "preparing",
            done,
        )
        for row in rows:
            for array, values in zip(arrays, row, strict=True):
                array.append(values)
            photos.add()
            if (photos.count - done) % _FLUSH_EVERY == 0:
                flush()
    finally:
        flush()
        for array in arrays:
            array.file.close()
        if photos.count < count:
            _LOGGER.info(
                "%s: kept %d of %d canvases; run the same command to resume",
                folder,
                photos.count,
                count,
            )


class _ArrayFile:
    """An `.npy` file to which rows are appended; its header is that of the complete array."""

    file: BinaryIO

    def __init__(self, path: Path, shape: tuple[int, ...], dtype: type) -> None:
        self.path = path
        self.row_bytes = int(np.prod(shape[1:])) * np.dtype(dtype).itemsize
        header = io.BytesIO()
        description = np.lib.format.dtype_to_descr(np.dtype(dtype))
        fields = {"descr": description, "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(header, fields)
        self.header = header.getvalue()

    def holds(self, rows: int) -> bool:
        """Whether the file has the header and at least this many rows."""
        size = self.path.stat().st_size
        with self.path.open("rb") as file:
            same = file.read(len(self.header)) == self.header
        return same and size >= len(self.header) + rows * self.row_bytes

    def open(self, rows: int) -> None:
        """Opens the file to append after this many rows; drops what follows them."""
        self.file = self.path.open("r+b" if rows else "wb")
        if not rows:
            self.file.write(self.header)
        self.file.truncate(len(self.header) + rows * self.row_bytes)
        self.file.seek(0, os.SEEK_END)

    def append(self, row: np.ndarray) -> None:
        self.file.write(np.ascontiguousarray(row).tobytes())

    def flush(self) -> None:
        self.file.flush()
        os.fsync(self.file.fileno())


class _Fingerprint:
    """A digest of the files and points of the first `count` photos of a source."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self.restart()

    def restart(self) -> None:
        self._hash = hashlib.sha256()
        self.count = 0

    def add(self) -> None:
        mark = json.dumps(self._source.stamp(self.count))
        self._hash.update(mark.encode() + self._source.points(self.count).tobytes())
        self.count += 1

    def digest(self) -> str:
        return self._hash.hexdigest()


def _find_rows(
    folder: Path, inputs: Mapping[str, Any], photos: _Fingerprint, arrays: list[_ArrayFile]
) -> None:
    """Counts in `photos` the rows of an earlier call that can be reused."""
    path = folder / PROGRESS
    if not path.exists():
        return
    try:
        progress = json.loads(path.read_text())
        done, digest = int(progress["done"]), progress["photos"]
        same = progress["inputs"] == inputs and 0 <= done <= inputs["count"]
        same = same and all(array.holds(done) for array in arrays)
    except (OSError, ValueError, KeyError, TypeError):
        same = False
    if same:
        for _ in range(done):
            photos.add()
        same = photos.digest() == digest
    if same:
        _LOGGER.info("%s: resuming after %d canvases", folder, done)
        return
    _LOGGER.info("%s: has other photos or another cut; starting again", folder)
    photos.restart()
    path.unlink()  # before the rows: the next call would trust a number without its rows
