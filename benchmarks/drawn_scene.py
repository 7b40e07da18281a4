"""What surrounds a drawn thing, and the camera that takes it."""

import io
import math

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from benchmarks import scenes
from benchmarks.drawn_pen import ellipse, quadratic, rgb


def color(rng: np.random.Generator, low: float, high: float, chroma: float = 0.1) -> np.ndarray:
    """A colour `[3]` of a brightness between `low` and `high`."""
    tint = rng.normal(0, chroma, 3)
    return np.clip(rng.uniform(low, high) + tint - tint.mean(), 0, 1)


def backdrop(rng: np.random.Generator, size: tuple[int, int]) -> Image.Image:
    """A background: paper, cloth, a grid, leaves, or things out of focus."""
    painter = list(BACKDROPS)[rng.choice(len(BACKDROPS), p=list(BACKDROPS.values()))]
    return painter(rng, _paper(rng, size))


def _paper(rng: np.random.Generator, size: tuple[int, int]) -> Image.Image:
    """A gradient between two colours that are alike, with a fine grain."""
    first = color(rng, 0.25, 0.95)
    second = np.clip(first + rng.normal(0, 0.12) + rng.normal(0, 0.04, 3), 0, 1)
    angle = rng.uniform(0, 2 * math.pi)
    x, y = _grid(size)
    ramp = 0.5 + 0.5 * (math.cos(angle) * x + math.sin(angle) * y)
    pixels = first + (second - first) * ramp[..., None] + 0.03 * _noise(rng, size, 3)
    return _image(pixels)


def _cloth(rng: np.random.Generator, image: Image.Image) -> Image.Image:
    """Noise of a coarse and a fine grain, of one colour or of several."""
    pixels = np.asarray(image) / 255
    for grain in rng.uniform((4, 15), (10, 50)):
        share = rng.uniform(0.05, 0.22)
        several = rng.random() < 0.4
        pixels = pixels + share * np.stack(
            [_noise(rng, image.size, int(grain))[..., 0] for _ in range(3 if several else 1)], -1
        )
    return _image(pixels)


def _lines(rng: np.random.Generator, image: Image.Image) -> Image.Image:
    """Lines of a grid, or of ruled paper, at any angle."""
    width, height = image.size
    x, y = np.arange(width)[None, :], np.arange(height)[:, None]
    angle, period = rng.uniform(0, math.pi), rng.uniform(8, 26)
    u, v = math.cos(angle) * x + math.sin(angle) * y, math.cos(angle) * y - math.sin(angle) * x
    across = np.minimum(u % period, v % period) if rng.random() < 0.7 else u % period
    strength = rng.uniform(0.15, 0.6) * np.clip(rng.uniform(1.2, 2.2) - across, 0, 1)[..., None]
    pixels = np.asarray(image) / 255
    return _image(pixels + strength * (color(rng, 0.1, 0.9) - pixels))


def _blobs(rng: np.random.Generator, image: Image.Image) -> Image.Image:
    """Ellipses far out of focus."""
    pen = ImageDraw.Draw(image)
    for _ in range(rng.integers(6, 16)):
        center = rng.uniform((0, 0), image.size)
        radii = rng.uniform(8, 45, 2)
        outline = ellipse(center, (radii[0], radii[1]), rng.uniform(0, math.pi))
        pen.polygon(outline.ravel().tolist(), fill=rgb(color(rng, 0.05, 0.95, 0.2)))
    return image.filter(ImageFilter.GaussianBlur(rng.uniform(4, 11)))


def _leaves(rng: np.random.Generator, image: Image.Image) -> Image.Image:
    """Leaves with a midrib, lying over each other."""
    pen = ImageDraw.Draw(image)
    tint = color(rng, 0.2, 0.6, 0.15) + np.array([-0.05, 0.1, -0.08])
    t = np.linspace(0, 1, 10)
    for _ in range(rng.integers(10, 28)):
        start = rng.uniform((-20, -20), np.array(image.size) + 20)
        angle, length = rng.uniform(0, 2 * math.pi), rng.uniform(20, 70)
        along = length * np.array([math.cos(angle), math.sin(angle)])
        across = rng.uniform(0.2, 0.5) * np.array([-along[1], along[0]])
        end, middle = start + along, start + 0.45 * along
        edges = [
            quadratic(start, middle + across, end, t),
            quadratic(end, middle - across, start, t),
        ]
        leaf = np.clip(tint + rng.normal(0, 0.08) + rng.normal(0, 0.03, 3), 0, 1)
        pen.polygon(np.concatenate(edges).ravel().tolist(), fill=rgb(leaf))
        pen.line([*start, *end], fill=rgb(leaf * 0.75), width=1)
    return image.filter(ImageFilter.GaussianBlur(rng.uniform(0.5, 3)))


def _clutter(rng: np.random.Generator, image: Image.Image) -> Image.Image:
    """Things of all colours, somewhat out of focus."""
    texture = scenes.texture(rng, image.size)
    blurred = texture.filter(ImageFilter.GaussianBlur(rng.uniform(2, 6)))
    return Image.blend(image, blurred, rng.uniform(0.4, 0.9))


def _plain(rng: np.random.Generator, image: Image.Image) -> Image.Image:
    del rng
    return image


# What backgrounds are drawn, and how often. Their order decides which one a seed draws.
BACKDROPS = {_plain: 0.2, _cloth: 0.2, _lines: 0.15, _blobs: 0.15, _leaves: 0.15, _clutter: 0.15}


def shadow(
    image: Image.Image, mask: Image.Image, shift: tuple[int, int], strength: float
) -> Image.Image:
    """Darkens an image where a mask, shifted by whole pixels and blurred, is white."""
    cast = Image.new("L", image.size, 0)
    cast.paste(mask.point(lambda value: strength * value), shift)
    black = Image.new("RGB", image.size)
    return Image.composite(black, image, cast.filter(ImageFilter.GaussianBlur(3)))


def develop(rng: np.random.Generator, image: Image.Image) -> bytes:
    """A photo of an image: uneven light, colour cast, blur and noise of the sensor, as JPEG."""
    image = image.filter(ImageFilter.GaussianBlur(rng.uniform(0.2, 0.9)))
    x, y = _grid(image.size)
    slope = rng.normal(0, 0.08, 2)
    contrast, gain = rng.uniform(0.8, 1.1), rng.normal(1, 0.08)
    light = contrast * gain * (1 + slope[0] * x + slope[1] * y)
    cast = rng.normal(1, 0.04, 3).astype(np.float32)
    pixels = np.asarray(image, np.float32) / 255 * light[..., None] * cast + (1 - contrast) / 2
    noise = rng.standard_normal(pixels.shape, np.float32)
    taken = _image(pixels + np.float32(rng.uniform(0.005, 0.03)) * noise)
    file = io.BytesIO()
    taken.save(file, "JPEG", quality=int(rng.integers(80, 96)))
    return file.getvalue()


def noise(rng: np.random.Generator, size: tuple[int, int]) -> Image.Image:
    """Nothing but noise: a control."""
    return _image(rng.random((size[1], size[0], 3)))


def _noise(rng: np.random.Generator, size: tuple[int, int], cells: int) -> np.ndarray:
    """Smooth noise `[H, W, 1]` of about unit range, of so many cells along each side."""
    values = Image.fromarray(rng.random((cells, cells), np.float32) - np.float32(0.5))
    return 2 * np.asarray(values.resize(size, Image.Resampling.BICUBIC))[..., None]


def _grid(size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Coordinates of the pixels, -1 to 1: x `[1, W]` and y `[H, 1]`, float32."""
    x, y = (np.linspace(-1, 1, side, dtype=np.float32) for side in size)
    return x[None, :], y[:, None]


def _image(pixels: np.ndarray) -> Image.Image:
    return Image.fromarray((np.clip(pixels, 0, 1) * 255 + 0.5).astype(np.uint8))
