"""The terms of the loss (Eq. 7): an entry of `TERMS` each, and the perceptual loss."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import ml_collections

from landmarks_jax import geometry, views
from landmarks_jax.models.hourglass import average_pool
from landmarks_jax.objective import Reconstruction


def pixel_loss(final: jax.Array, targets: jax.Array, directions: int) -> jax.Array:
    """Eq. 5 in each direction, summed: mean squared error of the pixels."""
    return directions * jnp.mean((final - targets.astype(final.dtype)) ** 2)


def gradient_loss(final: jax.Array, targets: jax.Array, directions: int) -> jax.Array:
    """Squared errors of the image gradients at three scales, directions summed.

    Not in the paper: a substitute for the perceptual loss without VGG weights. A small eye in the
    wrong place hardly changes the squared error of the pixels, but it changes that of the edges.

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
    of_targets = {tap: jax.lax.stop_gradient(f) for tap, f in features(targets).items()}
    losses = {}
    for tap, of_final in features(final).items():
        dtype = jnp.promote_types(of_final.dtype, jnp.float32)
        error = of_final.astype(dtype) - of_targets[tap].astype(dtype)
        losses[tap] = directions * jnp.mean(error**2)
    return losses


def equivariance_loss(
    landmarks: Sequence[jax.Array],
    to_canvas: tuple[jax.Array, jax.Array],
    bumps: jax.Array | None = None,
) -> jax.Array:
    """Distances between the landmarks of `x` and those of `x'` mapped into `x` by the exact map.

    The bend is known in this direction only. Points of `x'` that lie outside `x` do not count.

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
    """Closeness of the landmarks of a view (Zhang et al. 2018, separation constraint).

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


class TermInputs(NamedTuple):
    """Inputs of the loss terms.

    Attributes:
      made: the reconstruction, with the landmarks.
      pair: the views `x` and `x'` with their maps.
      config: the whole configuration.
    """

    made: Reconstruction
    pair: tuple[views.Views, views.Views]
    config: ml_collections.ConfigDict


@dataclasses.dataclass(frozen=True)
class Term:
    """A term of the loss, other than the perceptual loss.

    Its weight is `config.objective.NAME_weight`; with weight 0 it is not computed.

    Attributes:
      compute: returns the value, not yet weighted.
      note: what it measures, for `--help` and tables.
      weight: default of its weight.
      in_paper: whether Eq. 7 has it.
      reconstructs: whether it compares reconstructions with their targets.
    """

    compute: Callable[[TermInputs], jax.Array]
    note: str
    weight: float = 0.0
    in_paper: bool = False
    reconstructs: bool = False


# The terms of the loss by name. An entry is all that a new term needs: its weight in the
# configuration, metric, line of `--help` and note under tables follow from it.
TERMS: dict[str, Term] = {
    "pixel": Term(
        lambda inputs: pixel_loss(inputs.made.final, inputs.made.targets, inputs.made.directions),
        "mean squared error of the pixels (Eq. 5)",
        weight=1.0,
        in_paper=True,
        reconstructs=True,
    ),
    "gradient": Term(
        lambda inputs: gradient_loss(
            inputs.made.final, inputs.made.targets, inputs.made.directions
        ),
        "errors of the differences between neighbouring pixels",
        reconstructs=True,
    ),
    "equivariance": Term(
        lambda inputs: equivariance_loss(
            jnp.split(inputs.made.landmarks, 2),
            (inputs.pair[0].to_canvas, inputs.pair[1].to_canvas),
            inputs.pair[1].bumps,
        ),
        "landmarks follow the maps between the views",
    ),
    "separation": Term(
        lambda inputs: separation_loss(
            inputs.made.landmarks, inputs.config.objective.separation_sigma
        ),
        "landmarks keep apart",
    ),
}


def weight_fields() -> dict[str, str]:
    """The field of each term's weight, such as "objective.pixel_weight"."""
    return {name: f"objective.{name}_weight" for name in TERMS}


def active_terms(config: ml_collections.ConfigDict) -> dict[str, float]:
    """The terms whose weight is not 0, with their weights."""
    weights = {name: config.objective[f"{name}_weight"] for name in TERMS}
    return {name: weight for name, weight in weights.items() if weight}


def terms_not_in_paper(config: ml_collections.ConfigDict) -> str:
    """The active terms that the paper does not have, such as "equivariance 5", for tables."""
    own = (item for item in active_terms(config).items() if not TERMS[item[0]].in_paper)
    return ", ".join(f"{name} {weight:g}" for name, weight in own)


def help_text() -> str:
    """A line of `--help` for each term."""
    lines = ["Weights of the loss (Eq. 7):"]
    for name, field in weight_fields().items():
        note, weight = TERMS[name].note, TERMS[name].weight
        origin = "" if TERMS[name].in_paper else ", not in the paper"
        lines.append(f"  --config.{field}: {note}{origin} (default {weight:g})")
    return "\n".join(lines)
