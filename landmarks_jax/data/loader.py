"""Batches for training by step, from photos or from prepared canvases, identical either way.

Only canvases that were prepared larger, and are shrunk, differ. TensorFlow is imported only to
decode photos during training.
"""

import abc
import dataclasses
import hashlib
import itertools
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from landmarks_jax.data import cutting, framing, lists, prepared, sampling
from landmarks_jax.data.box_canvas import BoxCanvas, Frame
from landmarks_jax.data.framing import Framing
from landmarks_jax.data.photo_files import PhotoFile
from landmarks_jax.data.sources import photos, registry
from landmarks_jax.system import parallel
from landmarks_jax.system.errors import ConfigError

Batches = Iterator[dict[str, np.ndarray]]


class Loader(abc.ABC):
    """Batches by step.

    Attributes:
      num_points: points of each photo, 0 without annotation.
      digest: fingerprint of the list of photos; a resumed run must find the same.
      summary: one line for the log.
      places: `[N]` int32, each listed photo's number among the different photos.
      targets: `[U, P, 2]` float32 points of the U different photos, normalised to the canvas, which
        batches have instead of the photos' own; None for these.
    """

    num_points: int
    digest: str
    summary: str
    places: np.ndarray
    targets: np.ndarray | None = None

    @abc.abstractmethod
    def __len__(self) -> int:
        """Number of photos."""

    def batches(
        self,
        *,
        seed: int,
        batch_size: int,
        start_step: int = 0,
        process_index: int = 0,
        process_count: int = 1,
    ) -> Batches:
        """This process's share of the batches from `start_step` on, without end.

        Args:
          seed: seed of the order, see `sampling`.
          batch_size: rows of the global batch, a multiple of `process_count`.
          start_step: absolute number of the first step.
          process_index: this process.
          process_count: number of processes.

        Yields:
          `{"canvas": [b, C, C, 3] uint8, "points": [b, P, 2] float32}`, b = batch_size /
          process_count, points normalised to the canvas.
        """
        process = {"process_index": process_index, "process_count": process_count}

        def rows_of(step: int) -> np.ndarray:
            return sampling.batch_rows(seed, len(self), batch_size, step, **process)

        read = self._read(rows_of, batch_size // process_count, start_step)
        if (targets := self.targets) is None:
            return read
        return (
            batch | {"points": targets[self.places[rows_of(step)]]}
            for step, batch in enumerate(read, start_step)
        )

    @property
    def num_different(self) -> int:
        """U, the number of different photos."""
        return int(self.places.max()) + 1

    @abc.abstractmethod
    def names(self) -> list[str]:
        """The names of the different photos."""

    @abc.abstractmethod
    def canvases(self, places: np.ndarray) -> np.ndarray:
        """The canvases `[n, C, C, 3]` uint8 of some of the different photos, by number."""

    @abc.abstractmethod
    def _read(self, rows_of: Callable[[int], np.ndarray], size: int, start_step: int) -> Batches:
        """Batches of `size` photos, those of a step being `rows_of(step)`."""


class PhotoLoader(Loader):
    """Batches decoded from the photos of a source during training."""

    def __init__(self, source: photos.Source, frame: Frame) -> None:
        cutting.check(source, frame)
        self._source = source
        self._frame = frame
        self.num_points = source.num_points
        self.digest = photos.source_digest(source)
        self.summary = source.summary
        self.places = np.arange(len(source), dtype=np.int32)

    def __len__(self) -> int:
        return len(self._source)

    def names(self) -> list[str]:  # noqa: D102
        return [self._source.name(index) for index in range(len(self._source))]

    def canvases(self, places: np.ndarray) -> np.ndarray:  # noqa: D102
        cut = parallel.in_order(
            lambda place: cutting.cut_photo(self._source, self._frame, int(place))[0], places
        )
        return np.stack(list(cut))

    def _read(self, rows_of: Callable[[int], np.ndarray], size: int, start_step: int) -> Batches:
        from landmarks_jax.data import pipeline  # noqa: PLC0415  (importing TensorFlow is slow)

        return pipeline.batches(self._source, self._frame, rows_of, size, start_step)


class PreparedLoader(Loader):
    """Batches from prepared canvases, without TensorFlow.

    From one folder they equal bit by bit what `PhotoLoader` reads from its photos, unless they are
    shrunk. From several folders an epoch has the photos of all, n times those of a folder that is
    listed n times.

    Attributes:
      folders: each folder once.
      places: `[N]` int32, each photo's row in the concatenation of `folders`.
    """

    def __init__(self, listed: Sequence[prepared.PreparedCanvases]) -> None:
        counts = {folder.num_points for folder in listed}
        # Points that only some photos have cannot be used.
        self.num_points = counts.pop() if len(counts) == 1 else 0
        digests = [folder.digest for folder in listed]
        joined = hashlib.sha256("".join(digests).encode()).hexdigest()
        self.digest = digests[0] if len(digests) == 1 else joined
        self.summary = "; ".join(
            text if times == 1 else f"{text} ({times} times)"
            for text, times in Counter(folder.summary for folder in listed).items()
        )
        self.folders = list(dict.fromkeys(listed))
        self._starts = np.cumsum([0, *map(len, self.folders)])
        places = [
            self._starts[self.folders.index(folder)] + np.arange(len(folder)) for folder in listed
        ]
        self.places = np.concatenate(places).astype(np.int32)

    def __len__(self) -> int:
        return len(self.places)

    def _read(self, rows_of: Callable[[int], np.ndarray], size: int, start_step: int) -> Batches:
        return (self._at(self.places[rows_of(step)]) for step in itertools.count(start_step))

    def names(self) -> list[str]:  # noqa: D102
        return [name for folder in self.folders for name in folder.names()]

    def canvases(self, places: np.ndarray) -> np.ndarray:  # noqa: D102
        return self._at(places)["canvas"]

    def _at(self, places: np.ndarray) -> dict[str, np.ndarray]:
        side = self.folders[0].framing.canvas_size
        images = np.empty((len(places), side, side, 3), np.uint8)
        points = np.empty((len(places), self.num_points, 2), np.float32)
        owners = np.searchsorted(self._starts, places, side="right") - 1
        for owner in np.unique(owners):
            mine, folder = owners == owner, self.folders[owner]
            own_rows = places[mine] - self._starts[owner]
            images[mine] = folder.canvases[own_rows]
            if self.num_points:
                points[mine] = folder.points[own_rows]
        return {"canvas": images, "points": points}


def framing_of(config: Any) -> Frame:
    """How training cuts its canvases.

    `data.canvas_size` and `views.size` decide for the center and tight crops; for the box crop the
    largest angle and margin of the views do, and `data.canvas_size` is ignored.
    """
    if config.data.crop == "box":
        views = config.views
        limits = views.rotation_limit, views.margin, views.margin_std
        return BoxCanvas(views.size, *map(float, limits))
    return framing.of_config(config)


def open_loader(config: Any) -> Loader:
    """Opens the training photos that a config names.

    Raises:
      ConfigError: a field cannot work, or differs from how prepared data was cut.
      DataError: the data is missing or damaged.
    """
    if config.data.source == "prepared":
        return _open_prepared(config)
    if config.data.resident:
        raise ConfigError(
            "config.data.resident = True: needs config.data.source = 'prepared', not "
            f"{config.data.source!r}; landmarks-jax prepare makes that form"
        )
    return PhotoLoader(registry.open_source(config.data), framing_of(config))


def _open_prepared(config: Any) -> PreparedLoader:
    """Opens prepared folders, each cut as the config says and without the photos it leaves out.

    With the center crop, some of several folders may be cut with the tight crop: neither uses
    annotation.
    """
    frame, roots = framing_of(config), tuple(config.data.roots)
    if not roots:
        raise ConfigError("config.data.roots = (): source 'prepared' needs its folders")
    folders = {root: prepared.PreparedCanvases(root) for root in dict.fromkeys(roots)}
    for folder in folders.values():
        required = frame
        mixed = len(folders) > 1 and frame.crop == "center" and folder.framing.crop == "tight"
        if mixed and isinstance(frame, Framing):
            required = dataclasses.replace(frame, crop="tight")
        folder.fit(required)
    counts = {root: folder.num_points for root, folder in folders.items()}
    if isinstance(frame, BoxCanvas) and len(set(counts.values())) > 1:
        listed = ", ".join(f"{root} has {count}" for root, count in counts.items())
        raise ConfigError(
            f"config.data.roots: the box crop needs the same points of every photo, but {listed}"
        )
    loader = PreparedLoader([folders[root] for root in roots])
    frame.check_points(loader.num_points, loader.summary)
    _check_left_out(loader.names(), config.data.exclude)
    return loader


def _check_left_out(names: Sequence[str], exclude: Sequence[str]) -> None:
    """Checks that no list of photos to leave out names a prepared one.

    Lists that are not here were applied where the photos were prepared.
    """
    found = [path for path in exclude if os.path.exists(path)]
    kept, _ = lists.leave_out([PhotoFile("", name) for name in names], found)
    if len(kept) < len(names):
        raise ConfigError(
            f"config.data.exclude: names {len(names) - len(kept):,} of the {len(names):,} prepared "
            "photos, which cannot be left out any more; prepare them again with it, or set it to ()"
        )
