"""Scenes for finding faces: labelled faces pasted at random places and sizes into textures."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from landmarks_jax.data.sources.photos import Source

SIZE = (1200, 800)  # of a scene, width and height in pixels
_GRAINS = (4, 16, 64, 256)  # noise of these many cells across 512 pixels makes a texture
_SHAPES = 60
_TRIES = 200


class Scene(NamedTuple):
    """A scene.

    Attributes:
      image: `[H, W, 3]` uint8.
      points: `[n, P, 2]` of its faces, in pixels; the first pixel's centre is (0, 0).
      faces: `[n]`, which of the source.
    """

    image: np.ndarray
    points: np.ndarray
    faces: list[int]


def texture(rng: np.random.Generator, size: tuple[int, int] = SIZE) -> Image.Image:
    """Noise of several grains, under ellipses and rectangles."""
    width, height = size
    total = np.zeros((height, width, 3))
    for grain in _GRAINS:
        cells = max(2, height * grain // 512), max(2, width * grain // 512), 3
        noise = Image.fromarray((255 * rng.random(cells)).astype(np.uint8))
        total += np.asarray(noise.resize(size, Image.Resampling.BICUBIC), float) / len(_GRAINS)
    image = Image.fromarray(np.clip(2 * (total - 128) + 128, 0, 255).astype(np.uint8))
    pen = ImageDraw.Draw(image)
    for _ in range(_SHAPES):
        x, y = rng.uniform((0, 0), size)
        across, down = rng.uniform(5, 80, 2)
        form = pen.ellipse if rng.random() < 0.5 else pen.rectangle
        color = tuple(rng.integers(0, 256, 3).tolist())
        form((x - across, y - down, x + across, y + down), fill=color)
    return image


def paste(
    source: Source, faces: Sequence[int], scales: tuple[float, float], rng: np.random.Generator
) -> Scene:
    """A texture with faces, cut out softly, which do not overlap.

    Args:
      source: photos of faces with their points.
      faces: which of them; one for which no place is found is left out.
      scales: range of the factor by which photos are resized, uniform in its logarithm.
      rng: chooses texture, scales and places.
    """
    scene = texture(rng)
    taken: list[tuple[float, ...]] = []
    points, kept = [], []
    for face in faces:
        photo = Image.fromarray(source.photo(face))
        scale = np.exp(rng.uniform(*np.log(scales)))
        width, height = round(photo.width * scale), round(photo.height * scale)
        place = _free_place(taken, (width, height), rng)
        if place is None:
            continue
        x, y = place
        taken.append((x, y, x + width, y + height))
        mask = Image.new("L", photo.size, 0)
        edges = (6, -10, photo.width - 6, photo.height + 20)  # the forehead and the neck stay whole
        ImageDraw.Draw(mask).ellipse(edges, fill=255)
        mask = mask.filter(ImageFilter.GaussianBlur(4)).resize((width, height))
        scene.paste(photo.resize((width, height), Image.Resampling.LANCZOS), (x, y), mask)
        ratio = np.array([width / photo.width, height / photo.height])
        points.append((source.points(face) + 0.5) * ratio + (x, y) - 0.5)
        kept.append(face)
    return Scene(np.asarray(scene), np.array(points), kept)


def _free_place(
    taken: list[tuple[float, ...]], size: tuple[int, int], rng: np.random.Generator
) -> tuple[int, int] | None:
    """The corner of a rectangle of a size that overlaps none of those taken."""
    width, height = size
    for _ in range(_TRIES):
        x = int(rng.integers(0, SIZE[0] - width))
        y = int(rng.integers(0, SIZE[1] - height))
        if all(x + width < a or x > c or y + height < b or y > d for a, b, c, d in taken):
            return x, y
    return None
