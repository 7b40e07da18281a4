"""Synthetic faces: drawn on the fly, with exact landmarks; no files, no download."""

from typing import Any

import numpy as np

from landmarks_jax import geometry
from landmarks_jax.data.sources.photos import Source
from landmarks_jax.data.synthetic_faces import face_model, scene

# Drawing a face takes milliseconds, so a source keeps what it drew, up to this many bytes.
_CACHE_BYTES = 2**28


class SyntheticFaces(Source):
    """Faces drawn from (seed, index) alone.

    They replace photos such as CelebA's if there are none. Training and held-out faces have
    different seeds. Identity, expression, pose, light, background and occlusion vary; at
    another `size` a face is the same face.

    Attributes:
      num_points: 5: left eye, right eye, tip of the nose, left and right corner of the mouth, left
        and right as seen in the image.
    """

    num_points = 5

    def __init__(self, seed: int, count: int, size: int):
        """Describes `count` faces of the stream `seed`, in images of `size` by `size` pixels."""
        self.seed = seed
        self.count = count
        self.size = size
        self.summary = f"{count:,} photos of {type(self).__name__}"
        self._cache: dict[int, np.ndarray] = {}

    def __len__(self) -> int:
        return self.count

    def photo(self, index: int) -> np.ndarray:
        """Draws image `index`: `[size, size, 3]`, uint8 RGB, read-only."""
        image = self._cache.get(index)
        if image is None:
            image = scene.draw(self._face(index), self.size)
            image.flags.writeable = False
            if (len(self._cache) + 1) * image.nbytes <= _CACHE_BYTES:
                self._cache[index] = image
        return image

    def points(self, index: int) -> np.ndarray:
        """The landmarks of image `index`, `[5, 2]` float32 `(x, y)` in its pixels; fast."""
        landmarks = face_model.Head(self._face(index)).landmarks()
        return geometry.to_pixels(landmarks, (self.size, self.size)).astype(np.float32)

    def name(self, index: int) -> str:
        """The name of image `index`, such as `face-000123`."""
        self._check(index)
        return f"face-{index:06d}"

    def _face(self, index: int) -> face_model.Face:
        self._check(index)
        return face_model.sample(self.seed, index)

    def _check(self, index: int) -> None:
        if not 0 <= index < self.count:
            raise IndexError(f"face {index} of {self.count}: indices start at 0")


def open_config(data: Any) -> SyntheticFaces:
    """Opens the faces of `config.data`."""
    return SyntheticFaces(data.synthetic_seed, data.num_synthetic, data.canvas_size)
