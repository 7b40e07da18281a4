"""Which refined points are on the object: those that follow a known warp of the photo.

A point of a grid that finds nothing of the object stays near its place in the view, whatever the
view shows. So some photos are warped by known maps and refined once more from the same start.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from ml_collections import ConfigDict

from landmarks_jax import geometry, views

# Photos that are warped.
NUM_PHOTOS = 256
# How: fields of `config.views`.
_WARP = {
    "rotation_std": (10.0, 10.0),
    "rotation_limit": 20.0,
    "scale_range": (0.85, 1.15),
    "scale_std": 0.0,
    "shift_std": 0.06,
}
# A point nearer to the border of the view, in normalised units, does not count.
_BORDER = 0.1


class Warped(NamedTuple):
    """Warped views of photos.

    Attributes:
      images: `[n, S, S, 3]` uint8.
      to_view: `[n, 2, 3]` from their coordinates to those of the undistorted views.
    """

    images: np.ndarray
    to_view: np.ndarray


def warper(view_size: int, canvas_size: int, seed: int) -> Callable[[np.ndarray, int], Warped]:
    """The function `(canvases [n, C, C, 3], number of the first)` to their warped views.

    Args:
      view_size: S.
      canvas_size: C.
      seed: of the warps; each photo's own depends on its number too.
    """
    share = view_size / canvas_size
    warp = jax.jit(views.warp, static_argnames="size")

    def warped(canvases: np.ndarray, first: int) -> Warped:
        numbers = jnp.arange(first, first + len(canvases))
        keys = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(seed), numbers)
        maps = views.draw_maps(keys, ConfigDict(_WARP), view=0, view_share=1.0)
        to_canvas = geometry.compose(
            geometry.similarity(jnp.zeros(()), jnp.float32(share), jnp.zeros(2)), maps
        )
        images = warp(canvases, to_canvas, size=view_size)
        return Warped(np.asarray(jnp.rint(images), np.uint8), np.asarray(maps))

    return warped


def share_followed(points: ArrayLike, moved: ArrayLike, to_view: ArrayLike) -> np.ndarray:
    """How far points follow warps: `1 - sum |moved - expected|^2 / sum |points - expected|^2`.

    Args:
      points: `[n, K, 2]` in the undistorted views, normalised.
      moved: `[n, K, 2]` in the warped views.
      to_view: `[n, 2, 3]` from the warped views to the undistorted ones.

    Returns:
      `[K]`: 1 where a point moves with the object, 0 where it stays at its place of the view, less
      where it moves elsewhere. 0 for points that are never inside a warped view.
    """
    points = np.asarray(points, np.float64)
    expected = np.asarray(geometry.apply(geometry.invert(jnp.asarray(to_view)), points))
    inside = np.all(np.abs(expected) < 1 - _BORDER, -1)
    left = np.where(inside, ((np.asarray(moved) - expected) ** 2).sum(-1), 0.0).sum(0)
    way = np.where(inside, ((points - expected) ** 2).sum(-1), 0.0).sum(0)
    shares: np.ndarray = np.where(way > 0, 1 - left / np.maximum(way, 1e-12), 0.0)
    return shares
