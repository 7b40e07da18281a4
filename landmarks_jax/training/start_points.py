"""Where refinement starts: at a grid, at another detector's points, or at those of the run."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from landmarks_jax import geometry, views
from landmarks_jax.data import loader
from landmarks_jax.inference import api
from landmarks_jax.inference.detector import detect
from landmarks_jax.models import detectors
from landmarks_jax.system import compiler
from landmarks_jax.system.errors import wrong_field
from landmarks_jax.tasks import task_of
from landmarks_jax.tasks.self_training import NOT_MIRRORED, mirrored_order
from landmarks_jax.training.feature_maps import padded
from landmarks_jax.training.refiner import Start

# How the views move over which a detector's points are averaged: fields of `config.views`.
_AUGMENTATION = {
    "rotation_std": (5.0, 5.0),
    "rotation_limit": 15.0,
    "scale_range": (0.9, 1.1),
    "scale_std": 0.0,
    "shift_std": 0.02,
}


def first(config: ConfigDict) -> Start:
    """The points of `config.targets.grid`, then those of `config.targets.detector`.

    Raises:
      ConfigError: they do not fit `config.model.num_landmarks`, or the configuration's merging
        or mirroring.
      WeightsError: the detector cannot be read.
    """
    targets = config.targets
    spaced = grid(targets.grid, targets.extent)
    detector = api.load_detector(targets.detector) if targets.detector else None
    count = len(spaced) + (detector.num_landmarks if detector else 0)
    if targets.mirror and math.isqrt(count) ** 2 != count:
        raise wrong_field(config, "targets.mirror", NOT_MIRRORED)
    most = f"at most the {count} points of config.targets.grid and config.targets.detector"
    if targets.merge and max(targets.merge) > count:
        raise wrong_field(config, "targets.merge", most)
    if targets.merge and count < 2:
        raise wrong_field(config, "targets.merge", "() with a single point")
    if targets.keep > count:
        raise wrong_field(config, "targets.keep", most)
    training = task_of(config).MAKES_TARGETS
    if training and not targets.merge and count != config.model.num_landmarks:
        rule = f"{count}, the points of config.targets.grid and config.targets.detector"
        raise wrong_field(config, "model.num_landmarks", rule)

    def find(_: np.ndarray, images: np.ndarray) -> np.ndarray:
        points = np.broadcast_to(spaced, (len(images), *spaced.shape))
        if detector is None:
            return points
        return np.concatenate([points, detected(detector, images)], 1)

    return Start(find, mirrored_order(count) if targets.mirror else None)


def grid(side: int, extent: float) -> np.ndarray:
    """Points `[side * side, 2]` float32, row by row, evenly from -`extent` to `extent`."""
    steps = np.linspace(-1, 1, side) if side > 1 else np.zeros(side)
    places = (extent * steps).astype(np.float32)
    return np.stack(np.meshgrid(places, places), -1).reshape(-1, 2)


def detected(detector: api.LandmarkDetector, images: np.ndarray) -> np.ndarray:
    """A detector's points `[n, K, 2]`, normalised, in whole views `[n, S, S, 3]` uint8."""
    side = images.shape[1]
    whole = np.tile(np.array([0, 0, side, side], np.float32), (len(images), 1))
    return geometry.to_normalized(detector(images, boxes=whole).landmarks, (side, side))


def own(config: ConfigDict, photos: loader.Loader, variables: Any) -> Start:
    """The points of the detector in training, averaged over moved views of its canvases.

    With `config.targets.mirror` there are 2 K of them: those that it finds in the photo, then those
    that it finds in the mirror image, at their places in the photo.

    Args:
      config: the configuration.
      photos: the training photos.
      variables: the detector's `{"params", "batch_stats"}`.
    """
    average = _averager(config)
    ratio = np.array(config.data.canvas_size / config.views.size, np.float32)

    def find(places: np.ndarray, _: np.ndarray) -> np.ndarray:
        points = average(variables, photos.canvases(padded(places)))
        return np.asarray(points)[: len(places)] * ratio

    num = config.model.num_landmarks
    return Start(find, np.roll(np.arange(2 * num), num) if config.targets.mirror else None)


def _averager(config: ConfigDict) -> Any:
    """`(variables, canvases [B, C, C, 3] uint8) -> [B, K or 2 K, 2]`, normalised to the canvas.

    The views of all photos move alike; with `config.targets.mirror` once plain and once mirrored.
    """
    module = detectors.build_detector(config)
    count, mirror = config.targets.num_views, config.targets.mirror
    keys = jax.random.split(jax.random.key(config.seed), count)
    share = config.views.size / config.data.canvas_size
    maps = views.draw_maps(keys, ConfigDict(_AUGMENTATION), view=0, view_share=share)
    if mirror:
        maps = jnp.concatenate(
            [views.mirror(maps, jnp.full(count, flip)) for flip in (False, True)]
        )

    def average(variables: Any, canvases: jax.Array) -> jax.Array:
        def in_view(view: jax.Array) -> jax.Array:
            every = jnp.broadcast_to(view, (len(canvases), 2, 3))
            images = views.warp(canvases, every, config.views.size) / 255.0
            found = detect(variables, images, module=module, beta=config.model.beta).landmarks
            return geometry.apply(every, found)

        found = jax.lax.map(in_view, maps)
        return jnp.concatenate([part.mean(0) for part in jnp.split(found, len(maps) // count)], 1)

    return jax.jit(average, compiler_options=compiler.compiler_options())
