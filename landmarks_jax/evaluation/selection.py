"""Keeps some of a run's landmarks: those that tell most about all of them, without labels."""

from collections.abc import Sequence

import numpy as np

# The penalty of the regression, over the mean variance: what is told by little noise only does not
# count.
_RIDGE = 1e-2


def choose(points: np.ndarray, count: int) -> list[int]:
    """Chooses points whose places predict those of all points best, one after another.

    Each is the one that leaves the least variance of all points unexplained by a linear map from
    those chosen so far (greedy column subset selection).

    Args:
      points: `[N, K, 2]`, of N photos.
      count: number to choose, at most K.

    Returns:
      Their numbers, ascending.
    """
    flat = points.reshape(len(points), -1).astype(np.float64)
    covariance = np.cov(flat, rowvar=False)
    ridge = _RIDGE * np.trace(covariance) / len(covariance)
    chosen: list[int] = []
    for _ in range(count):
        rest = [k for k in range(points.shape[1]) if k not in chosen]
        chosen.append(max(rest, key=lambda k: _explained(covariance, [*chosen, k], ridge)))
    return sorted(chosen)


def _explained(covariance: np.ndarray, numbers: Sequence[int], ridge: float) -> float:
    """The variance of all points that a linear map from some of them explains."""
    columns = np.array([2 * k + axis for k in numbers for axis in (0, 1)])
    own = covariance[np.ix_(columns, columns)] + ridge * np.eye(len(columns))
    across = covariance[columns]
    return float(np.trace(across.T @ np.linalg.solve(own, across)))
