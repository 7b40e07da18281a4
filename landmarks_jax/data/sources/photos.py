"""A source made of picture files, labelled or not."""

from collections.abc import Iterable, Sequence

import numpy as np

from landmarks_jax.data import decoding, photo_files
from landmarks_jax.system.errors import ConfigError


class PhotoFiles:
    """Photos in files, by number.

    Attributes:
      num_points: labelled points of each photo, 0 without labels.
      summary: one line: how many photos of where, and what was left out.
    """

    def __init__(
        self, photos: Sequence[photo_files.PhotoFile], points: np.ndarray | None, summary: str
    ) -> None:
        """Takes files known to be usable, and their points `[N, P, 2]` in pixels, if any."""
        self._photos = list(photos)
        self._points = np.zeros((len(photos), 0, 2), np.float32) if points is None else points
        if len(self._points) != len(self._photos):
            raise ValueError(f"{len(self._points)} sets of points, {len(self._photos)} photos")
        self.num_points: int = self._points.shape[1]
        self.summary = summary

    def __len__(self) -> int:
        return len(self._photos)

    def photo(self, index: int) -> np.ndarray:
        """One photo, `[H, W, 3]` uint8 RGB; unlabelled ones turned upright."""
        return decoding.decode(self._photos[index].path, upright=self.num_points == 0)[0]

    def points(self, index: int) -> np.ndarray:
        """Its points `[P, 2]` float32 `(x, y)` in pixels, centres of pixels at whole numbers."""
        return self._points[index]

    def stamp(self, index: int) -> list[int]:
        """Size and time of change of the photo's file: another file, another stamp."""
        return photo_files.stamp(self._photos[index].path)

    def name(self, index: int) -> str:
        """What the photo is called, wherever its folder stands."""
        return self._photos[index].name


def one_line(*notes: str) -> str:
    """The notes that are not empty, joined."""
    return "; ".join(note for note in notes if note)


def parts(chosen: str, names: Iterable[str]) -> list[str]:
    """The parts of a data set that `chosen`, one of them or "all", stands for."""
    known = list(names)
    if chosen == "all":
        return known
    if chosen not in known:
        allowed = ", ".join(["all", *known])
        raise ConfigError(f"config.data.part = {chosen!r}: must be one of {allowed} here")
    return [chosen]
