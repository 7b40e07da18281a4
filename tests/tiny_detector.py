"""A detector of three convolutions, quick to compile, for tests of everything but the hourglass."""

from functools import partial

import flax.linen as nn
import jax.numpy as jnp

from landmarks_jax.models.hourglass import average_pool
from landmarks_jax.models.layers import BatchNorm, Conv

STRIDE = 4
SIZES = ("detector_channels",)


class TinyDetector(nn.Module):
    """Two 3 x 3 convolutions with batch norm, and a head."""

    num_landmarks: int
    channels: int
    dtype: jnp.dtype = jnp.float32
    bn_updates: tuple[int, ...] = (0,)

    @nn.compact
    def __call__(self, images, *, use_running_average):
        conv = partial(Conv, dtype=self.dtype)
        norm = partial(BatchNorm, use_running_average, updates=self.bn_updates, dtype=self.dtype)
        x = average_pool(average_pool(images))
        x = nn.relu(norm(name="norm")(conv(self.channels, name="conv1")(x)))
        x = nn.relu(norm(name="last_norm")(conv(self.channels, name="conv2")(x)))
        return conv(self.num_landmarks, size=1, padding=0, use_bias=True, name="head")(x)


def check(config):
    """Any size will do."""


def build(config, bn_updates=(0,)):
    model, dtype = config.model, jnp.dtype(config.compute_dtype)
    return TinyDetector(model.num_landmarks, model.detector_channels, dtype, bn_updates)
