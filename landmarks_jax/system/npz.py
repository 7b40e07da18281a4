"""Files of NumPy arrays by name, `.npz`."""

import os
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from landmarks_jax.system import files
from landmarks_jax.system.errors import UserError, reason

# What NumPy raises for a damaged file.
_DAMAGE = (
    OSError,
    ValueError,
    KeyError,
    TypeError,
    EOFError,
    RuntimeError,
    zipfile.BadZipFile,
    zlib.error,
)


def read_npz(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """Reads the arrays of a file.

    Raises:
      ValueError: it cannot be read or is damaged; says only why.
    """
    try:
        # Opened here, because NumPy does not close the file of a damaged archive.
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as archive:
            return dict(archive)
    except _DAMAGE as error:
        raise ValueError(reason(error)) from error


def write_npz(path: Path, error: type[UserError], **arrays: Any) -> None:
    """Writes arrays, or values that NumPy makes arrays of, to a file; atomically.

    Raises:
      UserError: of the kind `error`, if the file cannot be written.
    """
    with files.new_file(path, error) as file:
        np.savez(file, **arrays)
