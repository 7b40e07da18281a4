"""VGG-16's convolutions, up to the tap that the perceptual loss needs (paper, Eq. 6)."""

from collections.abc import Mapping, Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from landmarks_jax.models.layers import Dtype, convolve

# Convolutions of each block and their width; a 2 x 2 max-pool stands before all blocks but the 1st.
BLOCKS = ((2, 64), (2, 128), (3, 256), (3, 512), (3, 512))
LAYERS = tuple(f"{b}_{j}" for b, (n, _) in enumerate(BLOCKS, 1) for j in range(1, n + 1))
TAPS = tuple(f"relu{layer}" for layer in LAYERS)


def max_pool(x: jax.Array) -> jax.Array:
    """Halves `[B, H, W, C]` by the maximum of 2 x 2 cells; an odd last row or column is dropped."""
    b, h, w, c = x.shape
    x = x[:, : h // 2 * 2, : w // 2 * 2]
    return x.reshape(b, h // 2, 2, w // 2, 2, c).max((2, 4))


class Vgg16(nn.Module):
    """Features of images at the taps asked for.

    The parameters are read from a file (`landmarks_jax.weights.vgg`) and never trained.

    Attributes:
      taps: names such as `relu1_2`.
      dtype: of the arithmetic.
    """

    taps: tuple[str, ...]
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, images: jax.Array) -> dict[str, jax.Array]:
        """Maps preprocessed images `[B, S, S, 3]` to `{tap: [B, h, w, C]}`."""
        features = {}
        x = images.astype(self.dtype)
        last = max(TAPS.index(tap) for tap in self.taps)
        for layer in LAYERS[: last + 1]:
            block, position = layer.split("_")
            width = BLOCKS[int(block) - 1][1]
            if position == "1" and block != "1":
                x = max_pool(x)
            zeros = nn.initializers.zeros
            kernel = self.param(f"kernel{layer}", zeros, (3, 3, x.shape[-1], width))
            bias = self.param(f"bias{layer}", zeros, (width,))
            x = nn.relu(convolve(x, kernel.astype(self.dtype), 1) + bias.astype(self.dtype))
            if f"relu{layer}" in self.taps:
                features[f"relu{layer}"] = x
        return features


def parameter_shapes(taps: Sequence[str]) -> Mapping[str, tuple[int, ...]]:
    """The shapes of the parameters that the taps need, by name."""
    shapes: dict[str, tuple[int, ...]] = {}
    inputs = 3
    last = max(TAPS.index(tap) for tap in taps)
    for layer in LAYERS[: last + 1]:
        width = BLOCKS[int(layer[0]) - 1][1]
        shapes[f"kernel{layer}"] = (3, 3, inputs, width)
        shapes[f"bias{layer}"] = (width,)
        inputs = width
    return shapes
