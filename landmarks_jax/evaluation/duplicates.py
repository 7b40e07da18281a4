"""Faces that a protocol has twice: in both of its sets, or several times in one.

Photos are compared by their decoded pixels, so that copies under other names are found; faces of
prepared folders, whose photos are not at hand, by the pixels of their views. Copies that were
compressed again or resized are not found.

Labels of one photo are of the same face if the middles of their points are at most half a face
apart, a face being as large as the larger side of its points' box.
"""

import hashlib
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from landmarks_jax.data import cutting, photo_files
from landmarks_jax.data.framing import Framing
from landmarks_jax.data.sources.photos import Source
from landmarks_jax.evaluation import metrics


class Faces(NamedTuple):
    """What faces are compared by.

    Attributes:
      names: names of the N photos.
      digests: digest of each photo, or view.
      points: `[N, P, 2]` labelled points in the photo, or view; NaN for a missing one.
    """

    names: Sequence[str]
    digests: Sequence[bytes]
    points: np.ndarray


def load_views(source: Source, frame: Framing) -> tuple[np.ndarray, np.ndarray, Faces]:
    """Views and points as of `cutting.load_views`, and the faces by their decoded photos."""
    digests = [b""] * len(source)

    def look(index: int, photo: np.ndarray) -> None:
        digests[index] = _digest(photo)

    views, points = cutting.load_views(source, frame, look)
    names = [source.name(i) for i in range(len(source))]
    in_photos = np.stack([source.points(i) for i in range(len(source))])
    return views, points, Faces(names, digests, in_photos)


def of_views(names: Sequence[str], views: np.ndarray, points: np.ndarray) -> Faces:
    """Faces by their views `[N, S, S, 3]` and points `[N, P, 2]` in them."""
    return Faces(names, [_digest(view) for view in views], points)


def describe(fit: Faces, score: Faces | None, names: tuple[str, str]) -> list[str]:
    """Sentences that count and name duplicate faces; none if there are none.

    Args:
      fit: the faces that fit the regressor.
      score: the faces that are scored; None if those to fit on are, by leave-one-out.
      names: names of both.
    """
    sentences = []
    fit_name, score_name = names
    both = _twins(score, fit) if score else []
    if score and both:
        sentences.append(
            f"{len(both):,} of the {len(score.names):,} faces scored ({score_name}) are also "
            f"fitted on ({fit_name}): {_named(both)}"
        )
    for name, use, faces in ((fit_name, "fitted on", fit), (score_name, "scored", score)):
        repeats = _twins(faces, None) if faces else []
        if faces and repeats:
            sentences.append(
                f"{len(repeats):,} of the {len(faces.names):,} faces {use} ({name}) repeat "
                f"others: {_named(repeats)}"
            )
    return sentences


def _digest(pixels: np.ndarray) -> bytes:
    shape = str(pixels.shape).encode()
    return hashlib.sha256(shape + np.ascontiguousarray(pixels).tobytes()).digest()


def _twins(faces: Faces, others: Faces | None) -> list[tuple[str, str]]:
    """The names of faces and of their first twins among others, or earlier in the same set."""
    return [
        (faces.names[i], (faces if others is None else others).names[j])
        for i, j in _pairs(faces, others)
    ]


def _pairs(faces: Faces, others: Faces | None) -> Iterator[tuple[int, int]]:
    among = faces if others is None else others
    rows_of: dict[bytes, list[int]] = {}
    for row, digest in enumerate(among.digests):
        rows_of.setdefault(digest, []).append(row)
    (middles, sides), (other_middles, other_sides) = map(_place, (faces, among))
    for i, digest in enumerate(faces.digests):
        rows = np.array(rows_of.get(digest, ()), int)
        if others is None:
            rows = rows[rows < i]
        distances = np.linalg.norm(other_middles[rows] - middles[i], axis=1)
        same = distances <= np.maximum(other_sides[rows], sides[i]) / 2
        if same.any():
            yield i, int(rows[same.argmax()])


def _place(faces: Faces) -> tuple[np.ndarray, np.ndarray]:
    """Middles `[N, 2]` and larger sides `[N]` of the points."""
    points = faces.points.astype(np.float64)
    return np.nanmean(points, axis=1), metrics.larger_sides(points)


def _named(pairs: Sequence[tuple[str, str]]) -> str:
    return photo_files.some([a if a == b else f"{a} = {b}" for a, b in pairs])
