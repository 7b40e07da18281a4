"""What training reads: batches by step, from photos or from the prepared form, the same either way.

TensorFlow is imported only where photos are decoded as training goes.
"""

from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np

from landmarks_jax.data import prepared, sources
from landmarks_jax.data.framing import Framing


class Feed(Protocol):
    """Batches by step.

    Attributes:
      num_points: points of each photo, 0 without annotation.
      digest: fingerprint of the list of photos; a resumed run must find the same.
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

    def __init__(self, source: sources.Source, frame: Framing) -> None:
        frame.check_points(source.num_points, sources.summary(source))
        self._source = source
        self._frame = frame
        self.num_points = source.num_points
        self.digest = sources.source_digest(source)
        self.summary = sources.summary(source)

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


def framing_of(config: Any) -> Framing:
    """How a config cuts canvases: `data.canvas_size`, `views.size` and `data.crop`."""
    return Framing(config.data.canvas_size, config.views.size, config.data.crop)


def open_feed(config: Any) -> Feed:
    """Opens the training photos a config names.

    Raises:
      ConfigError: a field cannot work, or differs from how prepared data was cut.
      DataError: the data is missing or damaged.
    """
    frame = framing_of(config)
    if config.data.source != "prepared":
        return PhotoFeed(sources.open_source(config.data), frame)
    canvases = prepared.PreparedCanvases(sources.one_root(config.data))
    canvases.require(frame)
    frame.check_points(canvases.num_points, canvases.summary)
    return canvases
