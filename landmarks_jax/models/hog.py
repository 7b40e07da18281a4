"""Histograms of oriented gradients: features that need no trained network and no download.

Dalal and Triggs (CVPR 2005), in the form of Felzenszwalb et al. (TPAMI 2010): each cell counts the
gradients of its pixels by direction, and again by orientation, and is normalised by the contrast
about it. Hariharan et al. (ECCV 2012) discriminate whitened ones linearly, as `refinement` does.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

# The name of these features in `config.targets.network`.
NETWORK = "hog"
# Pixels a side of the cells of each tap.
CELLS = {"fine": 4, "coarse": 8, "fine_wide": 4, "coarse_wide": 8}
# How far the neighbours reach with which its cells are described, in cells. The wide ones take
# twice the time; on photos they are better.
RADII = {"fine": 1, "coarse": 1, "fine_wide": 2, "coarse_wide": 2}
TAPS = tuple(CELLS)
# Bins of orientation, over half a turn; there are twice as many of direction.
ORIENTATIONS = 9
# Normalised counts are clipped here, so that one strong edge does not outweigh all others.
_LIMIT = 0.4
# Squared gradients below this, of images in [0, 1], count as noise.
_NOISE = 1e-3


def features(images: jax.Array, taps: Sequence[str]) -> dict[str, jax.Array]:
    """Maps images `[B, S, S, 3]` in [0, 1] to `{tap: [B, S / cell, S / cell, C]}`."""
    return {tap: neighborhoods(histograms(images, CELLS[tap]), RADII[tap]) for tap in taps}


def gradients(images: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Derivatives by central differences, of the colour that changes most at each pixel.

    Args:
      images: `[B, H, W, 3]`.

    Returns:
      Those along x and along y, `[B, H, W]` each, per two pixels; the component across the border
      is 0 at the border.
    """
    across = jnp.pad(images[:, :, 2:] - images[:, :, :-2], ((0, 0), (0, 0), (1, 1), (0, 0)))
    down = jnp.pad(images[:, 2:] - images[:, :-2], ((0, 0), (1, 1), (0, 0), (0, 0)))
    strongest = jnp.argmax(across**2 + down**2, -1, keepdims=True)
    x, y = (jnp.take_along_axis(part, strongest, -1)[..., 0] for part in (across, down))
    return x, y


def histograms(images: jax.Array, cell: int) -> jax.Array:
    """Histograms of square cells, normalised by the contrast of 3 x 3 cells about each.

    Args:
      images: `[B, H, W, 3]` in [0, 1].
      cell: pixels a side; rows and columns beyond the last whole cell are dropped.

    Returns:
      `[B, H // cell, W // cell, 27]`: 18 bins of direction, the first about +x, then towards +y;
      then 9 of orientation, where light to dark and dark to light count alike. A gradient counts
      by its length, linearly shared by the two nearest bins. 0 where the image is constant.
    """
    count, height, width = len(images), images.shape[1] // cell, images.shape[2] // cell
    x, y = gradients(images)
    x, y = x[:, : height * cell, : width * cell], y[:, : height * cell, : width * cell]
    turns = jnp.arctan2(y, x) / (2 * jnp.pi) % 1.0
    place = 2 * ORIENTATIONS * turns
    low = jnp.floor(place)
    share, bins = place - low, jnp.arange(2 * ORIENTATIONS, dtype=place.dtype)
    length = jnp.hypot(x, y)[..., None]
    lower = (low % (2 * ORIENTATIONS))[..., None] == bins
    upper = ((low + 1) % (2 * ORIENTATIONS))[..., None] == bins
    votes = length * (lower * (1 - share[..., None]) + upper * share[..., None])
    votes = votes.reshape(count, height, cell, width, cell, 2 * ORIENTATIONS)
    directed = votes.mean((2, 4))
    undirected = directed[..., :ORIENTATIONS] + directed[..., ORIENTATIONS:]
    energy = (undirected**2).sum(-1, keepdims=True)
    around = jax.lax.reduce_window(energy, 0.0, jax.lax.add, (1, 3, 3, 1), (1, 1, 1, 1), "SAME")
    both = jnp.concatenate([directed, undirected], -1) * jax.lax.rsqrt(around + _NOISE)
    return jnp.minimum(both, _LIMIT)


def neighborhoods(maps: jax.Array, radius: int) -> jax.Array:
    """Concatenates each cell's vector with those of its neighbours, row by row.

    Args:
      maps: `[B, h, w, C]`; beyond the border its cells repeat.
      radius: in cells.

    Returns:
      `[B, h, w, (2 radius + 1)^2 C]`.
    """
    height, width = maps.shape[1:3]
    around = jnp.pad(maps, ((0, 0), (radius, radius), (radius, radius), (0, 0)), mode="edge")
    offsets = range(2 * radius + 1)
    return jnp.concatenate(
        [around[:, i : i + height, j : j + width] for i in offsets for j in offsets], -1
    )
