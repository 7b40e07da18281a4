"""Landmarks and their maps: soft-argmax out of score maps, Gaussian maps into the decoder."""

import jax
import jax.numpy as jnp

from landmarks_jax import geometry


def soft_argmax(scores: jax.Array, beta: float) -> jax.Array:
    """The expected position under `softmax(beta * scores)` of each map (Eq. 1 of the paper).

    Args:
      scores: `[B, h, w, K]` score maps, one per landmark.
      beta: inverse temperature, without unit; the paper's is 10.

    Returns:
      `[B, K, 2]` landmarks, normalised, in at least float32.
    """
    batch, height, width, num = scores.shape
    dtype = jnp.promote_types(scores.dtype, jnp.float32)
    flat = scores.astype(dtype).reshape(batch, height * width, num)
    # Softmax does not see a shift. Shifted before the product with beta, the maximum is exactly 0
    # even where a compiler fuses that product into softmax's own shift and huge scores overflow.
    flat = flat - jax.lax.stop_gradient(flat.max(1, keepdims=True))
    mass = jax.nn.softmax(beta * flat, axis=1).reshape(batch, height, width, num)
    xs = geometry.pixel_centers(width, dtype)
    ys = geometry.pixel_centers(height, dtype)
    # Two marginals, then two dot products: the joint grid is never built.
    x = jnp.einsum("bwk,w->bk", mass.sum(1), xs)
    y = jnp.einsum("bhk,h->bk", mass.sum(2), ys)
    return jnp.stack([x, y], -1)


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
