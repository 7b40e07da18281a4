"""Trains and scores what the cells lack, one run after the other, each in processes of its own.

Nothing is remembered but the runs' folders, so a run killed anywhere is gone on with by the same
command. A folder is locked while it is worked in, and the lock is the processes' own: whoever lives
of them holds it, so that a second command never trains beside a process that a killed one left.
"""

import contextlib
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from landmarks_jax.studies import status
from landmarks_jax.studies.cells import Base, Cell, as_flags, changes, config_of, folder_of
from landmarks_jax.system.errors import ConfigError, UserError, WorkdirError
from landmarks_jax.system.signals import Interrupt

_PROGRAM = ("-m", "landmarks_jax")


@dataclass(frozen=True)
class Job:
    """A cell's run.

    Attributes:
      folder: of the run.
      config: of the run.
      train: the command that trains it, without the interpreter.
      score: the command that scores it, likewise.
      protocols: that it is to be scored under.
    """

    folder: Path
    config: ConfigDict
    train: list[str]
    score: list[str]
    protocols: tuple[str, ...]

    def commands(self) -> list[list[str]]:
        """What is left to do; nothing of a finished run.

        Raises:
          WorkdirError: the folder holds another run, or a damaged one.
        """
        run = status.open_run(self.folder, self.config)
        if run is None:
            return [self.train, self.score]
        if not status.why_missing(run, status.keys_of(self.protocols), self.config):
            return []
        trained = status.is_trained(run, self.folder, self.config)
        return [self.score] if trained else [self.train, self.score]


def jobs_of(
    cells: Sequence[Cell],
    base: Base,
    runs: str,
    *,
    seeds: Sequence[int],
    protocols: Sequence[str],
) -> list[Job]:
    """The runs of cells, all cells of a seed before the next seed's.

    Raises:
      UserError: a cell cannot work, or a protocol is not known.
    """
    status.keys_of(protocols)
    if not protocols:
        raise ConfigError("config.eval.protocols = (): name a --protocol that scores the runs")
    named = [word for name in protocols for word in ("--protocol", name)]
    jobs = []
    for seed in seeds:
        for cell in cells:
            folder = folder_of(cell, seed, runs)
            own = {**base.overrides, **changes(cell, base, seed)}
            start = [
                *_PROGRAM,
                "train",
                "--config",
                base.file,
                "--workdir",
                str(folder),
                *as_flags(own),
            ]
            jobs.append(
                Job(
                    folder,
                    config_of(cell, base, seed),
                    start,
                    [*_PROGRAM, "eval", "--workdir", str(folder), *named],
                    tuple(protocols),
                )
            )
    return jobs


def plan(jobs: Sequence[Job]) -> str:
    """What is to be done, as text.

    Raises:
      WorkdirError: a folder holds another run than its cell's, or a damaged one.
    """
    lines, left = [], 0
    for job in jobs:
        commands = job.commands()
        left += bool(commands)
        lines.append(f"{job.folder}: {'to do' if commands else 'finished'}")
        lines += [f"  {_shown(command)}" for command in commands]
    return "\n".join([*lines, f"{left} of {len(jobs)} runs to do"])


def run_all(jobs: Sequence[Job]) -> int:
    """Does what is left of each job; the failure of one does not keep the others from their turn.

    Returns:
      0; 1 where a job failed; 128 plus the number of a signal that ended it.
    """
    failed: list[str] = []
    with Interrupt() as interrupt:
        for place, job in enumerate(jobs, 1):
            _say(f"run {place} of {len(jobs)}: {job.folder}")
            try:
                with _locked(job.folder, interrupt) as handle:
                    failure = _do(job, handle, interrupt)
            except UserError as error:
                failure = str(error)
            if interrupt.signal is not None:
                _say("stopped; the same command goes on")
                return 128 + interrupt.signal
            if failure:
                _say(f"failed: {job.folder}: {failure}")
                failed.append(f"{job.folder}: {failure}")
    _say(f"{len(jobs) - len(failed)} of {len(jobs)} runs finished")
    for failure in failed:
        _say(f"failed: {failure}")
    return 1 if failed else 0


def _do(job: Job, handle: int, interrupt: Interrupt) -> str:
    """Runs what is left of a job; returns what went wrong, "" for nothing."""
    # Only now that the folder is this process's: another may have worked in it until just now.
    for command in job.commands() if interrupt.signal is None else ():
        _say(_shown(command))
        process = subprocess.Popen(
            [sys.executable, *command],
            pass_fds=(handle,) if handle >= 0 else (),
            start_new_session=True,  # Ctrl-C comes to it once, from here
        )
        code = _wait(process, interrupt)
        if code:
            return f"exit code {code} of {_shown(command)}"
        if interrupt.signal is not None:
            return ""
    if interrupt.signal is None and job.commands():
        return "its commands ended well, and it is not finished; see what they printed"
    return ""


def _wait(process: "subprocess.Popen[bytes]", interrupt: Interrupt) -> int:
    """Waits for a process and passes a signal on to it, upon which it saves and ends."""
    told = False
    try:
        while True:
            with contextlib.suppress(subprocess.TimeoutExpired):
                return process.wait(timeout=0.5)
            if interrupt.signal is not None and not told:
                process.send_signal(interrupt.signal)
                told = True
    finally:
        if process.poll() is None:  # a second signal
            process.kill()
            process.wait()


@contextlib.contextmanager
def _locked(folder: Path, interrupt: Interrupt) -> Iterator[int]:
    """Holds a run's folder, waiting for whoever does; yields the handle that holds it.

    A process that inherits the handle holds it too. Nothing is held without POSIX (the handle is
    -1), and on file systems that cannot lock.

    Raises:
      WorkdirError: the folder cannot be made.
    """
    try:
        import fcntl  # noqa: PLC0415  (POSIX alone)
    except ImportError:
        yield -1
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(folder, os.O_RDONLY)
    except OSError as error:
        raise WorkdirError(f"{folder}: cannot be made ({error})") from error
    try:
        told = False
        while not _try_lock(fcntl, handle) and interrupt.signal is None:
            if not told:
                _say(f"{folder}: another process works in it; waiting for its end")
                told = True
            time.sleep(0.5)
        yield handle
    finally:
        os.close(handle)


def _try_lock(fcntl: Any, handle: int) -> bool:
    """Whether a folder need not be waited for: it is held now, or cannot be."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True


def _shown(command: Sequence[str]) -> str:
    """A command as a user types it."""
    own = tuple(command[:2]) == _PROGRAM
    return shlex.join(["landmarks-jax", *command[2:]] if own else ["python", *command])


def _say(text: str) -> None:
    print(text, flush=True)
