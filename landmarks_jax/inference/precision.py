"""The precision in which files store weights. Free of JAX."""

import numpy as np

PRECISIONS = ("float32", "float16")


def cast_array(array: np.ndarray, precision: str) -> np.ndarray:
    """A kernel in the given precision, any other array in float32; too large values become inf."""
    dtype = np.float16 if precision == "float16" and np.ndim(array) > 1 else np.float32
    with np.errstate(over="ignore"):
        return np.ascontiguousarray(array, dtype)
