"""One training step, pure: state and canvases in, state and running totals out."""

import functools
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import ml_collections
import optax

from landmarks_jax.objective import Networks
from landmarks_jax.tasks import task_of
from landmarks_jax.tasks.task import Frozen, Outcome
from landmarks_jax.training import accumulation
from landmarks_jax.training.state import TrainState, learning_rate


class Totals(NamedTuple):
    """Sums of the metrics over the steps since the last report, kept on the device.

    Attributes:
      steps: their number.
      sums: of each metric.
      bad_step: the first step with a loss or gradient that was not finite, or -1.
    """

    steps: jax.Array
    sums: dict[str, jax.Array]
    bad_step: jax.Array


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
    optimizer_start: int = 0,
) -> tuple[TrainState, Totals]:
    """One step of the configuration's task.

    Args:
      state: before the step.
      totals: sums since the last report.
      canvases: `[B, C, C, 3]` uint8.
      frozen: random key, perceptual network and core.
      points: `[B, P, 2]`, normalised to the canvas, for box views and for tasks with labels.
      config: the whole configuration.
      networks: the modules.
      optimizer: of all networks.
      optimizer_start: see `state.learning_rate`.

    Returns:
      The state after the step, and the totals with its metrics added.
    """
    task = task_of(config)

    def gradient(
        state: TrainState,
        canvases: jax.Array,
        points: jax.Array | None,
        microbatch: jax.Array | None = None,
    ) -> tuple[Any, Outcome]:
        drawn = task.draw(
            frozen.key, state.step, canvases, points, config=config, microbatch=microbatch
        )
        loss = functools.partial(
            task.loss, state=state, drawn=drawn, frozen=frozen, config=config, networks=networks
        )
        return jax.grad(loss, has_aux=True)(state.params)

    count = config.train.accumulate
    if count == 1:
        gradients, outcome = gradient(state, canvases, points)
    else:
        gradients, outcome = accumulation.accumulate(gradient, state, canvases, points, count)
    metrics = _with_norms(outcome.metrics, gradients)
    metrics["learning_rate"] = learning_rate(config, optimizer_start)(state.step)
    new_state = _update(state, gradients, outcome, optimizer, config.optimizer.ema_decay)
    return new_state, add(totals, metrics, state.step)


def _update(
    state: TrainState,
    gradients: Any,
    outcome: Outcome,
    optimizer: optax.GradientTransformation,
    ema_decay: float,
) -> TrainState:
    updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    averaged = state.averaged
    if ema_decay:
        averaged = optax.incremental_update(params, averaged, 1.0 - ema_decay)
    return TrainState(
        step=state.step + 1,
        params=params,
        batch_stats=outcome.batch_stats,
        opt_state=opt_state,
        averaged=averaged,
        tap_means=outcome.tap_means,
    )


def _with_norms(
    metrics: dict[str, jax.Array], gradients: Mapping[str, Any]
) -> dict[str, jax.Array]:
    """The metrics of a loss and the norm of each network's gradient."""
    norms = {}
    for name, leaves in gradients.items():
        flat = jnp.concatenate([leaf.reshape(-1) for leaf in jax.tree.leaves(leaves)])
        norms[f"norm_{name}"] = jnp.sqrt(jnp.sum(flat**2))
    return metrics | norms


def add(totals: Totals, metrics: dict[str, jax.Array], step: jax.Array) -> Totals:
    """Adds a step's metrics to the totals."""
    sums = {name: totals.sums[name] + value for name, value in metrics.items()}
    # Gradients too: they would spoil the parameters even if the loss is finite.
    watched = [name for name in metrics if name == "loss" or name.startswith("norm_")]
    finite = jnp.all(jnp.isfinite(jnp.stack([metrics[name] for name in watched])))
    bad = (totals.bad_step < 0) & ~finite
    return Totals(totals.steps + 1, sums, jnp.where(bad, step, totals.bad_step))


def empty_totals(
    state: TrainState,
    canvases: Any,
    frozen: Frozen,
    points: Any = None,
    *,
    config: ml_collections.ConfigDict,
    networks: Networks,
) -> Totals:
    """Totals of zero steps, with the metrics that the loss returns.

    The arguments are those of `train_step`; only their shapes matter.
    """
    task = task_of(config)

    def metrics(
        state: TrainState, canvases: jax.Array, frozen: Frozen, points: jax.Array | None
    ) -> dict[str, jax.Array]:
        drawn = task.draw(frozen.key, state.step, canvases, points, config=config)
        _, outcome = task.loss(state.params, state, drawn, frozen, config=config, networks=networks)
        return _with_norms(outcome.metrics, state.params) | {
            "learning_rate": learning_rate(config)(state.step)
        }

    return zero_totals(jax.eval_shape(metrics, state, canvases, frozen, points))


def zero_totals(metrics: Mapping[str, Any]) -> Totals:
    """Totals of zero steps, with sums of the shapes of these metrics."""
    sums = {name: jnp.zeros(shape.shape, shape.dtype) for name, shape in metrics.items()}
    return Totals(jnp.zeros((), jnp.int32), sums, jnp.full((), -1, jnp.int32))
