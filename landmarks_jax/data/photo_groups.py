"""Whether photos fall into groups that look unlike, such as things of several kinds.

A photo is described by the orientations of its edges in 8 x 8 cells. Clutter has edges of all
orientations, which cancel, so that backgrounds count little. On half of the photos clusters are
found (Ward's method) and a linear discriminant of each; the other half is projected onto it. If the
photos are of one kind, the density of the projections has one hill, and what look like clusters are
parts of it. Between two kinds it has a valley.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import scipy.cluster.hierarchy

SIDE = 64  # of the small photos, in pixels
MIN_PHOTOS = 200  # with fewer, photos of one kind have valleys as deep
MAX_DEPTH = 0.35  # a valley below is a gap between kinds; see docs/datasets.md for measurements
_MIN_SHARE = 0.08  # of the smaller group
_CELLS = 8
_COMPONENTS = 20
_MAX_CLUSTERS = 5
_SPLITS = 5
_RIDGE = 0.1  # of the discriminant, over the mean variance


class Groups(NamedTuple):
    """Two groups of photos that look unlike.

    Attributes:
      second: `[N]` bool, which photos are in the second group.
      typical: a photo in the middle of each group.
    """

    second: np.ndarray
    typical: tuple[int, int]


def find(photos: np.ndarray) -> Groups | None:
    """Finds two groups that look unlike; None if there are not, or fewer than `MIN_PHOTOS`.

    Args:
      photos: `[N, SIDE, SIDE]` grey, in an order that says nothing about what they show.
    """
    if len(photos) < MIN_PHOTOS:
        return None
    rows = descriptors(photos)
    if valley(rows) >= MAX_DEPTH:
        return None
    mean, axes = _components(rows)
    rows = (rows - mean) @ axes
    _, best = min(
        ((_deepest(rows @ direction)[0], direction) for direction in _directions(rows)),
        key=lambda pair: pair[0],
    )
    values = rows @ best
    second = values > _deepest(values)[1]
    first, other = (
        int(np.abs(np.where(group, values, np.inf) - np.median(values[group])).argmin())
        for group in (~second, second)
    )
    return Groups(second, (first, other))


def descriptors(photos: np.ndarray) -> np.ndarray:
    """Orientations of the edges in cells, `[N, 8 * 8 * 4]`, of length 1.

    A cell has the sums of magnitude times cos and sin of twice and four times the angle.
    """
    down, across = np.gradient(photos.astype(np.float32), axis=(1, 2))
    magnitude = np.hypot(across, down) + 1e-3
    turn = (across + 1j * down) ** 2 / magnitude
    maps = np.stack([turn.real, turn.imag, (turn**2 / magnitude).real, (turn**2 / magnitude).imag])
    cells = maps.reshape(4, len(photos), _CELLS, SIDE // _CELLS, _CELLS, SIDE // _CELLS)
    rows = cells.sum((3, 5)).swapaxes(0, 1).reshape(len(photos), -1)
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-3)


def valley(rows: np.ndarray) -> float:
    """Depth of the deepest valley between clusters, for photos that did not find them.

    Args:
      rows: `[N, D]` descriptors.

    Returns:
      The density in the valley over that of the lower hill beside it: 1 without any, 0 for a gap.
      The median over random splits, each the mean of both ways round.
    """
    depths = []
    for seed in range(_SPLITS):
        order = np.random.default_rng(seed).permutation(len(rows))
        halves = rows[order[::2]], rows[order[1::2]]
        depths.append(np.mean([_held_out(*halves), _held_out(*halves[::-1])]))
    return float(np.median(depths))


def _held_out(seen: np.ndarray, unseen: np.ndarray) -> float:
    """The deepest valley of `unseen` rows, along the discriminants of `seen` rows."""
    mean, axes = _components(seen)
    unseen = (unseen - mean) @ axes
    directions = _directions((seen - mean) @ axes)
    return min((_deepest(unseen @ direction)[0] for direction in directions), default=1.0)


def _components(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The mean `[D]` of rows and their first principal components `[D, 20]`."""
    mean = rows.mean(0)
    moved = (rows - mean).astype(np.float64)
    return mean, np.linalg.eigh(moved.T @ moved)[1][:, -_COMPONENTS:]


def _directions(rows: np.ndarray) -> Iterator[np.ndarray]:
    """The discriminant of each cluster against all other rows, at 2 to 5 clusters."""
    tree = scipy.cluster.hierarchy.linkage(rows, "ward")
    numbers = range(2, _MAX_CLUSTERS + 1)
    clusters = scipy.cluster.hierarchy.cut_tree(tree, numbers).T
    members = {
        (labels == cluster).tobytes(): labels == cluster
        for labels, number in zip(clusters, numbers, strict=True)
        for cluster in range(number)
    }
    for inside in members.values():
        if min(inside.mean(), 1 - inside.mean()) >= 0.7 * _MIN_SHARE:
            yield _discriminant(rows[inside], rows[~inside])


def _discriminant(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    parts = [rows - rows.mean(0) for rows in (one, other)]
    covariance = sum(part.T @ part for part in parts) / (len(one) + len(other))
    ridge = _RIDGE * np.trace(covariance) / len(covariance) + 1e-9
    apart = one.mean(0) - other.mean(0)
    return np.linalg.solve(covariance + ridge * np.eye(len(covariance)), apart)


def _deepest(values: np.ndarray) -> tuple[float, float]:
    """Depth and place of the deepest valley of a density with `_MIN_SHARE` on either side."""
    width = 0.63 * values.std() * len(values) ** -0.2  # 0.7 of Silverman's rule
    low, high = np.quantile(values, [0.01, 0.99])
    places = np.linspace(low, high, 101)
    density = np.exp(-0.5 * ((places[:, None] - values) / max(width, 1e-12)) ** 2).mean(1)
    below = np.searchsorted(np.sort(values), places) / len(values)
    hills = np.minimum(np.maximum.accumulate(density), np.maximum.accumulate(density[::-1])[::-1])
    depth = np.where(np.minimum(below, 1 - below) >= _MIN_SHARE, density / hills, 1.0)
    deepest = int(depth.argmin())
    return float(depth[deepest]), float(places[deepest])
