"""Deferred SIGTERM and Ctrl-C, so that a loop can save before it ends."""

import signal
import threading
from types import FrameType, TracebackType
from typing import Any


class Interrupt:
    """Remembers a SIGTERM or SIGINT, so that a loop can end between two steps and save.

    A second one raises `KeyboardInterrupt` wherever the loop is.

    Attributes:
      signal: the number of the signal that was received, or None.
    """

    def __init__(self) -> None:
        self.signal: int | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "Interrupt":
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
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
        if self.signal is not None:
            raise KeyboardInterrupt
        self.signal = number
