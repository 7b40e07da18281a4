"""Pictures cut to views in threads, and views of several pictures detected at once."""

import dataclasses
from collections.abc import Iterable, Iterator
from typing import Generic, TypeVar

import jax
import numpy as np

from landmarks_jax.data.framing import Rectangle
from landmarks_jax.inference import images
from landmarks_jax.inference.api import LandmarkDetector, Landmarks

T = TypeVar("T")

# Views at once. A processor gains nothing from more, an accelerator is filled by its largest.
_BATCH = {"cpu": 64}
_LARGEST = 256


@dataclasses.dataclass(frozen=True)
class Cut(Generic[T]):
    """A picture or frame, cut to the views that the detector looks at.

    Attributes:
      source: whatever it was cut from.
      pixels: `[H, W, 3]` uint8, upright; None where they are not kept.
      views: `[n, S, S, 3]` uint8, one a box.
      shown: the part that each view shows.
      problem: why there are no views; "" where there are.
    """

    source: T
    pixels: np.ndarray | None
    views: np.ndarray
    shown: list[Rectangle]
    problem: str = ""


def batch_size() -> int:
    """Views to detect at once on this machine."""
    return _BATCH.get(jax.default_backend(), _LARGEST)


def cut(
    detector: LandmarkDetector, source: T, pixels: np.ndarray, boxes: np.ndarray | None, keep: bool
) -> Cut[T]:
    """Cuts a picture to views, as the detector itself would.

    Args:
      detector: says what a view shows.
      source: passed on.
      pixels: `[H, W, 3]` uint8.
      boxes: `[n, 4]` in pixel edges, or None for the part that training would have shown.
      keep: pass the pixels on.

    Raises:
      DataError: a box does not fit the picture.
    """
    pictures = [pixels] * (1 if boxes is None else len(boxes))
    shown = images.rectangles(pictures, boxes, False, detector.frame)
    views = images.to_views(pictures, shown, detector.view_size)
    return Cut(source, pixels if keep else None, views, shown)


def uncut(detector: LandmarkDetector, source: T, problem: str) -> Cut[T]:
    """A picture that there are no views of."""
    size = detector.view_size
    return Cut(source, None, np.zeros((0, size, size, 3), np.uint8), [], problem)


def locate(
    detector: LandmarkDetector, cuts: Iterable[Cut[T]], batch: int
) -> Iterator[tuple[Cut[T], Landmarks | None]]:
    """Finds the landmarks of many pictures, in order, at least `batch` views at once.

    Yields:
      Each picture with its landmarks `[n, ...]`, None where it has a problem.
    """
    waiting: list[Cut[T]] = []
    largest = count = 0
    for cut in cuts:
        waiting.append(cut)
        count += len(cut.views)
        if count >= batch:
            yield from _locate(detector, waiting, count)
            waiting, largest, count = [], max(largest, count), 0
    # A rest of another size would be compiled anew, which takes longer than a few empty views.
    yield from _locate(detector, waiting, max(count, min(largest, _LARGEST)))


def _locate(
    detector: LandmarkDetector, cuts: list[Cut[T]], size: int
) -> Iterator[tuple[Cut[T], Landmarks | None]]:
    """One batch, filled up with empty views to `size`."""
    shown = [part for cut in cuts for part in cut.shown]
    found = None
    if shown:
        views = np.concatenate([cut.views for cut in cuts])
        missing = size - len(shown)
        views = np.pad(views, ((0, missing), *((0, 0),) * 3))
        found = detector.locate(views, shown + [(0.0, 0.0, 1.0, 1.0)] * missing)
    start = 0
    for cut in cuts:
        rows = slice(start, start := start + len(cut.shown))
        part = None
        if found is not None and not cut.problem:
            labelled = None if found.labelled is None else found.labelled[rows]
            part = Landmarks(found.landmarks[rows], found.confidence[rows], labelled, None)
        yield cut, part
