"""Self-training, ours and not in the paper: the detector learns refined points as its targets.

The points of a photo are targets in its canvas, made without labels by `training.targets`. One
strongly moved view of each photo is drawn, and its targets move with it.
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from ml_collections import ConfigDict

from landmarks_jax import geometry, keypoints, views
from landmarks_jax.models import hog
from landmarks_jax.models.vgg import TAPS
from landmarks_jax.objective import Networks
from landmarks_jax.system.errors import wrong_field
from landmarks_jax.tasks.task import (
    OF_RECONSTRUCTION,
    Frozen,
    Outcome,
    Panel,
    detector_alone,
    row_keys,
    score_maps,
)

# Why points have no known order in mirrored photos.
NOT_MIRRORED = "False unless all points started from one square grid"
NETWORKS: tuple[str, ...] = ("detector",)
MAKES_TARGETS = True
ON_JOINTS = False
NUM_POINTS: int | None = None
UNUSED: tuple[str, ...] = ("views.bend_std", *OF_RECONSTRUCTION)

build_networks = detector_alone


class Drawn(NamedTuple):
    """One random view of each photo.

    Attributes:
      images: `[B, S, S, 3]` in [0, 1].
      targets: `[B, K, 2]`, normalised to the view.
    """

    images: jax.Array
    targets: jax.Array


def check(config: ConfigDict) -> None:
    """Raises ConfigError for fields with which no targets can be made for training."""
    targets = config.targets
    if not targets.grid and not targets.detector:
        raise wrong_field(config, "targets.grid", "above 0 where config.targets.detector is ''")
    merged = targets.merge
    if merged:
        if not all(type(count) is int and count > 0 for count in merged):
            raise wrong_field(config, "targets.merge", "numbers of groups, or ()")
        if sum(merged) != config.model.num_landmarks:
            rule = f"{sum(merged)}, the sum of config.targets.merge"
            raise wrong_field(config, "model.num_landmarks", rule)
    elif not targets.detector and config.model.num_landmarks != targets.grid**2:
        rule = f"{targets.grid**2}, the points of config.targets.grid"
        raise wrong_field(config, "model.num_landmarks", rule)
    steps = targets.steps
    whole = all(type(step) is int for step in steps)
    if not steps or not whole or steps[0] != 0 or list(steps) != sorted(set(steps)):
        raise wrong_field(config, "targets.steps", "ascending steps, the first of them 0")
    check_targets(config)


def check_targets(config: ConfigDict) -> None:
    """Raises ConfigError for fields with which no points can be refined, by any task."""
    targets, views = config.targets, config.views
    if config.data.crop == "box":
        raise wrong_field(config, "data.crop", "center or tight to refine without annotation")
    if targets.mirror and targets.detector and targets.grid:
        raise wrong_field(config, "targets.mirror", NOT_MIRRORED)
    if targets.keep and (targets.mirror or not targets.merge):
        rule = "0 with config.targets.mirror, or without config.targets.merge"
        raise wrong_field(config, "targets.keep", rule)
    if targets.keep and targets.keep < max(targets.merge):
        rule = f"0, or at least {max(targets.merge)}, the largest of config.targets.merge"
        raise wrong_field(config, "targets.keep", rule)
    without = targets.network == hog.NETWORK
    if without and targets.weights:
        raise wrong_field(config, "targets.weights", "'' for histograms of gradients (hog)")
    if not without and not targets.weights:
        rule = "VGG weights (.npz), made by landmarks-jax convert vgg"
        raise wrong_field(config, "targets.weights", rule)
    known = hog.TAPS if without else TAPS[targets.network]
    if not targets.taps or not set(targets.taps) <= set(known):
        raise wrong_field(config, "targets.taps", f"some of {', '.join(known)}")
    spreads, temperatures = targets.spreads, targets.temperatures
    if not spreads or not all(type(s) in (int, float) and 0 < s < math.inf for s in spreads):
        raise wrong_field(config, "targets.spreads", "one or more positive numbers")
    valid = all(type(t) in (int, float) and 0 <= t < math.inf for t in temperatures)
    if not valid or len(spreads) != len(temperatures):
        rule = "as many numbers from 0 as config.targets.spreads has"
        raise wrong_field(config, "targets.temperatures", rule)
    # The features' canvas shows the same part of a photo as training's, to the last pixel.
    border = config.data.canvas_size - views.size
    factor = 2 * views.size // math.gcd(2 * views.size, border)
    # A tap's cells cover the view: side in pixels of a cell of relu4_4 is 2^3.
    cells = [hog.CELLS[tap] if without else 2 ** (int(tap[4]) - 1) for tap in targets.taps]
    factor = math.lcm(factor, *cells)
    if targets.view_size % factor:
        rule = f"a multiple of {factor}, for whole cells and config.data.canvas_size's borders"
        raise wrong_field(config, "targets.view_size", rule)


def describe(config: ConfigDict) -> str:
    """What a run was trained on, in a sentence for tables and the log."""
    targets = config.targets
    names = {hog.NETWORK: "histograms of gradients"}
    features = names.get(targets.network, targets.network)
    start = f"from the points of {targets.detector} " if targets.detector else ""
    merged = " and ".join(map(str, targets.merge))
    return (
        f"self-trained (ours, not in the paper) with the {config.data.crop} crop, without "
        f"annotation, on points refined {start}by {features} at {', '.join(targets.taps)}"
        + (f" and merged to {merged}" if merged else "")
    )


def mirrored_order(num: int) -> np.ndarray:
    """`[K]` the point of a square grid, row by row, that is point k of the mirrored one."""
    side = math.isqrt(num)
    return np.arange(num).reshape(side, side)[:, ::-1].reshape(-1)


def draw(
    key: jax.Array,
    step: ArrayLike,
    canvases: jax.Array,
    points: ArrayLike | None = None,
    *,
    config: ConfigDict,
    microbatch: ArrayLike | None = None,
) -> Drawn:
    """Draws a view of each photo with its targets; see `Task.draw`.

    `points` are the targets `[B, K, 2]`; with `config.targets.mirror` `[B, 2 K, 2]`, those of the
    photo and then those of its mirror image, at their places in the photo.
    """
    keys = row_keys(key, step, len(canvases), config=config, microbatch=microbatch)
    share = config.views.size / canvases.shape[1]
    maps = views.draw_maps(keys, config.views, view=0, view_share=share)
    points = jnp.asarray(points, maps.dtype)
    if config.targets.mirror:
        mirrored = views.draw_mirrored(keys)
        maps = views.mirror(maps, mirrored)
        plain, swapped = jnp.split(points, 2, 1)
        points = jnp.where(mirrored[:, None, None], swapped, plain)
    images = views.warp(canvases, maps, config.views.size) / 255.0
    images = views.recolor(images, keys, config.views.color_std)
    images = views.cut_out(images, keys, config.views.cutout)
    return Drawn(images, geometry.apply(geometry.invert(maps), points))


def target_loss(landmarks: jax.Array, targets: jax.Array) -> jax.Array:
    """The mean distance of landmarks `[B, K, 2]` to their targets, in normalised units.

    Targets outside the view do not count; 0 without any inside.
    """
    inside = jnp.all(jnp.abs(targets) <= 1.0, -1)
    gaps = jnp.where(inside[..., None], landmarks - targets, 0.0)
    # Where the distance is 0 its gradient would not be finite.
    distances = jnp.sqrt((gaps**2).sum(-1) + 1e-12)
    return jnp.where(inside, distances, 0.0).sum() / jnp.maximum(inside.sum(), 1)


def loss(
    params: Any,
    state: Any,
    drawn: Drawn,
    frozen: Frozen,
    *,
    config: ConfigDict,
    networks: Networks,
) -> tuple[jax.Array, Outcome]:
    """The distance to the targets; see `Task.loss`. `made` holds the landmarks `[B, K, 2]`."""
    scores, batch_stats = score_maps(params, state, drawn.images, frozen, networks=networks)
    landmarks = keypoints.soft_argmax(scores, config.model.beta)
    value = target_loss(landmarks, drawn.targets)
    return value, Outcome({"loss": value}, batch_stats, state.tap_means, landmarks)


def panels(drawn: Drawn, made: jax.Array) -> tuple[Panel, ...]:
    """The views with their landmarks, and with their targets."""
    return Panel("landmarks", drawn.images, made), Panel("targets", drawn.images, drawn.targets)
