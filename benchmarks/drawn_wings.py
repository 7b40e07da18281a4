"""Draws an insect's wing seen from above, its root at the left, with veins, spots and margin.

The frame of a wing has its root at (0, 0) and its tip near (1, 0); y points down, to the back.
"""

from typing import NamedTuple

import numpy as np
from PIL import Image

from benchmarks import drawn_scene
from benchmarks.drawn_pen import Pen, closed_curve, coverage, ellipse, pose, quadratic
from landmarks_jax import geometry

POINTS = (
    "root", "tip", "end_1", "end_2", "end_4", "end_5", "fork", "notch",
    "cross_1_front", "cross_1_back", "cross_2_front", "cross_2_back",
)  # fmt: skip
SIZE = (200, 160)  # of an image, about
_TIP, _NOTCH = 4, 8  # anchors of the margin


class Wing(NamedTuple):
    """The shape of a wing.

    Attributes:
      margin: `[n, 2]`, a polygon that begins at the root.
      costa: `[n, 2]`, the margin's front, from root to tip.
      veins: lines `[n, 2]`, each with the share of the full thickness at its start and end.
      points: `[12, 2]`, in the order of `POINTS`.
    """

    margin: np.ndarray
    costa: np.ndarray
    veins: list[tuple[np.ndarray, float, float]]
    points: np.ndarray


def shape(rng: np.random.Generator) -> Wing:
    """Draws a wing's shape: its margin from six random numbers, its veins from nine."""
    anchors = _anchors(rng)
    ends = np.array([2.45, 3.45, 4.55, 5.85]) + rng.normal(0, 1, 4) * (0.16, 0.12, 0.12, 0.22)
    end_1, end_2, end_4, end_5 = closed_curve(anchors, ends)
    root, tip, notch = anchors[0], anchors[_TIP], anchors[_NOTCH]
    base = root + np.array([0.03, 0])
    width = anchors[6, 1] - anchors[2, 1]
    fork = np.array([0.24, 0.30 * anchors[2, 1]]) + rng.normal(0, 1, 2) * (0.035, 0.012)
    t = np.linspace(0, 1, 25)
    bend = 0.05 * rng.normal(0, 1, 5) * width
    controls = [
        _bowed(base, end_1, -0.10 * width + bend[0]),
        _bowed(fork, end_2, -0.12 * width + bend[1]),
        _bowed(fork, tip, -0.08 * width + bend[2]),
        _bowed(base, end_4, 0.02 * width + bend[3]),
        _bowed(base, end_5, 0.10 * width + bend[4]),
    ]
    # Clipped so that the two cross veins keep their order.
    shifts = np.repeat(rng.normal(0, 0.035, 2), 2) + rng.normal(0, 0.02, 4)
    along = np.array([0.32, 0.50, 0.70, 0.81]) + np.clip(shifts, -0.09, 0.09)
    cross = np.concatenate(
        [
            quadratic(fork, controls[2], tip, along[:1]),
            quadratic(base, controls[3], end_4, along[1:3]),
            quadratic(base, controls[4], end_5, along[3:]),
        ]
    )
    veins = [
        (quadratic(base, controls[0], end_1, t), 1.2, 0.8),
        (np.stack([base, (base + fork) / 2 + (0, -0.01), fork]), 1.3, 1.0),
        (quadratic(fork, controls[1], end_2, t), 1.0, 0.7),
        (quadratic(fork, controls[2], tip, t), 1.0, 0.7),
        (quadratic(base, controls[3], end_4, t), 1.1, 0.7),
        (quadratic(base, controls[4], end_5, t), 1.1, 0.7),
        (quadratic(base, _bowed(base, notch, 0.02), notch, t), 0.8, 0.5),
        (cross[:2], 0.8, 0.8),
        (cross[2:], 0.8, 0.8),
    ]
    points = np.stack([root, tip, end_1, end_2, end_4, end_5, fork, notch, *cross])
    around = np.linspace(0, len(anchors), 121)
    costa = closed_curve(anchors, np.linspace(0, _TIP, 41))
    return Wing(closed_curve(anchors, around[:-1]), costa, veins, points)


def _anchors(rng: np.random.Generator) -> np.ndarray:
    """Ten points `[10, 2]` of the margin: root, three in front, tip, three behind, notch, lobe."""
    anchors = np.array(
        [
            [0.0, 0.0], [0.13, -0.11], [0.42, -0.185], [0.75, -0.16], [1.0, 0.02],
            [0.86, 0.19], [0.58, 0.26], [0.33, 0.23], [0.17, 0.135], [0.07, 0.09],
        ]
    )  # fmt: skip
    aspect, pointed, bulge, belly, lean, depth = rng.normal(0, 1, 6)
    anchors[:, 1] *= np.exp(0.15 * aspect)
    anchors[[3, 5], 1] *= 1 - 0.13 * pointed  # a pointed tip is narrow beside it
    anchors[[3, 5], 0] -= 0.02 * pointed
    anchors[[1, 2, 3], 1] -= 0.02 * bulge * np.array([0.5, 1, 0.7])
    anchors[[5, 6, 7], 0] += 0.035 * belly
    anchors[[5, 7], 1] += 0.02 * belly * np.array([1, -1])
    anchors[[3, 4, 5], 1] += 0.035 * lean * np.array([0.6, 1, 0.6])
    anchors[_NOTCH] += depth * np.array([0.015, -0.012])
    anchors[_NOTCH, 0] += rng.normal(0, 0.015)
    return anchors


def _bowed(start: np.ndarray, end: np.ndarray, height: float) -> np.ndarray:
    """The control point of a curve that leaves the chord by half of `height` downwards."""
    return (start + end) / 2 + np.array([0, height])


def draw(rng: np.random.Generator, size: tuple[int, int]) -> tuple[Image.Image, np.ndarray]:
    """Draws a wing in an image of its own background.

    Returns:
      The image, and the points `[12, 2]` in its pixels.
    """
    wing = shape(rng)
    to_image = pose(rng, size, wing.margin, share=0.73, rotation=12)
    image = drawn_scene.backdrop(rng, size)
    mask = coverage(size, to_image, wing.margin)
    if rng.random() < 0.6:
        right, down = rng.integers(1, 5, 2).tolist()
        image = drawn_scene.shadow(image, mask, (right, down), rng.uniform(0.15, 0.45))
    opacity = rng.uniform(0.5, 0.95)
    mask = mask.point(lambda value: opacity * value)
    pen = Pen(Image.composite(_membrane(rng, size, wing, to_image), image, mask), to_image)
    draw_veins(pen, wing, drawn_scene.color(rng, 0.05, 0.28, 0.05), rng.uniform(0.004, 0.0085))
    return pen.finish(), geometry.apply(to_image, wing.points)


def draw_veins(pen: Pen, wing: Wing, color: np.ndarray, thickness: float) -> None:
    """Draws veins and margin; `thickness` is half a vein's, in wing lengths."""
    # Its ends are apart, which the hinge hides: Pillow leaves blank what a polygon covers twice.
    pen.ribbon(wing.margin, np.full(len(wing.margin), 0.5 * thickness), color)
    pen.ribbon(wing.costa, np.linspace(1.7, 0.8, len(wing.costa)) * thickness, color)
    for line, start, end in wing.veins:
        pen.ribbon(line, np.linspace(start, end, len(line)) * thickness, color)
    hinge = ellipse(np.array([0.012, 0.008]), (0.035, 0.022), 0.5)
    pen.polygon(hinge, color)


def _membrane(
    rng: np.random.Generator, size: tuple[int, int], wing: Wing, to_image: np.ndarray
) -> Image.Image:
    """The colours of the wing: a gradient from root to tip, spots anywhere, and a fine grain."""
    first = drawn_scene.color(rng, 0.5, 0.95, 0.07)
    second = np.clip(first + rng.normal(0, 0.08) + rng.normal(0, 0.04, 3), 0.3, 1)
    x, y = np.meshgrid(*(np.arange(side, dtype=np.float32) for side in size))
    to_wing = geometry.invert(to_image).astype(np.float32)
    place = geometry.apply(to_wing, np.stack([x, y], -1).reshape(-1, 2))
    shade = np.ones(len(place), np.float32)
    low, high = wing.margin.min(0), wing.margin.max(0)
    for _ in range(rng.integers(0, 6)):
        center = rng.uniform(low, high).astype(np.float32)
        u, v = ((place - center) / rng.uniform(0.02, 0.1, 2).astype(np.float32)).T
        shade *= 1 - np.float32(rng.uniform(0.15, 0.6)) * np.exp(-(u * u + v * v) / 2)
    grain = 0.03 * rng.standard_normal(len(place), np.float32)
    ramp = np.clip(place[:, :1], 0, 1)
    pixels = (first + (second - first) * ramp) * shade[:, None] + grain[:, None]
    values = (np.clip(pixels, 0, 1) * 255 + 0.5).astype(np.uint8)
    return Image.fromarray(values.reshape(size[1], size[0], 3))
