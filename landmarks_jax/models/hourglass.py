"""The landmark detector: a one-stack hourglass of pre-activation blocks (paper, IV-A)."""

from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from landmarks_jax.models.layers import BatchNorm, Conv, Dtype, Module
from landmarks_jax.system.errors import wrong_field

# The interface that `detectors` describes: STRIDE, SIZES, build and check.
STRIDE = 4
SIZES = ("detector_channels", "hourglass_depth")


def build(config: ConfigDict, bn_updates: tuple[int, ...] = (0,)) -> "Detector":
    """Builds the detector of a configuration."""
    model, dtype = config.model, jnp.dtype(config.compute_dtype)
    return Detector(
        model.num_landmarks, model.detector_channels, model.hourglass_depth, dtype, bn_updates
    )


def check(config: ConfigDict) -> None:
    """Raises ConfigError for a width, a depth or a size of the views that cannot work."""
    size = config.views.size
    if size % STRIDE:
        raise wrong_field(config, "views.size", f"a multiple of {STRIDE}, the detector's stride")
    if config.model.detector_channels % 8:
        rule = "a multiple of 8, as blocks divide it by 8"
        raise wrong_field(config, "model.detector_channels", rule)
    cells, depth = size // STRIDE, config.model.hourglass_depth
    if cells % 2**depth or cells // 2**depth < 2:
        halvings = (cells & -cells).bit_length() - 1
        deepest = halvings if cells >> halvings >= 2 else halvings - 1
        allowed = f"at most {deepest}" if deepest >= 1 else "used with another config.views.size"
        rule = f"{allowed} for maps of {cells} x {cells} cells"
        raise wrong_field(config, "model.hourglass_depth", rule)


def average_pool(x: jax.Array) -> jax.Array:
    """Halves `[B, 2h, 2w, C]` by the mean of 2 x 2 cells."""
    b, h, w, c = x.shape
    return x.reshape(b, h // 2, 2, w // 2, 2, c).mean((2, 4))


def upsample_nearest(x: jax.Array) -> jax.Array:
    """Doubles `[B, h, w, C]` by repetition."""
    b, h, w, c = x.shape
    x = jnp.broadcast_to(x[:, :, None, :, None], (b, h, 2, w, 2, c))
    return x.reshape(b, 2 * h, 2 * w, c)


class Block(nn.Module):
    """Three BN-ReLU-conv3x3 of falling width, concatenated, plus the input.

    Attributes:
      features: output channels; the convolutions give a half, a quarter and a quarter of them.
      conv: makes a convolution.
      norm: makes a batch norm.
    """

    features: int
    conv: Module
    norm: Module

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps `[B, h, w, I]` to `[B, h, w, features]`."""
        parts = []
        y = x
        for i, share in enumerate((2, 4, 4), start=1):
            y = nn.relu(self.norm(name=f"norm{i}")(y))
            y = self.conv(self.features // share, name=f"conv{i}")(y)
            parts.append(y)
        if x.shape[-1] != self.features:
            x = nn.relu(self.norm(name="skip_norm")(x))
            x = self.conv(self.features, size=1, padding=0, name="skip_conv")(x)
        return x + jnp.concatenate(parts, -1)


class Hourglass(nn.Module):
    """Recursive hourglass of constant width.

    Attributes:
      depth: levels; the maps at the bottom are `2**depth` times smaller.
      block: makes a block.
    """

    depth: int
    block: Module

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps `[B, h, w, C]` to the same shape."""
        skip = self.block(name="skip")(x)
        y = self.block(name="down")(average_pool(x))
        if self.depth > 1:
            y = Hourglass(self.depth - 1, self.block, name="inner")(y)
        else:
            y = self.block(name="bottom")(y)
        y = self.block(name="up")(y)
        return skip + upsample_nearest(y)


class Detector(nn.Module):
    """Score maps of landmarks, `STRIDE` times smaller than the view (one-stack FAN, paper IV-A).

    Attributes:
      num_landmarks: K.
      channels: width of the hourglass, a multiple of 8; 256 in the paper.
      depth: levels of the hourglass; 4 in the paper.
      dtype: of the arithmetic.
      bn_updates: see `BatchNorm.updates`.
      features: maps views `[B, S, S, 3]` to `[B, S / 4, S / 4, C]`, added to the stem's maps; None
        in the paper. See `deep_hourglass`.
    """

    num_landmarks: int
    channels: int
    depth: int
    dtype: Dtype = jnp.float32
    bn_updates: tuple[int, ...] = (0,)
    features: nn.Module | None = None

    @nn.compact
    def __call__(self, images: jax.Array, *, use_running_average: bool) -> jax.Array:
        """Maps views `[B, S, S, 3]` in [0, 1] to score maps `[B, S / 4, S / 4, K]`."""
        conv = partial(Conv, dtype=self.dtype)
        norm = partial(BatchNorm, use_running_average, updates=self.bn_updates, dtype=self.dtype)
        block = partial(Block, conv=conv, norm=norm)
        width = self.channels

        x = conv(width // 4, size=7, stride=2, padding=3, use_bias=True, name="stem")(images)
        x = nn.relu(norm(name="stem_norm")(x))
        x = average_pool(block(width // 2, name="block1")(x))
        if self.features is not None:
            features: Any = self.features
            y = norm(name="features_norm")(features(images))
            x = x + conv(width // 2, size=1, padding=0, name="features_conv")(y)
        x = block(width // 2, name="block2")(x)
        x = block(width, name="block3")(x)
        x = Hourglass(self.depth, partial(block, width), name="hourglass")(x)
        x = block(width, name="top")(x)
        x = conv(width, size=1, padding=0, use_bias=True, name="last")(x)
        x = nn.relu(norm(name="last_norm")(x))
        return conv(self.num_landmarks, size=1, padding=0, use_bias=True, name="head")(x)
