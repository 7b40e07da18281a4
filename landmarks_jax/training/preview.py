"""A few photos' way through the model, for a picture."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import ml_collections

from landmarks_jax import objective
from landmarks_jax.models import adaptation
from landmarks_jax.objective import Networks
from landmarks_jax.training import accumulation
from landmarks_jax.training.state import TrainState
from landmarks_jax.training.step import Frozen, draw


class Preview(NamedTuple):
    """A few photos' way through the model, for a picture.

    Attributes:
      views: `[2, N, S, S, 3]`, `x` and `x'`.
      landmarks: `[2, N, K, 2]`.
      intermediate: `[D, N, S, S, 3]`, or None where the composition has none.
      final: `[D, N, S, S, 3]`, against `x'`, then `x`.
    """

    views: jax.Array
    landmarks: jax.Array
    intermediate: jax.Array | None
    final: jax.Array


def preview(
    state: TrainState,
    canvases: jax.Array,
    frozen: Frozen,
    points: jax.Array | None = None,
    *,
    config: ml_collections.ConfigDict,
    networks: Networks,
    num_rows: int,
) -> Preview:
    """The first rows of a batch, or of its first part, as the next step would see and make them."""
    part = None
    if config.train.accumulate > 1:
        part, (canvases, points) = (
            0,
            accumulation.first((canvases, points), config.train.accumulate),
        )
    drawn = draw(frozen.key, state.step, canvases, config, points, part=part)
    first, second = drawn.pair
    made, _ = objective.reconstruct(
        networks,
        {**state.params, "detector": adaptation.fold(state.params["detector"], frozen.core)},
        state.batch_stats,
        (first.images, second.images),
        drawn.auxiliary,
        config=config,
    )

    def head(stacked: jax.Array) -> jax.Array:
        return stacked.reshape(-1, canvases.shape[0], *stacked.shape[1:])[:, :num_rows]

    return Preview(
        jnp.stack([first.images, second.images])[:, :num_rows],
        head(made.landmarks),
        None if made.intermediate is None else head(made.intermediate),
        head(made.final),
    )
