"""Random layers of VGG networks."""

import functools

import numpy as np

from landmarks_jax.models import vgg
from landmarks_jax.weights.vgg_weights import layer_key


@functools.cache
def layers_of(network, seed=0):
    """Random layers under the names of the `.npz`; features neither die nor explode."""
    rng = np.random.default_rng(seed)
    layers = {}
    for parameter, shape in vgg.parameter_shapes(network, vgg.TAPS[network]).items():
        values = rng.standard_normal(shape, np.float32)
        spread = np.sqrt(2 / (9 * shape[2])) if len(shape) == 4 else 0.3
        layers[layer_key(parameter)] = values * np.float32(spread)
    return layers
