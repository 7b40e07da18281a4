"""Merges many refined points to few, without labels.

A few points chosen from many carry the noise of their own places. The mean of a group of points
that move together carries less, and keeps most of what the group tells.
"""

import numpy as np
import scipy.cluster.hierarchy

# The penalty of the regression of each point from all others, over the mean variance.
_RIDGE = 1e-2


def merging(points: np.ndarray, count: int) -> np.ndarray:
    """Weights that merge points to the weighted means of groups.

    The noise of a point is what a linear regression from all others leaves of its variance. Points
    are grouped by Ward's method on their displacements over their noise, so that precise points
    are merged last, and weighted by the inverse of their noise.

    Args:
      points: `[N, G, 2]` of N photos, the more the better.
      count: number of groups, at most G.

    Returns:
      `[count, G]` weights; each row sums to 1.
    """
    moved = (points - points.mean(0)).astype(np.float64)
    rows = moved.transpose(0, 2, 1).reshape(-1, points.shape[1])  # x and y alike: [2 N, G]
    noise = _unexplained(rows)
    tree = scipy.cluster.hierarchy.linkage((rows / np.sqrt(noise)).T, "ward")
    group = scipy.cluster.hierarchy.cut_tree(tree, count)[:, 0]
    weights = (group == np.arange(count)[:, None]) / noise
    merged: np.ndarray = weights / weights.sum(1, keepdims=True)
    return merged


def _unexplained(rows: np.ndarray) -> np.ndarray:
    """The variance `[G]` of each column that a ridge regression from the others leaves."""
    covariance = rows.T @ rows / len(rows)
    num = len(covariance)
    ridge = _RIDGE * np.trace(covariance) / num + np.finfo(np.float64).tiny
    noise: np.ndarray = 1 / np.diag(np.linalg.inv(covariance + ridge * np.eye(num)))
    return noise
