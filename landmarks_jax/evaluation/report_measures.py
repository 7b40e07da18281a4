"""Whether discovered points are reliable, measured on photos without a label.

Each photo is seen undistorted and under `WARPS` known warps: rotated, scaled and shifted, drawn
with a fixed seed. A point `p` of the undistorted view belongs at `W p` in the warped one, where the
detector finds `q`. Of every point, over all photos and warps that keep `W p` in the view:

- its *error*, the mean of `|q - W p|`, and that over the mean of `|W p - p|`, how far it should
  have moved: 0 for a point on the object, 1 for one that stays where it is;
- how much of the way it *follows*: the slope of the regression of `q - p` on `W p - p`: 1 moves
  with the object, 0 stays at a fixed place of the view.

And of every point in the undistorted views:

- its *confidence*, the mean of the detector's own;
- its *spread*, the root mean square distance from its mean place;
- the *nearest* other point, and the mean distance to it;
- how often it is at the *border*: within `BORDER` of it;
- its *agreement* with the other points: the share of its variance over photos that a ridge
  regression from all others explains, in photos that the regression has not seen.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from landmarks_jax import geometry
from landmarks_jax.data.framing import Framing
from landmarks_jax.evaluation import metrics

# uint8 views [N, S, S, 3] -> landmarks [N, K, 2], normalised, and their confidence [N, K].
Find = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]

WARPS = 4
BORDER = 0.05  # of the view's side; the outermost cell of a map of 12 ends at its centre, 0.042
_ANGLE = 20.0  # degrees, at most
_SCALE = 1.15  # at most, or its inverse
_SHIFT = 0.08  # of the view's side along each axis, at most
_FOLDS = 5
_RIDGE = 1e-2  # the penalty, over the mean variance of a coordinate


@dataclass(frozen=True)
class Measures:
    """What is measured of K points; lengths are in per cent of the view's side, shares from 0 to 1.

    NaN stands for what cannot be measured: of a single point, or of one that warps move out of
    every view.

    Attributes:
      error: `[K]` mean distance from where a warp moves the point.
      missed: `[K]` the same over the mean distance that warps move it.
      follows: `[K]` the slope: 1 moves with the object, 0 stays at a place of the view.
      confidence: `[K]`.
      spread: `[K]` over photos.
      nearest: `[K]` the nearest other point; the point itself where there is none.
      distance: `[K]` the mean distance to it.
      between: `[K, K]` the mean distance between each two points.
      border: `[K]` share of photos.
      agreement: `[K]` share of its variance that the other points explain.
    """

    error: np.ndarray
    missed: np.ndarray
    follows: np.ndarray
    confidence: np.ndarray
    spread: np.ndarray
    nearest: np.ndarray
    distance: np.ndarray
    between: np.ndarray
    border: np.ndarray
    agreement: np.ndarray


def measure(find: Find, canvases: np.ndarray, framing: Framing) -> tuple[Measures, np.ndarray]:
    """Measures the points of a detector.

    Args:
      find: the detector; called with all undistorted views, then with all views of each warp.
      canvases: `[N, C, C, 3]` uint8.
      framing: how they were cut.

    Returns:
      What is measured, and the landmarks `[N, K, 2]` in the undistorted views, normalised.
    """
    found, confidence = find(framing.central_view(canvases))
    points = np.asarray(found, np.float64)
    offset = points - points.mean(0)
    between = _percent(metrics.mean_distances(points, points))
    nearest, distance = _nearest(between)
    error, missed, follows = _under_warps(find, canvases, framing, points)
    measured = Measures(
        error=error,
        missed=missed,
        follows=follows,
        confidence=np.asarray(confidence, np.float64).mean(0),
        spread=_percent(np.sqrt((offset**2).sum(-1).mean(0))),
        nearest=nearest,
        distance=distance,
        between=between,
        border=(np.abs(points).max(-1) > 1 - 2 * BORDER).mean(0),
        agreement=agreement(points),
    )
    return measured, points


def draw_warps(count: int) -> np.ndarray:
    """Where the warps move points: `[WARPS, count, 2, 3]`, always the same for a number of photos.

    A similarity about the view's centre: angle, logarithm of the scale and shift are uniform.
    """
    angle, scale, *shift = np.random.default_rng(0).uniform(-1, 1, (4, WARPS, count))
    return geometry.similarity(
        np.deg2rad(_ANGLE * angle), _SCALE**scale, 2 * _SHIFT * np.stack(shift, -1)
    )


def _under_warps(
    find: Find, canvases: np.ndarray, framing: Framing, points: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """`error`, `missed` and `follows` of points `[N, K, 2]`."""
    share = framing.view_size / framing.canvas_size
    into_canvas = geometry.similarity(np.zeros(()), np.full((), share), np.zeros(2))
    error, moved, products, squares, inside = np.zeros((5, points.shape[1]))
    for warps in draw_warps(len(points)):
        maps = geometry.compose(into_canvas, geometry.invert(warps)).astype(np.float32)
        found, _ = find(metrics.warp_views(canvases, maps, framing.view_size))
        expected = geometry.apply(warps, points)
        counts = np.all(np.abs(expected) <= 1, -1)
        way, went = expected - points, np.asarray(found, np.float64) - points
        error += np.sum(np.linalg.norm(went - way, axis=-1) * counts, 0)
        moved += np.sum(np.linalg.norm(way, axis=-1) * counts, 0)
        products += np.sum((way * went).sum(-1) * counts, 0)
        squares += np.sum((way**2).sum(-1) * counts, 0)
        inside += counts.sum(0)
    inside = np.where(inside, inside, np.nan)  # every quotient is then NaN
    return _percent(error / inside), error / (moved + 0 * inside), products / (squares + 0 * inside)


def _nearest(between: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The nearest other point of each, and the distance to it, from all distances `[K, K]`."""
    if len(between) == 1:
        return np.zeros(1, int), np.full(1, np.nan)
    others = np.where(np.eye(len(between), dtype=bool), np.inf, between)
    return others.argmin(1), others.min(1)


def agreement(points: np.ndarray) -> np.ndarray:
    """The share of each point's variance that a ridge regression from all others explains.

    Of x and y together, in the `_FOLDS` parts of the photos in turn, fitted on the others. The
    residual of a point's coordinates `b` follows from the inverse `P` of all coordinates'
    covariance with the penalty on its diagonal: it is the inverse of `P_bb`, times `(P x)_b`.

    Args:
      points: `[N, K, 2]`.

    Returns:
      `[K]`, from 0 to 1; NaN for a point that never moves, and with fewer photos than parts or a
      single point.
    """
    count, num = points.shape[:2]
    if count < _FOLDS or num == 1:
        return np.full(num, np.nan)
    rows = points.reshape(count, -1)
    left, total = np.zeros((2, num))
    for fold in range(_FOLDS):
        unseen = np.arange(count) % _FOLDS == fold
        mean = rows[~unseen].mean(0)
        fitted, held = rows[~unseen] - mean, rows[unseen] - mean
        covariance = fitted.T @ fitted / len(fitted)
        penalty = _RIDGE * np.trace(covariance) / len(covariance) + np.finfo(np.float64).tiny
        precision = np.linalg.inv(covariance + penalty * np.eye(len(covariance)))
        own = np.einsum("kakb->kab", precision.reshape(num, 2, num, 2))
        scaled = (held @ precision).reshape(-1, num, 2)
        residual = np.einsum("kab,nkb->nka", np.linalg.inv(own), scaled)
        left += (residual**2).sum((0, 2))
        total += (held**2).sum(0).reshape(num, 2).sum(1)
    with np.errstate(invalid="ignore", divide="ignore"):
        explained: np.ndarray = np.where(total > 1e-12 * count, 1 - left / total, np.nan)
    return np.clip(explained, 0, 1)


def _percent(lengths: np.ndarray) -> np.ndarray:
    """Lengths in normalised units, of which the view has two, in per cent of its side."""
    return 50 * lengths
