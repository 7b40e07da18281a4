"""The user's cache folder, and JAX's compilation cache in it."""

import contextlib
import os
from pathlib import Path

# JAX's environment variable for the folder of its compilation cache.
COMPILATIONS = "JAX_COMPILATION_CACHE_DIR"


def folder() -> Path:
    """The cache folder: `$XDG_CACHE_HOME/landmarks_jax`, or `~/.cache/landmarks_jax`."""
    base = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return Path(base) / "landmarks_jax"


def enable_compilation_cache() -> None:
    """Sets the folder of JAX's compilation cache, unless the user has set or disabled it.

    Call it before importing JAX, which reads the environment variable then.
    """
    if COMPILATIONS in os.environ:
        return
    compilations = folder() / "compilations"
    with contextlib.suppress(OSError):
        compilations.mkdir(parents=True, exist_ok=True)
    if os.access(compilations, os.W_OK):  # JAX would warn of every compilation it cannot write
        os.environ[COMPILATIONS] = str(compilations)
