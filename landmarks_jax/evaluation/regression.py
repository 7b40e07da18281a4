"""Linear maps between discovered and labelled points, in closed form and in float64.

Points are in the view's normalised frame, flattened to rows `x1, y1, x2, y2, ...`. Forward maps go
from the K discovered points to the P labelled ones, backward maps the other way.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from landmarks_jax.evaluation import metrics
from landmarks_jax.inference.linear_map import LinearMap, flatten

# Inputs [N, K, 2] and targets [N, P, 2] to a map.
Fitter = Callable[[np.ndarray, np.ndarray], LinearMap]


@dataclass(frozen=True)
class Split:
    """Points `[N, Q, 2]` of the photos to fit on and of the photos to score."""

    fit: np.ndarray
    score: np.ndarray


def fit(X: np.ndarray, Y: np.ndarray, lam_scale: float = 1e-4) -> LinearMap:
    """Fits the centred ridge regression of the paper's evaluation.

    `R = Y^T X (X^T X + lambda I)^-1` with `lambda = lam_scale (max entry of X^T X + 1e-12)`, both
    sides minus their training means. With one photo these are zero and the map is a constant.

    Args:
      X: `[N, K, 2]` inputs, normalised, N >= 1.
      Y: `[N, P, 2]` targets, normalised.
      lam_scale: the ridge penalty over the largest entry of `X^T X`.

    Raises:
      ValueError: the shapes do not fit.
    """
    x, y = _checked(X, Y)
    x_mean, y_mean = x.mean(0), y.mean(0)
    x, y = x - x_mean, y - y_mean
    gram = x.T @ x
    lam = lam_scale * (gram.max() + 1e-12)
    # The matrix solved is symmetric, so solving for R^T needs no second transpose.
    matrix = np.linalg.solve(gram + lam * np.eye(len(gram)), x.T @ y).T
    return LinearMap(matrix, x_mean, y_mean)


def fit_without_intercept(X: np.ndarray, Y: np.ndarray) -> LinearMap:
    """Fits Jakab et al.'s regression: least squares without intercept, from the view's corner.

    Without an intercept the result depends on the origin, here the view's upper left corner, (-1,
    -1); it does not depend on the unit, so their pixels of a 128 view need no conversion.

    Args:
      X: `[N, K, 2]` inputs, normalised.
      Y: `[N, P, 2]` targets, normalised.

    Raises:
      ValueError: the shapes do not fit.
    """
    x, y = _checked(X, Y)
    matrix = np.linalg.lstsq(x + 1.0, y + 1.0, rcond=None)[0].T
    return LinearMap(matrix, np.full(x.shape[1], -1.0), np.full(y.shape[1], -1.0))


def fit_mean(X: np.ndarray, Y: np.ndarray) -> LinearMap:
    """The control: the mean of `Y` `[N, P, 2]` for every input."""
    x, y = _checked(X, Y)
    return LinearMap(np.zeros((y.shape[1], x.shape[1])), np.zeros(x.shape[1]), y.mean(0))


def subsets(num_photos: int, counts: Sequence[int], draws: int, seed: int) -> list[np.ndarray]:
    """Draws the photos that regressors are fitted on, without replacement.

    Args:
      num_photos: number of labelled photos.
      counts: numbers of photos to fit on; those not below `num_photos` are ignored.
      draws: number of draws for each.
      seed: seed of the draws. A draw of N photos depends on the seed and on N alone.

    Returns:
      `[draws, N]` rows for each N, ascending, and last `[1, num_photos]`: all of them, in order.
    """
    drawn = []
    for count in sorted({count for count in counts if count < num_photos}):
        rng = np.random.default_rng((seed, count))
        drawn.append(np.stack([rng.permutation(num_photos)[:count] for _ in range(draws)]))
    return [*drawn, np.arange(num_photos)[None]]


def scores_by_count(
    fitter: Fitter,
    source: Split,
    target: Split,
    eye_distance: np.ndarray,
    drawn: Sequence[np.ndarray],
) -> list[dict[str, Any]]:
    """Fits on every draw of photos and summarises the errors on the photos scored.

    Args:
      fitter: one of the fits of this module.
      source: the points to predict from.
      target: the points to predict.
      eye_distance: `[faces]` of the photos scored.
      drawn: the result of `subsets`.

    Returns:
      For each number of labelled photos its `n` and `draws`, and `metrics.summary` of the errors.
    """
    scores = []
    for draws in drawn:
        fitted = [fitter(source.fit[rows], target.fit[rows]) for rows in draws]
        errors = [
            metrics.point_errors(predict(source.score), target.score, eye_distance)
            for predict in fitted
        ]
        scores.append({"n": draws.shape[1], "draws": len(draws), **metrics.summary(errors)})
    return scores


def _checked(X: np.ndarray, Y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    x, y = flatten(X), flatten(Y)
    if len(x) != len(y) or not len(x):
        raise ValueError(f"a regression needs as many inputs as targets: {len(x)} and {len(y)}")
    return x, y
