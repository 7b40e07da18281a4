"""Gradient accumulation: a step in micro-batches, for devices that cannot hold their whole share.

Micro-batch i of n is rows i, i + n, i + 2n ... of the batch, so that no row leaves its device. Each
has batch norm statistics, and auxiliary photos, of its own; the views of a row do not depend on n.
Gradients and metrics are means over the micro-batches. Running values, the statistics of batch norm
and the means of the taps, are updated by every micro-batch as by a step.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from landmarks_jax.tasks.task import Outcome
from landmarks_jax.training.state import TrainState


def split(tree: Any, count: int) -> Any:
    """Cuts arrays `[B, ...]` into micro-batches `[count, B / count, ...]`."""
    return jax.tree.map(lambda leaf: leaf.reshape(-1, count, *leaf.shape[1:]).swapaxes(0, 1), tree)


def first(tree: Any, count: int) -> Any:
    """The first micro-batch `[B / count, ...]` of arrays `[B, ...]`."""
    return jax.tree.map(lambda leaf: leaf[::count], tree)


def accumulate(
    gradient: Callable[..., tuple[Any, Outcome]],
    state: TrainState,
    canvases: jax.Array,
    points: jax.Array | None,
    count: int,
) -> tuple[Any, Outcome]:
    """Means of gradients and metrics over the micro-batches; the final running values; no `made`.

    Args:
      gradient: `(state, canvases, points, microbatch) -> (gradients, outcome)`.
      state: before the step.
      canvases: `[B, C, C, 3]`.
      points: `[B, P, 2]` or None.
      count: micro-batches.
    """

    def add(carry: tuple[TrainState, Any], inputs: Any) -> tuple[tuple[TrainState, Any], Any]:
        state, total = carry
        gradients, new = gradient(state, *inputs)
        state = dataclasses.replace(state, batch_stats=new.batch_stats, tap_means=new.tap_means)
        return (state, jax.tree.map(jnp.add, total, gradients)), new.metrics

    zeros = jax.tree.map(jnp.zeros_like, state.params)
    inputs = (*split((canvases, points), count), jnp.arange(count))
    (state, total), metrics = jax.lax.scan(add, (state, zeros), inputs)
    means = {name: values.mean() for name, values in metrics.items()}
    outcome = Outcome(means, state.batch_stats, state.tap_means, made=None)
    return jax.tree.map(lambda leaf: leaf / count, total), outcome
