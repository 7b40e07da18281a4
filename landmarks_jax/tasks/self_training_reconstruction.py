"""Self-training with the paper's reconstruction as a second term; ours, not in the paper.

A step draws what both tasks draw, independently: a strongly moved view with its targets, and the
pair of views that are reconstructed from each other. Its loss is the distance to the targets plus
`config.objective.reconstruction_weight` times Eq. 7.
"""

import dataclasses
from typing import Any, NamedTuple

import jax
from jax.typing import ArrayLike
from ml_collections import ConfigDict

from landmarks_jax.objective import Networks, Reconstruction
from landmarks_jax.system.errors import wrong_field
from landmarks_jax.tasks import landmarks, self_training
from landmarks_jax.tasks.task import Frozen, Outcome, Panel

NETWORKS: tuple[str, ...] = landmarks.NETWORKS
MAKES_TARGETS = True
ON_JOINTS = False
NUM_POINTS: int | None = None
UNUSED: tuple[str, ...] = ()

build_networks = landmarks.build_networks


class Drawn(NamedTuple):
    """The random draws of one step.

    Attributes:
      moved: views with their targets.
      reconstructed: pairs of views, and the auxiliary photos.
    """

    moved: self_training.Drawn
    reconstructed: landmarks.Drawn


class Made(NamedTuple):
    """Results of both terms.

    Attributes:
      landmarks: `[B, K, 2]` of the views with targets.
      reconstruction: of the pairs.
    """

    landmarks: jax.Array
    reconstruction: Reconstruction


def check(config: ConfigDict) -> None:
    """Raises ConfigError for fields that do not fit one of both tasks."""
    self_training.check(config)
    landmarks.check(config)
    if config.objective.bn_groups != "joint":
        task = config.objective.task
        rule = (
            f"'joint' with config.objective.task = {task!r}, whose detector sees single views too"
        )
        raise wrong_field(config, "objective.bn_groups", rule)


def describe(config: ConfigDict) -> str:
    """What a run was trained on, in a sentence for tables and the log."""
    weight = config.objective.reconstruction_weight
    composition = config.objective.composition
    return (
        f"{self_training.describe(config)}, with the paper's reconstruction ({composition}) as a "
        f"second term of weight {weight:g}"
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
    """Draws the views of both tasks; see `Task.draw`. `points` are those of self-training."""
    moved = self_training.draw(key, step, canvases, points, config=config, microbatch=microbatch)
    return Drawn(moved, landmarks.draw(key, step, canvases, config=config, microbatch=microbatch))


def loss(
    params: Any,
    state: Any,
    drawn: Drawn,
    frozen: Frozen,
    *,
    config: ConfigDict,
    networks: Networks,
) -> tuple[jax.Array, Outcome]:
    """The distance to the targets plus the weighted loss of Eq. 7; see `Task.loss`."""
    options: dict[str, Any] = {"config": config, "networks": networks}
    distance, first = self_training.loss(params, state, drawn.moved, frozen, **options)
    state = dataclasses.replace(state, batch_stats={**state.batch_stats, **first.batch_stats})
    eq7, second = landmarks.loss(params, state, drawn.reconstructed, frozen, **options)
    value = distance + config.objective.reconstruction_weight * eq7
    metrics = {**second.metrics, "targets": distance, "reconstruction": eq7, "loss": value}
    return value, second._replace(metrics=metrics, made=Made(first.made, second.made))


def panels(drawn: Drawn, made: Made) -> tuple[Panel, ...]:
    """The columns of both tasks."""
    return (
        *self_training.panels(drawn.moved, made.landmarks),
        *landmarks.panels(drawn.reconstructed, made.reconstruction),
    )
