"""Feature maps of views for `refiner`: of VGG, or histograms of gradients, in batches."""

from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from landmarks_jax import refinement
from landmarks_jax.models import hog
from landmarks_jax.models.vgg import Vgg
from landmarks_jax.refinement import Projection
from landmarks_jax.system import compiler
from landmarks_jax.weights import vgg_weights

# Views that are computed at a time.
BATCH = 32

# At most `BATCH` views `[n, S, S, 3]` uint8 to the taps' activations `[n, h, w, C]`.
Activate = Callable[[np.ndarray], dict[str, jax.Array]]


def padded(rows: np.ndarray) -> np.ndarray:
    """Repeats the last of up to `BATCH` rows up to `BATCH`."""
    return np.concatenate([rows, np.repeat(rows[-1:], BATCH - len(rows), 0)])


def activations(weights: vgg_weights.VggWeights) -> Activate:
    """The function that computes a network's taps, in batches of one size, compiled once."""
    module = Vgg(weights.network, weights.taps)

    def compute(params: Any, images: jax.Array) -> Any:
        normalised = (images.astype(jnp.float32) / 255.0 - weights.mean) / weights.std
        return module.apply({"params": params}, normalised)

    return _in_batches(compute, jax.device_put(weights.params))


def histograms(taps: tuple[str, ...]) -> Activate:
    """The function that computes taps of `models.hog`; see `activations`."""
    return _in_batches(lambda _, images: hog.features(images.astype(jnp.float32) / 255.0, taps), {})


def _in_batches(compute: Callable[[Any, jax.Array], Any], params: Any) -> Activate:
    jitted = jax.jit(compute, compiler_options=compiler.compiler_options())

    def activate(images: np.ndarray) -> dict[str, jax.Array]:
        taps = jitted(params, np.ascontiguousarray(padded(images)))
        return {tap: features[: len(images)] for tap, features in taps.items()}

    return activate


def projections(
    activate: Activate, batches: Iterable[np.ndarray], size: int
) -> dict[str, Projection]:
    """The first `size` principal components of each tap's cells, from batches of views."""
    sums = refinement.add_moments(
        {
            tap: refinement.moments(refinement.unit(features))
            for tap, features in activate(images).items()
        }
        for images in batches
    )
    return {tap: refinement.projection(moments, size) for tap, moments in sums.items()}


_project = jax.jit(refinement.project)


def maps(activate: Activate, images: np.ndarray, projections: dict[str, Projection]) -> np.ndarray:
    """The feature maps `[n, h, w, D]` float16 of a batch of views; see `refinement.project`."""
    return np.asarray(_project(activate(images), projections), np.float16)
