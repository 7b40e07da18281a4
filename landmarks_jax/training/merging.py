"""Merges many refined points to few, without labels.

A few points chosen from many carry the noise of their own places. The mean of a group of points
that move together carries less, and keeps most of what the group tells.
"""

from collections.abc import Callable

import numpy as np
import scipy.cluster.hierarchy

# The penalty of regressions, over the mean variance.
_RIDGE = 1e-2


def merging(points: np.ndarray, count: int, check: Callable[[], None] = lambda: None) -> np.ndarray:
    """Weights that merge points to the weighted means of groups.

    The noise of a point is what a linear regression from all others leaves of its variance. Points
    are grouped by Ward's method on their displacements over their noise, so that precise points
    are merged last, and weighted by the inverse of their noise. Then single points change to
    another group as long as linear regressions from the means leave less of all points.

    Args:
      points: `[N, G, 2]` of N photos, the more the better.
      count: number of groups, at most G.
      check: called now and then; may raise.

    Returns:
      `[count, G]` weights; each row sums to 1.
    """
    moved = (points - points.mean(0)).astype(np.float64)
    rows = moved.transpose(0, 2, 1).reshape(-1, points.shape[1])  # x and y alike: [2 N, G]
    covariance = rows.T @ rows / len(rows)
    noise = _unexplained(covariance)
    tree = scipy.cluster.hierarchy.linkage((rows / np.sqrt(noise)).T, "ward")
    group = scipy.cluster.hierarchy.cut_tree(tree, count)[:, 0]
    return _means(_regrouped(group, covariance, noise, check), noise)


def _means(group: np.ndarray, noise: np.ndarray) -> np.ndarray:
    """The weights `[K, G]` of groups 0 to K - 1, given by point: `[G]`."""
    weights = (group == np.arange(group.max() + 1)[:, None]) / noise
    means: np.ndarray = weights / weights.sum(1, keepdims=True)
    return means


def _regrouped(
    group: np.ndarray, covariance: np.ndarray, noise: np.ndarray, check: Callable[[], None]
) -> np.ndarray:
    """Groups from which each point is predicted better; none becomes empty."""
    group = group.copy()
    least, changed = _left(_means(group, noise), covariance, noise), True
    while changed:
        changed = False
        for point in range(len(group)):
            check()
            for other in range(group.max() + 1):
                before = group[point]
                if (group == before).sum() == 1:
                    break
                group[point] = other
                left = _left(_means(group, noise), covariance, noise)
                if left < least - 1e-6:
                    least, changed = left, True
                else:
                    group[point] = before
    return group


def _left(weights: np.ndarray, covariance: np.ndarray, noise: np.ndarray) -> float:
    """What a ridge regression of all points from merged ones leaves, over the points' noise."""
    shared = weights @ covariance
    among = shared @ weights.T
    solved = np.linalg.solve(among + _ridge(among), shared)
    left: float = ((np.diag(covariance) - (shared * solved).sum(0)) / noise).mean()
    return left


def _ridge(covariance: np.ndarray) -> np.ndarray:
    size = len(covariance)
    penalty = _RIDGE * np.trace(covariance) / size + np.finfo(np.float64).tiny
    ridge: np.ndarray = penalty * np.eye(size)
    return ridge


def _unexplained(covariance: np.ndarray) -> np.ndarray:
    """The variance `[G]` of each point that a ridge regression from the others leaves."""
    noise: np.ndarray = 1 / np.diag(np.linalg.inv(covariance + _ridge(covariance)))
    return noise
