"""What was found, written line by line: a table, JSON Lines, and a list of what was left out."""

import contextlib
import csv
import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TextIO

import numpy as np

from landmarks_jax.system.errors import DataError

TABLE, LINES, SKIPPED = "landmarks.csv", "landmarks.jsonl", "skipped.csv"


class Row(NamedTuple):
    """One view of one picture or video frame.

    Attributes:
      file: the input's name.
      frame: the frame's number from 0; None for a picture.
      time: seconds since the first frame; None for a picture.
      box: the number of the file's box from 0; None where no boxes are given.
      landmarks: `[K, 2]` in pixels of the upright picture.
      confidence: `[K]`.
      labelled: `[P, 2]`, or None where the detector has no regressor.
      smooth: `[K + P, 2]`, smoothed over time; None where that was not asked for.
    """

    file: str
    frame: int | None
    time: float | None
    box: int | None
    landmarks: np.ndarray
    confidence: np.ndarray
    labelled: np.ndarray | None
    smooth: np.ndarray | None


class Results:
    """The files of results in a folder, replacing those of an earlier run.

    Attributes:
      rows: how many were written.
      failed: the files that could not be read or written, each with the reason.
    """

    def __init__(
        self, folder: Path, num_landmarks: int, labelled: Sequence[str], *, smooth: bool
    ) -> None:
        """Opens the files.

        Args:
          folder: made if it is missing.
          num_landmarks: K.
          labelled: the P names of the labelled points.
          smooth: whether there are columns of smoothed points.

        Raises:
          DataError: the folder cannot be written.
        """
        self._folder = folder
        self._num, self._labelled, self._smooth = num_landmarks, tuple(labelled), smooth
        self._open = contextlib.ExitStack()
        self.rows = 0
        self.failed: list[str] = []
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
            self._table = csv.writer(self._file(TABLE), lineterminator="\n")
            self._lines = self._file(LINES)
            self._skips = csv.writer(self._file(SKIPPED), lineterminator="\n")
            self._table.writerow(self._header())
            self._skips.writerow(("file", "reason"))

    def _file(self, name: str) -> TextIO:
        # Names of files need not be UTF-8: their bytes are written as they are.
        path = self._folder / name
        return self._open.enter_context(path.open("w", encoding="utf-8", errors="surrogateescape"))

    def __enter__(self) -> "Results":
        return self

    def __exit__(self, *error: object) -> None:
        with writing(self._folder):
            self._open.close()

    def _header(self) -> list[str]:
        numbers = range(1, self._num + 1)
        names = [name.replace(" ", "_") for name in self._labelled]
        points = [f"{axis}{i}" for i in numbers for axis in "xy"]
        labelled = [f"{name}_{axis}" for name in names for axis in "xy"]
        found = [f"{axis}{i}" for i in numbers for axis in "xyc"]
        smooth = [f"smooth_{name}" for name in points + labelled] if self._smooth else []
        return ["file", "frame", "time", "box", *found, *labelled, *smooth]

    def add(self, row: Row) -> None:
        """Writes a row to the table and to the lines."""
        found = np.concatenate([row.landmarks, row.confidence[:, None]], 1)
        labelled = np.zeros((0, 2)) if row.labelled is None else row.labelled
        place = [_cell(value) for value in (row.frame, row.time, row.box)]
        cells = [*_texts(found), *_texts(labelled)]
        if self._smooth:
            count = 2 * (self._num + len(self._labelled))
            cells += [""] * count if row.smooth is None else _texts(row.smooth)
        line: dict[str, Any] = {
            "file": row.file,
            "frame": row.frame,
            "time": None if row.time is None else round(row.time, 4),
            "box": row.box,
            "landmarks": _numbers(row.landmarks),
            "confidence": [pair[0] for pair in _numbers(row.confidence[:, None])],
        }
        if row.labelled is not None:
            line["labelled"] = dict(zip(self._labelled, _numbers(row.labelled), strict=True))
        if row.smooth is not None:
            points = _numbers(row.smooth)
            line["smooth_landmarks"] = points[: self._num]
            line["smooth_labelled"] = dict(zip(self._labelled, points[self._num :], strict=True))
        with writing(self._folder):
            self._table.writerow([row.file, *place, *cells])
            self._lines.write(json.dumps(line, allow_nan=False) + "\n")
        self.rows += 1

    def fail(self, file: str, reason: str) -> None:
        """Notes a file that could not be read or written, or not to its end."""
        self.failed.append(f"{file} ({reason})")
        self.leave_out(file, reason)

    def leave_out(self, file: str, reason: str) -> None:
        """Notes a file that was not to be looked at."""
        with writing(self._folder):
            self._skips.writerow((file, reason))


@contextlib.contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Turns a failure to write into a `DataError`."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or error
        raise DataError(f"--out {folder}: cannot be written ({reason})") from error


def _cell(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}" if isinstance(value, float) else str(value)


def _texts(points: np.ndarray) -> list[str]:
    """Numbers as cells, a ten-thousandth of a pixel exact; empty where one is not finite."""
    return [f"{v:.4f}" if math.isfinite(v) else "" for v in points.ravel().tolist()]


def _numbers(points: np.ndarray) -> list[list[float | None]]:
    """Rows of numbers as JSON has them: None where one is not finite."""
    return [
        [round(v, 4) if math.isfinite(v) else None for v in row]
        for row in np.asarray(points, np.float64).tolist()
    ]
