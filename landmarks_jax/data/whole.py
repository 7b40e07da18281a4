"""Folders that are there whole or not at all."""

import contextlib
import importlib.util
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
    _refuse_existing(target)
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


@contextlib.contextmanager
def resumable_folder(target: Path) -> Iterator[Path]:
    """A folder `.NAME.partial` beside `target` that stays there until its work is done.

    However the block ends, by an error or by the process's death, the folder and what is in it are
    there again the next time. Once the block has ended well it becomes `target`. Only one process
    at a time may be in it.

    Args:
      target: the folder to make; must not be there yet.

    Raises:
      DataError: it is there already, cannot be written, or another process is at work on it.
    """
    _refuse_existing(target)
    folder = target.with_name(f".{target.name}.partial")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _claimed(folder):
            _refuse_existing(target)  # another process may have ended just now
            yield folder
            _sync(folder)
            folder.rename(target)
            _sync(target.parent)
    except OSError as error:
        raise DataError(f"{target}: could not be written ({error})") from error


def _refuse_existing(target: Path) -> None:
    if os.path.lexists(target):
        raise DataError(f"{target}: is there already; name a new folder or remove this one")


@contextlib.contextmanager
def _claimed(folder: Path) -> Iterator[None]:
    """Holds a folder as long as this process lives; without POSIX nothing is held."""
    if importlib.util.find_spec("fcntl") is None:
        yield
        return
    import fcntl  # noqa: PLC0415  (POSIX alone)

    handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise DataError(f"{folder}: another process is writing it; wait for its end") from error
        yield
    finally:
        os.close(handle)


def _sync(folder: Path) -> None:
    """Brings the names in a folder to the disk, where folders can be opened for that."""
    with contextlib.suppress(PermissionError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _umask() -> int:
    mask = os.umask(0o022)
    os.umask(mask)
    return mask
