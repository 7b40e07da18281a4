"""Folders that are there whole or not at all."""

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from landmarks_jax.errors import DataError


@contextlib.contextmanager
def new_folder(target: Path) -> Iterator[Path]:
    """A folder beside `target` to write to, which becomes `target` once the block has ended well.

    Args:
      target: the folder to make; must not be there yet.

    Raises:
      DataError: it is there already, or cannot be written.
    """
    if os.path.lexists(target):
        raise DataError(f"{target}: is there already; name a new folder or remove this one")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    except OSError as error:
        raise DataError(f"{target}: cannot be made ({error})") from error
    try:
        yield folder
        folder.chmod(0o777 & ~_umask())  # mkdtemp makes it private
        folder.rename(target)
    except OSError as error:
        raise DataError(f"{target}: could not be written ({error})") from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _umask() -> int:
    mask = os.umask(0o022)
    os.umask(mask)
    return mask
