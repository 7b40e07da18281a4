"""A step in parts, one after the other, where a device has no room for its whole share of a batch.

Part i of n is rows i, i + n, i + 2n ... of the batch, so that no row leaves its device. Each part
has batch norm statistics, and auxiliary photos, of its own; what a row sees is the same whatever n.
Gradients and metrics are means over the parts. What runs along with training, the statistics of
batch norm and the means of the taps, moves with every part as it would with a step.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from landmarks_jax.training.state import TrainState


class Gradient(NamedTuple):
    """What the photos of a step, or of a part of it, come to.

    Attributes:
      gradients: as the parameters.
      metrics: scalars by name.
      batch_stats: the running statistics after it.
      tap_means: the running means of the taps after it.
    """

    gradients: Any
    metrics: dict[str, jax.Array]
    batch_stats: Any
    tap_means: dict[str, jax.Array]


def rows(size: int, part: ArrayLike | None, count: int) -> jax.Array:
    """The rows of the batch in a part.

    Args:
      size: photos of the part.
      part: its number; None is the whole batch.
      count: parts of the batch.

    Returns:
      `[size]` row numbers.
    """
    numbers = jnp.arange(size)
    return numbers if part is None else count * numbers + part


def split(tree: Any, count: int) -> Any:
    """Cuts arrays `[B, ...]` into parts: `[count, B / count, ...]`."""
    return jax.tree.map(lambda leaf: leaf.reshape(-1, count, *leaf.shape[1:]).swapaxes(0, 1), tree)


def first(tree: Any, count: int) -> Any:
    """The first of the parts of arrays `[B, ...]`: `[B / count, ...]`."""
    return jax.tree.map(lambda leaf: leaf[::count], tree)


def accumulate(
    gradient: Callable[..., Gradient],
    state: TrainState,
    canvases: jax.Array,
    points: jax.Array | None,
    count: int,
) -> Gradient:
    """Gradients and metrics averaged over the parts of a batch, and what moved with each.

    Args:
      gradient: `(state, canvases, points, part) -> Gradient` of a part.
      state: before the step.
      canvases: `[B, C, C, 3]`.
      points: `[B, P, 2]` or None.
      count: parts.
    """

    def add(carried: tuple[TrainState, Any], given: Any) -> tuple[tuple[TrainState, Any], Any]:
        state, total = carried
        found = gradient(state, *given)
        state = dataclasses.replace(state, batch_stats=found.batch_stats, tap_means=found.tap_means)
        return (state, jax.tree.map(jnp.add, total, found.gradients)), found.metrics

    nothing = jax.tree.map(jnp.zeros_like, state.params)
    given = (*split((canvases, points), count), jnp.arange(count))
    (state, total), metrics = jax.lax.scan(add, (state, nothing), given)
    return Gradient(
        jax.tree.map(lambda leaf: leaf / count, total),
        {name: values.mean() for name, values in metrics.items()},
        state.batch_stats,
        state.tap_means,
    )
