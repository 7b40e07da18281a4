"""The generator: an appearance encoder and a decoder driven by landmark maps (paper, IV-A)."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from landmarks_jax.models.convolutions import pad_end, round_up
from landmarks_jax.models.layers import BatchNorm, Conv, ConvTranspose, Dtype, Module

# Features and K maps have 256 + K channels together, which fill neither a tensor core nor the
# vectors of a CPU. They are padded to a multiple of this with zeros, which every layer keeps zero.
CHANNEL_MULTIPLE = 8
# Side of the views over side of the features and of the landmark maps.
STRIDE = 4


def build(config: ConfigDict, bn_updates: tuple[int, ...] = (0,)) -> "Generator":
    """Builds the generator of a configuration."""
    model, dtype = config.model, jnp.dtype(config.compute_dtype)
    return Generator(model.generator_channels, model.residual_blocks, dtype, bn_updates)


class Encoder(nn.Module):
    """Appearance features, at a quarter of the view's side.

    Attributes:
      channels: width c of the first convolution; the features have 4c.
      conv: makes a convolution.
      norm: makes a batch norm.
    """

    channels: int
    conv: Module
    norm: Module

    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        """Maps views `[B, S, S, 3]` to features `[B, S / 4, S / 4, 4c]`."""
        x = self.conv(self.channels, size=7, padding=3, name="conv1")(images)
        x = nn.relu(self.norm(name="norm1")(x))
        for i, share in enumerate((2, 4), start=2):
            width = share * self.channels
            x = self.conv(width, size=4, stride=2, padding=1, name=f"conv{i}")(x)
            x = nn.relu(self.norm(name=f"norm{i}")(x))
        return x


class ResidualBlock(nn.Module):
    """conv3x3 BN ReLU conv3x3 BN, plus the input.

    Attributes:
      width: channels of input and output before the zeros of the padding.
      conv: makes a convolution.
      norm: makes a batch norm.
    """

    width: int
    conv: Module
    norm: Module

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps `[B, h, w, C]`, C a multiple of `CHANNEL_MULTIPLE`, to the same shape."""
        conv = partial(self.conv, self.width, inputs=self.width, channel_multiple=CHANNEL_MULTIPLE)
        norm = partial(self.norm, inputs=self.width)
        y = nn.relu(norm(name="norm1")(conv(name="conv1")(x)))
        return x + norm(name="norm2")(conv(name="conv2")(y))


class Generator(nn.Module):
    """Re-renders an image with its landmarks at other positions: `G(E(image), maps)`, Eq. 3 and 4.

    Attributes:
      channels: width c of the encoder's first convolution; 64 in the paper, 32 in its code.
      num_blocks: residual blocks of the decoder; 6 in the paper.
      dtype: of the arithmetic.
      bn_updates: see `BatchNorm.updates`.
    """

    channels: int
    num_blocks: int
    dtype: Dtype = jnp.float32
    bn_updates: tuple[int, ...] = (0,)

    @nn.compact
    def __call__(
        self, images: jax.Array, heatmaps: jax.Array, *, use_running_average: bool
    ) -> jax.Array:
        """Maps views `[B, S, S, 3]` and maps `[B, S/4, S/4, K]` to images `[B, S, S, 3]`.

        The images are in [0, 1] and at least float32.
        """
        conv = partial(Conv, dtype=self.dtype)
        norm = partial(BatchNorm, use_running_average, updates=self.bn_updates, dtype=self.dtype)
        features = Encoder(self.channels, conv, norm, name="encoder")(images)
        x = jnp.concatenate([features, heatmaps.astype(features.dtype)], -1)
        width = x.shape[-1]
        x = pad_end(x, -1, round_up(width, CHANNEL_MULTIPLE))
        x = norm(inputs=width, name="norm_in")(x)
        for i in range(1, self.num_blocks + 1):
            x = ResidualBlock(width, conv, norm, name=f"residual{i}")(x)
        # `conv_out` folds cells of 4 x 4 into channels, so its input needs no padding.
        for i, multiple in ((1, CHANNEL_MULTIPLE), (2, 1)):
            up = ConvTranspose(width // 2, width, multiple, dtype=self.dtype, name=f"up{i}")
            width //= 2
            x = nn.relu(norm(inputs=width, name=f"up_norm{i}")(up(x)))
        x = conv(3, size=7, padding=3, name="conv_out")(x)
        return 0.5 * (jnp.tanh(x.astype(jnp.promote_types(x.dtype, jnp.float32))) + 1.0)
