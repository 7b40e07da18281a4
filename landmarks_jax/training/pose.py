"""Human pose with labels, the detector's pretraining: what a step draws, its loss, its metrics.

The detector's score maps are trained to be Gaussian maps of the joints. The points of a photo are
those of `data.mpii`: the joints, NaN where they are not annotated, then two corners of the head's
box, which give the unit of PCKh.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import ml_collections
from jax.typing import ArrayLike

from landmarks_jax import geometry, keypoints, views
from landmarks_jax.data.sources.mpii import FOUND_WITHIN, HEAD_SHARE, NUM_JOINTS, NUM_POINTS
from landmarks_jax.models import adaptation
from landmarks_jax.objective import Networks
from landmarks_jax.system.errors import ConfigError
from landmarks_jax.training import accumulation
from landmarks_jax.training.state import TrainState

METRICS = ("loss", "pckh", "norm_detector", "learning_rate")


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


class PosePreview(NamedTuple):
    """A few photos with their joints, for a picture.

    Attributes:
      views: `[N, S, S, 3]`.
      found: `[N, 16, 2]`, normalised.
      joints: `[N, 16, 2]`, NaN where not annotated.
    """

    views: jax.Array
    found: jax.Array
    joints: jax.Array


def is_trained(config: ml_collections.ConfigDict) -> bool:
    """Whether the run trains joints, with the points that come with the photos."""
    return bool(config.objective.task == "pose")


def check_points(config: ml_collections.ConfigDict, num_points: int, summary: str) -> None:
    """Refuses photos without MPII's points where joints are trained."""
    if is_trained(config) and num_points != NUM_POINTS:
        raise ConfigError(
            f"config.objective.task = 'pose' needs the {NUM_POINTS} points of MPII's people; "
            f"{num_points} are there ({summary})"
        )


def draw(
    key: jax.Array,
    step: jax.Array,
    canvases: jax.Array,
    points: ArrayLike,
    config: ml_collections.ConfigDict,
    *,
    part: ArrayLike | None = None,
) -> Drawn:
    """Draws a view of each photo; (seed, step, row of the global batch) alone decide.

    Args:
      key: of the run.
      step: the absolute step.
      canvases: `[B, C, C, 3]` uint8.
      points: `[B, 18, 2]`, normalised to the canvas.
      config: the whole configuration.
      part: which part of the batch this is, as `parts.split` cuts it; None is the whole batch.
    """
    step_key = jax.random.fold_in(key, step)
    rows = accumulation.rows(len(canvases), part, config.train.accumulate)
    keys = jax.vmap(jax.random.fold_in, (None, 0))(step_key, rows)
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
      joints: `[B, J, 2]`, normalised. The maps of those not annotated or outside count nothing.
      sigma: of the Gaussian maps, in cells.

    Returns:
      The mean over the cells of all maps that count; 0 where none does.
    """
    seen = inside(joints)
    places = jnp.where(seen[..., None], joints, 0.0)
    targets = keypoints.gaussian_maps(places, (scores.shape[2], scores.shape[1]), sigma)
    squares = (scores.astype(targets.dtype) - targets) ** 2
    maps = jnp.where(seen, squares.mean((1, 2)), 0.0)
    return maps.sum() / jnp.maximum(seen.sum(), 1)


def pckh(found: jax.Array, joints: jax.Array, head_sizes: jax.Array) -> jax.Array:
    """PCKh@0.5 of a batch: the share of the joints in view that were found, %.

    Args:
      found: `[B, J, 2]`.
      joints: `[B, J, 2]`, NaN where not annotated.
      head_sizes: `[B]`, in the same unit.
    """
    seen = inside(joints)
    near = jnp.linalg.norm(found - joints, axis=-1) <= FOUND_WITHIN * head_sizes[:, None]
    return 100.0 * (near & seen).sum() / jnp.maximum(seen.sum(), 1)


def loss_and_metrics(
    params: Any,
    state: TrainState,
    drawn: Drawn,
    frozen: Any,
    *,
    config: ml_collections.ConfigDict,
    networks: Networks,
) -> tuple[jax.Array, tuple[dict[str, jax.Array], Any, dict[str, jax.Array], jax.Array]]:
    """The loss of a step.

    Returns:
      The loss; then metrics, new batch statistics, the state's means of taps, and the joints found.
    """
    variables = {
        "params": adaptation.fold(params["detector"], frozen.core),
        "batch_stats": state.batch_stats["detector"],
    }
    scores, new = networks.detector.apply(
        variables, drawn.images, use_running_average=False, mutable=["batch_stats"]
    )
    loss = heatmap_loss(scores, drawn.joints, config.model.sigma)
    found = keypoints.peaks(scores)
    metrics = {"loss": loss, "pckh": pckh(found, drawn.joints, drawn.head_sizes)}
    return loss, (metrics, {"detector": new["batch_stats"]}, state.tap_means, found)


def preview(
    state: TrainState,
    canvases: jax.Array,
    frozen: Any,
    points: jax.Array,
    *,
    config: ml_collections.ConfigDict,
    networks: Networks,
    num_rows: int,
) -> PosePreview:
    """The first rows of a batch as the next step would see them, with the joints it would find.

    Of the first part, where a step has several.
    """
    part = None
    if config.train.accumulate > 1:
        part, (canvases, points) = (
            0,
            accumulation.first((canvases, points), config.train.accumulate),
        )
    drawn = draw(frozen.key, state.step, canvases, points, config, part=part)
    _, (*_, found) = loss_and_metrics(
        state.params, state, drawn, frozen, config=config, networks=networks
    )
    shown = PosePreview(drawn.images, found, drawn.joints)
    return PosePreview(*(part[:num_rows] for part in shown))
