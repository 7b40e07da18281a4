"""Files and folders written atomically, locks, digests."""

import contextlib
import datetime
import hashlib
import json
import logging
import os
import secrets
import shutil
import socket
import stat
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO

import numpy as np

from landmarks_jax.system.errors import DataError, UserError, reason

try:
    import fcntl
except ImportError:  # not POSIX
    fcntl = None  # type: ignore[assignment]

LOCK = ".lock"
_LOGGER = logging.getLogger(__name__)


_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def not_regular(path: str | os.PathLike[str]) -> str:
    """Why a path does not lead to a regular file, in words; "" if it does.

    Ask before opening what a folder holds: opening a named pipe can wait for ever.
    """
    try:
        kind = stat.S_IFMT(os.stat(path).st_mode)
    except FileNotFoundError:
        return "a link to a missing file" if os.path.islink(path) else "no such file"
    except (OSError, ValueError) as error:  # such as a link to itself, or a byte 0 in the name
        return reason(error)
    if kind == stat.S_IFREG:
        return ""
    return f"{_KINDS.get(kind, 'a special file')}, not a regular file"


@contextlib.contextmanager
def new_path(path: Path, error: type[UserError] = DataError) -> Iterator[Path]:
    """Yields the path of a temporary file, of the same ending, that replaces `path` at the end.

    If the block fails, the file is removed. May be called in threads.

    Args:
      path: the file to create or replace; its folder is created.
      error: the exception to raise.

    Raises:
      UserError: of the kind `error`, if the file cannot be written.
    """
    if os.path.exists(path) and not os.path.isfile(path):  # /dev/null would be replaced
        raise error(f"{path}: cannot be written ({not_regular(path)})")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = _beside(path)
        try:
            yield temporary
            os.replace(temporary, path)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
            raise
    except OSError as failure:
        raise error(f"{path}: cannot be written ({reason(failure)})") from failure


@contextlib.contextmanager
def new_file(
    path: Path, error: type[UserError] = DataError, *, sync: bool = True
) -> Iterator[IO[bytes]]:
    """Opens a temporary file that replaces `path` if the block succeeds.

    Args:
      path: the file to create or replace; its folder is created.
      error: the exception to raise.
      sync: wait until the data is on the disk, so that not even a power failure leaves half a file.

    Raises:
      UserError: of the kind `error`, if the file cannot be written.
    """
    with new_path(path, error) as temporary, temporary.open("xb") as file:
        yield file
        file.flush()
        if sync:
            os.fsync(file.fileno())


def _beside(path: Path) -> Path:
    """A new hidden name beside a path; as short as names of 255 bytes need."""
    return path.with_name(f".{secrets.token_hex(8)}{path.name[-32:]}")


def write_file(path: Path, data: bytes | str, error: type[UserError] = DataError) -> None:
    """Writes a file atomically; text as UTF-8.

    Raises:
      UserError: of the kind `error`, if the file cannot be written.
    """
    with new_file(path, error) as file:
        file.write(data.encode() if isinstance(data, str) else data)


def check_writable(path: Path, error: type[UserError] = DataError, *, folder: bool = False) -> None:
    """Refuses a place that cannot be written, before the work whose result belongs there.

    Args:
      path: the file to write, or the folder.
      error: the exception to raise.
      folder: whether `path` is a folder, existing or to be made.

    Raises:
      UserError: of the kind `error`; naming `path`.
    """
    existing = next(place for place in (path, *path.absolute().parents) if os.path.exists(place))
    if not os.access(existing, os.W_OK):
        raise error(f"{path}: cannot be written (no permission, or a read-only file system)")
    if not os.path.isdir(existing) and (folder or existing != path):
        raise error(f"{path}: cannot be written ({existing} is not a folder)")


def sha256_of(path: Path, error: type[UserError] = DataError) -> str:
    """The SHA-256 of a file, in hexadecimal.

    Raises:
      UserError: of the kind `error`, if the file cannot be read.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as failure:
        raise error(f"{path}: cannot be read ({reason(failure)})") from failure


def sha256_of_arrays(arrays: Mapping[str, np.ndarray]) -> str:
    """The SHA-256 of arrays with their names, types and shapes, whatever their order."""
    digest = hashlib.sha256()
    for name, array in sorted(arrays.items()):
        digest.update(json.dumps([name, array.dtype.str, array.shape]).encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


@contextlib.contextmanager
def new_folder(target: Path) -> Iterator[Path]:
    """Makes a temporary folder that becomes `target` if the block succeeds.

    Raises:
      DataError: `target` exists already or cannot be written.
    """
    _refuse_existing(target)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        folder = _beside(target)
        folder.mkdir()
        try:
            yield folder
            folder.rename(target)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
    except OSError as error:
        raise DataError(f"{target}: cannot be written ({reason(error)})") from error


@contextlib.contextmanager
def resumable_folder(target: Path) -> Iterator[Path]:
    """Makes a folder `.NAME.partial` that becomes `target` if the block succeeds.

    If it fails, or the process dies, the next call finds the folder with its files as they were
    left. Only one process at a time can be in the block.

    Raises:
      DataError: `target` exists already, cannot be written, or another process is writing it.
    """
    _refuse_existing(target)
    folder = target.with_name(f".{target.name}.partial")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with lock(folder / LOCK):
            _refuse_existing(target)  # another process may have finished just now
            for left_over in folder.glob(".*"):  # temporary files of a process that was killed
                if left_over.name != LOCK:
                    left_over.unlink()
            yield folder
            _sync(folder)
            folder.rename(target)
            (target / LOCK).unlink(missing_ok=True)  # there is none without POSIX
            _sync(target.parent)
    except OSError as error:
        raise DataError(f"{target}: cannot be written ({reason(error)})") from error


@contextlib.contextmanager
def lock(
    path: Path,
    error: type[UserError] = DataError,
    wait: Callable[[], bool] = lambda: False,
    what: Path | None = None,
) -> Iterator[int]:
    """Locks the folder of a file against other processes that lock the same file.

    The lock ends with the block, or when the process and all children that inherited the yielded
    file descriptor have ended. The file stays; in it the holder says who it is. On NFS the lock
    holds on all machines. Without POSIX, or on a file system without locks, nothing is locked.

    Args:
      path: the file, created if missing, in an existing folder.
      error: the exception to raise.
      wait: called again and again while another process holds the lock; returns whether to try
        once more. By default the first attempt is the only one.
      what: what is locked, if not the folder, for messages.

    Yields:
      The file descriptor that holds the lock; -1 without POSIX.

    Raises:
      UserError: of the kind `error`, if another process holds the lock.
      OSError: the file cannot be opened.
    """
    if fcntl is None:
        yield -1
        return
    what = what or path.parent
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)  # NFS locks no file open for reading only
    try:
        while not _try_lock(handle, what):
            if not wait():
                holder = os.pread(handle, 200, 0).decode(errors="replace").strip()
                raise error(
                    f"{what}: {holder or 'another process'} is working on it; wait until it ends"
                )
        _sign(handle)
        yield handle
    finally:
        os.close(handle)


def _try_lock(handle: int, what: Path) -> bool:
    """Whether the lock is held now, or there are no locks."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as failure:
        _LOGGER.warning(
            "%s: cannot be locked (%s); let no second process work on it",
            what,
            reason(failure),
        )
        return True
    return os.fstat(handle).st_nlink > 0  # a file that its last holder removed locks nothing


def _sign(handle: int) -> None:
    """Says in a lock's file who holds it, for the message to others."""
    now = datetime.datetime.now(datetime.UTC)
    text = f"process {os.getpid()} on {socket.gethostname()}, since {now:%Y-%m-%d %H:%M:%S} UTC,"
    with contextlib.suppress(OSError):  # a full disk
        os.ftruncate(handle, 0)
        os.pwrite(handle, text.encode(), 0)


def _refuse_existing(target: Path) -> None:
    if os.path.lexists(target):
        raise DataError(f"{target}: exists already; name a new folder or remove this one")


def _sync(folder: Path) -> None:
    """Flushes a folder's entries to disk, on systems that can open folders."""
    with contextlib.suppress(PermissionError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
