"""Trains and scores the missing runs of cells, one after the other, each in its own processes.

The runs' folders are the only state, so the same command continues after a kill. A folder is locked
while a process works in it; children inherit the lock, so that a second command never trains beside
a process that a killed one left behind.
"""

import contextlib
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ml_collections import ConfigDict

from landmarks_jax.studies import paper_cells
from landmarks_jax.studies.paper_cells import Base, Cell
from landmarks_jax.system import files
from landmarks_jax.system.errors import ConfigError, UserError, WorkdirError, reason
from landmarks_jax.system.signals import Interrupt

PROGRAM = ("-m", "landmarks_jax")
# Not the lock of a training, which the process of a job takes itself.
_LOCK = ".reproduce.lock"


@dataclass(frozen=True)
class Job:
    """The run of a cell.

    Attributes:
      folder: the run's folder.
      config: the run's configuration.
      train: the arguments of Python that train it.
      score: the arguments of Python that score it.
      protocols: protocols to score it under.
    """

    folder: Path
    config: ConfigDict
    train: list[str]
    score: list[str]
    protocols: tuple[str, ...]

    def commands(self) -> list[list[str]]:
        """What is left to do; empty for a finished run.

        Raises:
          WorkdirError: the folder has another run, or a damaged one.
        """
        run = paper_cells.open_run(self.folder, self.config)
        if run is None:
            return [self.train, self.score]
        if not paper_cells.why_missing(run, paper_cells.keys_of(self.protocols), self.config):
            return []
        trained = paper_cells.is_trained(run, self.folder, self.config)
        return [self.score] if trained else [self.train, self.score]


def jobs_of(
    cells: Sequence[Cell],
    base: Base,
    runs: str,
    *,
    seeds: Sequence[int],
    protocols: Sequence[str],
) -> list[Job]:
    """The runs of cells, all cells of a seed before the next seed.

    Raises:
      UserError: the configuration of a cell is invalid, or there is no such protocol.
    """
    paper_cells.keys_of(protocols)
    if not protocols:
        raise ConfigError("config.eval.protocols = (): name a --protocol that scores the runs")
    named = [word for name in protocols for word in ("--protocol", name)]
    jobs = []
    for seed in seeds:
        for cell in cells:
            folder = paper_cells.folder_of(cell, seed, runs)
            fields = {**base.overrides, **paper_cells.changes(cell, base, seed)}
            place = ["--workdir", str(folder)]
            start = ["train", "--config", base.file, *place, *paper_cells.as_flags(fields)]
            jobs.append(
                Job(
                    folder,
                    paper_cells.config_of(cell, base, seed),
                    [*PROGRAM, *start],
                    [*PROGRAM, "eval", *place, *named],
                    tuple(protocols),
                )
            )
    return jobs


def plan(jobs: Sequence[Job]) -> str:
    """The commands to run, as text.

    Raises:
      WorkdirError: a folder has another run than its cell's, or a damaged one.
    """
    lines, left = [], 0
    for job in jobs:
        commands = job.commands()
        left += bool(commands)
        lines.append(f"{job.folder}: {'to do' if commands else 'finished'}")
        lines += [f"  {_shown(command)}" for command in commands]
    return "\n".join([*lines, f"{left} of {len(jobs)} runs to do"])


def run_all(jobs: Sequence[Job]) -> int:
    """Runs what is left of each job; after a failure the others still run.

    Returns:
      0; 1 if a job failed; 128 plus the number of a signal that ended it.
    """
    failed: list[str] = []
    with Interrupt() as interrupt:
        for place, job in enumerate(jobs, 1):
            _print(f"run {place} of {len(jobs)}: {job.folder}")
            try:
                failure = _run(job, interrupt)
            except UserError as error:
                failure = str(error)
            if interrupt.signal is not None:
                _print("stopped; rerun the command to continue")
                return 128 + interrupt.signal
            if failure:
                _print(f"failed: {job.folder}: {failure}")
                failed.append(f"{job.folder}: {failure}")
    _print(f"{len(jobs) - len(failed)} of {len(jobs)} runs finished")
    for failure in failed:
        _print(f"failed: {failure}")
    return 1 if failed else 0


def _run(job: Job, interrupt: Interrupt) -> str:
    """Runs what is left of a job in its locked folder; returns what failed, or "".

    Raises:
      WorkdirError: the folder cannot be made, or has another run, or a process cannot be started.
    """
    waiting = False

    def wait() -> bool:
        nonlocal waiting
        if not waiting:
            _print(f"{job.folder}: waiting for another process that works in it")
            waiting = True
        time.sleep(0.5)
        return interrupt.signal is None

    try:
        job.folder.mkdir(parents=True, exist_ok=True)
        with files.lock(job.folder / _LOCK, WorkdirError, wait) as handle:
            return _run_locked(job, handle, interrupt)
    except OSError as error:
        raise WorkdirError(f"{job.folder}: {reason(error)}") from error


def _run_locked(job: Job, handle: int, interrupt: Interrupt) -> str:
    # Only now: another process may have worked in the folder until just now.
    for command in job.commands() if interrupt.signal is None else ():
        _print(_shown(command))
        process = subprocess.Popen(
            [sys.executable, *command],
            pass_fds=(handle,) if handle >= 0 else (),
            start_new_session=True,  # so that it gets Ctrl-C once, from here
        )
        code = _wait(process, interrupt)
        if code:
            return f"exit code {code} of {_shown(command)}"
        if interrupt.signal is not None:
            return ""
    if interrupt.signal is None and job.commands():
        return "its commands succeeded, but it is not finished; see what they printed"
    return ""


def _wait(process: "subprocess.Popen[bytes]", interrupt: Interrupt) -> int:
    """Waits for a process; passes a signal on to it, so that it saves and ends."""
    passed_on = False
    try:
        while True:
            with contextlib.suppress(subprocess.TimeoutExpired):
                return process.wait(timeout=0.5)
            if interrupt.signal is not None and not passed_on:
                process.send_signal(interrupt.signal)
                passed_on = True
    finally:
        if process.poll() is None:  # a second Ctrl-C
            process.kill()
            process.wait()


def _shown(command: Sequence[str]) -> str:
    """A command as a user types it."""
    own = tuple(command[:2]) == PROGRAM
    return shlex.join(["landmarks-jax", *command[2:]] if own else ["python", *command])


def _print(text: str) -> None:
    print(text, flush=True)
