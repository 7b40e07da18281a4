"""Draws filled shapes, given in a thing's own frame, onto an image, with smooth edges."""

import math

import numpy as np
from PIL import Image, ImageDraw

from landmarks_jax import geometry

SAMPLING = 3  # shapes are drawn at so many times the image's size, then averaged


class Pen:
    """An image under construction, enlarged.

    Attributes:
      image: the enlarged image, RGB.
    """

    def __init__(self, image: Image.Image, to_image: np.ndarray) -> None:
        """Enlarges an image.

        Args:
          image: the background, RGB.
          to_image: `[2, 3]` similarity from the thing's frame to the image's pixels.
        """
        size = image.width * SAMPLING, image.height * SAMPLING
        self.image = image.resize(size, Image.Resampling.NEAREST)
        self._draw = ImageDraw.Draw(self.image)
        self._affine = _enlarged(to_image)

    def polygon(self, points: np.ndarray, color: np.ndarray) -> None:
        """Fills a polygon `[n, 2]`; the colour is `[3]` RGB in [0, 1]."""
        self._draw.polygon(_corners(self._affine, points), fill=rgb(color))

    def ribbon(self, line: np.ndarray, widths: np.ndarray, color: np.ndarray) -> None:
        """Draws a line `[n, 2]` of half widths `[n]`, with round ends."""
        self.polygon(ribbon(line, widths), color)

    def finish(self) -> Image.Image:
        """The image at its own size."""
        return self.image.reduce(SAMPLING)


def coverage(size: tuple[int, int], to_image: np.ndarray, points: np.ndarray) -> Image.Image:
    """How much of each pixel is inside a polygon `[n, 2]`: a greyscale image, 255 for all of it."""
    mask = Image.new("L", (size[0] * SAMPLING, size[1] * SAMPLING), 0)
    ImageDraw.Draw(mask).polygon(_corners(_enlarged(to_image), points), fill=255)
    return mask.reduce(SAMPLING)


def _enlarged(to_image: np.ndarray) -> np.ndarray:
    """The map to the enlarged image's pixels; in both the first one's centre is at 0."""
    middle = (SAMPLING - 1) / 2
    return geometry.compose(np.array([[SAMPLING, 0, middle], [0, SAMPLING, middle]]), to_image)


def _corners(affine: np.ndarray, points: np.ndarray) -> list[float]:
    """A polygon for Pillow, which would truncate it to whole pixels."""
    return np.rint(geometry.apply(affine, points)).ravel().tolist()


def rgb(color: np.ndarray) -> tuple[int, ...]:
    """Pillow's colour from `[3]` in [0, 1], clipped."""
    return tuple(round(255 * min(max(value, 0.0), 1.0)) for value in color.tolist())


def ribbon(line: np.ndarray, widths: np.ndarray) -> np.ndarray:
    """The outline of a line `[n, 2]` of half widths `[n]`, with half circles at its ends."""
    steps = np.diff(line, axis=0)
    along = np.concatenate([steps[:1], steps[:-1] + steps[1:], steps[-1:]])
    along /= np.hypot(along[:, 0], along[:, 1])[:, None]
    along *= widths[:, None]
    across = np.stack([-along[:, 1], along[:, 0]], 1)
    around = np.linspace(0, math.pi, 9)[1:-1, None]
    cos, sin = np.cos(around), np.sin(around)
    last = line[-1] + cos * across[-1] + sin * along[-1]
    first = line[0] - cos * across[0] - sin * along[0]
    return np.concatenate([line + across, last, (line - across)[::-1], first])


def ellipse(
    center: np.ndarray, radii: tuple[float, float], angle: float = 0.0, corners: int = 20
) -> np.ndarray:
    """The outline `[corners, 2]` of an ellipse, its first axis rotated by `angle` radians."""
    around = np.linspace(0, 2 * math.pi, corners, endpoint=False)
    u, v = radii[0] * np.cos(around), radii[1] * np.sin(around)
    cos, sin = math.cos(angle), math.sin(angle)
    return center + np.stack([cos * u - sin * v, sin * u + cos * v], 1)


def quadratic(start: np.ndarray, control: np.ndarray, end: np.ndarray, t: np.ndarray) -> np.ndarray:
    """Points `[n, 2]` of a quadratic Bezier curve at parameters `[n]` in [0, 1]."""
    t = t[:, None]
    return (1 - t) ** 2 * start + 2 * t * (1 - t) * control + t**2 * end


def closed_curve(anchors: np.ndarray, t: np.ndarray) -> np.ndarray:
    """Points `[n, 2]` of the closed Catmull-Rom curve through anchors `[m, 2]`.

    Args:
      anchors: the curve passes through number i at parameter i.
      t: `[n]` parameters, of period m.
    """
    first = np.floor(t).astype(int)
    f = (t - first)[:, None]
    a, b, c, d = (anchors[(first + k) % len(anchors)] for k in (-1, 0, 1, 2))
    return b + f / 2 * (c - a + f * (2 * a - 5 * b + 4 * c - d + f * (3 * (b - c) + d - a)))


def pose(
    rng: np.random.Generator,
    size: tuple[int, int],
    outline: np.ndarray,
    *,
    share: float,
    rotation: float,
    margin: float = 0.02,
) -> np.ndarray:
    """Draws how a thing lies in its image: rotated, scaled by 0.8 to 1.15, shifted by up to 8 %.

    A thing that would leave the image is shifted back, and scaled down where that is not enough.

    Args:
      rng: draws the pose.
      size: width and height of the image.
      outline: `[n, 2]`, in the thing's frame.
      share: of the image's width or height, whichever binds, that the upright thing fills at
        scale 1.
      rotation: standard deviation, degrees.
      margin: share of each side that stays free.

    Returns:
      `[2, 3]` similarity from the thing's frame to pixels.
    """
    room = np.array(size, float)
    angle = np.radians(np.clip(rng.normal(0, rotation), -2.5 * rotation, 2.5 * rotation))
    rotated = geometry.apply(geometry.similarity(angle, np.array(1.0), np.zeros(2)), outline)
    scale = share * (room / np.ptp(outline, axis=0)).min() * rng.uniform(0.8, 1.15)
    free = (1 - 2 * margin) * room
    scale = min(scale, (free / np.ptp(rotated, axis=0)).min())
    middle = (rotated.min(0) + rotated.max(0)) / 2
    slack = (free - scale * np.ptp(rotated, axis=0)) / 2
    shift = np.clip(rng.uniform(-0.08, 0.08, 2) * room, -slack, slack)
    offset = (room - 1) / 2 + shift - scale * middle
    return geometry.similarity(angle, np.array(scale), offset)
