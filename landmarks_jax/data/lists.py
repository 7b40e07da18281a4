"""List files: photos to leave out, and photos with their annotated points."""

import csv
import os
import re
from collections.abc import Iterator, Sequence

import numpy as np

from landmarks_jax.data import photo_files
from landmarks_jax.system import files
from landmarks_jax.system.errors import DataError, reason

# As other programs write them; Python's float would also take 1_00 for 100.
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", re.ASCII | re.IGNORECASE)
# A label may lie outside its photo by so many of the photo's longer side.
_FAR = 2
# A label whose x and y both are one of these, as written, stands for a point that is not there.
MISSING = (0.0, -1.0)


def read_lines(path: str) -> Iterator[tuple[str, str]]:
    """The lines of a text file that are not blank, as pairs `(path:line, text)`."""
    try:
        if problem := files.not_regular(path):
            raise OSError(problem)
        with open(path, encoding="utf-8-sig") as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    yield f"{path}:{number}", line.strip()
    except OSError as error:
        raise DataError(f"{path}: the list cannot be read ({reason(error)})") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: the list is not UTF-8 text") from error


def cells(line: str, place: str) -> list[str]:
    """The cells of a line of CSV; `place` is its `file:line` for the message."""
    try:
        return [cell.strip() for cell in next(csv.reader([line], strict=True), [])]
    except csv.Error as error:
        raise DataError(f"{place}: not a line of CSV ({error})") from error


def photo_id(name: str) -> str:
    """The key that photos are matched by: the file name without folders and an image's ending."""
    base = name.replace("\\", "/").rsplit("/", 1)[-1]
    return os.path.splitext(base)[0] if photo_files.is_image(base) else base


def leave_out(
    photos: Sequence[photo_files.PhotoFile], lists: Sequence[str]
) -> tuple[list[int], str]:
    """Leaves out the photos that are in lists.

    Photos match by name in any folder and format, so a test photo saved as PNG is left out too.

    Args:
      photos: the photos.
      lists: files with one name or id a line; points may follow, as in MTFL's lists.

    Returns:
      The indices of the photos that remain, and a note of how many were left out ("" without
      lists).
    """
    if not lists:
        return list(range(len(photos))), ""
    named = {photo_id(_without_points(line)) for path in lists for _, line in read_lines(path)}
    kept = [i for i, photo in enumerate(photos) if photo_id(photo.name) not in named]
    if not kept:
        raise DataError(f"{photo_files.some(lists)}: nothing is left of the {len(photos):,} photos")
    names = photo_files.some(lists)
    return kept, f"{len(photos) - len(kept):,} photos left out by the {len(named):,} ids of {names}"


def _without_points(line: str) -> str:
    """The name in a line: all of it, except at least ten numbers at its end."""
    name, *rest = line.split()
    annotated = len(rest) >= 10 and all(map(_NUMBER.fullmatch, rest))
    return name if annotated else line


def number(text: str, place: str) -> float:
    """The finite number that a text is; `place` is its `file:line` for the message."""
    if not _NUMBER.fullmatch(text.strip()):
        raise DataError(f"{place}: {text!r} is not a number")
    value = float(text)
    if abs(value) > float(np.finfo(np.float32).max):
        raise DataError(f"{place}: {text} is too large")
    return value


def numbers(texts: Sequence[str], place: str) -> np.ndarray:
    """Finite numbers `[N]` float32 from texts of one line."""
    return np.array([number(text, place) for text in texts], np.float32)


def read_csv(path: str) -> tuple[list[tuple[str, str]], np.ndarray]:
    """Reads a table of landmarks `file,x1,y1,...,xP,yP` with that header.

    Returns:
      For each photo its `path:line` and its path as written, and the points `[N, P, 2]` in pixels
      of the stored image.
    """
    entries: list[tuple[str, str]] = []
    points: list[np.ndarray] = []
    width = 0
    for place, line in read_lines(path):
        row = cells(line, place)
        if not width:
            width = _header_width(place, row)
            continue
        if len(row) != width:
            raise DataError(f"{place}: {len(row)} cells, the header has {width}")
        entries.append((place, row[0]))
        points.append(numbers(row[1:], place).reshape(-1, 2))
    if not points:
        raise DataError(f"{path}: no photo is listed")
    return entries, np.stack(points)


def _header_width(place: str, header: list[str]) -> int:
    """Checks a table's header and returns its number of cells."""
    num_points = (len(header) - 1) // 2
    names = [f"{axis}{i}" for i in range(1, num_points + 1) for axis in "xy"]
    if not num_points or [cell.lower() for cell in header] != ["file", *names]:
        raise DataError(f"{place}: the header must be file,x1,y1,...,xP,yP")
    return len(header)


def locate(entries: Sequence[tuple[str, str]], roots: Sequence[str]) -> list[photo_files.PhotoFile]:
    """Finds the photos of a list, each in the first of the folders that has it.

    Args:
      entries: for each photo its `list:line` and its path relative to a folder.
      roots: the folders.
    """
    photos = []
    for place, name in entries:
        paths = [os.path.join(root, name) for root in roots]
        path = next((path for path in paths if os.path.isfile(path)), None)
        if path is None:
            path = next(filter(os.path.lexists, paths), paths[0])
            raise DataError(f"{place}: {files.not_regular(path)}: {path}")
        photos.append(photo_files.PhotoFile(path, name))
    return photos


def check_labelled(
    photos: Sequence[photo_files.PhotoFile], root: str, upright: bool = False
) -> np.ndarray:
    """Checks that every annotated photo can be read and is stored upright.

    If a viewer would rotate the photo, nobody can tell which way up it was annotated; unless the
    labels are known to be of the upright photo (`upright`).

    Returns:
      The upright photos' sizes `[N, 2]`, width and height in pixels.

    Raises:
      DataError: a photo cannot be used; the message names it.
    """
    verdicts = photo_files.inspect(photos, root)
    for photo, verdict in zip(photos, verdicts, strict=True):
        if verdict.problem:
            raise DataError(
                f"{photo.path}: {verdict.problem}; it is in the list of annotated photos"
            )
        if verdict.orientation != 1 and not upright:
            raise DataError(
                f"{photo.path}: annotated, but its EXIF orientation is {verdict.orientation}: save "
                "the photo upright without the tag, with points in its pixels"
            )
    return np.array([verdict.size for verdict in verdicts]).reshape(-1, 2)


def check_points(
    points: np.ndarray,
    sizes: np.ndarray,
    places: Sequence[str],
    *,
    origin: float = 0.0,
    missing: Sequence[float] = MISSING,
) -> None:
    """Checks that no point stands for a missing one, or lies too far outside its photo.

    Args:
      points: `[N, P, 2]` in pixels; NaN for a point without annotation.
      sizes: `[N, 2]`, width and height of the photos.
      places: where each photo's points are from, such as its `file:line`.
      origin: what the file calls the centre of the first pixel, 0 or 1.
      missing: coordinates of missing points, as written; empty for files that have none.

    Raises:
      DataError: a point lies outside by more than twice the photo's longer side, or stands for a
        missing one.
    """
    most = _FAR * sizes.max(1)[:, None, None]
    far = ((points < -most) | (points > sizes[:, None] + most)).any(2)
    written = points + origin
    absent = np.isin(written[..., 0], missing) & (written[..., 0] == written[..., 1])
    for row, point in np.argwhere(far | absent)[:1]:
        (x, y), (width, height) = written[row, point], sizes[row]
        what = f"is far outside its photo of {width} x {height} pixels; correct it"
        if absent[row, point]:
            what = "stands for a missing point; label it"
        raise DataError(
            f"{places[row]}: point {point + 1} at ({x:g}, {y:g}) {what} or leave the photo out"
        )
