"""Views cut from images, and the views of several images detected in one batch."""

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from typing import Generic, TypeVar

import jax
import numpy as np

from landmarks_jax.data.framing import Rectangle
from landmarks_jax.inference import images
from landmarks_jax.inference.api import LandmarkDetector, Landmarks
from landmarks_jax.inference.face_finder import FoundFaces
from landmarks_jax.system.errors import DataError

T = TypeVar("T")

# Views per batch: a CPU gains nothing from more, an accelerator is filled by the largest batch.
_BATCH = {"cpu": 64}
_MAX_BATCH = 256


@dataclasses.dataclass(frozen=True)
class Cut(Generic[T]):
    """The views of an image or video frame.

    Attributes:
      source: the input or frame that they were cut from.
      pixels: `[H, W, 3]` uint8, upright; None unless kept.
      views: `[n, S, S, 3]` uint8, one per box.
      size: width and height of the image, upright.
      rectangles: the part of the image that each view shows.
      boxes: the number of each view's box.
      scores: the score of each view's face; None unless faces were found.
      problem: why there are no views, or not of all boxes, or "".
      stamp: of an image's file when it was read, see `photo_files.stamp`.
    """

    source: T
    pixels: np.ndarray | None
    views: np.ndarray
    size: tuple[int, int]
    rectangles: list[Rectangle]
    boxes: list[int]
    scores: list[float] | None = None
    problem: str = ""
    stamp: Sequence[int] = ()


def batch_size() -> int:
    """Views per batch on this machine."""
    return _BATCH.get(jax.default_backend(), _MAX_BATCH)


def cut(
    detector: LandmarkDetector,
    source: T,
    pixels: np.ndarray,
    parts: np.ndarray | FoundFaces | None,
    keep: bool,
) -> Cut[T]:
    """Cuts the views out of an image, as the detector itself would.

    A box that does not fit the image has no view; it is named as a problem. An image without faces
    has no view and no problem.

    Args:
      detector: determines the views.
      source: passed on.
      pixels: `[H, W, 3]` uint8.
      parts: boxes `[n, 4]` in pixel edges, faces, or None for the part that training would have
        viewed.
      keep: whether to keep the pixels.

    Raises:
      DataError: no box fits the image.
    """
    faces = parts if isinstance(parts, FoundFaces) else None
    boxes = parts if faces is None else faces.boxes
    numbers, rectangles, problems = [0], [], []
    if boxes is None:
        rectangles = images.view_rectangles([pixels], None, False, detector.frame)
    else:
        numbers = []
        for number, box in enumerate(boxes):
            try:
                rectangles.append(images.box_rectangle(box, pixels, f"box {number}"))
                numbers.append(number)
            except DataError as error:
                problems.append(str(error))
    if problems and not rectangles:
        raise DataError("; ".join(problems))
    views = images.to_views([pixels] * len(rectangles), rectangles, detector.view_size)
    scores = None if faces is None else faces.scores[numbers].tolist()
    kept = pixels if keep else None
    height, width = pixels.shape[:2]
    size = width, height
    return Cut(source, kept, views, size, rectangles, numbers, scores, "; ".join(problems))


def without_views(detector: LandmarkDetector, source: T, problem: str) -> Cut[T]:
    """An image that could not be read."""
    size = detector.view_size
    views = np.zeros((0, size, size, 3), np.uint8)
    return Cut(source, None, views, (0, 0), [], [], problem=problem)


def locate(
    detector: LandmarkDetector, cuts: Iterable[Cut[T]], batch: int, *, mirror: bool = False
) -> Iterator[tuple[Cut[T], Landmarks | None]]:
    """Detects landmarks in order, in batches of at least `batch` views, or as many images.

    With `mirror` as the mean over each view and its mirror image.

    Yields:
      Each cut with its landmarks `[n, ...]`, or None if it has no views.
    """
    waiting: list[Cut[T]] = []
    largest = count = 0
    for cut in cuts:
        waiting.append(cut)
        count += len(cut.views)
        if count >= batch or len(waiting) >= batch:  # images without faces have no view
            yield from _locate(detector, waiting, count, mirror)
            waiting, largest, count = [], max(largest, count), 0
    # Compiling for a smaller last batch would take longer than a few empty views.
    yield from _locate(detector, waiting, max(count, min(largest, _MAX_BATCH)), mirror)


def _locate(
    detector: LandmarkDetector, cuts: list[Cut[T]], size: int, mirror: bool
) -> Iterator[tuple[Cut[T], Landmarks | None]]:
    """Detects one batch, padded with empty views to `size`."""
    rectangles = [rectangle for cut in cuts for rectangle in cut.rectangles]
    batch = None
    if rectangles:
        views = np.concatenate([cut.views for cut in cuts])
        padding = size - len(views)
        views = np.pad(views, ((0, padding), *((0, 0),) * 3))
        parts = rectangles + [(0.0, 0.0, 1.0, 1.0)] * padding
        batch = detector.locate(views, parts, mirror=mirror)
    start = 0
    for cut in cuts:
        rows = slice(start, start := start + len(cut.rectangles))
        yield cut, None if batch is None or not cut.rectangles else batch.select(rows)
