"""Transfer files of a run, written while it trains."""

import concurrent.futures
import dataclasses
import logging
import threading
from pathlib import Path

import jax
import numpy as np

from landmarks_jax.system.errors import UserError
from landmarks_jax.training import transfer_files
from landmarks_jax.training.state import Restored

# Between checkpoints at most, but for the rest of an interval of `config.train.log_every` steps.
SECONDS = 60.0
_LOGGER = logging.getLogger(__name__)


class TransferWriter:
    """Writes the states of a run on a machine that may be gone at any moment as transfer files.

    A thread writes them; the device waits only until the networks are copied from it. Of the states
    that come while it is at work on one, it goes on to the newest.
    """

    def __init__(self, workdir: Path, out: Path) -> None:
        """Takes the run's folder, and the folder of the transfer files."""
        self._workdir, self._out = workdir, out
        self._newest: Restored | None = None  # not written yet
        self._lock = threading.Lock()  # of `_newest`, while it is replaced
        self._thread = concurrent.futures.ThreadPoolExecutor(1)
        self._at_work: concurrent.futures.Future[None] | None = None

    def close(self) -> None:
        """Ends the thread, once it has nothing to do."""
        self._thread.shutdown()

    def add(self, restored: Restored) -> None:
        """Starts to write a state; returns as soon as the state may change."""
        state = dataclasses.replace(restored.state, opt_state=())
        # Copied, because on a processor the arrays are the device's own memory.
        copied = jax.tree.map(np.array, jax.device_get(state))
        with self._lock:
            self._newest = restored._replace(state=copied)
        # Even while it is at work, which may be about to end; if not, there is nothing left then.
        self._at_work = self._thread.submit(self._try_to_write)

    def wait(self) -> None:
        """Blocks until the last state is written.

        Raises:
          WorkdirError: it could not be written.
        """
        if self._at_work is not None:
            self._at_work.result()
        self._write()

    def _try_to_write(self) -> None:
        try:
            while self._newest is not None:
                self._write()
        except (UserError, OSError) as error:
            _LOGGER.warning("%s; tried again at the next checkpoint", error)

    def _write(self) -> None:
        restored = self._newest
        if restored is None:
            return
        written = transfer_files.write(restored, self._workdir, self._out)
        size = sum(path.stat().st_size for path in written) / 2**20
        _LOGGER.info(
            "%s: step %d, %d files, %.1f MiB", self._out, restored.step, len(written), size
        )
        with self._lock:
            if self._newest is restored:
                self._newest = None
