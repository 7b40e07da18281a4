"""What training reads: batches by step, from photos or from the prepared form, the same either way.

TensorFlow is imported only where photos are decoded as training goes.
"""

import dataclasses
import hashlib
import itertools
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import numpy as np

from landmarks_jax.data import prepared, sampling
from landmarks_jax.data.box_canvas import Frame, Surroundings
from landmarks_jax.data.framing import Framing
from landmarks_jax.data.sources import registry
from landmarks_jax.system.errors import ConfigError

# The crop of the config, and the other that may stand beside it.
CROPS_BESIDE = ("center", "tight")


class Feed(Protocol):
    """Batches by step.

    Attributes:
      num_points: points of each photo, 0 without annotation.
      digest: fingerprint of the list of photos, and of the cut where the configuration does not
        tell it alone; a resumed run must find the same.
      summary: one line for the log.
    """

    num_points: int
    digest: str
    summary: str

    def __len__(self) -> int:
        """Number of photos."""
        ...

    def batches(
        self,
        *,
        seed: int,
        batch_size: int,
        start_step: int = 0,
        process_index: int = 0,
        process_count: int = 1,
    ) -> Iterator[dict[str, np.ndarray]]:
        """Endless `{"canvas": [b, C, C, 3] uint8, "points": [b, P, 2] float32}`.

        See `pipeline.batches`.
        """
        ...


class PhotoFeed:
    """Batches decoded from the photos of a source as training goes."""

    def __init__(self, source: registry.Source, frame: Frame) -> None:
        registry.check(source, frame)
        self._source = source
        self._frame = frame
        self.num_points = source.num_points
        self.digest = _digest([registry.source_digest(source)], frame)
        self.summary = registry.summary(source)

    def __len__(self) -> int:
        return len(self._source)

    def batches(
        self,
        *,
        seed: int,
        batch_size: int,
        start_step: int = 0,
        process_index: int = 0,
        process_count: int = 1,
    ) -> Iterator[dict[str, np.ndarray]]:
        """See `pipeline.batches`."""
        from landmarks_jax.data import pipeline  # noqa: PLC0415  (imports TensorFlow, seconds)

        return pipeline.batches(
            self._source,
            self._frame,
            seed=seed,
            batch_size=batch_size,
            start_step=start_step,
            process_index=process_index,
            process_count=process_count,
        )


class PreparedFeed:
    """Batches from canvases in the prepared form, without TensorFlow.

    From one folder they are those that `PhotoFeed` gives from its photos, bit by bit. Of several
    folders every epoch sees all photos, those of a folder named n times n times.

    Attributes:
      folders: each folder once.
      places: `[N]` int32, of each photo its row in these folders put one below the other.
    """

    def __init__(self, parts: Sequence[prepared.PreparedCanvases]) -> None:
        counts = {part.num_points for part in parts}
        # Points that only some photos have can serve nobody.
        self.num_points = counts.pop() if len(counts) == 1 else 0
        self.digest = _digest([part.digest for part in parts], parts[0].framing)
        counted = Counter(part.summary for part in parts)
        self.summary = "; ".join(
            text if times == 1 else f"{text} ({times} times)" for text, times in counted.items()
        )
        self._parts = list(parts)
        self._starts = np.cumsum([0, *map(len, parts)])
        self.folders = list(dict.fromkeys(parts))
        starts = np.cumsum([0, *map(len, self.folders)])
        places = [starts[self.folders.index(part)] + np.arange(len(part)) for part in parts]
        self.places = np.concatenate(places).astype(np.int32)

    def __len__(self) -> int:
        return int(self._starts[-1])

    def batches(
        self,
        *,
        seed: int,
        batch_size: int,
        start_step: int = 0,
        process_index: int = 0,
        process_count: int = 1,
    ) -> Iterator[dict[str, np.ndarray]]:
        """See `pipeline.batches`."""
        share = sampling.local_batch_size(batch_size, process_count)
        size = self._parts[0].framing.canvas_size

        def gather(rows: np.ndarray) -> dict[str, np.ndarray]:
            canvases = np.empty((share, size, size, 3), np.uint8)
            points = np.empty((share, self.num_points, 2), np.float32)
            owners = np.searchsorted(self._starts, rows, side="right") - 1
            for owner in np.unique(owners):
                mine = owners == owner
                part, own_rows = self._parts[owner], rows[mine] - self._starts[owner]
                canvases[mine] = part.canvases[own_rows]
                if self.num_points:
                    points[mine] = part.points[own_rows]
            return {"canvas": canvases, "points": points}

        place = {"process_index": process_index, "process_count": process_count}
        return (
            gather(sampling.batch_rows(seed, len(self), batch_size, step, **place))
            for step in itertools.count(start_step)
        )


def _digest(lists: Sequence[str], frame: Frame) -> str:
    """The fingerprint of what a feed gives, of those of its lists of photos."""
    # Crop `box` was another cut before there were box views, and configurations do not tell.
    parts = [*lists, "box views"] if isinstance(frame, Surroundings) else [*lists]
    return parts[0] if len(parts) == 1 else hashlib.sha256("".join(parts).encode()).hexdigest()


def _open_prepared(config: Any) -> PreparedFeed:
    """The prepared folders of a config, each cut as the config says.

    Beside photos cut by `center` there may be others cut `tight`: neither looks at annotation.
    """
    frame, roots = framing_of(config), tuple(config.data.roots)
    if not roots:
        raise ConfigError("config.data.roots = (): source 'prepared' wants the folders")
    parts: dict[str, prepared.PreparedCanvases] = {}
    for root in roots:
        if root in parts:
            continue
        parts[root] = prepared.PreparedCanvases(root)
        beside = len(set(roots)) > 1 and (frame.crop, parts[root].framing.crop) == CROPS_BESIDE
        if beside and isinstance(frame, Framing):
            parts[root].require(dataclasses.replace(frame, crop="tight"))
        else:
            parts[root].require(frame)
    counts = {root: part.num_points for root, part in parts.items()}
    if isinstance(frame, Surroundings) and len(set(counts.values())) > 1:
        said = ", ".join(f"{root} has {count}" for root, count in counts.items())
        raise ConfigError(
            f"config.data.roots: the box crop needs the same points of every photo, but {said}"
        )
    feed = PreparedFeed([parts[root] for root in roots])
    frame.check_points(feed.num_points, feed.summary)
    return feed


def framing_of(config: Any) -> Frame:
    """How training cuts its canvases.

    By `data.canvas_size`, `views.size` and `data.crop`; for crop `box` by the largest angle and
    margin of its views, whatever `data.canvas_size`.
    """
    if config.data.crop == "box":
        views = config.views
        limits = views.rotation_limit, views.margin, views.margin_std
        return Surroundings(views.size, *map(float, limits))
    return Framing(config.data.canvas_size, config.views.size, config.data.crop)


def open_feed(config: Any) -> Feed:
    """Opens the training photos a config names.

    Raises:
      ConfigError: a field cannot work, or differs from how prepared data was cut.
      DataError: the data is missing or damaged.
    """
    if config.data.resident and config.data.source != "prepared":
        raise ConfigError(
            f"config.data.resident = True: wants config.data.source = 'prepared', not "
            f"{config.data.source!r}; `landmarks-jax prepare` makes that form"
        )
    if config.data.source == "prepared":
        return _open_prepared(config)
    return PhotoFeed(registry.open_source(config.data), framing_of(config))
