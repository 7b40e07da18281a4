"""Embedded faces: drawn on the fly, exact landmarks, no files and no download."""

import numpy as np

from landmarks_jax import geometry
from landmarks_jax.data.synthetic_faces import face_model, scene

# Drawing a face takes some milliseconds, so a source keeps what it drew, up to so many bytes.
_KEPT_BYTES = 2**28


class SyntheticFaces:
    """Faces drawn from (seed, index) alone.

    They stand in for a folder of portraits such as CelebA's wherever there is none: training faces
    and held-out faces are two seeds. Identity, expression, pose, light, background and occlusion
    vary; a face at another `size` is the same face.

    Attributes:
      num_points: 5: left eye, right eye, tip of the nose, left and right corner of the mouth. Left
        is left in the picture.
    """

    num_points: int = 5

    def __init__(self, seed: int, count: int, size: int):
        """Describes `count` faces of the stream `seed`, in pictures of `size` by `size` pixels."""
        self.seed = seed
        self.count = count
        self.size = size
        self._kept: dict[int, np.ndarray] = {}

    def __len__(self) -> int:
        return self.count

    def photo(self, index: int) -> np.ndarray:
        """Draws picture `index`: `[size, size, 3]`, uint8 RGB, read-only."""
        picture = self._kept.get(index)
        if picture is None:
            picture = scene.draw(self._face(index), self.size)
            picture.flags.writeable = False
            if (len(self._kept) + 1) * picture.nbytes <= _KEPT_BYTES:
                self._kept[index] = picture
        return picture

    def points(self, index: int) -> np.ndarray:
        """The landmarks of picture `index`, `[5, 2]` float32 `(x, y)` in its pixels; fast."""
        landmarks = face_model.Head(self._face(index)).landmarks()
        return geometry.to_pixels(landmarks, (self.size, self.size)).astype(np.float32)

    def name(self, index: int) -> str:
        """The name of picture `index`, such as `face-000123`."""
        self._check(index)
        return f"face-{index:06d}"

    def _face(self, index: int) -> face_model.Face:
        self._check(index)
        return face_model.sample(self.seed, index)

    def _check(self, index: int) -> None:
        if not 0 <= index < self.count:
            raise IndexError(f"face {index} of {self.count}: indexes run from 0")
