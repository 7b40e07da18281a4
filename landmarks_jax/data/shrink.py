"""Photos packed small, to be taken to another machine: a folder of WebP files.

What reads it is the source `folder`. Of labelled photos it also holds `points.csv`, the points in
the pixels of the small photos.
"""

import csv
import os
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image

from landmarks_jax.data import photo_files
from landmarks_jax.data.sources import registry
from landmarks_jax.system import files, parallel

POINTS = "points.csv"


def small_names(names: Iterable[str]) -> list[str]:
    """Where each photo goes: below its own folders, under its own name, ending in `.webp`.

    So lists of photos to leave out, which match by name whatever the ending, still hold. A photo
    that would take the place of an earlier one goes into a folder `2`, `3` and so on.
    """
    taken: set[str] = set()
    places = []
    for name in names:
        # A name with a leading dot would not be found again; `..` would leave the folder.
        parts = [part.lstrip(".") for part in PurePosixPath(name).parts if part != "/"]
        path = "/".join(part for part in parts if part)
        stem = os.path.splitext(path)[0] if photo_files.is_picture(path) else path
        place, number = f"{stem}.webp", 1
        while place.casefold() in taken:  # some file systems do not tell a from A
            number += 1
            place = f"{number}/{stem}.webp"
        taken.add(place.casefold())
        places.append(place)
    return places


def shrink(
    source: registry.Source, out: str | os.PathLike[str], side: int, quality: int = 50
) -> int:
    """Writes small copies of a source's photos to a new folder, whole or not at all.

    Args:
      source: the photos.
      out: the folder to make; must not be there yet.
      side: of the longer side, in pixels; smaller photos keep their size.
      quality: of the WebP files, 0 to 100.

    Returns:
      The size of all files, in bytes.

    Raises:
      DataError: the folder is there already or cannot be written, or a photo cannot be read.
    """
    places = small_names(source.name(i) for i in range(len(source)))
    with files.new_folder(Path(out)) as folder:
        for parent in {(folder / place).parent for place in places}:
            parent.mkdir(parents=True, exist_ok=True)

        def write(index: int) -> np.ndarray:
            photo = Image.fromarray(source.photo(index))
            size = _small_size(photo.size, side)
            # Lanczos: what is kept is cut and stretched once more, and should be sharp until then.
            small = photo.resize(size, Image.Resampling.LANCZOS)
            small.save(folder / places[index], "WEBP", quality=quality)
            factors = np.array(size) / photo.size
            return (source.points(index) + 0.5) * factors - 0.5

        points = list(parallel.ordered_map(write, range(len(source)), "shrinking"))
        if source.num_points:
            _write_points(folder / POINTS, places, points)
        return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _small_size(size: tuple[int, int], side: int) -> tuple[int, int]:
    """`(width, height)` with the longer side at most `side`, the shape kept as far as it can be."""
    share = min(1.0, side / max(size))
    return max(1, round(size[0] * share)), max(1, round(size[1] * share))


def _write_points(path: Path, places: list[str], points: list[np.ndarray]) -> None:
    numbers = range(1, len(points[0]) + 1)
    with path.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(["file", *(f"{axis}{i}" for i in numbers for axis in "xy")])
        for place, found in zip(places, points, strict=True):
            table.writerow([place, *(f"{value:.3f}" for value in found.ravel())])
