"""The reusable jitted detector: uint8 views in, landmarks out, nothing of the training stack."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from landmarks_jax import keypoints
from landmarks_jax.models.hourglass import Detector
from landmarks_jax.models.layers import at_least_float32

# Of views at once, under the running statistics.
LARGEST_BATCH = 256
# The released code evaluates with the batch's statistics, in batches of 30.
STATISTICS_BATCH = 30


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
) -> jax.Array:
    """Finds the landmarks of views: a pure function, to be jitted, mapped and differentiated.

    Args:
      variables: `{"params", "batch_stats"}` of the detector.
      views: `[B, S, S, 3]`, uint8 in 0 to 255 or floating in [0, 1].
      module: the detector.
      beta: inverse temperature of the soft-argmax.
      use_running_average: normalise by the running statistics, not by this batch's.

    Returns:
      `[B, K, 2]` landmarks, normalised to the view.
    """
    if views.dtype == jnp.uint8:
        views = views.astype(at_least_float32(module.dtype)) / 255.0
    scores, _ = module.apply(
        variables, views, use_running_average=use_running_average, mutable=["batch_stats"]
    )
    return keypoints.soft_argmax(scores, beta)


class ViewDetector:
    """A detector with its weights: NumPy views in any number in, NumPy landmarks out.

    Attributes:
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
        self._variables = jax.device_put(dict(variables))
        self._running = use_running_average
        module, beta = build_detector(config), config.model.beta

        def run(variables: Mapping[str, Any], views: jax.Array) -> jax.Array:
            return detect(
                variables,
                views,
                module=module,
                beta=beta,
                use_running_average=use_running_average,
            )

        self._detect = jax.jit(run)

    def __call__(self, views: np.ndarray) -> np.ndarray:
        """Maps views `[N, S, S, 3]` uint8 to landmarks `[N, K, 2]`, normalised to the view."""
        wanted = (self.view_size, self.view_size, 3)
        if views.ndim != 4 or views.shape[1:] != wanted:
            raise ValueError(f"views of shape {views.shape}, the detector takes [N, {wanted}]")
        size = LARGEST_BATCH if self._running else STATISTICS_BATCH
        found = []
        for start in range(0, len(views), size):
            batch = views[start : start + size]
            count = len(batch)
            if self._running:
                # Photos do not see each other here, so that batches can be filled up to powers of
                # two: at most nine sizes are ever compiled.
                missing = (1 << (count - 1).bit_length()) - count
                batch = np.concatenate([batch, np.repeat(batch[-1:], missing, 0)])
            found.append(np.asarray(self._detect(self._variables, batch))[:count])
        if not found:
            return np.zeros((0, self.num_landmarks, 2), np.float32)
        return np.concatenate(found)
