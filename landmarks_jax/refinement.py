"""Ours, not in the paper: points move to where features look the same in all photos.

Each cell of a photo has a feature vector `f`, from several taps of a pretrained VGG or from
histograms of gradients at several sizes of cells (`models.hog`): unit vectors, each tap projected
to its first principal components, concatenated. With points `p_k` in every photo, one iteration is

    d_k       the mean over the photos of `f` at `p_k`
    score_k   (f - m) . w_k - (d_k - m) . w_k / 2,   w_k = S^-1 (d_k - m)
    p_k       the expectation of the place under softmax(t score_k - |place - p_k|^2 / (2 s^2))

with `m` and `S` the mean and covariance of all cells: a linear discriminant of the cells at `p_k`
against all others. No label is used. `fit` iterates on photos that fit in memory and keeps each
iteration's discriminants as stages, which `refine` applies to any number of photos.
"""

import functools
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from landmarks_jax import geometry, keypoints

# In full precision, as a GPU rounds the factors of a float32 product to 10 bits by default.
_product = functools.partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST)


class Projection(NamedTuple):
    """Principal components of the cells of one tap.

    Attributes:
      mean: `[C]`.
      components: `[C, D]`, orthonormal, the largest first.
    """

    mean: jax.Array
    components: jax.Array


class Moments(NamedTuple):
    """Sums over cells, from which mean and covariance follow.

    Attributes:
      number: of cells.
      total: `[C]` sum.
      products: `[C, C]` sum of outer products.
    """

    number: ArrayLike
    total: ArrayLike
    products: ArrayLike

    def mean_and_covariance(self) -> tuple[jax.Array, jax.Array]:
        """`[C]` and `[C, C]`."""
        mean = jnp.asarray(self.total) / self.number
        return mean, jnp.asarray(self.products) / self.number - jnp.outer(mean, mean)


class Stage(NamedTuple):
    """The discriminants of one iteration; stacked along a first axis for several.

    Attributes:
      weights: `[D, K]`.
      bias: `[K]`.
      typical: `[K]` the mean score of a point's own cells, half their squared distance from `m`.
      spread: `[]` s, in normalised units.
      temperature: `[]` t.
    """

    weights: jax.Array
    bias: jax.Array
    typical: jax.Array
    spread: jax.Array
    temperature: jax.Array


def unit(x: jax.Array) -> jax.Array:
    """Vectors `[..., C]` over their lengths; zero stays zero."""
    x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    squared = (x * x).sum(-1, keepdims=True)
    return x * jax.lax.rsqrt(jnp.maximum(squared, 1e-12))


def moments(cells: jax.Array) -> Moments:
    """The moments of vectors `[..., C]`."""
    flat = cells.reshape(-1, cells.shape[-1]).astype(jnp.float32)
    return Moments(jnp.float32(len(flat)), flat.sum(0), _product(flat.T, flat))


def add_moments(parts: Iterable[Any]) -> Any:
    """The sum of moments, or of trees of them."""
    return functools.reduce(lambda total, part: jax.tree.map(jnp.add, total, part), parts)


def projection(sums: Moments, size: int) -> Projection:
    """The first `size` principal components (all if there are fewer)."""
    mean, covariance = sums.mean_and_covariance()
    _, vectors = jnp.linalg.eigh(covariance)
    return Projection(mean, vectors[:, ::-1][:, :size])


def project(taps: Mapping[str, jax.Array], projections: Mapping[str, Projection]) -> jax.Array:
    """Feature maps: the taps' unit vectors projected, resized to the largest and concatenated.

    Args:
      taps: `[B, h, w, C]` activations by tap.
      projections: by tap.

    Returns:
      `[B, h, w, D]` float32, with the size of the largest tap.
    """
    height, width = max(features.shape[1:3] for features in taps.values())
    parts = []
    for tap, (mean, components) in projections.items():
        part = _product(unit(taps[tap]) - mean, components)
        shape = (len(part), height, width, part.shape[-1])
        parts.append(jax.image.resize(part, shape, "bilinear"))
    return jnp.concatenate(parts, -1)


def sample(maps: jax.Array, points: jax.Array) -> jax.Array:
    """Feature maps `[B, h, w, D]` read bilinearly at points `[B, K, 2]`: `[B, K, D]`.

    Beyond the outer cells' centres the border's values.
    """
    height, width = maps.shape[1:3]
    places = geometry.to_pixels(points, (width, height))
    x = jnp.clip(places[..., 0], 0, width - 1)
    y = jnp.clip(places[..., 1], 0, height - 1)
    left = jnp.clip(jnp.floor(x).astype(jnp.int32), 0, max(width - 2, 0))
    top = jnp.clip(jnp.floor(y).astype(jnp.int32), 0, max(height - 2, 0))
    fx, fy = (x - left)[..., None], (y - top)[..., None]
    rows = jnp.arange(len(maps))[:, None]

    def at(down: int, right: int) -> jax.Array:
        i, j = jnp.minimum(top + down, height - 1), jnp.minimum(left + right, width - 1)
        return maps[rows, i, j].astype(points.dtype)

    upper = at(0, 0) * (1 - fx) + at(0, 1) * fx
    lower = at(1, 0) * (1 - fx) + at(1, 1) * fx
    return upper * (1 - fy) + lower * fy


def discriminants(
    descriptors: jax.Array, sums: Moments, spread: ArrayLike, temperature: ArrayLike
) -> Stage:
    """Linear discriminants of each point's cells against all cells.

    Args:
      descriptors: `[K, D]`.
      sums: the moments of all cells.
      spread: s.
      temperature: t.
    """
    mean, covariance = sums.mean_and_covariance()
    offsets = (descriptors - mean).T
    # Cells of one colour make it singular up to rounding; this changes no score that matters.
    square = jnp.trace(jnp.asarray(sums.products)) / sums.number / len(mean)
    ridge = (1e-5 * square + 1e-12) * jnp.eye(len(mean))
    weights = jnp.linalg.solve(covariance + ridge, offsets)
    typical = (offsets * weights).sum(0) / 2
    numbers = jnp.float32(spread), jnp.float32(temperature)
    return Stage(weights, -_product(mean, weights) - typical, typical, *numbers)


def move(maps: jax.Array, points: jax.Array, stage: Stage) -> jax.Array:
    """The places of the points after one iteration.

    Args:
      maps: `[B, h, w, D]`.
      points: `[B, K, 2]`, normalised.
      stage: its discriminants.

    Returns:
      `[B, K, 2]`.
    """
    height, width = maps.shape[1:3]
    scores = _product(maps.astype(stage.weights.dtype), stage.weights) + stage.bias
    across, down = (
        (geometry.pixel_centers(size, points.dtype)[None, :, None] - points[:, None, :, axis]) ** 2
        for axis, size in ((0, width), (1, height))
    )
    squared = down[:, :, None] + across[:, None]
    logits = stage.temperature * scores - squared / (2 * stage.spread**2)
    return keypoints.soft_argmax(logits, 1.0)


@jax.jit
def refine(maps: jax.Array, points: jax.Array, stages: Stage) -> tuple[jax.Array, jax.Array]:
    """Moves points through all stages.

    Args:
      maps: `[B, h, w, D]`.
      points: `[B, K, 2]` where they start, normalised.
      stages: T of them, stacked.

    Returns:
      `[B, K, 2]` the points, and `[B, K]` their confidence: the last discriminant's
      score over its mean at the point, 1 where the photo looks as all do there, 0 where it looks
      as much like any other place.
    """
    points, _ = jax.lax.scan(lambda at, stage: (move(maps, at, stage), None), points, stages)
    last = jax.tree.map(lambda leaf: leaf[-1], stages)
    scores = (sample(maps, points) * last.weights.T).sum(-1) + last.bias
    return points, scores / jnp.maximum(last.typical, 1e-6)


_sample, _move, _moments = jax.jit(sample), jax.jit(move), jax.jit(moments)
_FIT_BATCH = 250


def _batches(count: int) -> list[slice]:
    return [slice(start, start + _FIT_BATCH) for start in range(0, count, _FIT_BATCH)]


def moments_of(maps: np.ndarray) -> Moments:
    """The moments of all cells of feature maps `[N, h, w, D]`, in batches."""
    return add_moments(_moments(maps[rows]) for rows in _batches(len(maps)))


def fit(
    maps: np.ndarray,
    points: np.ndarray,
    schedule: Iterable[tuple[float, float]],
    sums: Moments | None = None,
) -> Stage:
    """Iterates on photos whose feature maps fit in memory.

    Args:
      maps: `[N, h, w, D]`, float16 to save memory.
      points: `[N, K, 2]` where they start, normalised.
      schedule: s and t of each iteration.
      sums: the moments of all cells; by default those of `maps`.

    Returns:
      The stages, stacked.
    """
    batches = _batches(len(maps))
    sums = moments_of(maps) if sums is None else sums
    stages = []
    for spread, temperature in schedule:
        totals = [np.asarray(_sample(maps[rows], points[rows])).sum(0) for rows in batches]
        descriptors = jnp.asarray(sum(totals) / len(maps))
        stages.append(discriminants(descriptors, sums, spread, temperature))
        points = np.concatenate(
            [np.asarray(_move(maps[rows], points[rows], stages[-1])) for rows in batches]
        )
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *stages)
