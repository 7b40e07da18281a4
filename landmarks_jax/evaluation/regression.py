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
# The penalties of `fit_leave_one_out`, as `lam_scale` of `fit`; the last leaves the mean alone.
PENALTIES = (*np.logspace(-6, 2, 17).tolist(), np.inf)
_TIE = 1e-9  # relative; penalties whose errors differ by less are equally good


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


@dataclass(frozen=True)
class LeaveOneOut:
    """A ridge regression (ours, not the paper's) whose penalty is chosen by leave-one-out.

    Attributes:
      map: fitted on all photos.
      penalty: the one of `PENALTIES` that was chosen; infinite for the mean.
      predicted: `[N, P, 2]`, each photo's points by the map fitted on all other photos with the
        same penalty; NaN where a point is not labelled.
      mean_shape: `[N, P, 2]`, the control: the mean of all other photos.
    """

    map: LinearMap
    penalty: float
    predicted: np.ndarray
    mean_shape: np.ndarray


def fit_leave_one_out(X: np.ndarray, Y: np.ndarray) -> LeaveOneOut:
    """Fits the regression of `fit` with the penalty of least squared leave-one-out error (PRESS).

    A point is fitted on the photos that have it, with one `lam_scale` for all points. Of equally
    good penalties the largest is taken. Leaving a photo out changes neither the penalty nor, as it
    uses no label, the largest entry of `X^T X` that it is relative to.

    Args:
      X: `[N, K, 2]` inputs, normalised.
      Y: `[N, P, 2]` targets, normalised; NaN for a missing point.

    Raises:
      ValueError: the shapes do not fit, or a point is in fewer than two photos.
    """
    x, y = _checked(X, Y)
    labelled = ~np.isnan(y)
    if (labelled.sum(0) < 2).any():
        raise ValueError("leave-one-out needs two photos with each point")
    # Columns with the same photos share one decomposition.
    patterns, pattern_of = np.unique(labelled, axis=1, return_inverse=True)
    parts = []
    for number, rows in enumerate(patterns.T):
        columns = np.flatnonzero(pattern_of == number)
        parts.append((np.ix_(rows, columns), _Ridge(x[rows], y[np.ix_(rows, columns)])))
    squares = np.array(
        [sum((part.residuals(p) ** 2).sum() for _, part in parts) for p in PENALTIES]
    )
    penalty = PENALTIES[np.flatnonzero(squares <= squares.min() * (1 + _TIE))[-1]]
    matrix, y_origin, x_origin = np.zeros((y.shape[1], x.shape[1])), np.zeros(y.shape[1]), x.mean(0)
    residuals = np.full((2, *y.shape), np.nan)
    for place, part in parts:
        columns = place[1][0]
        matrix[columns] = part.matrix(penalty)
        y_origin[columns] = part.y_mean + matrix[columns] @ (x_origin - part.x_mean)
        residuals[0][place], residuals[1][place] = part.residuals(penalty), part.residuals(np.inf)
    predicted, mean_shape = (y - residuals).reshape(2, *np.shape(Y))
    return LeaveOneOut(LinearMap(matrix, x_origin, y_origin), penalty, predicted, mean_shape)


class _Ridge:
    """The regression of `fit` of rows `x` `[N, 2 K]` and `y` `[N, C]` for any penalty."""

    def __init__(self, x: np.ndarray, y: np.ndarray) -> None:
        self.x_mean, self.y_mean = x.mean(0), y.mean(0)
        x, self._y = x - self.x_mean, y - self.y_mean
        self._largest = (x.T @ x).max() + 1e-12
        self._u, self._s, self._vt = np.linalg.svd(x, full_matrices=False)

    def matrix(self, lam_scale: float) -> np.ndarray:
        """`R`, `[C, 2 K]`."""
        factors = self._s / (self._s**2 + lam_scale * self._largest)
        matrix: np.ndarray = (self._y.T @ self._u * factors) @ self._vt
        return matrix

    def residuals(self, lam_scale: float) -> np.ndarray:
        """`[N, C]`: labels minus predictions of the maps fitted without their photo.

        These are the residuals of the map of all, each over `1 - h`: h is the photo's leverage, on
        the diagonal of the hat matrix `1 / N + X (X^T X + lambda I)^-1 X^T`.
        """
        shares = self._s**2 / (self._s**2 + lam_scale * self._largest)
        leverages = 1 / len(self._u) + (self._u**2 * shares).sum(1)
        fitted = (self._u * shares) @ (self._u.T @ self._y)
        residuals: np.ndarray = (self._y - fitted) / (1 - leverages)[:, None]
        return residuals


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
