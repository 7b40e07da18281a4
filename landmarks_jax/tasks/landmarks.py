"""Unsupervised landmarks, the method: two random views, reconstructions, the loss of Eq. 7."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from ml_collections import ConfigDict

from landmarks_jax import losses, objective, views
from landmarks_jax.models import adaptation, generator
from landmarks_jax.models.vgg import TAPS
from landmarks_jax.objective import Networks, Reconstruction
from landmarks_jax.system.errors import wrong_field
from landmarks_jax.tasks.task import Frozen, Outcome, Panel, row_keys

NETWORKS: tuple[str, ...] = ("detector", "generator")
MAKES_TARGETS = False
ON_JOINTS = False
NUM_POINTS: int | None = None
UNUSED: tuple[str, ...] = ("views.color_std", "views.cutout", "objective.reconstruction_weight")

build_networks = objective.build_networks


class Drawn(NamedTuple):
    """The random draws of one step.

    Attributes:
      pair: the views `x` and `x'`.
      auxiliary: `[B]` rows of the auxiliary photos.
    """

    pair: tuple[views.Views, views.Views]
    auxiliary: jax.Array


def check(config: ConfigDict) -> None:
    """Raises ConfigError for fields that the generator or the loss cannot work with."""
    size = config.views.size
    if size % generator.STRIDE:
        rule = f"a multiple of {generator.STRIDE}, the generator's stride"
        raise wrong_field(config, "views.size", rule)
    taps, weights = config.perceptual.taps, config.perceptual.weights
    if weights:
        known = TAPS[config.perceptual.network]
        if not taps or len(set(taps)) != len(taps) or not set(taps) <= set(known):
            rule = f"different ones of {', '.join(known)}"
            raise wrong_field(config, "perceptual.taps", rule)
        deepest = max(int(tap[4]) for tap in taps)
        if not size >> (deepest - 1):
            rule = f"above block {deepest} at config.views.size"
            raise wrong_field(config, "perceptual.taps", rule)
    compared = [name for name in losses.active_terms(config) if losses.TERMS[name].reconstructs]
    if not compared and not (weights and config.perceptual.weight):
        rule = "above 0: nothing else compares reconstructions"
        raise wrong_field(config, "objective.pixel_weight", rule)


def describe(config: ConfigDict) -> str:
    """The crop that a run was trained with, in a sentence for tables and the log."""
    crop, view = config.data.crop, config.views
    if crop == "center":
        return "trained with the center crop, without annotation"
    if crop == "tight":
        return "trained with the tight crop, whole photos, without annotation"
    return (
        "trained with the box crop, made from the annotation: views are boxes of the rotated "
        f"points with a margin of {100 * view.margin:g} ± {100 * view.margin_std:g} %"
    )


def draw(
    key: jax.Array,
    step: ArrayLike,
    canvases: jax.Array,
    points: jax.Array | None = None,
    *,
    config: ConfigDict,
    microbatch: ArrayLike | None = None,
) -> Drawn:
    """Draws views and auxiliaries; see `Task.draw`.

    With points, views are boxes of them. Auxiliary photos are of the same micro-batch.
    """
    views_key, auxiliary_key = jax.random.split(key)
    size = len(canvases)
    keys = row_keys(views_key, step, size, config=config, microbatch=microbatch)
    if config.objective.auxiliary == "each_step":
        auxiliary_key = jax.random.fold_in(auxiliary_key, step)
    if microbatch is not None:
        auxiliary_key = jax.random.fold_in(auxiliary_key, microbatch)
    auxiliary = objective.draw_auxiliary(auxiliary_key, size)
    return Drawn(views.view_pair(canvases, keys, config.views, points=points), auxiliary)


def loss(
    params: Any,
    state: Any,
    drawn: Drawn,
    frozen: Frozen,
    *,
    config: ConfigDict,
    networks: Networks,
) -> tuple[jax.Array, Outcome]:
    """The loss of Eq. 7 with the optional terms; see `Task.loss`."""
    first, second = drawn.pair
    made, batch_stats = objective.reconstruct(
        networks,
        {**params, "detector": adaptation.fold(params["detector"], frozen.core)},
        state.batch_stats,
        (first.images, second.images),
        drawn.auxiliary,
        config=config,
    )
    inputs = losses.TermInputs(made, drawn.pair, config)
    weights = losses.active_terms(config)
    metrics = {name: losses.TERMS[name].compute(inputs) for name in weights}
    weighted = [weight * metrics[name] for name, weight in weights.items()]
    tap_means = state.tap_means
    if networks.vgg is not None:
        taps = perceptual_losses(networks, frozen, made)
        metrics |= taps
        if config.perceptual.balance:
            tap_means = running_means(tap_means, taps, state.step, config.perceptual.balance_decay)
            taps = {tap: value / tap_means[tap] for tap, value in taps.items()}
        weighted.append(config.perceptual.weight * sum(taps.values()))
    metrics["loss"] = sum(weighted[1:], start=weighted[0])
    return metrics["loss"], Outcome(metrics, batch_stats, tap_means, made)


def perceptual_losses(
    networks: Networks, frozen: Frozen, made: Reconstruction
) -> dict[str, jax.Array]:
    """Eq. 6 tap by tap, on images normalised for the perceptual network."""
    vgg: Any = networks.vgg

    def features(images: jax.Array) -> dict[str, jax.Array]:
        by_tap: dict[str, jax.Array] = vgg.apply(
            {"params": frozen.vgg}, (images - frozen.mean) / frozen.std
        )
        return by_tap

    return losses.tap_losses(features, made.final, made.targets, made.directions)


def running_means(
    means: dict[str, jax.Array], values: dict[str, jax.Array], step: jax.Array, decay: float
) -> dict[str, jax.Array]:
    """Exponential moving averages; the first step sets them. No gradient flows through them."""
    weight = jnp.where(step == 0, 0.0, decay)
    return {
        name: jax.lax.stop_gradient(weight * means[name] + (1.0 - weight) * values[name])
        for name in means
    }


def panels(drawn: Drawn, made: Reconstruction) -> tuple[Panel, ...]:
    """Both views with their landmarks, then the generated images, direction by direction."""
    landmarks = jnp.split(made.landmarks, 2)
    first, second = drawn.pair
    columns = [Panel("x", first.images, landmarks[0]), Panel("x'", second.images, landmarks[1])]
    if made.intermediate is not None:
        intermediate = jnp.split(made.intermediate, made.directions)
        columns += map(Panel, ("I_a", "I_a'"), intermediate)
    columns += map(Panel, ("I_x'", "I_x"), jnp.split(made.final, made.directions))
    return tuple(columns)
