"""AFLW's labelled faces for benchmarks, and the forward error of points on them."""

import functools
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from landmarks_jax.data import cutting
from landmarks_jax.data.framing import Framing
from landmarks_jax.data.sources import registry
from landmarks_jax.data.sources.photos import Source
from landmarks_jax.evaluation import metrics, regression
from landmarks_jax.evaluation.regression import Fitter, Split
from landmarks_jax.system import parallel
from landmarks_jax.system.errors import DataError

LISTS = ("training.txt", "testing.txt")
DEV_LISTS = ("dev_fit.txt", "dev_score.txt")


class Errors(NamedTuple):
    """Forward errors, % of the eye distance.

    Attributes:
      dev: on AFLW-dev.
      test: on AFLW-995.
    """

    dev: float
    test: float


def forward_error(source: Split, labels: Split, fitter: Fitter = regression.fit) -> float:
    """The forward error with all labels, % of the eye distance; the eyes are the first two labels.

    Args:
      source: the points to predict from.
      labels: the labelled points.
      fitter: fits the map.
    """
    everything = regression.subsets(len(labels.fit), (), 1, 0)
    eye_distance = metrics.inter_ocular(labels.score)
    return regression.scores_by_count(fitter, source, labels, eye_distance, everything)[0]["mean"]


def whole_views(source: Source, size: int, places: Iterable[int]) -> tuple[np.ndarray, np.ndarray]:
    """Some photos of a source, all of each.

    Returns:
      Views `[N, size, size, 3]` uint8 and points `[N, P, 2]` float32, normalised to the view.
    """
    frame = Framing(size, size, "tight")
    cut = parallel.in_order(lambda place: cutting.cut_photo(source, frame, place), places)
    views, points = zip(*cut, strict=True)
    return np.stack(views), np.stack(points)


class Faces:
    """The faces of AFLW-995, those of `training.txt` first; AFLW-dev's are among these.

    Attributes:
      labels: `[N, 5, 2]`, normalised to the photo.
      num_training: how many are of `training.txt`.
    """

    def __init__(self, folder: Path, count: int) -> None:
        """Reads the lists.

        Args:
          folder: has the four lists.
          count: of each of the two large lists, the first so many.

        Raises:
          DataError: a list or a photo is missing, or no face of AFLW-dev is left.
        """
        self._count = count
        self._sources = [registry.open_labelled(str(folder / name)) for name in LISTS]
        self.num_training = min(count, len(self._sources[0]))
        rows = {self._sources[0].name(i): i for i in range(self.num_training)}
        self._dev = [
            np.array([rows[name] for name in _names(folder / listed) if name in rows], int)
            for listed in DEV_LISTS
        ]
        if not all(map(len, self._dev)):
            raise DataError(f"{folder}: no face of AFLW-dev among the first {self.num_training:,}")
        self.labels = self._read(8)[1]

    def __len__(self) -> int:
        return len(self.labels)

    @functools.lru_cache(maxsize=2)  # noqa: B019  (there is one object, as long as the process)
    def views(self, size: int) -> np.ndarray:
        """The whole photos `[N, size, size, 3]` uint8."""
        return self._read(size)[0]

    def _read(self, size: int) -> tuple[np.ndarray, np.ndarray]:
        parts = [
            whole_views(source, size, range(min(self._count, len(source))))
            for source in self._sources
        ]
        views, points = map(np.concatenate, zip(*parts, strict=True))
        return views, points

    def errors(self, points: np.ndarray, fitter: Fitter = regression.fit) -> Errors:
        """The forward errors of points `[N, K, 2]`."""
        training, testing = slice(self.num_training), slice(self.num_training, None)
        return Errors(
            *(
                forward_error(
                    Split(points[fit], points[score]),
                    Split(self.labels[fit], self.labels[score]),
                    fitter,
                )
                for fit, score in (self._dev, (training, testing))
            )
        )

    def of_others(self, points: np.ndarray) -> np.ndarray:
        """Gives every photo the points of another one of its list."""
        lists = points[: self.num_training], points[self.num_training :]
        return np.concatenate([np.roll(part, max(1, len(part) // 2), 0) for part in lists])


def _names(path: Path) -> list[str]:
    source = registry.open_labelled(str(path))
    return [source.name(i) for i in range(len(source))]
