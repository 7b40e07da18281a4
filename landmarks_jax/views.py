"""Random views of photos, drawn and resampled on the accelerator.

Two kinds: similarities about the canvas's centre, and the boxes of rotated points (crop `box`). A
view is defined by its map `[2, 3]` from the view's normalised coordinates to the canvas's, so that
resampling reads it directly; points follow the other way, through the inverse. The second view may
also be bent: a smooth random field displaces its coordinates before the map applies.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import ml_collections

from landmarks_jax import geometry

# A bend is a sum of Gaussian bumps, on a grid of this many a side that includes the view's corners.
# Their standard deviation, in normalised units, makes neighbours overlap.
_BUMPS = 5
_BUMP_SIGMA = 0.4


class Views(NamedTuple):
    """Views of a batch of canvases, and the exact maps that made them.

    Attributes:
      images: `[B, S, S, 3]` in [0, 1].
      to_canvas: `[B, 2, 3]` from the view's coordinates to the canvas's.
      bumps: `[B, 25, 2]` heights of the bend that goes before the map, as `bend` takes them; None
        where the view is not bent.
    """

    images: jax.Array
    to_canvas: jax.Array
    bumps: jax.Array | None = None


def draw_maps(
    keys: jax.Array, config: ml_collections.ConfigDict, *, view: int, view_share: float
) -> jax.Array:
    """Draws one random similarity per photo.

    The photo is rotated about the view's centre by a clipped normal angle, scaled by the product of
    a uniform and a normal factor, and shifted by a normal offset.

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
        rotate, spread, zoom, move = jax.random.split(jax.random.fold_in(key, view), 4)
        angle = _draw_angle(rotate, config, view)
        low, high = config.scale_range
        scale = jax.random.uniform(zoom, minval=low, maxval=high)
        # A factor near zero would magnify one pixel to a whole view.
        scale = scale * jnp.maximum(1.0 + config.scale_std * jax.random.normal(spread), 0.1)
        shift = 2.0 * config.shift_std * jax.random.normal(move, (2,))
        return geometry.similarity(angle, 1.0 / scale, shift)

    into_canvas = geometry.similarity(jnp.zeros(()), jnp.float32(view_share), jnp.zeros((2,)))
    return geometry.compose(into_canvas, jax.vmap(draw)(keys))


def _draw_angle(key: jax.Array, config: ml_collections.ConfigDict, view: int) -> jax.Array:
    """A clipped normal angle, in radians."""
    degrees = config.rotation_std[view] * jax.random.normal(key)
    return jnp.deg2rad(jnp.clip(degrees, -config.rotation_limit, config.rotation_limit))


def draw_box_maps(
    keys: jax.Array, points: jax.Array, config: ml_collections.ConfigDict, *, view: int
) -> jax.Array:
    """Draws one random box view per photo, as the released code does.

    The photo is rotated by a clipped normal angle; the view is the box of its rotated points with a
    normal margin, the same on all four sides, stretched to the view. Unlike evaluation's box it is
    neither rounded to pixels nor clipped to the photo: beyond the photo lies its replicated border.
    On average the rounding has no effect: cutting the margin to whole pixels takes half a pixel
    from every side, and the two corner pixels, which both belong to the box, give it back.

    Args:
      keys: `[B]` typed random keys, one per photo.
      points: `[B, P, 2]` in canvas coordinates; the canvas must not be stretched, so that the
        angles are the photo's (see `data.box_canvas`).
      config: the `views` section: `rotation_std[view]` and `rotation_limit` in degrees, `margin`
        and `margin_std` as shares of the mean of the box's width and height.
      view: 0 for `x`, 1 for `x'`.

    Returns:
      `[B, 2, 3]` maps from view coordinates to canvas coordinates.
    """

    def draw(key: jax.Array) -> tuple[jax.Array, jax.Array]:
        rotate, spread = jax.random.split(jax.random.fold_in(key, view))
        most = geometry.MARGIN_DEVIATIONS
        deviations = jnp.clip(jax.random.normal(spread), -most, most)
        return _draw_angle(rotate, config, view), config.margin + config.margin_std * deviations

    return geometry.rotated_box(points, *jax.vmap(draw)(keys))


def draw_bumps(keys: jax.Array, std: float) -> jax.Array:
    """Draws one random bend per photo.

    Args:
      keys: `[B]` typed random keys, one per photo.
      std: of the bumps' heights, normal, in normalised units. A point moves by about 1.4 times
        that; the field folds over where its slope, normal with deviation 2.5 std, reaches -1.

    Returns:
      `[B, 25, 2]` heights.
    """

    def draw(key: jax.Array) -> jax.Array:
        # 2: after the two views' own draws.
        return std * jax.random.normal(jax.random.fold_in(key, 2), (_BUMPS**2, 2))

    return jax.vmap(draw)(keys)


def bend(points: jax.Array, bumps: jax.Array) -> jax.Array:
    """Displaces points by a smooth field: a sum of Gaussian bumps on a regular grid.

    Unlike a similarity it moves the parts of a face relative to each other, so that only landmarks
    on these parts can follow them (Jakab et al. 2018 use thin-plate splines).

    Args:
      points: `[..., N, 2]`, normalised.
      bumps: `[..., 25, 2]` the heights of the bumps, row by row; leading axes broadcast.

    Returns:
      `[..., N, 2]`.
    """
    steps = jnp.linspace(-1.0, 1.0, _BUMPS, dtype=points.dtype)
    # The Gaussian factors over x and y.
    across, down = (
        jnp.exp(-((points[..., axis, None] - steps) ** 2) / (2 * _BUMP_SIGMA**2)) for axis in (0, 1)
    )
    heights = bumps.reshape(*bumps.shape[:-2], _BUMPS, _BUMPS, 2)
    bends = jnp.einsum(
        "...nr,...nc,...rcd->...nd", down, across, heights, precision=jax.lax.Precision.HIGHEST
    )
    return points + bends


def warp(
    images: jax.Array, maps: jax.Array, size: int, bumps: jax.Array | None = None
) -> jax.Array:
    """Resamples images bilinearly through affine maps, borders replicated.

    Args:
      images: `[B, H, W, C]`, floating or uint8 (not rescaled from 0 to 255).
      maps: `[B, 2, 3]` from output coordinates to input coordinates, both normalised.
      size: side of the square output, in pixels.
      bumps: `[B, 25, 2]` of the bend that goes before the maps, or None.

    Returns:
      `[B, size, size, C]` in the dtype of `maps`, in the value range of `images`.
    """
    height, width, channels = images.shape[1:]
    centers = jnp.asarray(geometry.pixel_centers(size, maps.dtype))
    grid = jnp.stack(jnp.meshgrid(centers, centers), -1).reshape(-1, 2)
    grids = grid[None] if bumps is None else bend(grid, bumps)
    places = geometry.to_pixels(geometry.apply(maps, grids), (width, height))

    def resample(image: jax.Array, places: jax.Array) -> jax.Array:
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

    return jax.vmap(resample)(images, places).reshape(-1, size, size, channels)


def view_pair(
    canvases: jax.Array,
    keys: jax.Array,
    config: ml_collections.ConfigDict,
    points: jax.Array | None = None,
) -> tuple[Views, Views]:
    """Draws the two random views `x` and `x'` of each photo.

    Args:
      canvases: `[B, C, C, 3]` uint8.
      keys: `[B]` typed random keys; a photo's views depend only on its own key.
      config: the `views` section, with `size`, the side of a view in pixels, and `bend_std`.
      points: `[B, P, 2]` in canvas coordinates, to draw boxes of the rotated points; None to draw
        similarities.

    Returns:
      `(x, x')`; `x'` is bent unless `bend_std` is 0.
    """
    share = config.size / canvases.shape[1]
    pair = []
    for view in range(2):
        if points is None:
            maps = draw_maps(keys, config, view=view, view_share=share)
        else:
            maps = draw_box_maps(keys, points, config, view=view)
        bumps = draw_bumps(keys, config.bend_std) if view == 1 and config.bend_std else None
        pair.append(Views(warp(canvases, maps, config.size, bumps) / 255.0, maps, bumps))
    return pair[0], pair[1]


def draw_mirrored(keys: jax.Array) -> jax.Array:
    """Draws which views are mirrored: `[B]`, half of them."""
    return jax.vmap(lambda key: jax.random.bernoulli(jax.random.fold_in(key, 3)))(keys)


def mirror(maps: jax.Array, mirrored: jax.Array) -> jax.Array:
    """Mirrors some views, left to right.

    Args:
      maps: `[B, 2, 3]` from view coordinates.
      mirrored: `[B]` which ones.

    Returns:
      `[B, 2, 3]` maps from the coordinates of the mirrored views.
    """
    return maps.at[:, :, 0].multiply(jnp.where(mirrored, -1.0, 1.0)[:, None])


def recolor(images: jax.Array, keys: jax.Array, std: float) -> jax.Array:
    """Random brightness, contrast and colour.

    Args:
      images: `[B, S, S, 3]` in [0, 1].
      keys: `[B]` typed random keys.
      std: deviation of the normal factors and offsets; 0 changes nothing.

    Returns:
      Images of the same shape, clipped to [0, 1].
    """
    if not std:
        return images

    def draw(key: jax.Array) -> jax.Array:
        return jax.random.normal(jax.random.fold_in(key, 4), (8,))

    normals = std * jax.vmap(draw)(keys)[:, None, None]
    brightness, contrast, gains, offsets = jnp.split(normals, (1, 2, 5), -1)
    images = images * (1.0 + brightness + gains / 2) + offsets / 4
    mean = images.mean((1, 2, 3), keepdims=True)
    return jnp.clip(mean + (images - mean) * (1.0 + contrast), 0.0, 1.0)


def cut_out(images: jax.Array, keys: jax.Array, share: float) -> jax.Array:
    """Covers a random rectangle of each image with a random colour (DeVries and Taylor 2017).

    Args:
      images: `[B, S, S, 3]` in [0, 1].
      keys: `[B]` typed random keys.
      share: largest side of the rectangle over that of the image; 0 changes nothing.
    """
    if not share:
        return images
    centers = jnp.asarray(geometry.pixel_centers(images.shape[1], images.dtype))

    def cover(image: jax.Array, key: jax.Array) -> jax.Array:
        place, size, color = jax.random.split(jax.random.fold_in(key, 5), 3)
        middle = jax.random.uniform(place, (2,), images.dtype, -1.0, 1.0)
        half = jax.random.uniform(size, (2,), images.dtype, 0.0, share)
        inside = jnp.abs(centers[:, None] - middle) < half
        covered = inside[:, None, 0] & inside[None, :, 1]
        return jnp.where(covered[..., None], jax.random.uniform(color, (3,), images.dtype), image)

    return jax.vmap(cover)(images, keys)


def between(source: jax.Array, target: jax.Array) -> jax.Array:
    """The map `[B, 2, 3]` that takes points of one view to the same places of another.

    Args:
      source: `[B, 2, 3]`, the first view's map to the canvas.
      target: `[B, 2, 3]`, the second view's map to the canvas.
    """
    return geometry.compose(geometry.invert(target), source)
