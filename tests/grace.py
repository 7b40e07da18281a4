"""A photo with a face for tests: Grace Hopper's official portrait, which comes with matplotlib."""

import functools

import numpy as np
from matplotlib import cbook
from PIL import Image

from benchmarks import scenes
from landmarks_jax.data.sources.photos import Source

# By hand, in pixels: both eyes, the tip of the nose, both corners of the mouth.
POINTS = np.array([[227, 190], [309, 187], [271, 240], [233, 280], [308, 276]], float)


@functools.cache
def portrait() -> Image.Image:
    """The photo, 512 x 600."""
    with Image.open(cbook.get_sample_data("grace_hopper.jpg", asfileobj=False)) as image:
        return image.convert("RGB")


class Portrait(Source):
    """A source of the portrait, as large as CelebA's photos, and its mirror image."""

    num_points = 5
    summary = "2 photos of Portrait"

    def __len__(self) -> int:
        return 2

    def photo(self, index: int) -> np.ndarray:
        face = portrait().crop((131, 60, 401, 390)).resize((178, 218), Image.Resampling.LANCZOS)
        return np.asarray(face)[:, :: 1 - 2 * index]

    def points(self, index: int) -> np.ndarray:
        points = (POINTS + 0.5 - (131, 60)) * (178 / 270, 218 / 330) - 0.5
        if index:
            points = (points * (-1, 1) + (177, 0))[[1, 0, 2, 4, 3]]
        return points.astype(np.float32)

    def name(self, index: int) -> str:
        return f"portrait {index}"


@functools.cache
def group() -> scenes.Scene:
    """Five faces in a texture, at scales 0.35 to 1."""
    return scenes.paste(Portrait(), [0, 1, 0, 1, 0], (0.35, 1.0), np.random.default_rng(3))
