"""SIGTERM, SIGHUP and Ctrl-C: deferred, so that a loop can save before it ends, or raised."""

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator
from types import FrameType, TracebackType
from typing import Any

from landmarks_jax.system.errors import print_error

# How long a block that a signal ends may take to clean up, in seconds.
PATIENCE = 5.0

_HANGUP = getattr(signal, "SIGHUP", None)  # of a closed terminal; only POSIX has it


class SignalledError(KeyboardInterrupt):
    """A signal ended a block of `raising`; like Ctrl-C no `Exception`, so that nothing hides it.

    Attributes:
      exit_code: 128 plus the number of the signal.
    """

    def __init__(self, number: int, advice: str) -> None:
        super().__init__(f"ended by {signal.Signals(number).name}; {advice}")
        self.exit_code = 128 + number


class Interrupt:
    """Remembers a SIGTERM, SIGINT or SIGHUP, so that a loop can end between two steps and save.

    A second SIGINT raises `KeyboardInterrupt` wherever the loop is. Other repeats are ignored:
    `timeout` sends SIGTERM twice, a closed terminal SIGHUP, often before a SIGTERM. SIGHUP stays
    ignored where it is, as under `nohup`.

    Attributes:
      signal: the number of the first signal that was received, but of a SIGHUP the one after it;
        None before.
    """

    def __init__(self) -> None:
        self.signal: int | None = None
        self._interrupted = False
        self._before: dict[int, Any] = {}

    @property
    def exit_code(self) -> int:
        """128 plus the number of the signal, 0 without one."""
        return 0 if self.signal is None else 128 + self.signal

    def __enter__(self) -> "Interrupt":
        self._before = _handle(self._remember)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        _restore(self._before)

    def _remember(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT:
            if self._interrupted:
                raise KeyboardInterrupt
            self._interrupted = True
        if self.signal in (None, _HANGUP):
            self.signal = number


@contextlib.contextmanager
def raising(advice: str) -> Iterator[None]:
    """Ends the block at a SIGTERM, SIGINT or SIGHUP, except where an `Interrupt` defers it.

    Python handles a signal only between two of its own instructions, so that a call of a library,
    such as XLA's compiling, can hold it up for minutes. After `PATIENCE` a thread ends the process
    then, with the same message and exit code, but without cleaning up. A second signal changes
    nothing: `timeout` and closed terminals send two.

    Args:
      advice: what to do then, for the message.

    Raises:
      SignalledError: a signal came.
    """
    received: list[int] = []

    def end(number: int, frame: FrameType | None) -> None:
        first = not received
        received.append(number)
        if first:  # another must not cut the cleaning up short
            raise SignalledError(number, advice)

    def watch() -> None:
        while data := os.read(reading, 1):
            number = data[0]
            if signal.getsignal(number) is not end or ended.wait(PATIENCE):
                continue
            if signal.getsignal(number) is end:  # no `Interrupt` has begun meanwhile
                error = SignalledError(number, advice)
                print_error(str(error))
                sys.stdout.flush()
                os._exit(error.exit_code)

    before = _handle(end)
    if not before:  # not the main thread, which gets the signals
        yield
        return
    ended = threading.Event()
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    others = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        ended.set()
        signal.set_wakeup_fd(others)
        _restore(before)
        os.close(writing)
        watcher.join()
        os.close(reading)


def _handle(handler: Any) -> dict[int, Any]:
    """Installs a handler of the three signals, in the main thread; returns those before."""
    if threading.current_thread() is not threading.main_thread():
        return {}
    numbers = [signal.SIGTERM, signal.SIGINT]
    if _HANGUP is not None and signal.getsignal(_HANGUP) != signal.SIG_IGN:
        numbers.append(_HANGUP)
    return {number: signal.signal(number, handler) for number in numbers}


def _restore(handlers: dict[int, Any]) -> None:
    for number, handler in handlers.items():
        signal.signal(number, handler)
