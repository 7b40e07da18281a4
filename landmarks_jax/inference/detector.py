"""The jitted detector: views in, landmarks in the view's frame out."""

import functools
import os
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from landmarks_jax import keypoints
from landmarks_jax.models.detectors import build_detector
from landmarks_jax.models.layers import at_least_float32
from landmarks_jax.system import compiler
from landmarks_jax.system.errors import UserError

MAX_BATCH = 256  # views per call with running statistics
STATISTICS_BATCH = 30  # views per call with batch statistics, as in the released code


class ViewLandmarks(NamedTuple):
    """The detector's output for a batch of views.

    Attributes:
      landmarks: `[B, K, 2]`, normalised to the view.
      confidence: `[B, K]` in [0, 1]: the soft-argmax weight within 1.5 cells of the landmark. It
        measures how sharp a heatmap is, not whether the landmark is right.
      heatmaps: `[B, h, w, K]`: the soft-argmax weights; each map sums to 1.
    """

    landmarks: jax.Array
    confidence: jax.Array
    heatmaps: jax.Array


def detect(
    variables: Mapping[str, Any],
    views: jax.Array,
    *,
    module: nn.Module,
    beta: float,
    use_running_average: bool = True,
) -> ViewLandmarks:
    """Detects landmarks. A pure function for `jax.jit`, `jax.vmap` and `jax.grad`.

    Args:
      variables: `{"params", "batch_stats"}` of the detector.
      views: `[B, S, S, 3]`, uint8 or floating in [0, 1].
      module: the detector.
      beta: inverse temperature of the soft-argmax.
      use_running_average: normalise by the running statistics instead of the batch's.

    Returns:
      Landmarks, confidence and heatmaps. Under `jax.jit` an unused output costs nothing.

    Raises:
      TypeError: `views` is neither uint8 nor floating.
    """
    if views.dtype == jnp.uint8:
        views = views.astype(at_least_float32(module.dtype)) / 255.0
    elif not jnp.issubdtype(views.dtype, jnp.floating):
        raise TypeError(f"views of type {views.dtype}: must be uint8, or floating in [0, 1]")
    scores, _ = module.apply(
        variables, views, use_running_average=use_running_average, mutable=["batch_stats"]
    )
    heatmaps = keypoints.attention(scores, beta)
    landmarks = keypoints.expected_position(heatmaps)
    return ViewLandmarks(landmarks, keypoints.mass_near(heatmaps, landmarks), heatmaps)


class ViewDetector:
    """A detector with its weights: any number of NumPy views in, NumPy landmarks out.

    Attributes:
      variables: `{"params", "batch_stats"}` on the device.
      view_size: side of the views in pixels.
      num_landmarks: K.
    """

    def __init__(
        self,
        config: ml_collections.ConfigDict,
        variables: Mapping[str, Any],
        *,
        use_running_average: bool = True,
    ) -> None:
        """Moves the weights to the device.

        Args:
          config: the config that the weights were trained with.
          variables: `{"params", "batch_stats"}` of the detector.
          use_running_average: False normalises by batch statistics instead, in consecutive batches
            of `STATISTICS_BATCH` views; the last one may be smaller.

        Raises:
          UserError: in a fork of a process that has built a detector.
        """
        _refuse_fork()
        self.view_size: int = config.views.size
        self.num_landmarks: int = config.model.num_landmarks
        self.variables = jax.device_put(dict(variables))
        self._use_running_average = use_running_average
        self._detect = _jit_detect(
            build_detector(config),
            config.model.beta,
            use_running_average,
            tuple(compiler.compiler_options().items()),
        )

    def __call__(self, views: np.ndarray) -> np.ndarray:
        """Maps uint8 views `[N, S, S, 3]` to landmarks `[N, K, 2]`, normalised to the view."""
        return self.find(views, ("landmarks",))["landmarks"]

    def find(
        self, views: np.ndarray, fields: tuple[str, ...] = ViewLandmarks._fields
    ) -> dict[str, np.ndarray]:
        """Detects landmarks in any number of views.

        Args:
          views: `[N, S, S, 3]`, uint8 or floating in [0, 1].
          fields: the fields of `ViewLandmarks` to return.

        Returns:
          Field name to array, as in `ViewLandmarks`.

        Raises:
          ValueError: `views` has another shape.
          TypeError: `views` has another type.
          UserError: in a fork of the process that built the detector.
        """
        _refuse_fork()
        size = self.view_size
        if views.ndim != 4 or views.shape[1:] != (size, size, 3):
            raise ValueError(f"views of shape {views.shape}: must be [N, {size}, {size}, 3]")
        batch_size = MAX_BATCH if self._use_running_average else STATISTICS_BATCH
        batches = []
        for start in range(0, max(len(views), 1), batch_size):
            batch = views[start : start + batch_size]
            count = len(batch)
            if self._use_running_average or not count:
                # Views do not influence each other here, so batches are padded to powers of two:
                # at most nine sizes are ever compiled.
                padding = (1 << max(count - 1, 0).bit_length()) - count
                batch = np.pad(batch, ((0, padding), *((0, 0),) * 3))
            output = self._detect(self.variables, batch)
            batches.append({name: np.asarray(getattr(output, name))[:count] for name in fields})
        return {name: np.concatenate([batch[name] for batch in batches]) for name in fields}


@functools.cache
def _first_process() -> int:
    """The process that built the first detector; its forks know it too."""
    return os.getpid()


def _refuse_fork() -> None:
    """Raises UserError in a fork, which lacks JAX's threads and would wait for them for ever."""
    if os.getpid() != _first_process():
        raise UserError(
            "a detector was loaded before this process was forked, and JAX does not survive that; "
            "start processes by multiprocessing.get_context('spawn') and load the detector there"
        )


@functools.lru_cache(maxsize=16)
def _jit_detect(
    module: nn.Module, beta: float, use_running_average: bool, options: tuple[tuple[str, Any], ...]
) -> Callable:
    """`detect`, compiled once per batch size for all detectors of an architecture.

    It always returns all fields: unused ones are small and stay on the device.
    """
    function = functools.partial(
        detect, module=module, beta=beta, use_running_average=use_running_average
    )
    return jax.jit(function, compiler_options=dict(options))
