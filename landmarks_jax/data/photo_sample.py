"""A random sample of a folder's photos, decoded small, and which of them are near-duplicates.

Near-duplicates are photos whose small grey copies correlate. A difference hash (64 or 256 bits, as
of the package ImageHash) would not do: it takes different wings, scanned on white, for duplicates.
"""

import dataclasses
import functools
import hashlib

import numpy as np

from landmarks_jax.data import decoding, framing, photo_groups
from landmarks_jax.data.sources.photos import PhotoFiles
from landmarks_jax.system import parallel

_MOST, _LEAST = 4_096, 256  # photos
_PIXELS = 1e9  # of all of them
_DECODED = 128  # pixels a side that JPEG files are decoded to
_SIDE = photo_groups.SIDE
_COMPARED = 32  # pixels a side of the copies that are compared
_CORRELATION = 0.99  # of near-duplicates; copies at half the size and JPEG quality 50 have 0.992
_EMPTY = 2.0  # standard deviation in grey levels, below which a photo has one colour
_COLOR = 4.0  # mean of the largest less the smallest of red, green and blue, of a photo in colour


@dataclasses.dataclass(frozen=True)
class PhotoSample:
    """Photos in the order of a hash of their names: the first are a random sample of all.

    Attributes:
      names: of all N photos.
      sizes: `[N, 2]` width and height of all photos, in pixels.
      grey: `[n, 64, 64]` float32, the first n photos, stretched to squares.
      colored: `[n]` whether they have colours.
    """

    names: list[str]
    sizes: np.ndarray
    grey: np.ndarray
    colored: np.ndarray

    @functools.cached_property
    def empty(self) -> np.ndarray:
        """`[n]` whether a photo has one colour only."""
        return self.grey.std((1, 2)) < _EMPTY

    @functools.cached_property
    def original(self) -> np.ndarray:
        """`[n]` the first photo that each is a near-duplicate of, itself if there is none.

        Originals are no near-duplicates of each other. Empty photos are not compared.
        """
        cell = _SIDE // _COMPARED
        rows = self.grey.reshape(-1, _COMPARED, cell, _COMPARED, cell).mean((2, 4))
        rows = rows.reshape(len(rows), -1)
        rows -= rows.mean(1, keepdims=True)
        rows /= np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-9)
        rows[self.empty] = 0
        original = np.arange(len(rows))
        for start in range(0, len(rows), 512):
            near = rows[start : start + 512] @ rows.T > _CORRELATION
            for index in range(start, min(start + 512, len(rows))):
                earlier = np.flatnonzero(near[index - start, :index])
                first = earlier[original[earlier] == earlier][:1]
                original[index] = first[0] if len(first) else index
        return original

    @functools.cached_property
    def different(self) -> np.ndarray:
        """The photos that are neither empty nor near-duplicates of others, by number."""
        return np.flatnonzero((self.original == np.arange(len(self.grey))) & ~self.empty)


def take(source: PhotoFiles) -> PhotoSample:
    """Reads the sizes of all photos, and decodes all of them or as many as take some seconds.

    The result does not depend on the order of the photos.

    Raises:
      DataError: a photo cannot be read.
    """
    names = [source.name(index) for index in range(len(source))]
    hashes = [hashlib.sha256(name.encode("utf-8", "surrogateescape")).digest() for name in names]
    order = sorted(range(len(source)), key=lambda i: hashes[i])
    sizes = np.array(list(parallel.ordered_map(source.size, order, "reading the photos' sizes")))
    affordable = int((sizes.prod(1).cumsum() <= _PIXELS).sum())
    decoded = order[: min(max(affordable, _LEAST), _MOST)]

    def look(index: int) -> tuple[np.ndarray, bool]:
        pixels = source.small_photo(index, _DECODED)
        height, width = pixels.shape[:2]
        small = framing.stretch(pixels, (0, 0, width, height), _SIDE).astype(np.float32)
        colored = bool((small.max(2) - small.min(2)).mean() >= _COLOR)
        return small @ np.array(decoding.GREY, np.float32), colored

    grey, colored = zip(*parallel.ordered_map(look, decoded, "looking at the photos"), strict=True)
    return PhotoSample([names[i] for i in order], sizes, np.stack(grey), np.array(colored))
