"""Output and logs whose failures do not end a command."""

import contextlib
import errno
import io
import logging
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, TextIO, cast

from landmarks_jax.system.errors import print_error, reason

_STANDARD = 3  # file descriptors: input, output, error
_BROKEN_PIPE = 141  # 128 plus the number of SIGPIPE, as the shell reports other programs

_LOGGER = logging.getLogger(__name__)


class Appender:
    """A log file whose failures end nothing: what cannot be written now is written later."""

    def __init__(self, path: Path) -> None:
        """Takes the path; the file is opened, or created with its folder, at the first write."""
        self._path = path
        self._file: IO[bytes] | None = None
        self._unwritten = b""
        self._warned = False

    def write(self, data: bytes) -> None:
        """Appends data, after what could not be written before; warns at the first failure."""
        self._unwritten += data
        try:
            if self._file is None:
                self._file = self._open()
            while self._unwritten:
                self._unwritten = self._unwritten[self._file.write(self._unwritten) :]
        except OSError as failure:
            if not self._warned:
                self._warned = True
                _LOGGER.warning(
                    "%s: cannot be written (%s); tried again later", self._path, reason(failure)
                )

    def _open(self) -> IO[bytes]:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        return self._path.open("ab", buffering=0)

    def close(self) -> None:
        """Closes the file; warns of what could not be written."""
        if self._unwritten:
            self.write(b"")
        if self._unwritten:
            _LOGGER.warning("%s: its end is missing, it could not be written", self._path)
        if self._file is not None:
            self._file.close()


class Output:
    """A text stream; after the first failure what is written to it is dropped.

    Its file descriptor leads to the null device then, also for libraries and child processes.

    Attributes:
      failure: the first error; None without one.
      other: the stream that says so once, if the command goes on.
    """

    def __init__(self, name: str, stream: TextIO | None) -> None:
        """Takes the stream and its name in words; None for one that was closed from the start."""
        self._name = name
        self._closed = stream is None
        self._stream = io.StringIO() if stream is None else stream
        self._told = False
        self.failure: OSError | None = None
        self.other: Output | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Writes a text; characters that the stream's encoding lacks are escaped."""
        try:
            if self._closed and text:
                raise OSError(errno.EBADF, os.strerror(errno.EBADF))
            if self.failure is None:
                self._write(text)
        except OSError as error:
            self._fail(error)
        return len(text)

    def _write(self, text: str) -> None:
        try:
            self._stream.write(text)
        except UnicodeEncodeError:
            encoding = self._stream.encoding
            self._stream.write(text.encode(encoding, "backslashreplace").decode(encoding))

    def flush(self) -> None:
        """Flushes; reports on the other stream, once, that this one cannot be written."""
        self._flush()
        if self.failure is not None and not self._told and self.other is not None:
            self._told = True
            self.other.write(f"{self._name}: {_problem(self.failure)}; continuing without it\n")
            self.other.flush()

    def exit_code(self, code: int) -> int:
        """The exit code of a command that returned `code`, now that all is written.

        Reports why the stream failed, except when its reader closed it, as `head` does.
        """
        self._flush()
        if self.failure is None:
            return code
        if self.failure.errno == errno.EPIPE:
            return code or _BROKEN_PIPE
        if not self._told:
            print_error(f"{self._name}: {_problem(self.failure)}")
        return code or 1

    def _flush(self) -> None:
        try:
            if self.failure is None:
                self._stream.flush()
        except OSError as error:
            self._fail(error)

    def _fail(self, error: OSError) -> None:
        self.failure = self.failure or error
        with contextlib.suppress(OSError):  # a stream without a descriptor
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, self._stream.fileno())
            os.close(null)


def _problem(error: OSError) -> str:
    return f"cannot be written ({reason(error)})"


@contextlib.contextmanager
def guarded() -> Iterator[Output]:
    """Makes `sys.stdout` and `sys.stderr` streams that never fail; yields the first."""
    for descriptor in range(_STANDARD):
        # Otherwise the next file that is opened would get what libraries print.
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free
            os.set_inheritable(descriptor, True)
    output, error = Output("standard output", sys.stdout), Output("standard error", sys.stderr)
    output.other = error
    if sys.stderr is not None:  # else it was closed on purpose
        error.other = output
    with (
        contextlib.redirect_stdout(cast(TextIO, output)),
        contextlib.redirect_stderr(cast(TextIO, error)),
    ):
        yield output
