"""The hourglass with VGG's features added to its stem's maps: ours, not in the paper.

The paper starts from a pretrained core; here the perceptual loss's network is one. Its parameters
come from a file when a run begins (`config.init.features`), never train, and are in checkpoints and
packed files, so a trained detector needs no other file.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from landmarks_jax.models import hourglass
from landmarks_jax.models.layers import Dtype, at_least_float32
from landmarks_jax.models.vgg import NETWORKS, TAPS, Vgg
from landmarks_jax.system.errors import wrong_field

# The interface that `detectors` describes: STRIDE, SIZES, READS_VGG, build and check.
STRIDE = hourglass.STRIDE
SIZES = (*hourglass.SIZES, "features_network", "features_tap")
READS_VGG = True
# Of the third block: two max-pools precede it, so it has the detector's stride.
_BLOCK = "relu3_"


def build(config: ConfigDict, bn_updates: tuple[int, ...] = (0,)) -> hourglass.Detector:
    """Builds the detector of a configuration."""
    model, dtype = config.model, jnp.dtype(config.compute_dtype)
    features = Features(model.features_network, model.features_tap, dtype)
    return hourglass.build(config, bn_updates).clone(features=features)


def check(config: ConfigDict) -> None:
    """Raises ConfigError for sizes that cannot work, or features that do not exist."""
    hourglass.check(config)
    network, tap = config.model.features_network, config.model.features_tap
    if network not in NETWORKS:
        raise wrong_field(config, "model.features_network", f"one of {', '.join(NETWORKS)}")
    allowed = [name for name in TAPS[network] if name.startswith(_BLOCK)]
    if tap not in allowed:
        rule = f"one of {', '.join(allowed)}, which have the detector's stride"
        raise wrong_field(config, "model.features_tap", rule)


class Features(nn.Module):
    """VGG's features of views at one tap. The parameters are 0 until a file gives them.

    Attributes:
      network: one of `vgg.NETWORKS`.
      tap: such as `relu3_3`.
      dtype: of the arithmetic.
    """

    network: str
    tap: str
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        """Maps views `[B, S, S, 3]` in [0, 1] to `[B, S / 4, S / 4, C]`."""
        param_dtype = at_least_float32(self.dtype)
        mean = self.param("mean", nn.initializers.zeros, (3,), param_dtype)
        std = self.param("std", nn.initializers.ones, (3,), param_dtype)
        vgg = Vgg(self.network, (self.tap,), self.dtype, name="vgg")
        features: jax.Array = vgg((images - mean) / std)[self.tap]
        return features
