"""Joins the processes of one run, and ends them if one is lost."""

import contextlib
import ctypes
import errno
import logging
import os
import signal
import socket
import sys
import traceback
from collections.abc import Callable, Iterator
from typing import NoReturn

import jax

from landmarks_jax.system.errors import ConfigError, LostError, UserError, print_error

# A process without a heartbeat for this long is lost. On CPUs the others notice at once, as its
# connections break.
HEARTBEAT_SECONDS = 30
# How long the processes wait for each other at the start and at the end.
JOIN_SECONDS, LEAVE_SECONDS = 300, 60
# Words in the errors of a computation that failed because of another process.
_SIGNS_OF_LOSS = ("gloo", "nccl", "coordination", "heartbeat", "peer")


@contextlib.contextmanager
def joined(
    *,
    multihost: bool,
    coordinator: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
) -> Iterator[None]:
    """Joins the processes of one run. Enter it before JAX initialises its backend.

    An error in the block is printed and ends this process at once: an ordinary exit would wait for
    the other processes, which may be gone or waiting for this one.

    Args:
      multihost: whether there are other processes; if False, this does nothing.
      coordinator: `host:port` of process 0; None asks the cluster for all three.
      num_processes: how many processes there are.
      process_id: the number of this one.

    Raises:
      UserError: the processes cannot be joined.
    """
    if not multihost:
        yield
        return
    name = "this process" if process_id is None else f"process {process_id} of {num_processes}"
    if coordinator is not None:
        check_coordinator(coordinator, process_id)
    at = "" if coordinator is None else f" at --coordinator={coordinator}"
    advice = "start all of them within that time, on machines that can reach process 0"
    with _abort_explained(
        lambda: f"{name}: could not join the others{at} within {JOIN_SECONDS} s; {advice}"
    ):
        _join(coordinator, num_processes, process_id)
    try:
        name = _name()  # waits until all have found their devices
        if not is_first():
            logging.getLogger("landmarks_jax").setLevel(logging.WARNING)
        with watched(lambda: "start every process again"):
            yield
            sys.stdout.flush()
            jax.distributed.shutdown()
    except BaseException as error:
        _end(error, name)


def check_coordinator(coordinator: str, process_id: int | None) -> None:
    """Rejects an address that JAX would try for minutes, or crash on.

    Args:
      coordinator: `host:port` of process 0.
      process_id: the number of this process; process 0 must be able to listen on the port.

    Raises:
      ConfigError: the host is unknown, or process 0 cannot listen on the port.
    """
    host, _, port = coordinator.rpartition(":")
    try:
        socket.getaddrinfo(host.strip("[]"), port)
    except (OSError, UnicodeError) as error:
        raise ConfigError(
            f"--coordinator={coordinator}: this machine knows no host {host} ({error}); give "
            "the name or address of process 0's machine"
        ) from error
    if process_id != 0:
        return
    for family, everywhere in ((socket.AF_INET6, "::"), (socket.AF_INET, "0.0.0.0")):
        try:
            with socket.socket(family) as listener:
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                listener.bind((everywhere, int(port)))
        except OSError as error:
            if error.errno in (errno.EADDRINUSE, errno.EACCES):
                raise ConfigError(
                    f"--coordinator={coordinator}: process 0 cannot listen on port {port} "
                    f"({error.strerror}); give all processes another port"
                ) from error


def _join(coordinator: str | None, num_processes: int | None, process_id: int | None) -> None:
    before = signal.getsignal(signal.SIGTERM)
    try:
        jax.distributed.initialize(
            coordinator,
            num_processes,
            process_id,
            initialization_timeout=JOIN_SECONDS,
            heartbeat_timeout_seconds=HEARTBEAT_SECONDS,
            shutdown_timeout_seconds=LEAVE_SECONDS,
        )
    except (RuntimeError, ValueError) as error:
        if coordinator is None:
            raise ConfigError(
                f"--multihost: cannot find or join the other processes ({error}); outside a known "
                "cluster give --coordinator=HOST:PORT --num_processes=N --process_id=I"
            ) from error
        raise ConfigError(f"--coordinator={coordinator}: cannot be used ({error})") from error
    finally:
        # JAX installs a handler of its own; here `system.signals` handles SIGTERM.
        signal.signal(signal.SIGTERM, before)


def is_one_of_several() -> bool:
    """Whether there are other processes; does not initialise a backend."""
    return jax.distributed.is_initialized() and jax.process_count() > 1


def is_first() -> bool:
    """Whether this process writes and prints for all."""
    return not is_one_of_several() or jax.process_index() == 0


def _name() -> str:
    return f"process {jax.process_index()} of {jax.process_count()}"


def _lost() -> str:
    who = "another process of the run"
    if jax.process_count() == 2:
        who = f"process {1 - jax.process_index()}"
    return f"{who} ended early or cannot be reached"


def _end(error: BaseException, name: str) -> NoReturn:
    code = 1
    if isinstance(error, UserError):
        print_error(f"{name}: {error}")
        code = error.exit_code
    elif isinstance(error, KeyboardInterrupt):
        code = 128 + signal.SIGINT
    else:
        traceback.print_exception(error)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


@contextlib.contextmanager
def watched(advice: Callable[[], str]) -> Iterator[None]:
    """Ends with a message if another process is lost during the block.

    Args:
      advice: returns what to do then; must not need the other processes.

    Raises:
      LostError: a computation failed because another process is lost.
    """
    if not is_one_of_several():
        yield
        return
    try:
        with _abort_explained(lambda: f"{_name()}: {_lost()}; {advice()}"):
            yield
    except UserError:
        raise
    except Exception as error:  # JAX and Orbax have no class for it
        if not any(sign in str(error).lower() for sign in _SIGNS_OF_LOSS):
            raise
        raise LostError(f"{_lost()}; {advice()}") from error


@contextlib.contextmanager
def _abort_explained(message: Callable[[], str]) -> Iterator[None]:
    """Prints a message and exits with `LostError`'s code if JAX aborts this process.

    JAX aborts from a thread of its own once another process is missing. The handler of SIGABRT,
    which that thread calls, is the only place left for Python to run.
    """

    def explain(_: int) -> None:
        try:
            print_error(message())
        finally:
            os._exit(LostError.exit_code)

    library = ctypes.CDLL(None)
    library.signal.argtypes = (ctypes.c_int, ctypes.c_void_p)
    library.signal.restype = ctypes.c_void_p
    handler = ctypes.CFUNCTYPE(None, ctypes.c_int)(explain)
    before = library.signal(signal.SIGABRT, ctypes.cast(handler, ctypes.c_void_p))
    try:
        yield
    finally:
        library.signal(signal.SIGABRT, before)
