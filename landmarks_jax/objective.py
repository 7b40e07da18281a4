"""The method: detector and generator composed into reconstructions, and the loss on them.

Table I's rows are four compositions of the same two networks; `x`, `x'` are two views of a photo,
`u`, `u'` their landmarks, `u^a` the landmarks of `x` of another photo of the batch:

  baseline  G(E(x), H(u')) against x'
  inter     G(E(G(E(x), H(u^a))), H(u')) against x'
  cycle     baseline in both directions
  all       inter in both directions, with the same auxiliary
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import ml_collections

from landmarks_jax import geometry, keypoints, views
from landmarks_jax.models.generator import Generator
from landmarks_jax.models.hourglass import Detector, average_pool
from landmarks_jax.models.vgg import Vgg

COMPOSITIONS = ("baseline", "inter", "cycle", "all")
Variables = Mapping[str, Any]


class Networks(NamedTuple):
    """The modules of one configuration.

    Attributes:
      detector: `D`, with the batch norm updates of a call on `[x, x']`.
      generator: `E` and `G`, with the batch norm updates of a call on both directions; None where
        joints are trained, which need no reconstruction.
      vgg: the perceptual network, or None.
    """

    detector: Detector
    generator: Generator | None
    vgg: Vgg | None


class Reconstruction(NamedTuple):
    """What one step saw and made; `D` is the number of directions, 1 or 2.

    Attributes:
      landmarks: `[2B, K, 2]` of `x`, then of `x'`, normalised.
      intermediate: `[D * B, S, S, 3]` redrawn with the auxiliary's landmarks, or None.
      final: `[D * B, S, S, 3]` reconstructions of `targets`.
      targets: `[D * B, S, S, 3]`: `x'`, and `x` where the cycle goes back.
    """

    landmarks: jax.Array
    intermediate: jax.Array | None
    final: jax.Array
    targets: jax.Array


def build_networks(config: ml_collections.ConfigDict) -> Networks:
    """Makes the modules that a configuration describes."""
    dtype = jnp.dtype(config.compute_dtype)
    released = config.objective.bn_groups == "released"
    both = config.objective.composition in ("cycle", "all")
    detector = Detector(
        config.model.num_landmarks,
        config.model.detector_channels,
        config.model.hourglass_depth,
        dtype,
        # The released code detects x^a, x, x' in three calls; x^a is a permutation of x, so its
        # statistics are x's.
        bn_updates=(0, 0, 1) if released else (0,),
    )
    if config.objective.task == "pose":
        return Networks(detector.clone(bn_updates=(0,)), None, None)
    generator = Generator(
        config.model.generator_channels,
        config.model.residual_blocks,
        dtype,
        bn_updates=(0, 1) if released and both else (0,),
    )
    vgg = None
    if config.perceptual.weights:
        vgg = Vgg(config.perceptual.network, tuple(config.perceptual.taps), dtype)
    return Networks(detector, generator, vgg)


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
      batch_stats: likewise.
      pair: the views `x` and `x'`, each `[B, S, S, 3]` in [0, 1].
      auxiliary: `[B]` rows whose landmarks in `x` are the auxiliary ones.
      config: the whole configuration.

    Returns:
      What was made, and the new batch statistics.
    """
    composition = config.objective.composition
    stats = dict(batch_stats)
    first, second = pair
    size = first.shape[1] // 4

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
        # The auxiliary's maps are a permutation of maps that stand already.
        directions = targets.shape[0] // first.shape[0]
        auxiliary_maps = jnp.concatenate([maps_first[auxiliary]] * directions)
        intermediate = run("generator", networks.generator, sources, auxiliary_maps)
        sources = intermediate
    final = run("generator", networks.generator, sources, target_maps)
    return Reconstruction(landmarks, intermediate, final, targets), stats


def pixel_loss(final: jax.Array, targets: jax.Array, directions: int) -> jax.Array:
    """Eq. 5 in each direction, summed: mean squared error of the pixels."""
    return directions * jnp.mean((final - targets.astype(final.dtype)) ** 2)


def gradient_loss(final: jax.Array, targets: jax.Array, directions: int) -> jax.Array:
    """Errors of the images' differences between neighbours, at three scales, directions summed.

    Not in the paper: it stands in for the perceptual loss where there are no VGG weights. Squared
    errors of pixels hardly see a small eye in the wrong place; its edges do.

    Args:
      final: `[D * B, S, S, 3]` reconstructions.
      targets: `[D * B, S, S, 3]`.
      directions: D.

    Returns:
      The mean squared error of horizontal plus that of vertical differences, summed over the
      images and their 2 x 2 and 4 x 4 means.
    """
    error = final - targets.astype(final.dtype)  # differences and means are linear
    loss = jnp.zeros((), error.dtype)
    for scale in range(3):
        error = average_pool(error) if scale else error
        across, down = error[:, :, 1:] - error[:, :, :-1], error[:, 1:] - error[:, :-1]
        loss = loss + jnp.mean(across**2) + jnp.mean(down**2)
    return directions * loss


def tap_losses(
    features: Callable[[jax.Array], Mapping[str, jax.Array]],
    final: jax.Array,
    targets: jax.Array,
    directions: int,
) -> dict[str, jax.Array]:
    """Eq. 6 tap by tap, directions summed: mean squared errors of the features.

    Args:
      features: maps images `[B, S, S, 3]` in [0, 1] to `{tap: [B, h, w, C]}`.
      final: `[D * B, S, S, 3]` reconstructions.
      targets: `[D * B, S, S, 3]`; no gradient flows through their features.
      directions: D.
    """
    wanted = {tap: jax.lax.stop_gradient(f) for tap, f in features(targets).items()}
    losses = {}
    for tap, given in features(final).items():
        dtype = jnp.promote_types(given.dtype, jnp.float32)
        error = given.astype(dtype) - wanted[tap].astype(dtype)
        losses[tap] = directions * jnp.mean(error**2)
    return losses


def equivariance_loss(
    landmarks: tuple[jax.Array, jax.Array],
    to_canvas: tuple[jax.Array, jax.Array],
    bumps: jax.Array | None = None,
) -> jax.Array:
    """How far the landmarks of one view lie from the other's, carried over by the exact map.

    Carried from `x'` to `x`, the way in which a bend is known. Points that one view shows outside
    the other count nothing.

    Args:
      landmarks: `u` and `u'`, each `[B, K, 2]`.
      to_canvas: the views' maps, each `[B, 2, 3]`.
      bumps: `[B, 25, 2]` the bend of `x'`, or None.

    Returns:
      The mean squared distance, in normalised units of `x`.
    """
    bent = landmarks[1] if bumps is None else views.bend(landmarks[1], bumps)
    carried = geometry.apply(views.between(to_canvas[1], to_canvas[0]), bent)
    visible = jnp.all(jnp.abs(jax.lax.stop_gradient(carried)) <= 1.0, -1)
    squared = ((carried - landmarks[0]) ** 2).sum(-1)
    return jnp.where(visible, squared, 0.0).sum() / jnp.maximum(visible.sum(), 1)


def separation_loss(landmarks: jax.Array, sigma: float) -> jax.Array:
    """How close the landmarks of a view lie together (Zhang et al. 2018, separation constraint).

    Args:
      landmarks: `[B, K, 2]`, normalised.
      sigma: distance, in normalised units, beyond which the repulsion fades.

    Returns:
      The mean over ordered pairs of different landmarks of `exp(-d^2 / (2 sigma^2))`; 0 for K = 1.
    """
    num = landmarks.shape[1]
    gaps = landmarks[:, :, None] - landmarks[:, None]
    closeness = jnp.exp(-(gaps**2).sum(-1) / (2 * sigma**2)) * (1 - jnp.eye(num))
    return closeness.sum() / (landmarks.shape[0] * max(num * (num - 1), 1))
