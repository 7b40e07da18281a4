"""Files and folders written whole or not at all, locks, digests."""

import contextlib
import hashlib
import importlib.util
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from landmarks_jax.system.errors import DataError, UserError, reason


@contextlib.contextmanager
def new_file(path: Path, error: type[UserError] = DataError) -> Iterator[IO[bytes]]:
    """A file beside `path` to write to, which takes its place once the block has ended well.

    Args:
      path: the file; one that is there is replaced.
      error: what to raise.

    Raises:
      UserError: of the kind `error`: the file cannot be written.
    """
    if os.path.exists(path) and not os.path.isfile(path):  # /dev/null would be replaced
        raise error(f"{path}: cannot be written (not a regular file)")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, part = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            os.chmod(part, 0o666 & ~_umask())  # mkstemp makes it private
            os.replace(part, path)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(part)
            raise
    except OSError as failure:
        raise error(f"{path}: cannot be written ({reason(failure)})") from failure


def write_file(path: Path, data: bytes | str, error: type[UserError] = DataError) -> None:
    """Writes a file whole or not at all; text as UTF-8.

    Raises:
      UserError: of the kind `error`: the file cannot be written.
    """
    with new_file(path, error) as file:
        file.write(data.encode() if isinstance(data, str) else data)


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal.

    Raises:
      OSError: it cannot be read.
    """
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


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
