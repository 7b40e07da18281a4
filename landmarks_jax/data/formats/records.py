"""What the formats share: labelled photos that are read, found objects that are written."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from landmarks_jax.system.errors import DataError


class Labels(NamedTuple):
    """The labelled photos of a file.

    Attributes:
      entries: for each of N photos its place in the file, such as `path:line`, and its path as
        written; a photo with several objects is there several times.
      points: `[N, P, 2]` float, as the file counts; NaN for a missing point.
      names: names of the P points, or empty.
      folders: the folders that paths may be relative to.
      missing: coordinates that may stand for a missing point and are refused, for
        `lists.check_points`.
      upright: whether points are in pixels of the upright photo, rotated and mirrored as its EXIF
        orientation says, rather than of the stored one.
      annotated: width and height `[N, 2]` of the photos that were annotated, or None if the file
        does not say.
      note: what was left out, or "".
      to_pixels: the points in pixels, from those as written and the photos' sizes `[N, 2]`; None
        if the file counts as this program does: the first pixel's centre is 0, 0.
    """

    entries: list[tuple[str, str]]
    points: np.ndarray
    names: tuple[str, ...] = ()
    folders: tuple[str, ...] = ()
    missing: Sequence[float] = ()
    upright: bool = False
    annotated: np.ndarray | None = None
    note: str = ""
    to_pixels: Callable[[np.ndarray, np.ndarray], np.ndarray] | None = None


class Found(NamedTuple):
    """The points of one object in an image or video frame.

    Attributes:
      file: the image's or video's path.
      frame: frame number from 0; None for an image.
      box: number of the box or face from 0, or None.
      size: width and height of the upright image.
      points: `[P, 2]` in its pixels, NaN where there is none.
      confidence: `[P]`.
    """

    file: str
    frame: int | None
    box: int | None
    size: tuple[int, int]
    points: np.ndarray
    confidence: np.ndarray


def same_number(place: str, count: int, before: int) -> None:
    """Refuses an object with another number of points than those before it, if there are any."""
    if before and count != before:
        raise DataError(f"{place}: {count} points, those before have {before}")


def are_point_names(names: Sequence[str]) -> bool:
    """Whether names can head columns of results: all different, of printable characters."""
    columns = [name.replace(" ", "_") for name in names]
    return all(name.isprintable() and name for name in columns) and len(set(columns)) == len(
        columns
    )
