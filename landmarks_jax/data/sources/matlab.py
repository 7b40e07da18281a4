"""MATLAB's .mat files, through SciPy (of the extra `train`)."""

from typing import Any

import numpy as np

from landmarks_jax.system.errors import DataError, reason


def read(path: str, names: tuple[str, ...]) -> dict[str, Any]:
    """Reads variables of a .mat file of version 4 to 7.

    As in MATLAB everything is an array, even a single number; structs are objects with attributes.

    Raises:
      DataError: the file cannot be read, or lacks a variable.
    """
    try:
        from scipy import io  # noqa: PLC0415  (slow, and rarely needed)

        content = io.loadmat(path, struct_as_record=False, variable_names=names)
    except Exception as error:  # damaged files raise many kinds: ValueError, TypeError, zlib.error
        raise DataError(f"{path}: cannot be read as a MATLAB file ({reason(error)})") from error
    for name in names:
        if name not in content:
            raise DataError(f"{path}: has no variable {name!r}")
    return content


def numbers(value: Any, shape: tuple[int, ...], what: str) -> np.ndarray:
    """A variable as finite float64 numbers `shape`, in which -1 allows any size.

    Raises:
      DataError: it has another shape or type; the message begins with `what`.
    """
    array = np.asarray(value)
    if array.dtype.kind not in "iuf":
        raise DataError(f"{what}: is not numeric")
    if len(array.shape) != len(shape) or any(
        side not in (-1, actual) for side, actual in zip(shape, array.shape, strict=True)
    ):
        expected = " x ".join("N" if side < 0 else str(side) for side in shape)
        raise DataError(f"{what}: is {' x '.join(map(str, array.shape))}, must be {expected}")
    array = array.astype(np.float64)
    if not np.isfinite(array).all():
        row = int(np.argwhere(~np.isfinite(array))[0, 0])
        raise DataError(f"{what}: row {row + 1} has a number that is not finite")
    return array


def items(value: Any) -> list[Any]:
    """The elements of an array; none for None."""
    return [] if value is None else list(np.asarray(value).ravel())


def field(struct: Any, name: str) -> Any:
    """The only element of a struct's field; None if it is absent, empty or has several."""
    values = items(getattr(struct, name, None))
    return values[0] if len(values) == 1 else None
