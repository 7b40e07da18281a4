"""The method: detector and generator composed into reconstructions (for the loss, see `losses`).

Table I's rows are four compositions of the same two networks; `x`, `x'` are two views of a photo,
`u`, `u'` their landmarks, `u^a` the landmarks of `x` of another photo of the batch:

  baseline  G(E(x), H(u')) against x'
  inter     G(E(G(E(x), H(u^a))), H(u')) against x'
  cycle     baseline in both directions
  all       inter in both directions, with the same auxiliary
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import ml_collections

from landmarks_jax import keypoints
from landmarks_jax.models import detectors, generator, vgg

COMPOSITIONS = ("baseline", "inter", "cycle", "all")
Variables = Mapping[str, Any]


class Networks(NamedTuple):
    """The modules of one configuration.

    Attributes:
      detector: `D`, with the batch norm updates of a call on `[x, x']`.
      generator: `E` and `G`, with the batch norm updates of a call on both directions; None for
        the pose task, which reconstructs nothing.
      vgg: the perceptual network, or None.
    """

    detector: nn.Module
    generator: generator.Generator | None
    vgg: vgg.Vgg | None


class Reconstruction(NamedTuple):
    """Landmarks and reconstructions of one step; `D` is the number of directions, 1 or 2.

    Attributes:
      landmarks: `[2B, K, 2]` of `x`, then of `x'`, normalised.
      intermediate: `[D * B, S, S, 3]` re-rendered with the auxiliary's landmarks, or None.
      final: `[D * B, S, S, 3]` reconstructions of `targets`.
      targets: `[D * B, S, S, 3]`: `x'`, then `x` if there are two directions.
    """

    landmarks: jax.Array
    intermediate: jax.Array | None
    final: jax.Array
    targets: jax.Array

    @property
    def directions(self) -> int:
        """2 if each view is reconstructed from the other, otherwise 1."""
        return 2 * len(self.final) // len(self.landmarks)


def build_networks(config: ml_collections.ConfigDict) -> Networks:
    """Builds the modules of a configuration."""
    released = config.objective.bn_groups == "released"
    both = config.objective.composition in ("cycle", "all")
    perceptual = config.perceptual.weights and config.perceptual.weight
    return Networks(
        # The released code detects x^a, x, x' in three calls; x^a is a permutation of x, so its
        # statistics are x's.
        detectors.build_detector(config, (0, 0, 1) if released else (0,)),
        generator.build(config, (0, 1) if released and both else (0,)),
        vgg.build(config) if perceptual else None,
    )


def draw_auxiliary(key: jax.Array, batch_size: int) -> jax.Array:
    """Draws another photo for each of the batch: a random cycle through all of them.

    Returns:
      `[B]` row numbers, a permutation without a fixed point.
    """
    order = jax.random.permutation(key, batch_size)
    return jnp.zeros_like(order).at[order].set(jnp.roll(order, 1))


def reconstruct(
    networks: Networks,
    params: Variables,
    batch_stats: Variables,
    pair: tuple[jax.Array, jax.Array],
    auxiliary: jax.Array,
    *,
    config: ml_collections.ConfigDict,
) -> tuple[Reconstruction, Variables]:
    """Composes detector and generator into the reconstructions (Eq. 3 and 4, Fig. 1).

    Both views go through the detector as one batch, both directions through the generator as one.

    Args:
      networks: the modules.
      params: `{"detector", "generator"}`.
      batch_stats: their running statistics, by the same names.
      pair: the views `x` and `x'`, each `[B, S, S, 3]` in [0, 1].
      auxiliary: `[B]` rows whose landmarks in `x` are the auxiliary ones.
      config: the whole configuration.

    Returns:
      The reconstruction, and the new batch statistics.
    """
    composition = config.objective.composition
    stats = dict(batch_stats)
    first, second = pair
    size = first.shape[1] // generator.STRIDE

    def run(name: str, module: Any, *inputs: jax.Array) -> jax.Array:
        variables = {"params": params[name], "batch_stats": stats[name]}
        out, new = module.apply(
            variables, *inputs, use_running_average=False, mutable=["batch_stats"]
        )
        stats[name] = new["batch_stats"]
        return out

    scores = run("detector", networks.detector, jnp.concatenate(pair))
    landmarks = keypoints.soft_argmax(scores, config.model.beta)
    maps = keypoints.gaussian_maps(landmarks, (size, size), config.model.sigma)
    maps_first, maps_second = jnp.split(maps, 2)

    if composition in ("cycle", "all"):
        sources, targets = jnp.concatenate(pair), jnp.concatenate([second, first])
        target_maps = jnp.concatenate([maps_second, maps_first])
    else:
        sources, targets, target_maps = first, second, maps_second
    intermediate = None
    if composition in ("inter", "all"):
        # The auxiliary's maps are a permutation of maps computed above.
        directions = targets.shape[0] // first.shape[0]
        auxiliary_maps = jnp.concatenate([maps_first[auxiliary]] * directions)
        intermediate = run("generator", networks.generator, sources, auxiliary_maps)
        sources = intermediate
    final = run("generator", networks.generator, sources, target_maps)
    return Reconstruction(landmarks, intermediate, final, targets), stats
