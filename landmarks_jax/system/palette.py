"""The fixed colours of the landmarks, and how dots shrink when there are many."""

import functools

import numpy as np
from PIL import ImageColor

# Bright enough for dark skin and hair, and far from one another.
_FIRST_COLORS = (
    *("#ff0000", "#1f5bff", "#00e600", "#ffe600", "#ff00e6"),
    *("#00e6ff", "#ff8c00", "#9a4dff", "#00996b", "#ffb3d1"),
)

_DOT_SCALES = ((15, 1.0), (35, 0.75))  # up to this many landmarks, this scale
_SMALLEST_SCALE = 0.6


@functools.cache
def _palette(count: int) -> np.ndarray:
    """The first colours, then repeatedly the one farthest in CIELAB from all before it.

    When all are taken (about 480), they come again in the same order.
    """
    levels = np.linspace(0.0, 1.0, 9)
    rgb = np.stack(np.meshgrid(levels, levels, levels, indexing="ij"), -1).reshape(-1, 3)
    lab = _to_lab(rgb)
    # Not near black, white or grey, which are hair, walls and outlines.
    vivid = (lab[:, 0] > 40) & (lab[:, 0] < 93) & (np.hypot(lab[:, 1], lab[:, 2]) > 30)
    rgb, lab = rgb[vivid], lab[vivid]
    chosen = [np.array(ImageColor.getrgb(color)) / 255 for color in _FIRST_COLORS]
    gaps = np.linalg.norm(lab[:, None] - _to_lab(np.array(chosen)), axis=-1).min(1)
    while len(chosen) < count and gaps.max() > 0:
        farthest = np.argmax(gaps)
        chosen.append(rgb[farthest])
        gaps = np.minimum(gaps, np.linalg.norm(lab - lab[farthest], axis=-1))
    return np.resize(chosen, (max(count, len(chosen)), 3))


def landmark_colors(count: int) -> np.ndarray:
    """Distinct colours `[count, 3]`, sRGB in [0, 1]; the first ones are the same for any count."""
    return _palette(count)[:count].copy()


def byte_colors(count: int) -> list[tuple[int, int, int]]:
    """`landmark_colors` as red, green and blue from 0 to 255."""
    levels = np.rint(255 * landmark_colors(count)).astype(int).tolist()
    return [(red, green, blue) for red, green, blue in levels]


def hex_colors(count: int) -> list[str]:
    """`landmark_colors` as `#rrggbb`."""
    return ["#{:02x}{:02x}{:02x}".format(*color) for color in byte_colors(count)]


def crowding(count: int) -> float:
    """Scale of the dots of `count` landmarks, at most 1, so that they do not overlap."""
    return next((scale for most, scale in _DOT_SCALES if count <= most), _SMALLEST_SCALE)


def _to_lab(rgb: np.ndarray) -> np.ndarray:
    """Converts sRGB `[N, 3]` in [0, 1] to CIELAB `[N, 3]` under D65."""
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    to_xyz = np.array(
        [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]
    )
    ratio = linear @ to_xyz.T / to_xyz.sum(1)
    root = np.where(ratio > (6 / 29) ** 3, np.cbrt(ratio), ratio / (3 * (6 / 29) ** 2) + 4 / 29)
    x, y, z = root.T
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], -1)
