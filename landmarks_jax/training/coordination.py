"""Coordinates the processes of one run, so that all take the same decisions.

Every process must run the same programs in the same order, because a computation on the devices of
all waits until all have started it. So what only one process knows (an error, a signal, the time)
is shared before a decision depends on it. With a single process these functions do nothing.
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

from landmarks_jax.system.errors import ConfigError, DataError, UserError, WorkdirError
from landmarks_jax.system.files import sha256_of
from landmarks_jax.training import sharding
from landmarks_jax.training.distributed import is_one_of_several
from landmarks_jax.training.reports import fetch

# How long a file written by one process may take to appear in another: network storage may cache
# for a while that it is missing.
SHARED_SECONDS = 60.0
_MESSAGE_BYTES = 1024


def gather(text: str) -> list[str]:
    """The texts of all processes, cut to `_MESSAGE_BYTES`. Blocks until all have called it."""
    if not is_one_of_several():
        return [text]
    # A file's name may not be UTF-8.
    encoded = text.encode(errors="backslashreplace")[:_MESSAGE_BYTES].ljust(_MESSAGE_BYTES, b"\0")
    rows = multihost_utils.process_allgather(np.frombuffer(encoded, np.uint8))
    return [bytes(row).rstrip(b"\0").decode(errors="ignore") for row in np.asarray(rows)]


@contextlib.contextmanager
def together() -> Iterator[None]:
    """Raises on all processes if one of them fails in the block.

    The block must not need the other processes: one that failed has left it.

    Raises:
      UserError: with another process's message, where this one succeeded.
    """
    if not is_one_of_several():
        yield
        return
    failure: Exception | None = None
    try:
        yield
    except Exception as error:
        failure = error
    texts = gather("" if failure is None else str(failure) or type(failure).__name__)
    if failure is not None:
        raise failure
    for process, text in enumerate(texts):
        if text:
            raise UserError(f"process {process} has failed: {text}")


def check_devices() -> None:
    """Refuses processes with different numbers of devices; each reads the same number of rows.

    Raises:
      ConfigError: naming this process's number of devices.
    """
    own, every = jax.local_device_count(), jax.device_count()
    if own * jax.process_count() != every:
        raise ConfigError(
            f"--multihost: this process has {own} of the {every} devices; all processes must have "
            "the same number"
        )


def check_same(facts: Mapping[str, str]) -> None:
    """Refuses processes that differ in what must be the same.

    Args:
      facts: values by what they are, in words.

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
    """Refuses a folder that is not shared by all processes.

    Args:
      path: a file in it that process 0 has just written.

    Raises:
      WorkdirError: on every process.
    """
    if not is_one_of_several():
        return
    expected = gather(_digest(path))[0]
    deadline = time.monotonic() + SHARED_SECONDS
    while _digest(path) != expected and time.monotonic() < deadline:
        time.sleep(0.5)
    for process, digest in enumerate(gather(_digest(path))):
        if digest != expected:
            raise WorkdirError(
                f"--workdir {path.parent}: process {process} does not see what process 0 wrote "
                "there; it must be on storage that all processes share"
            )


def _digest(path: Path) -> str:
    try:
        return sha256_of(path)
    except DataError:
        return "missing"


class Stopping:
    """Lets all processes stop after the same step.

    Each queues its request on the devices behind a step and reads the largest of all some steps
    later, when it is ready: no process waits, and all read it after the same step.
    """

    def __init__(self, mesh: Mesh, delay: int) -> None:
        """Takes the devices, and the number of steps after which a request is read."""
        self._mesh = mesh
        self._delay = delay
        self._largest = jax.jit(jnp.max, out_shardings=sharding.replicated(mesh))
        self._in_flight: deque[jax.Array] = deque()

    def decide(self, request: int) -> int:
        """The largest request of all processes `delay` steps ago; with one process, its own."""
        if not is_one_of_several():
            return request
        requests = np.full(jax.local_device_count(), request, np.int32)
        self._in_flight.append(self._largest(sharding.put_batch(self._mesh, requests)))
        if len(self._in_flight) <= self._delay:
            return 0
        return int(fetch(self._in_flight.popleft()))
