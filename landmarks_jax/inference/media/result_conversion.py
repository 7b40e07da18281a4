"""The results of `landmarks-jax detect` in formats of other programs."""

import json
import math
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from landmarks_jax.data import lists
from landmarks_jax.data.formats import coco, deeplabcut, tps
from landmarks_jax.data.formats.records import Found
from landmarks_jax.inference.media.result_files import TABLE
from landmarks_jax.system import files
from landmarks_jax.system.errors import ConfigError, DataError

_TPS = ".tps"
_Write = Callable[[Sequence[Found], Sequence[str]], str]
# By ending; TPS has no names of points.
WRITERS: dict[str, _Write] = {".csv": deeplabcut.write, ".json": coco.write}


def convert(results: Path, out: Path, points: str | None = None, scale: float | None = None) -> str:
    """Writes results as TPS, COCO keypoints or DeepLabCut's CSV, by the ending of `out`.

    Args:
      results: a `landmarks.jsonl`.
      out: the file to write, atomically; images that are there are named relative to its folder.
      points: the field of the results; by default `labelled`, or `landmarks` without these.
      scale: the length of a pixel, for TPS.

    Returns:
      A line that says what was written.

    Raises:
      UserError: the results are damaged, cannot be written, or do not fit the format.
    """
    ending = out.suffix.lower()
    if ending not in (_TPS, *WRITERS):
        raise ConfigError(f"--out {out}: must end in {', '.join((_TPS, *WRITERS))}")
    if scale is not None and ending != _TPS:
        raise ConfigError("--scale goes with --out *.tps")
    if out.absolute() == results.with_name(TABLE).absolute():
        raise ConfigError(f"--out {out}: is the table of detect; name another file")
    files.check_writable(out)
    found, names, field = _read(str(results), out.parent, points)
    text = tps.write(found, scale) if ending == _TPS else WRITERS[ending](found, names)
    files.write_file(out, text.encode("utf-8", "surrogateescape"))
    return f"{out}: {len(found):,} x {len(names)} points ({field}) of {results}"


def _read(path: str, folder: Path, field: str | None) -> tuple[list[Found], list[str], str]:
    """The objects, the names of their points, and the field that these are of."""
    found: list[Found] = []
    names: list[str] = []
    for place, row in _rows(path):
        field = field or ("labelled" if "labelled" in row else "landmarks")
        if field not in row:
            raise DataError(f"{place}: has no {field}")
        points = row[field]
        own = list(points) if isinstance(points, dict) else []
        try:
            mapped = field.endswith("labelled")
            one = _found(row, list(points.values()) if own else points, mapped, folder)
        except (KeyError, OverflowError, TypeError, ValueError) as error:
            raise DataError(f"{place}: not a row of landmarks.jsonl") from error
        own = own or [f"landmark_{i}" for i in range(1, len(one.points) + 1)]
        if names and own != names:
            raise DataError(f"{place}: other points than in the rows before")
        names = own
        found.append(one)
    if not found:
        raise DataError(f"{path}: has no row, so nothing was found")
    return found, names, field or ""


def _rows(path: str) -> Iterator[tuple[str, dict[str, Any]]]:
    for place, line in lists.read_lines(path):
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{place}: not a row of landmarks.jsonl") from error
        if not isinstance(row, dict):
            raise DataError(f"{place}: not a row of landmarks.jsonl")
        yield place, row


def _found(row: dict[str, Any], points: list[Any], mapped: bool, folder: Path) -> Found:
    """A row's object; mapped points have the mean confidence of those that they are mapped from."""
    name, (width, height) = str(row["file"]), row["size"]
    if os.path.exists(name):
        name = os.path.relpath(name, folder).replace(os.sep, "/")
    values = row["confidence"]
    confidence = np.nan_to_num(
        _numbers(list(values.values() if isinstance(values, dict) else values))
    )
    if not (len(points) and len(confidence)):
        raise ValueError("no points")
    if mapped:
        confidence = np.full(len(points), round(float(confidence.mean()), 4))
    placed = _numbers([value for point in points for value in point]).reshape(-1, 2)
    if len(placed) != len(confidence):
        raise ValueError("points without confidence")
    frame, box = (None if row[key] is None else int(row[key]) for key in ("frame", "box"))
    return Found(name, frame, box, (int(width), int(height)), placed, confidence)


def _numbers(values: Sequence[float | None]) -> np.ndarray:
    return np.array([math.nan if value is None else value for value in values], float)
