"""The interface of a training task: networks, random draws, loss and metrics, previews."""

from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

import flax.struct
import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from ml_collections import ConfigDict

from landmarks_jax import losses
from landmarks_jax.models import adaptation, detectors
from landmarks_jax.objective import Networks


class Frozen(NamedTuple):
    """Inputs of a step that training does not change.

    Attributes:
      key: typed random key of the run.
      vgg: parameters of the perceptual network, empty without one.
      mean: `[3]` subtracted from images in [0, 1] before the perceptual network.
      std: `[3]` then divided by.
      core: the detector's frozen weights, empty if all train; see `TrainState.core`.
    """

    key: jax.Array
    vgg: Mapping[str, ArrayLike]
    mean: ArrayLike
    std: ArrayLike
    core: Mapping[str, Any] = {}


class Outcome(NamedTuple):
    """Results of a loss besides its value.

    Attributes:
      metrics: scalars, by their names in the log.
      batch_stats: the new running statistics.
      tap_means: the new running means of the taps' losses.
      made: reconstructions or joints, for `panels`.
    """

    metrics: dict[str, jax.Array]
    batch_stats: Any
    tap_means: dict[str, jax.Array]
    made: Any


@flax.struct.dataclass
class Panel:
    """A column of the preview of a few photos.

    Attributes:
      title: of the column.
      images: `[N, S, S, 3]` in [0, 1].
      points: `[N, P, 2]`, normalised, or None.
    """

    title: str = flax.struct.field(pytree_node=False)
    images: jax.Array
    points: jax.Array | None = None


class Task(Protocol):
    """The interface of a task's module.

    Attributes:
      NETWORKS: names of the networks that train, the keys of `params`.
      MAKES_TARGETS: whether steps use points that are made by `training.targets`.
      ON_JOINTS: whether the detector learns labelled joints, and finds them at the peaks of its
        maps, instead of landmarks by soft-argmax.
      NUM_POINTS: the points that each photo must have; None for any number.
      UNUSED: the fields that it does not use while other tasks do; they must have their defaults.
    """

    NETWORKS: tuple[str, ...]
    MAKES_TARGETS: bool
    ON_JOINTS: bool
    NUM_POINTS: int | None
    UNUSED: tuple[str, ...]

    def check(self, config: ConfigDict) -> None:
        """Raises ConfigError for fields that do not fit the task."""

    def describe(self, config: ConfigDict) -> str:
        """What a run was trained on, in a sentence for tables and the log."""

    def build_networks(self, config: ConfigDict) -> Networks:
        """Builds the modules of a configuration."""

    def draw(
        self,
        key: jax.Array,
        step: ArrayLike,
        canvases: jax.Array,
        points: jax.Array | None = None,
        *,
        config: ConfigDict,
        microbatch: ArrayLike | None = None,
    ) -> Any:
        """Draws the views of a step as a function of (seed, step, row of the global batch).

        Args:
          key: of the run.
          step: the absolute step.
          canvases: `[B, C, C, 3]` uint8.
          points: `[B, P, 2]`, normalised to the canvas, or None.
          config: the whole configuration.
          microbatch: number of the micro-batch, as cut by `accumulation.split`; None for the
            whole batch.
        """

    def loss(
        self,
        params: Any,
        state: Any,
        drawn: Any,
        frozen: Frozen,
        *,
        config: ConfigDict,
        networks: Networks,
    ) -> tuple[jax.Array, Outcome]:
        """The loss of a step.

        Args:
          params: of the networks that train, by name.
          state: the `TrainState` before the step; its `params` are not used.
          drawn: the result of `draw`.
          frozen: random key, perceptual network and core.
          config: the whole configuration.
          networks: the modules.
        """

    def panels(self, drawn: Any, made: Any) -> tuple[Panel, ...]:
        """The preview of a batch, from the result of `draw` and from `Outcome.made`."""


# Fields that tasks without reconstruction do not use.
OF_RECONSTRUCTION = (
    "perceptual.weights",
    *losses.weight_fields().values(),
    "objective.separation_sigma",
    "objective.composition",
    "objective.auxiliary",
    "objective.bn_groups",
    "objective.reconstruction_weight",
)


def row_keys(
    key: jax.Array,
    step: ArrayLike,
    size: int,
    *,
    config: ConfigDict,
    microbatch: ArrayLike | None = None,
) -> jax.Array:
    """The random keys `[size]` of the rows of a batch, or of a micro-batch.

    Micro-batch i of n holds rows i, i + n, i + 2n ... of the batch.

    Args:
      key: of the run.
      step: the absolute step.
      size: rows.
      config: the whole configuration, with `train.accumulate`.
      microbatch: its number; None for the whole batch.
    """
    rows = jnp.arange(size)
    if microbatch is not None:
        rows = config.train.accumulate * rows + microbatch
    return jax.vmap(jax.random.fold_in, (None, 0))(jax.random.fold_in(key, step), rows)


def detector_alone(config: ConfigDict) -> Networks:
    """Builds the networks of tasks that train the detector alone."""
    return Networks(detectors.build_detector(config), None, None)


def score_maps(
    params: Any, state: Any, images: jax.Array, frozen: Frozen, *, networks: Networks
) -> tuple[jax.Array, dict[str, Any]]:
    """The detector's score maps in training, of tasks that train it alone.

    Args:
      params: of the networks that train, by name.
      state: the `TrainState` before the step; its `params` are not used.
      images: `[B, S, S, 3]` in [0, 1].
      frozen: with the detector's frozen weights.
      networks: the modules.

    Returns:
      `[B, S / STRIDE, S / STRIDE, K]` score maps, and the new batch statistics by network.
    """
    variables = {
        "params": adaptation.fold(params["detector"], frozen.core),
        "batch_stats": state.batch_stats["detector"],
    }
    detector: Any = networks.detector
    scores, new = detector.apply(
        variables, images, use_running_average=False, mutable=["batch_stats"]
    )
    return scores, {"detector": new["batch_stats"]}
