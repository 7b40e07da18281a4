"""Landmarks from score maps (soft-argmax), and Gaussian maps of landmarks for the decoder."""

import jax
import jax.numpy as jnp

from landmarks_jax import geometry


def attention(scores: jax.Array, beta: float) -> jax.Array:
    """`softmax(beta * scores)` of each map: the weights of Eq. 1 of the paper.

    Args:
      scores: `[B, h, w, K]` score maps, one per landmark.
      beta: inverse temperature, without unit; the paper's is 10.

    Returns:
      `[B, h, w, K]` weights that sum to 1 over each map, in at least float32.
    """
    batch, height, width, num = scores.shape
    dtype = jnp.promote_types(scores.dtype, jnp.float32)
    flat = scores.astype(dtype).reshape(batch, height * width, num)
    # Softmax is invariant to shifts. Shifted before the product with beta, the maximum is exactly 0
    # even where a compiler fuses that product into softmax's own shift and huge scores overflow.
    flat = flat - jax.lax.stop_gradient(flat.max(1, keepdims=True))
    return jax.nn.softmax(beta * flat, axis=1).reshape(batch, height, width, num)


def expected_position(weights: jax.Array) -> jax.Array:
    """The expectation of the position under weights `[B, h, w, K]` that sum to 1 over a map.

    Returns:
      `[B, K, 2]` landmarks, normalised.
    """
    _, height, width, _ = weights.shape
    xs = geometry.pixel_centers(width, weights.dtype)
    ys = geometry.pixel_centers(height, weights.dtype)
    # Two marginals, then two dot products: the joint grid is never built.
    # In full precision: a GPU would round the factors to 10 bits, a share of a pixel.
    x = jnp.einsum("bwk,w->bk", weights.sum(1), xs, precision=jax.lax.Precision.HIGHEST)
    y = jnp.einsum("bhk,h->bk", weights.sum(2), ys, precision=jax.lax.Precision.HIGHEST)
    return jnp.stack([x, y], -1)


def soft_argmax(scores: jax.Array, beta: float) -> jax.Array:
    """The expected position under `softmax(beta * scores)` of each map (Eq. 1 of the paper).

    Args:
      scores: `[B, h, w, K]` score maps, one per landmark.
      beta: inverse temperature, without unit; the paper's is 10.

    Returns:
      `[B, K, 2]` landmarks, normalised, in at least float32.
    """
    return expected_position(attention(scores, beta))


def peaks(maps: jax.Array) -> jax.Array:
    """The highest cell of each map, shifted a quarter of a cell towards its higher neighbour.

    Along x and y (Newell et al. 2016), for a resolution finer than the map's cells.

    Args:
      maps: `[B, h, w, K]`.

    Returns:
      `[B, K, 2]`, normalised, in at least float32.
    """
    batch, height, width, num = maps.shape
    flat = maps.reshape(batch, height * width, num)
    highest = jnp.argmax(flat, 1)
    dtype = jnp.promote_types(maps.dtype, jnp.float32)

    def axis(place: jax.Array, size: int, stride: int) -> jax.Array:
        sides = [jnp.clip(highest + step, 0, height * width - 1) for step in (-stride, stride)]
        before, after = (jnp.take_along_axis(flat, side[:, None], 1)[:, 0] for side in sides)
        inner = (place > 0) & (place < size - 1)
        return place + 0.25 * jnp.where(inner, jnp.sign(after - before), 0).astype(dtype)

    x, y = axis(highest % width, width, 1), axis(highest // width, height, width)
    return geometry.to_normalized(jnp.stack([x, y], -1), (width, height))


def mass_near(weights: jax.Array, landmarks: jax.Array, radius: float = 1.5) -> jax.Array:
    """The share of each map's weight within `radius` cells of its landmark.

    1 for a single narrow peak; small for a flat map or an expectation between several peaks.

    Args:
      weights: `[B, h, w, K]`, from `attention`.
      landmarks: `[B, K, 2]`, normalised.
      radius: in cells; cells whose centre is that far away still count.

    Returns:
      `[B, K]` in [0, 1].
    """
    _, height, width, _ = weights.shape
    centers = geometry.to_pixels(landmarks, (width, height))
    dx = jnp.arange(width, dtype=weights.dtype)[None, :, None] - centers[:, None, :, 0]
    dy = jnp.arange(height, dtype=weights.dtype)[None, :, None] - centers[:, None, :, 1]
    near = dx[:, None] ** 2 + dy[:, :, None] ** 2 <= radius**2
    # Weights sum to 1 up to rounding, which can be above.
    return jnp.minimum(jnp.where(near, weights, 0).sum((1, 2)), 1)


def gaussian_maps(landmarks: jax.Array, size: tuple[int, int], sigma: float) -> jax.Array:
    """Gaussian maps `exp(-d^2 / (2 sigma^2))` around landmarks (Eq. 2 of the paper).

    Args:
      landmarks: `[B, K, 2]`, normalised.
      size: `(width, height)` of the maps, in cells.
      sigma: standard deviation in cells of these maps; the paper's is 0.5.

    Returns:
      `[B, height, width, K]` maps with peak 1, not normalised.
    """
    width, height = size
    centers = geometry.to_pixels(landmarks, size)
    dtype = landmarks.dtype
    dx = jnp.arange(width, dtype=dtype)[None, :, None] - centers[:, None, :, 0]
    dy = jnp.arange(height, dtype=dtype)[None, :, None] - centers[:, None, :, 1]
    # exp(-(dx^2 + dy^2)) factors, so only w + h exponentials are taken per landmark.
    across = jnp.exp(-(dx**2) / (2 * sigma**2))
    down = jnp.exp(-(dy**2) / (2 * sigma**2))
    return down[:, :, None, :] * across[:, None, :, :]
