"""VGG-16's and VGG-19's convolutions, up to the tap that the perceptual loss needs (Eq. 6)."""

from collections.abc import Mapping, Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from landmarks_jax.models.convolutions import convolve
from landmarks_jax.models.layers import Dtype, at_least_float32

# Convolutions of each block and their width; a 2 x 2 max-pool precedes every block but the first.
BLOCKS = {
    "vgg16": ((2, 64), (2, 128), (3, 256), (3, 512), (3, 512)),
    "vgg19": ((2, 64), (2, 128), (4, 256), (4, 512), (4, 512)),
}
NETWORKS = tuple(BLOCKS)
LAYERS = {
    network: tuple(f"{b}_{j}" for b, (n, _) in enumerate(blocks, 1) for j in range(1, n + 1))
    for network, blocks in BLOCKS.items()
}
TAPS = {network: tuple(f"relu{layer}" for layer in layers) for network, layers in LAYERS.items()}


def build(config: ConfigDict) -> "Vgg":
    """Builds the perceptual network of a configuration."""
    perceptual = config.perceptual
    return Vgg(perceptual.network, tuple(perceptual.taps), jnp.dtype(config.compute_dtype))


def max_pool(x: jax.Array) -> jax.Array:
    """Halves `[B, H, W, C]` by the maximum of 2 x 2 cells; an odd last row or column is dropped."""
    b, h, w, c = x.shape
    x = x[:, : h // 2 * 2, : w // 2 * 2]
    return x.reshape(b, h // 2, 2, w // 2, 2, c).max((2, 4))


class Vgg(nn.Module):
    """Features of images at the requested taps.

    The parameters are read from a file (`landmarks_jax.weights.vgg_weights`) and never trained.

    Attributes:
      network: one of `NETWORKS`.
      taps: names such as `relu1_2`.
      dtype: of the arithmetic.
    """

    network: str
    taps: tuple[str, ...]
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, images: jax.Array) -> dict[str, jax.Array]:
        """Maps preprocessed images `[B, S, S, 3]` to `{tap: [B, h, w, C]}`."""
        features = {}
        x = images.astype(self.dtype)
        for layer in layers_needed(self.network, self.taps):
            if layer.endswith("_1") and layer != "1_1":
                x = max_pool(x)
            width = width_of(self.network, layer)
            zeros, dtype = nn.initializers.zeros, at_least_float32(self.dtype)
            kernel = self.param(f"kernel{layer}", zeros, (3, 3, x.shape[-1], width), dtype)
            bias = self.param(f"bias{layer}", zeros, (width,), dtype)
            x = nn.relu(convolve(x, kernel.astype(self.dtype), 1) + bias.astype(self.dtype))
            if f"relu{layer}" in self.taps:
                features[f"relu{layer}"] = x
        return features


def layers_needed(network: str, taps: Sequence[str]) -> tuple[str, ...]:
    """The layers up to the last of the taps, such as `1_1`, in order."""
    last = max(TAPS[network].index(tap) for tap in taps)
    return LAYERS[network][: last + 1]


def width_of(network: str, layer: str) -> int:
    """Output channels of a layer such as `3_1`."""
    return BLOCKS[network][int(layer[0]) - 1][1]


def parameter_shapes(network: str, taps: Sequence[str]) -> Mapping[str, tuple[int, ...]]:
    """The shapes of the parameters that the taps need, by name, in the layers' order."""
    shapes: dict[str, tuple[int, ...]] = {}
    inputs = 3
    for layer in layers_needed(network, taps):
        width = width_of(network, layer)
        shapes[f"kernel{layer}"] = (3, 3, inputs, width)
        shapes[f"bias{layer}"] = (width,)
        inputs = width
    return shapes
