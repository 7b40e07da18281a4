"""Adaptation of a pretrained detector by linear projections (paper, IV-A; Sanchez et al. 2019).

The weight of every 3 x 3 convolution, all of which are in the blocks, is

    weight = W @ theta

with `theta` `[O, I * 9]` frozen, from the pretraining, and `W` `[O, O]` trained, the identity at
first. Everything else trains as usual. Here `theta` is a kernel `[3, 3, I, O]`, in a separate tree
that is not trained, and `W` the parameter `projection` in the kernel's place. `fold` multiplies
them into a plain detector, for a training step and for a packed file. VGG's weights, frozen too
and without projections, it puts in their place.
"""

from collections.abc import Mapping
from typing import Any

import flax.traverse_util
import jax
import jax.numpy as jnp

Params = Mapping[str, Any]
_KERNEL, _PROJECTION = "kernel", "projection"


def split(params: Params) -> tuple[dict[str, Any], dict[str, Any]]:
    """Splits a plain detector into trained and frozen weights.

    Args:
      params: of the detector.

    Returns:
      The trained parameters, with every `W` the identity, and the core, the 3 x 3 kernels.
    """
    trained, core = {}, {}
    for path, leaf in flax.traverse_util.flatten_dict(dict(params)).items():
        if path[-1] == _KERNEL and leaf.shape[:2] == (3, 3):
            core[path] = leaf
            trained[*path[:-1], _PROJECTION] = jnp.eye(leaf.shape[3], dtype=leaf.dtype)
        else:
            trained[path] = leaf
    unflatten = flax.traverse_util.unflatten_dict
    return unflatten(trained), unflatten(core)


def fold(params: Params, core: Params) -> dict[str, Any]:
    """The plain detector's parameters: `params` unchanged if the core is empty.

    Args:
      params: the trained parameters, as `split` returns them.
      core: the frozen weights: kernels as `split` returns them, VGG's as `detectors` does.
    """
    flat = flax.traverse_util.flatten_dict(dict(params))
    for path, theta in flax.traverse_util.flatten_dict(dict(core)).items():
        if path[-1] != _KERNEL:
            flat[path] = theta
            continue
        matrix = flat.pop((*path[:-1], _PROJECTION))
        # In full precision on every device, so that the identity changes no bit.
        flat[path] = jnp.einsum("hwio,po->hwip", theta, matrix, precision=jax.lax.Precision.HIGHEST)
    return flax.traverse_util.unflatten_dict(flat)


def num_weights(tree: Params) -> int:
    """The number of weights in a tree."""
    return sum(leaf.size for leaf in jax.tree.leaves(dict(tree)))
