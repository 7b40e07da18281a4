"""One training step, pure: state and canvases in, state and running totals out."""

import functools
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import ml_collections
import optax
from jax.typing import ArrayLike

from landmarks_jax import objective, views
from landmarks_jax.models import adaptation
from landmarks_jax.objective import Networks, Reconstruction
from landmarks_jax.training import accumulation, pose
from landmarks_jax.training.state import TrainState, learning_rate


class Frozen(NamedTuple):
    """What a step reads and never changes.

    Attributes:
      key: typed random key of the run.
      vgg: parameters of the perceptual network, empty without one.
      mean: `[3]` subtracted from images in [0, 1] before the perceptual network.
      std: `[3]` divided by after it.
      core: the frozen kernels of an adapted detector, empty otherwise; see `adaptation`.
    """

    key: jax.Array
    vgg: Mapping[str, ArrayLike]
    mean: ArrayLike
    std: ArrayLike
    core: Mapping[str, Any] = {}


class Totals(NamedTuple):
    """Sums over the steps since the last report, kept on the device.

    Attributes:
      steps: how many.
      sums: of each metric.
      bad_step: the first step whose loss was not finite, -1 where there is none.
    """

    steps: jax.Array
    sums: dict[str, jax.Array]
    bad_step: jax.Array


class Drawn(NamedTuple):
    """What chance decides in one step.

    Attributes:
      pair: the views `x` and `x'`.
      auxiliary: `[B]` rows of the auxiliary photos.
    """

    pair: tuple[views.Views, views.Views]
    auxiliary: jax.Array


def draw(
    key: jax.Array,
    step: jax.Array,
    canvases: jax.Array,
    config: ml_collections.ConfigDict,
    points: jax.Array | None = None,
    *,
    part: ArrayLike | None = None,
) -> Drawn:
    """Draws views and auxiliaries; (seed, step, row of the global batch) alone decide.

    Args:
      key: of the run.
      step: the absolute step.
      canvases: `[B, C, C, 3]` uint8.
      config: the whole configuration.
      points: `[B, P, 2]` in canvas coordinates, which box views are made from; None draws
        similarities.
      part: which part of the batch the canvases are, as `parts.split` cuts it; None is the whole
        batch. Auxiliary photos are of the same part.
    """
    views_key, auxiliary_key = jax.random.split(key)
    batch_size = canvases.shape[0]
    step_key = jax.random.fold_in(views_key, step)
    rows = accumulation.rows(batch_size, part, config.train.accumulate)
    keys = jax.vmap(jax.random.fold_in, (None, 0))(step_key, rows)
    if config.objective.auxiliary == "each_step":
        auxiliary_key = jax.random.fold_in(auxiliary_key, step)
    if part is not None:
        auxiliary_key = jax.random.fold_in(auxiliary_key, part)
    auxiliary = objective.draw_auxiliary(auxiliary_key, batch_size)
    return Drawn(views.view_pair(canvases, keys, config.views, points=points), auxiliary)


def loss_and_metrics(
    params: Any,
    state: TrainState,
    drawn: Drawn,
    frozen: Frozen,
    *,
    config: ml_collections.ConfigDict,
    networks: Networks,
) -> tuple[jax.Array, tuple[dict[str, jax.Array], Any, dict[str, jax.Array], Reconstruction]]:
    """The loss of Eq. 7 with the optional terms.

    Returns:
      The loss; then metrics, new batch statistics, new running means of the taps, and what was
      reconstructed.
    """
    first, second = drawn.pair
    made, batch_stats = objective.reconstruct(
        networks,
        {**params, "detector": adaptation.fold(params["detector"], frozen.core)},
        state.batch_stats,
        (first.images, second.images),
        drawn.auxiliary,
        config=config,
    )
    directions = made.final.shape[0] // first.images.shape[0]
    pixel = objective.pixel_loss(made.final, made.targets, directions)
    gradient = objective.gradient_loss(made.final, made.targets, directions)
    landmarks = jnp.split(made.landmarks, 2)
    equivariance = objective.equivariance_loss(
        (landmarks[0], landmarks[1]), (first.to_canvas, second.to_canvas), second.bumps
    )
    separation = objective.separation_loss(made.landmarks, config.objective.separation_sigma)
    loss = (
        config.objective.pixel_weight * pixel
        + config.objective.gradient_weight * gradient
        + config.objective.equivariance_weight * equivariance
        + config.objective.separation_weight * separation
    )
    metrics = {
        "pixel": pixel,
        "gradient": gradient,
        "equivariance": equivariance,
        "separation": separation,
    }
    tap_means = state.tap_means
    if networks.vgg is not None:
        vgg = networks.vgg

        def features(images: jax.Array) -> dict[str, jax.Array]:
            out: Any = vgg.apply({"params": frozen.vgg}, (images - frozen.mean) / frozen.std)
            return out

        taps = objective.tap_losses(features, made.final, made.targets, directions)
        metrics |= taps
        if config.perceptual.balance:
            tap_means = running_means(tap_means, taps, state.step, config.perceptual.balance_decay)
            taps = {tap: value / tap_means[tap] for tap, value in taps.items()}
        loss = loss + config.perceptual.weight * sum(taps.values())
    metrics["loss"] = loss
    return loss, (metrics, batch_stats, tap_means, made)


def running_means(
    means: dict[str, jax.Array], values: dict[str, jax.Array], step: jax.Array, decay: float
) -> dict[str, jax.Array]:
    """Moves each mean towards its value; the first step sets it. No gradient flows through."""
    kept = jnp.where(step == 0, 0.0, decay)
    return {
        name: jax.lax.stop_gradient(kept * means[name] + (1.0 - kept) * values[name])
        for name in means
    }


def train_step(
    state: TrainState,
    totals: Totals,
    canvases: jax.Array,
    frozen: Frozen,
    points: jax.Array | None = None,
    *,
    config: ml_collections.ConfigDict,
    networks: Networks,
    optimizer: optax.GradientTransformation,
    restart: int = 0,
) -> tuple[TrainState, Totals]:
    """One step of the method, or of the pretraining.

    Args:
      state: the state before.
      totals: sums since the last report.
      canvases: `[B, C, C, 3]` uint8.
      frozen: random key, perceptual network and core.
      points: `[B, P, 2]`, normalised to the canvas, for box views and where the task has labels.
      config: the whole configuration.
      networks: the modules.
      optimizer: of all networks.
      restart: the step at which the optimiser last started afresh, 0 where it never did.

    Returns:
      The state after, and the totals with this step's metrics added.
    """

    def gradient(
        state: TrainState,
        canvases: jax.Array,
        points: jax.Array | None,
        part: jax.Array | None = None,
    ) -> accumulation.Gradient:
        loss: Any
        if pose.is_trained(config):
            assert points is not None
            posed = pose.draw(frozen.key, state.step, canvases, points, config, part=part)
            loss = functools.partial(pose.loss_and_metrics, drawn=posed)
        else:
            drawn = draw(frozen.key, state.step, canvases, config, points, part=part)
            loss = functools.partial(loss_and_metrics, drawn=drawn)
        loss = functools.partial(loss, state=state, frozen=frozen, config=config, networks=networks)
        gradients, (metrics, *moved, _) = jax.grad(loss, has_aux=True)(state.params)
        return accumulation.Gradient(gradients, metrics, *moved)

    if config.train.accumulate == 1:
        found = gradient(state, canvases, points)
    else:
        found = accumulation.accumulate(gradient, state, canvases, points, config.train.accumulate)
    gradients, metrics, batch_stats, tap_means = found
    for name, part in gradients.items():
        metrics[f"norm_{name}"] = jnp.sqrt(sum(jnp.vdot(g, g) for g in jax.tree.leaves(part)))
    metrics["learning_rate"] = learning_rate(config, restart)(state.step)
    updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    averaged = state.averaged
    if config.optimizer.ema_decay:
        averaged = optax.incremental_update(params, averaged, 1.0 - config.optimizer.ema_decay)
    new_state = TrainState(
        step=state.step + 1,
        params=params,
        batch_stats=batch_stats,
        opt_state=opt_state,
        averaged=averaged,
        tap_means=tap_means,
    )
    return new_state, add(totals, metrics, state.step)


def add(totals: Totals, metrics: dict[str, jax.Array], step: jax.Array) -> Totals:
    """Adds a step's metrics to the totals."""
    sums = {name: totals.sums[name] + value for name, value in metrics.items()}
    # A finite loss with a gradient that is not would spoil the parameters just as well.
    watched = [name for name in metrics if name == "loss" or name.startswith("norm_")]
    finite = jnp.all(jnp.isfinite(jnp.stack([metrics[name] for name in watched])))
    bad = (totals.bad_step < 0) & ~finite
    return Totals(totals.steps + 1, sums, jnp.where(bad, step, totals.bad_step))


def metric_names(config: ml_collections.ConfigDict) -> tuple[str, ...]:
    """The metrics of a step, in the order of reports."""
    if pose.is_trained(config):
        return pose.METRICS
    taps = tuple(config.perceptual.taps) if config.perceptual.weights else ()
    terms = ("loss", "pixel", "gradient", *taps, "equivariance", "separation")
    return (*terms, "norm_detector", "norm_generator", "learning_rate")


def empty_totals(config: ml_collections.ConfigDict) -> Totals:
    """Totals of no step."""
    dtype = jnp.promote_types(jnp.dtype(config.compute_dtype), jnp.float32)
    sums = {name: jnp.zeros((), dtype) for name in metric_names(config)}
    sums["learning_rate"] = jnp.zeros((), jnp.float32)
    return Totals(jnp.zeros((), jnp.int32), sums, jnp.full((), -1, jnp.int32))
