"""Supervised human pose, to pretrain the detector.

The detector's score maps are trained to be Gaussian maps of the joints. The points of a photo are
those of `data.sources.mpii`: the joints, NaN where they are not annotated, then two corners of the
head's box, which define the unit of PCKh.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from ml_collections import ConfigDict

from landmarks_jax import geometry, keypoints, views
from landmarks_jax.data.sources import mpii
from landmarks_jax.data.sources.mpii import FOUND_WITHIN, HEAD_SHARE, NUM_JOINTS
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

NETWORKS: tuple[str, ...] = ("detector",)
MAKES_TARGETS = False
ON_JOINTS = True
NUM_POINTS: int | None = mpii.NUM_POINTS
UNUSED: tuple[str, ...] = (
    "views.bend_std",
    "views.color_std",
    "views.cutout",
    *OF_RECONSTRUCTION,
)

build_networks = detector_alone


class Drawn(NamedTuple):
    """One random view of each photo.

    Attributes:
      images: `[B, S, S, 3]` in [0, 1].
      joints: `[B, 16, 2]`, normalised to the view; NaN where not annotated.
      head_sizes: `[B]` the unit of PCKh, in normalised units of the view.
    """

    images: jax.Array
    joints: jax.Array
    head_sizes: jax.Array


def check(config: ConfigDict) -> None:
    """Raises ConfigError for fields that do not fit the task."""
    if config.data.source not in ("mpii", "prepared"):
        rule = "mpii, or prepared from it, to train pose"
        raise wrong_field(config, "data.source", rule)
    if config.model.num_landmarks != NUM_JOINTS:
        raise wrong_field(config, "model.num_landmarks", f"{NUM_JOINTS}, MPII's joints")
    if config.data.crop != "center":
        rule = "center to train pose: people are cropped already"
        raise wrong_field(config, "data.crop", rule)


def describe(config: ConfigDict) -> str:
    """What a run was trained on, in a sentence for tables and the log."""
    del config
    return "trained on annotated joints, in squares around annotated people"


def draw(
    key: jax.Array,
    step: ArrayLike,
    canvases: jax.Array,
    points: ArrayLike | None = None,
    *,
    config: ConfigDict,
    microbatch: ArrayLike | None = None,
) -> Drawn:
    """Draws a view of each photo from `[B, 18, 2]` points; see `Task.draw`."""
    keys = row_keys(key, step, len(canvases), config=config, microbatch=microbatch)
    share = config.views.size / canvases.shape[1]
    maps = views.draw_maps(keys, config.views, view=0, view_share=share)
    images = views.warp(canvases, maps, config.views.size) / 255.0
    placed = geometry.apply(geometry.invert(maps), jnp.asarray(points, maps.dtype))
    joints, corners = placed[:, :NUM_JOINTS], placed[:, NUM_JOINTS:]
    head_sizes = HEAD_SHARE * jnp.linalg.norm(corners[:, 0] - corners[:, 1], axis=-1)
    return Drawn(images, joints, head_sizes)


def inside(joints: jax.Array) -> jax.Array:
    """Which joints `[B, J, 2]` are annotated and in the view: `[B, J]`."""
    return jnp.all(jnp.abs(joints) <= 1.0, -1)  # a comparison with NaN is false


def heatmap_loss(scores: jax.Array, joints: jax.Array, sigma: float) -> jax.Array:
    """The mean squared error of the score maps against Gaussian maps of the joints.

    Args:
      scores: `[B, h, w, J]`.
      joints: `[B, J, 2]`, normalised. Joints not annotated or outside the view do not count.
      sigma: of the Gaussian maps, in cells.

    Returns:
      The mean over the cells of all maps that count; 0 without any.
    """
    seen = inside(joints)
    places = jnp.where(seen[..., None], joints, 0.0)
    targets = keypoints.gaussian_maps(places, (scores.shape[2], scores.shape[1]), sigma)
    squares = (scores.astype(targets.dtype) - targets) ** 2
    maps = jnp.where(seen, squares.mean((1, 2)), 0.0)
    return maps.sum() / jnp.maximum(seen.sum(), 1)


def pckh(predicted: jax.Array, joints: jax.Array, head_sizes: jax.Array) -> jax.Array:
    """PCKh@0.5 of a batch: the share of the joints in view that are found, in percent.

    Args:
      predicted: `[B, J, 2]`.
      joints: `[B, J, 2]`, NaN where not annotated.
      head_sizes: `[B]`, in the same unit.
    """
    seen = inside(joints)
    near = jnp.linalg.norm(predicted - joints, axis=-1) <= FOUND_WITHIN * head_sizes[:, None]
    return 100.0 * (near & seen).sum() / jnp.maximum(seen.sum(), 1)


def loss(
    params: Any,
    state: Any,
    drawn: Drawn,
    frozen: Frozen,
    *,
    config: ConfigDict,
    networks: Networks,
) -> tuple[jax.Array, Outcome]:
    """The heat map loss; see `Task.loss`. `made` holds the predicted joints, `[B, 16, 2]`."""
    scores, batch_stats = score_maps(params, state, drawn.images, frozen, networks=networks)
    value = heatmap_loss(scores, drawn.joints, config.model.sigma)
    predicted = keypoints.peaks(scores)
    metrics = {"loss": value, "pckh": pckh(predicted, drawn.joints, drawn.head_sizes)}
    return value, Outcome(metrics, batch_stats, state.tap_means, predicted)


def panels(drawn: Drawn, made: jax.Array) -> tuple[Panel, ...]:
    """The views with the predicted joints, and with the labelled ones."""
    return Panel("predicted", drawn.images, made), Panel("labelled", drawn.images, drawn.joints)
