"""The linear map from discovered to labelled points; `evaluation.regression` fits it.

Points are normalised to the view and flattened to rows `x1, y1, x2, y2, ...`.
"""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class LinearMap:
    """The map `y = matrix (x - x_origin) + y_origin` between flattened point sets.

    Attributes:
      matrix: `[2 P, 2 K]`.
      x_origin: `[2 K]`, the training mean of the inputs, or the corner of the view.
      y_origin: `[2 P]`, the same for the outputs.
    """

    matrix: np.ndarray
    x_origin: np.ndarray
    y_origin: np.ndarray

    @property
    def num_points(self) -> int:
        """P, the number of points that it predicts."""
        return len(self.y_origin) // 2

    def __call__(self, points: np.ndarray) -> np.ndarray:
        """Maps points `[N, K, 2]` to points `[N, P, 2]`, float64."""
        mapped = (flatten(points) - self.x_origin) @ self.matrix.T + self.y_origin
        return mapped.reshape(len(mapped), self.num_points, 2)


def flatten(points: np.ndarray) -> np.ndarray:
    """Points `[N, K, 2]` as float64 rows `[N, 2 K]`."""
    points = np.asarray(points, np.float64)
    if points.ndim != 3 or points.shape[-1] != 2:
        raise ValueError(f"points must be [N, K, 2], got {points.shape}")
    return points.reshape(points.shape[0], points.shape[1] * 2)
