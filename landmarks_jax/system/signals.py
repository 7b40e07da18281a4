"""Deferred SIGTERM, SIGHUP and Ctrl-C, so that a loop can save before it ends."""

import signal
import threading
from types import FrameType, TracebackType
from typing import Any

_HANGUP = getattr(signal, "SIGHUP", None)  # of a closed terminal; only POSIX has it


class Interrupt:
    """Remembers a SIGTERM, SIGINT or SIGHUP, so that a loop can end between two steps and save.

    A second SIGTERM or SIGINT raises `KeyboardInterrupt` wherever the loop is. A closed terminal's
    SIGHUP may come twice, and with a SIGTERM. It stays ignored where it is, as under `nohup`.

    Attributes:
      signal: the number of the signal that was received, or None.
    """

    def __init__(self) -> None:
        self.signal: int | None = None
        self._before: dict[int, Any] = {}

    @property
    def exit_code(self) -> int:
        """128 plus the number of the signal, 0 without one."""
        return 0 if self.signal is None else 128 + self.signal

    def __enter__(self) -> "Interrupt":
        if threading.current_thread() is threading.main_thread():
            numbers = [signal.SIGTERM, signal.SIGINT]
            if _HANGUP is not None and signal.getsignal(_HANGUP) != signal.SIG_IGN:
                numbers.append(_HANGUP)
            for number in numbers:
                self._before[number] = signal.signal(number, self._remember)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _remember(self, number: int, frame: FrameType | None) -> None:
        if self.signal in (None, _HANGUP):
            self.signal = number
        elif number != _HANGUP:
            raise KeyboardInterrupt
