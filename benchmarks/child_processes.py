"""Child processes of a command that measures: a limit for each, and an end with the command's.

A child runs a module, as `python -m` does. It gets SIGTERM when its limit is over, when the command
is told to end, and also when the command is gone without a word, as after SIGKILL: an orphan would
disturb the next measurement. What it leaves then is up to the module.
"""

import contextlib
import os
import runpy
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from landmarks_jax.system.signals import Interrupt

POLL = 0.25  # seconds between two looks at a child


class Child:
    """A module that runs in a process of its own."""

    def __init__(
        self,
        module: str,
        arguments: Sequence[str],
        log: Path,
        environment: Mapping[str, str],
        *,
        nice: int = 0,
    ) -> None:
        """Starts it.

        Args:
          module: its dotted name.
          arguments: its command line.
          log: a file that its output is appended to.
          environment: variables that it has besides this process's.
          nice: how much it stands back for other processes, 0 to 19.
        """
        command = [sys.executable, "-m", "benchmarks.child_processes", module, *arguments]
        self.log = log
        with log.open("ab") as output:
            # A group of its own: a signal to the command's group must not reach it twice.
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=output,
                env={**os.environ, "PYTHONUNBUFFERED": "1", **environment},
                start_new_session=True,
            )
        if nice:
            with contextlib.suppress(OSError, AttributeError):
                os.setpriority(os.PRIO_PROCESS, self.process.pid, nice)

    def wait(
        self,
        end: float,
        interrupt: Interrupt,
        *,
        grace: float = 5.0,
        meanwhile: Callable[[], None] = lambda: None,
    ) -> str:
        """Waits until it ends, and ends it where its time is over or a signal has come.

        Args:
          end: when its time is over, on the clock of `time.monotonic()`.
          interrupt: of the command.
          grace: seconds between SIGTERM and SIGKILL.
          meanwhile: called again and again.

        Returns:
          Why it did not end by itself and with 0; "" if it did.
        """
        why = ""
        while self.process.poll() is None:
            meanwhile()
            if interrupt.signal is not None:
                why = f"stopped by {signal.Signals(interrupt.signal).name}"
            elif time.monotonic() >= end:
                why = "cut off, its time was over"
            if why:
                self.stop(grace)
                return why
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(POLL)
        self._close()
        code = self.process.returncode
        return f"ended with {code}; see {self.log.name}" if code else ""

    def stop(self, grace: float = 5.0) -> None:
        """Sends SIGTERM, and SIGKILL if it has not ended some seconds later."""
        self.process.terminate()
        try:
            self.process.wait(grace)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self._close()

    def _close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()


def tail(path: Path, lines: int = 40) -> str:
    """The last lines of a log, "" without one."""
    with contextlib.suppress(OSError):
        return "\n".join(path.read_text(errors="replace").splitlines()[-lines:])
    return ""


def _end_with_parent() -> None:
    # Returns when the other end of the pipe is closed, however that came. Not by `sys.stdin`, whose
    # lock a thread must not hold when Python ends.
    os.read(0, 1)
    os.kill(os.getpid(), signal.SIGTERM)


def main() -> None:
    """Runs a module: the child's side."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    sys.argv = sys.argv[1:]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
