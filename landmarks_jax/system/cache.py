"""What is kept between runs, in the user's cache folder."""

import contextlib
import os
from pathlib import Path

# JAX's own variable: where it keeps what it compiled.
COMPILATIONS = "JAX_COMPILATION_CACHE_DIR"


def folder() -> Path:
    """Where things are kept: `$XDG_CACHE_HOME/landmarks_jax`, or below `~/.cache`."""
    base = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return Path(base) / "landmarks_jax"


def keep_compilations() -> None:
    """Has JAX keep what it compiles, unless the user named a place, or none, by its variable.

    Call it before JAX is imported: it reads the variable then.
    """
    if COMPILATIONS in os.environ:
        return
    place = folder() / "compilations"
    with contextlib.suppress(OSError):
        place.mkdir(parents=True, exist_ok=True)
    if os.access(place, os.W_OK):  # JAX would warn of every compilation that it cannot keep
        os.environ[COMPILATIONS] = str(place)
