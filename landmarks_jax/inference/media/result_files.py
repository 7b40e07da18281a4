"""Result files, written row by row: landmarks.csv, landmarks.jsonl and skipped.csv."""

import contextlib
import json
import math
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import numpy as np

from landmarks_jax.data.framing import Rectangle
from landmarks_jax.system import files
from landmarks_jax.system.errors import DataError, UserError, reason
from landmarks_jax.system.tables import csv_lines

TABLE, LINES, SKIPPED = "landmarks.csv", "landmarks.jsonl", "skipped.csv"


class UnwritableError(UserError):
    """Results cannot be written any more, such as on a full disk; those so far are complete."""

    exit_code = 1


class Row(NamedTuple):
    """The result of one view of an image or video frame.

    Attributes:
      file: the input's name.
      frame: frame number from 0; None for an image.
      time: seconds since the first frame; None for an image.
      size: width and height of the image or frame, upright.
      box: number of the file's box or face from 0; None without boxes.
      view: the part of the image that was viewed, in pixel edges.
      score: the face's score; None unless faces were found.
      landmarks: `[K, 2]` in pixels of the upright image.
      confidence: `[K]`.
      labelled: `[P, 2]`, or None without a regressor.
      smooth: `[K + P, 2]`, smoothed over time, or None.
    """

    file: str
    frame: int | None
    time: float | None
    size: tuple[int, int]
    box: int | None
    view: Rectangle
    score: float | None
    landmarks: np.ndarray
    confidence: np.ndarray
    labelled: np.ndarray | None
    smooth: np.ndarray | None


class _Lines:
    """A text file to which lines are appended: each is written at once, or not at all."""

    def __init__(self, path: Path) -> None:
        if os.path.exists(path) and (problem := files.not_regular(path)):
            raise OSError(problem)
        self._file = path.open("wb", buffering=0)
        self._size = self._before = 0

    def append(self, line: str) -> None:
        # File names need not be UTF-8: their bytes are written unchanged.
        rest = memoryview(line.encode("utf-8", "surrogateescape"))
        self._before, self._size = self._size, self._size + len(rest)
        try:
            while rest:
                rest = rest[self._file.write(rest) :]
        except BaseException:
            self.drop_last()
            raise

    def drop_last(self) -> None:
        self._size = self._before
        self._file.truncate(self._size)
        self._file.seek(self._size)

    def close(self) -> None:
        with self._file:
            os.fsync(self._file.fileno())  # some file systems report a full disk only now


class Results:
    """The result files of a folder, replacing those of an earlier run.

    Attributes:
      rows: number of rows written.
      complete: number of inputs whose results are all written, or listed as failed.
      failed: the files that could not be read or written completely, each with the reason.
    """

    def __init__(
        self,
        folder: Path,
        num_landmarks: int,
        labelled: Sequence[str],
        *,
        names: Sequence[str] = (),
        faces: bool,
        smooth: bool,
    ) -> None:
        """Opens the files.

        Args:
          folder: created if missing.
          num_landmarks: K.
          labelled: names of the P labelled points.
          names: names of the K landmarks, or empty.
          faces: whether there are columns of the viewed part and the face's score.
          smooth: whether there are columns of smoothed points.

        Raises:
          DataError: the folder cannot be written, or another process is writing to it.
        """
        self._folder = folder
        self._num_landmarks, self._labelled = num_landmarks, tuple(labelled)
        self._names = tuple(names)
        self._faces, self._smooth = faces, smooth
        self.rows = self.complete = 0
        self.failed: list[str] = []
        try:
            with contextlib.ExitStack() as stack:
                folder.mkdir(parents=True, exist_ok=True)
                stack.enter_context(files.lock(folder / files.LOCK))
                self._table, self._lines, self._skipped = (
                    stack.enter_context(contextlib.closing(_Lines(folder / name)))
                    for name in (TABLE, LINES, SKIPPED)
                )
                self._table.append(csv_lines([self._header()]))
                self._skipped.append(csv_lines([("file", "reason")]))
                self._stack = stack.pop_all()
        except OSError as error:
            raise DataError(f"--out {folder}: cannot be written ({reason(error)})") from error

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise UnwritableError(
                f"--out {self._folder}: cannot be written ({reason(error)}); {TABLE} holds "
                f"{self.rows:,} complete rows"
            ) from error

    def __enter__(self) -> "Results":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            with self._writing():
                self._stack.close()
        except UnwritableError:
            if error is None:  # else that says more
                raise

    def _header(self) -> list[str]:
        landmarks = [column for point in self._columns("xyc") for column in point]
        labelled = [f"{name.replace(' ', '_')}_{axis}" for name in self._labelled for axis in "xy"]
        points = [column for point in self._columns("xy") for column in point] + labelled
        smooth = [f"smooth_{name}" for name in points] if self._smooth else []
        faces = ["left", "top", "right", "bottom", "score"] if self._faces else []
        return ["file", "frame", "time", "box", *faces, *landmarks, *labelled, *smooth]

    def _columns(self, axes: str) -> list[list[str]]:
        """The columns of each landmark: by its name, or its number from 1."""
        if self._names:
            return [[f"{name.replace(' ', '_')}_{axis}" for axis in axes] for name in self._names]
        numbers = range(1, self._num_landmarks + 1)
        return [[f"{axis}{number}" for axis in axes] for number in numbers]

    def _by_name(self, values: list) -> Any:
        """Values of the landmarks for JSON: by name, if they have names."""
        return dict(zip(self._names, values, strict=True)) if self._names else values

    def add(self, row: Row) -> None:
        """Writes a row to the table and to the JSON lines."""
        labelled = np.zeros((0, 2)) if row.labelled is None else row.labelled
        cells = [_cell(value) for value in (row.frame, row.time, row.box)]
        if self._faces:
            cells += [_cell(value) for value in (*row.view, row.score)]
        cells += _cells(np.concatenate([row.landmarks, row.confidence[:, None]], 1))
        cells += _cells(labelled)
        if self._smooth and row.smooth is not None:
            cells += _cells(row.smooth)
        elif self._smooth:
            cells += [""] * 2 * (self._num_landmarks + len(self._labelled))
        line: dict[str, Any] = {
            "file": row.file,
            "frame": row.frame,
            "time": None if row.time is None else round(row.time, 4),
            "size": row.size,
            "box": row.box,
            **({"view": _to_json(np.array(row.view)), "score": row.score} if self._faces else {}),
            "landmarks": self._by_name(_to_json(row.landmarks)),
            "confidence": self._by_name(_to_json(row.confidence)),
        }
        if row.labelled is not None:
            line["labelled"] = dict(zip(self._labelled, _to_json(row.labelled), strict=True))
        if row.smooth is not None:
            points = _to_json(row.smooth)
            smooth_labelled = points[self._num_landmarks :]
            line["smooth_landmarks"] = self._by_name(points[: self._num_landmarks])
            line["smooth_labelled"] = dict(zip(self._labelled, smooth_labelled, strict=True))
        with self._writing():
            self._table.append(csv_lines([[row.file, *cells]]))
            try:
                self._lines.append(json.dumps(line, allow_nan=False) + "\n")
            except BaseException:
                self._table.drop_last()  # both have the same rows
                raise
        self.rows += 1

    def fail(self, file: str, problem: str) -> None:
        """Lists a file that could not be read or written completely."""
        self.failed.append(f"{file} ({problem})")
        self.skip(file, problem)

    def skip(self, file: str, why: str) -> None:
        """Lists a file that was skipped on purpose."""
        with self._writing():
            self._skipped.append(csv_lines([(file, why)]))


def _cell(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}" if isinstance(value, float) else str(value)


def _cells(points: np.ndarray) -> list[str]:
    """Numbers with four decimals; not finite ones are empty."""
    return [f"{value:.4f}" if math.isfinite(value) else "" for value in points.ravel().tolist()]


def _to_json(array: np.ndarray) -> list:
    """Nested lists of numbers with four decimals; not finite ones are None."""
    rounded = [round(v, 4) if math.isfinite(v) else None for v in array.ravel().tolist()]
    if array.ndim == 1:
        return rounded
    return [rounded[start : start + 2] for start in range(0, len(rounded), 2)]
