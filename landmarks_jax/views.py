"""Random views of photos, drawn and resampled on the accelerator.

A view is given by its map `[2, 3]` from the view's normalised coordinates to the canvas's, so that
resampling reads it directly; points follow the other way, through the inverse.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import ml_collections

from landmarks_jax import geometry


class Views(NamedTuple):
    """Views of a batch of canvases, and the exact maps that made them.

    Attributes:
      images: `[B, S, S, 3]` in [0, 1].
      to_canvas: `[B, 2, 3]` from the view's coordinates to the canvas's.
      inside: `[B, S, S]`, true where a pixel comes from the photo and not from its replicated
        border; None unless asked for.
    """

    images: jax.Array
    to_canvas: jax.Array
    inside: jax.Array | None = None


def draw_maps(
    keys: jax.Array, config: ml_collections.ConfigDict, *, view: int, view_share: float
) -> jax.Array:
    """Draws one random similarity per photo.

    The photo turns about the view's centre by a clipped normal angle, grows by a factor that is
    normal around a uniform one, and moves by a normal shift.

    Args:
      keys: `[B]` typed random keys, one per photo.
      config: the `views` section: `rotation_std[view]` and `rotation_limit` in degrees,
        `scale_range` and `scale_std` as factors, `shift_std` as a share of the view's side.
      view: 0 for `x`, 1 for `x'`.
      view_share: side of the view over side of the canvas, in (0, 1].

    Returns:
      `[B, 2, 3]` maps from view coordinates to canvas coordinates.
    """

    def draw(key: jax.Array) -> jax.Array:
        turn, spread, zoom, move = jax.random.split(jax.random.fold_in(key, view), 4)
        limit = config.rotation_limit
        degrees = config.rotation_std[view] * jax.random.normal(turn)
        angle = jnp.deg2rad(jnp.clip(degrees, -limit, limit))
        low, high = config.scale_range
        scale = jax.random.uniform(zoom, minval=low, maxval=high)
        # A factor near zero or below would blow a pixel up to a picture; 0.1 is 18 deviations off.
        scale = scale * jnp.maximum(1.0 + config.scale_std * jax.random.normal(spread), 0.1)
        shift = 2.0 * config.shift_std * jax.random.normal(move, (2,))
        return geometry.similarity(angle, 1.0 / scale, shift)

    into_canvas = geometry.similarity(jnp.zeros(()), jnp.float32(view_share), jnp.zeros((2,)))
    return geometry.compose(into_canvas, jax.vmap(draw)(keys))


def warp(images: jax.Array, maps: jax.Array, size: int) -> jax.Array:
    """Resamples images bilinearly through affine maps, borders replicated.

    Args:
      images: `[B, H, W, C]`, floating or uint8 (read as it is, 0 to 255).
      maps: `[B, 2, 3]` from output coordinates to input coordinates, both normalised.
      size: side of the square output, in pixels.

    Returns:
      `[B, size, size, C]` in the dtype of `maps`, in the value range of `images`.
    """
    height, width, channels = images.shape[1:]
    centers = jnp.asarray(geometry.pixel_centers(size, maps.dtype))
    grid = jnp.stack(jnp.meshgrid(centers, centers), -1).reshape(-1, 2)

    def resample(image: jax.Array, affine: jax.Array) -> jax.Array:
        places = geometry.to_pixels(geometry.apply(affine, grid), (width, height))
        x = jnp.clip(places[:, 0], 0, width - 1)
        y = jnp.clip(places[:, 1], 0, height - 1)
        # The last cell starts one before the border, so that its right neighbour exists.
        left = jnp.clip(jnp.floor(x).astype(jnp.int32), 0, max(width - 2, 0))
        top = jnp.clip(jnp.floor(y).astype(jnp.int32), 0, max(height - 2, 0))
        right = jnp.minimum(left + 1, width - 1)
        bottom = jnp.minimum(top + 1, height - 1)
        fx, fy = (x - left)[:, None], (y - top)[:, None]

        def pixels(row: jax.Array, column: jax.Array) -> jax.Array:
            return image[row, column].astype(maps.dtype)

        upper = pixels(top, left) * (1 - fx) + pixels(top, right) * fx
        lower = pixels(bottom, left) * (1 - fx) + pixels(bottom, right) * fx
        return upper * (1 - fy) + lower * fy

    return jax.vmap(resample)(images, maps).reshape(-1, size, size, channels)


def inside(maps: jax.Array, size: int, extents: jax.Array) -> jax.Array:
    """Tells which pixels of views come from the photo rather than from its replicated border.

    Args:
      maps: `[B, 2, 3]` from view coordinates to canvas coordinates.
      size: side of the view, in pixels.
      extents: `[B, 4]` the photo's `(x0, y0, x1, y1)` in canvas coordinates; -1, -1, 1, 1 where
        the photo fills the canvas.

    Returns:
      `[B, size, size]` booleans, true inside the photo.
    """
    centers = jnp.asarray(geometry.pixel_centers(size, maps.dtype))
    grid = jnp.stack(jnp.meshgrid(centers, centers), -1).reshape(-1, 2)
    places = geometry.apply(maps, grid[None])
    low, high = extents[:, None, :2], extents[:, None, 2:]
    # A canvas is never read beyond its own border, whatever the photo's extent.
    low, high = jnp.maximum(low, -1.0), jnp.minimum(high, 1.0)
    return jnp.all((places >= low) & (places <= high), -1).reshape(-1, size, size)


def view_pair(
    canvases: jax.Array,
    keys: jax.Array,
    config: ml_collections.ConfigDict,
    extents: jax.Array | None = None,
) -> tuple[Views, Views]:
    """Draws the two random views `x` and `x'` of each photo.

    Args:
      canvases: `[B, C, C, 3]` uint8.
      keys: `[B]` typed random keys; a photo's views depend on its own key alone.
      config: the `views` section, with `size`, the side of a view in pixels.
      extents: `[B, 4]` as `inside` takes them and `data.framing.Framing.extent` gives them; given,
        the views say which pixels are the photo's.

    Returns:
      `(x, x')`, each with its images in [0, 1] and its maps.
    """
    share = config.size / canvases.shape[1]
    pair = []
    for view in range(2):
        maps = draw_maps(keys, config, view=view, view_share=share)
        known = None if extents is None else inside(maps, config.size, extents)
        pair.append(Views(warp(canvases, maps, config.size) / 255.0, maps, known))
    return pair[0], pair[1]


def between(source: jax.Array, target: jax.Array) -> jax.Array:
    """The map `[B, 2, 3]` that takes points of one view to the same places of another.

    Args:
      source: `[B, 2, 3]`, the first view's map to the canvas.
      target: `[B, 2, 3]`, the second view's map to the canvas.
    """
    return geometry.compose(geometry.invert(target), source)
