"""Small copies of photos to take to another machine: a folder of WebP files.

The source `folder` reads it. If the photos have points, it also has `points.csv`, with points in
pixels of the small photos.
"""

import os
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image

from landmarks_jax.data import photo_files
from landmarks_jax.data.sources.photos import Source
from landmarks_jax.system import files, parallel, tables

POINTS = "points.csv"


def small_names(names: Iterable[str]) -> list[str]:
    """The path of each small photo: its own, ending in `.webp`.

    Lists of photos to leave out match names without endings, so they still work. A photo whose path
    is taken goes into a folder `2`, `3` and so on.
    """
    taken: set[str] = set()
    paths = []
    for name in names:
        # Scans skip names with a leading dot; `..` would leave the folder.
        steps = [step.lstrip(".") for step in PurePosixPath(name).parts if step != "/"]
        path = "/".join(filter(None, steps))
        stem = os.path.splitext(path)[0] if photo_files.is_image(path) else path
        path, number = f"{stem}.webp", 1
        while path.casefold() in taken:  # some file systems ignore case
            number += 1
            path = f"{number}/{stem}.webp"
        taken.add(path.casefold())
        paths.append(path)
    return paths


def shrink(source: Source, out: str | os.PathLike[str], side: int, quality: int = 50) -> int:
    """Writes small copies of a source's photos to a new folder.

    Args:
      source: the photos.
      out: the folder to make; must not exist.
      side: of the longer side, in pixels; smaller photos keep their size.
      quality: of the WebP files, 0 to 100.

    Returns:
      The size of all files, in bytes.

    Raises:
      DataError: the folder exists or cannot be written, or a photo cannot be read.
    """
    paths = small_names(source.name(i) for i in range(len(source)))
    with files.new_folder(Path(out)) as folder:
        for parent in {(folder / path).parent for path in paths}:
            parent.mkdir(parents=True, exist_ok=True)

        def write(index: int) -> np.ndarray:
            photo = Image.fromarray(source.photo(index))
            size = _small_size(photo.size, side)
            # Lanczos, because the copy will be resampled again.
            small = photo.resize(size, Image.Resampling.LANCZOS)
            small.save(folder / paths[index], "WEBP", quality=quality)
            factors = np.array(size) / photo.size
            return (source.points(index) + 0.5) * factors - 0.5

        points = list(parallel.ordered_map(write, range(len(source)), "shrinking"))
        if source.num_points:
            files.write_file(folder / POINTS, _points_csv(paths, points))
        return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _small_size(size: tuple[int, int], side: int) -> tuple[int, int]:
    """`(width, height)` with the longer side at most `side`, the shape kept if possible."""
    share = min(1.0, side / max(size))
    return max(1, round(size[0] * share)), max(1, round(size[1] * share))


def _points_csv(paths: list[str], points: list[np.ndarray]) -> str:
    numbers = range(1, len(points[0]) + 1)
    header = ["file", *(f"{axis}{i}" for i in numbers for axis in "xy")]
    pairs = zip(paths, points, strict=True)
    rows = [[path, *(f"{value:.3f}" for value in row.ravel())] for path, row in pairs]
    return tables.csv_lines([header, *rows])
