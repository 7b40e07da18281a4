"""Chooses the photos of a set that differ most, so that few of them stand for all."""

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from landmarks_jax.data import decoding, framing
from landmarks_jax.data.photo_files import PhotoFile
from landmarks_jax.system import parallel

if TYPE_CHECKING:
    from landmarks_jax.inference.api import LandmarkDetector

Describe = Callable[[Sequence[PhotoFile]], np.ndarray]
_THUMBNAIL = 16  # pixels a side


def farthest(descriptors: np.ndarray, count: int, chosen: Sequence[int] = ()) -> list[int]:
    """Farthest-point sampling: repeatedly the row farthest from all chosen before it.

    Args:
      descriptors: `[N, D]`; distances are Euclidean.
      count: how many rows to choose; at most all others are.
      chosen: rows that are chosen already. Without any, the row nearest to the mean is the first.

    Returns:
      The rows that were chosen now, in that order.
    """
    picked = list(chosen) or [int(_distances(descriptors, descriptors.mean(0)).argmin())]
    gaps = np.min([_distances(descriptors, descriptors[row]) for row in picked], axis=0)
    end = min(len(chosen) + count, len(descriptors))
    while len(picked) < end:
        gaps[picked] = -np.inf  # none is picked twice, even if all others are equal to it
        picked.append(int(gaps.argmax()))
        gaps = np.minimum(gaps, _distances(descriptors, descriptors[picked[-1]]))
    return picked[len(chosen) : end]


def _distances(descriptors: np.ndarray, one: np.ndarray) -> np.ndarray:
    distances: np.ndarray = np.linalg.norm(descriptors - one, axis=1)
    return distances


def describer(detector: str | None = None) -> Describe:
    """What describes photos: their landmarks by a detector, or small grey images.

    Args:
      detector: a packed file, or the name of a shipped detector. It looks at the part of each photo
        that training would have viewed.

    Returns:
      The function from N photos to descriptors `[N, D]`. Translation and scale of landmarks do not
      count, nor brightness and contrast of images. It raises DataError if a photo cannot be read,
      or the detector needs boxes.

    Raises:
      WeightsError: the detector cannot be read.
    """
    if detector is None:
        return lambda photos: _standardised(_thumbnails(photos))
    # Only here: it imports JAX, which takes seconds.
    from landmarks_jax.inference.api import load_detector  # noqa: PLC0415

    loaded = load_detector(detector)
    return lambda photos: _standardised(_landmarks(photos, loaded))


def _standardised(values: np.ndarray) -> np.ndarray:
    """Points or pixels `[N, P, C]` as `[N, P * C]`, of mean 0 and root mean square 1 each."""
    values = values - values.mean(1, keepdims=True)
    sizes = np.sqrt((values**2).sum(2).mean(1))[:, None, None]
    scaled: np.ndarray = values / np.maximum(sizes, 1e-9)
    return scaled.reshape(len(values), -1)


def _thumbnails(photos: Sequence[PhotoFile]) -> np.ndarray:
    """`[N, P, 1]`, grey."""

    def shrink(photo: PhotoFile) -> np.ndarray:
        pixels, _ = decoding.decode(photo.path)
        height, width = pixels.shape[:2]
        small = framing.stretch(pixels, (0, 0, width, height), _THUMBNAIL)
        return small.reshape(-1, 3) @ np.array(decoding.GREY)

    shrunk = parallel.ordered_map(shrink, photos, "comparing the photos")
    return np.stack(list(shrunk))[..., None]


def _landmarks(photos: Sequence[PhotoFile], detector: "LandmarkDetector") -> np.ndarray:
    """`[N, K, 2]`, in pixels."""
    from landmarks_jax.inference.media import view_batches  # noqa: PLC0415

    def cut(photo: PhotoFile) -> view_batches.Cut[PhotoFile]:
        pixels, _ = decoding.decode(photo.path)
        return view_batches.cut(detector, photo, pixels, None, keep=False)

    def found() -> Iterator[np.ndarray]:
        cuts = parallel.in_order(cut, photos)
        for _, landmarks in view_batches.locate(detector, cuts, view_batches.batch_size()):
            assert landmarks is not None  # every photo has one view
            yield landmarks.landmarks[0]

    return np.stack(list(parallel.with_progress(found(), len(photos), "finding landmarks")))
