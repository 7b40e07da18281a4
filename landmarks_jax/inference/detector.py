"""The reusable jitted detector: uint8 views in, landmarks out, nothing of the training stack."""

import functools
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from landmarks_jax import keypoints
from landmarks_jax.models.hourglass import Detector
from landmarks_jax.models.layers import at_least_float32
from landmarks_jax.system import compiler

# Of views at once, under the running statistics.
LARGEST_BATCH = 256
# The released code evaluates with the batch's statistics, in batches of 30.
STATISTICS_BATCH = 30


class Found(NamedTuple):
    """What a detector finds in views.

    Attributes:
      landmarks: `[B, K, 2]`, normalised to the view.
      confidence: `[B, K]` in [0, 1]: the weight of the soft-argmax within 1.5 cells of the
        landmark. It says how sharp a map is, not how right.
      heatmaps: `[B, S / 4, S / 4, K]`: the weights themselves, which sum to 1 over each map.
    """

    landmarks: jax.Array
    confidence: jax.Array
    heatmaps: jax.Array


def build_detector(config: ml_collections.ConfigDict) -> Detector:
    """Makes the detector's module of a configuration."""
    return Detector(
        config.model.num_landmarks,
        config.model.detector_channels,
        config.model.hourglass_depth,
        jnp.dtype(config.compute_dtype),
    )


def detect(
    variables: Mapping[str, Any],
    views: jax.Array,
    *,
    module: Detector,
    beta: float,
    use_running_average: bool = True,
) -> Found:
    """Finds the landmarks of views: a pure function, to be jitted, mapped and differentiated.

    Args:
      variables: `{"params", "batch_stats"}` of the detector.
      views: `[B, S, S, 3]`, uint8 in 0 to 255 or floating in [0, 1].
      module: the detector.
      beta: inverse temperature of the soft-argmax.
      use_running_average: normalise by the running statistics, not by this batch's.

    Returns:
      Landmarks, confidence and heatmaps; under `jax.jit` what is not used costs nothing.

    Raises:
      TypeError: the views are of another type.
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
    return Found(landmarks, keypoints.mass_near(heatmaps, landmarks), heatmaps)


class ViewDetector:
    """A detector with its weights: NumPy views in any number in, NumPy landmarks out.

    Attributes:
      variables: `{"params", "batch_stats"}` on the device.
      view_size: side of the views, in pixels.
      num_landmarks: K.
    """

    def __init__(
        self,
        config: ml_collections.ConfigDict,
        variables: Mapping[str, Any],
        *,
        use_running_average: bool = True,
    ) -> None:
        """Takes the weights to the device.

        Args:
          config: the configuration that the weights were trained with.
          variables: `{"params", "batch_stats"}` of the detector.
          use_running_average: False takes the statistics of batches of 30 instead, in the order
            of the views, the last batch short.
        """
        self.view_size: int = config.views.size
        self.num_landmarks: int = config.model.num_landmarks
        self.variables = jax.device_put(dict(variables))
        self._running = use_running_average
        # One program for a size, whatever is wanted of it: what is not wanted is small, and stays
        # on the device.
        self._detect = jax.jit(
            functools.partial(
                detect,
                module=build_detector(config),
                beta=config.model.beta,
                use_running_average=use_running_average,
            ),
            compiler_options=compiler.compiler_options(),
        )

    def __call__(self, views: np.ndarray) -> np.ndarray:
        """Maps views `[N, S, S, 3]` uint8 to landmarks `[N, K, 2]`, normalised to the view."""
        return self.find(views, ("landmarks",))["landmarks"]

    def find(
        self, views: np.ndarray, fields: tuple[str, ...] = Found._fields
    ) -> dict[str, np.ndarray]:
        """Finds the landmarks of any number of views.

        Args:
          views: `[N, S, S, 3]`, uint8 or floating in [0, 1].
          fields: which of `Found`'s are wanted.

        Returns:
          The fields by name, as `Found` has them.

        Raises:
          ValueError: the views have another shape.
          TypeError: they are of another type.
        """
        wanted = (self.view_size, self.view_size, 3)
        if views.ndim != 4 or views.shape[1:] != wanted:
            raise ValueError(f"views of shape {views.shape}, the detector takes [N, {wanted}]")
        size = LARGEST_BATCH if self._running else STATISTICS_BATCH
        parts = []
        for start in range(0, max(len(views), 1), size):
            batch = views[start : start + size]
            count = len(batch)
            if self._running or not count:
                # Photos do not see each other here, so that batches can be filled up to powers of
                # two: at most nine sizes are ever compiled.
                missing = (1 << max(count - 1, 0).bit_length()) - count
                batch = np.pad(batch, ((0, missing), *((0, 0),) * 3))
            found = self._detect(self.variables, batch)
            parts.append({field: np.asarray(getattr(found, field))[:count] for field in fields})
        return {field: np.concatenate([part[field] for part in parts]) for field in fields}
