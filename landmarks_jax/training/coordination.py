"""What the processes of one run tell each other, so that all do the same.

Every process runs the same programs in the same order, for what the devices of all compute, all
must have started. So what only one of them knows (an error, a signal, its clock) is told to all
before anything hangs on it. A process on its own has nobody to ask.
"""

import contextlib
import hashlib
import time
from collections import deque
from collections.abc import Iterator, Mapping
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from landmarks_jax.system.errors import ConfigError, UserError, WorkdirError
from landmarks_jax.training import sharding
from landmarks_jax.training.distributed import is_one_of_several
from landmarks_jax.training.reports import fetch

# How long what one process wrote may take to be seen by another: network storage remembers for a
# while that a file was not there.
SHARED_SECONDS = 60.0
_MESSAGE_BYTES = 1024


def gather(text: str) -> list[str]:
    """The texts of all processes, cut to `_MESSAGE_BYTES`; waits for all."""
    if not is_one_of_several():
        return [text]
    encoded = text.encode()[:_MESSAGE_BYTES].ljust(_MESSAGE_BYTES, b"\0")
    rows = multihost_utils.process_allgather(np.frombuffer(encoded, np.uint8))
    return [bytes(row).rstrip(b"\0").decode(errors="ignore") for row in np.asarray(rows)]


@contextlib.contextmanager
def together() -> Iterator[None]:
    """What one process cannot do within, none goes on from.

    Nothing within may need the other processes: one that has failed is not there.

    Raises:
      UserError: another process's error, in those that had none.
    """
    if not is_one_of_several():
        yield
        return
    failure: Exception | None = None
    try:
        yield
    except Exception as error:
        failure = error
    texts = gather(f"{failure or ''}" or type(failure).__name__ * (failure is not None))
    if failure is not None:
        raise failure
    for process, text in enumerate(texts):
        if text:
            raise UserError(f"process {process} has failed: {text}")


def check_devices() -> None:
    """Refuses processes with different numbers of devices: each reads as many rows as the others.

    Raises:
      ConfigError: naming this process's number.
    """
    own, every = jax.local_device_count(), jax.device_count()
    if own * jax.process_count() != every:
        raise ConfigError(
            f"--multihost: this process has {own} of the {every} devices; all processes must have "
            "the same number"
        )


def check_same(facts: Mapping[str, str]) -> None:
    """Refuses to go on where processes differ in what must be the same.

    Args:
      facts: what it is in words, and its value.

    Raises:
      ConfigError: on every process.
    """
    for name, value in facts.items():
        digests = gather(hashlib.sha256(value.encode()).hexdigest())
        for process, digest in enumerate(digests):
            if digest != digests[0]:
                raise ConfigError(
                    f"{name}: not the same on process {process} as on process 0; start every "
                    "process with the same command, on the same files"
                )


def check_shared(path: Path) -> None:
    """Refuses a folder that not all processes see alike.

    Args:
      path: a file that process 0 has just written there.

    Raises:
      WorkdirError: on every process.
    """
    if not is_one_of_several():
        return
    wanted = gather(_digest(path))[0]
    deadline = time.monotonic() + SHARED_SECONDS
    while _digest(path) != wanted and time.monotonic() < deadline:
        time.sleep(0.5)
    for process, digest in enumerate(gather(_digest(path))):
        if digest != wanted:
            raise WorkdirError(
                f"--workdir {path.parent}: process {process} does not see what process 0 wrote "
                "there; it must be on storage that all processes share"
            )


def _digest(path: Path) -> str:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError:
        return "missing"


class Stopping:
    """Lets all processes stop after the same step.

    The wish of each goes to the devices behind a step, and the largest comes back when that step is
    done: nobody waits for it, and all read it after the same step.
    """

    def __init__(self, mesh: Mesh, delay: int) -> None:
        """Takes the devices, and how many steps later a wish is read."""
        self._mesh = mesh
        self._delay = delay
        self._largest = jax.jit(jnp.max, out_shardings=sharding.replicated(mesh))
        self._under_way: deque[jax.Array] = deque()

    def decide(self, wish: int) -> int:
        """The largest wish of all processes some steps ago, 0 before; alone the wish itself."""
        if not is_one_of_several():
            return wish
        wishes = np.full(jax.local_device_count(), wish, np.int32)
        self._under_way.append(self._largest(sharding.put_batch(self._mesh, wishes)))
        if len(self._under_way) <= self._delay:
            return 0
        return int(fetch(self._under_way.popleft()))
