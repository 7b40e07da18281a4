"""The processes that inject the faults of `benchmarks.faults`: injectors, and their workers.

An injector has no JAX started, so that it can fork commands to be stopped. Its worker has, and does
what needs no process of its own; if it hangs it is replaced.
"""

import contextlib
import io
import json
import logging
import multiprocessing
import os
import shutil
import signal
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks import fault_scenarios as scenarios
from benchmarks import fault_targets as targets
from benchmarks import harness
from landmarks_jax.cli.main import main
from landmarks_jax.system.errors import UserError

DAMAGES = ("flipped bit", "cut", "zeros")
FULL, KILL, TERM = "full disk", "SIGKILL", "SIGTERM"
BAD = ("silent", "lost", "traceback", "hang")
TIMEOUT = 90.0  # seconds; a command that takes longer hangs


class Fault(NamedTuple):
    """A fault: what it happens to, which it is, and the seed of its place and moment."""

    what: str
    kind: str
    seed: int


def damage(folder: Path, files: str, kind: str, rng: np.random.Generator) -> str:
    """Damages one of some files of a folder; returns where."""
    chosen = sorted(p for p in folder.glob(files) if p.is_file() and p.stat().st_size)
    path = chosen[rng.integers(len(chosen))]
    data = bytearray(path.read_bytes())
    place = int(rng.integers(len(data)))
    if kind == "flipped bit":
        data[place] ^= 1 << int(rng.integers(8))
    else:
        rest = len(data) - place if kind == "zeros" else 0
        data[place:] = bytes(rest)
    path.write_bytes(data)
    return f"{path.relative_to(folder)}, byte {place}"


def read(target: targets.Target, folder: Path) -> tuple[str, str]:
    """Reads a folder: ("value" or "warned", a digest), or ("refused" or "traceback", why)."""
    warned = io.StringIO()
    handler = logging.StreamHandler(warned)
    handler.setLevel(logging.WARNING)
    logging.getLogger("landmarks_jax").addHandler(handler)
    try:
        with contextlib.redirect_stderr(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            value = target.read(folder)
        return "warned" if warned.getvalue() else "value", value
    except UserError as error:
        return "refused", str(error)
    except Exception:  # whatever it is, it is what a user would see
        return "traceback", traceback.format_exc(limit=-3)[-600:]
    finally:
        logging.getLogger("landmarks_jax").removeHandler(handler)


def damaged(fault: Fault, folder: Path, base: Path, expected: dict[str, str]) -> tuple[str, str]:
    """The verdict on a damaged file, and why."""
    target = targets.TARGETS[fault.what]
    copy = folder / target.folder
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(base / target.folder, copy)
    shutil.copytree(base / "packed", folder / "packed", dirs_exist_ok=True)
    if fault.what not in expected:
        verdict, expected[fault.what] = read(target, copy)
        if verdict != "value":
            raise RuntimeError(f"{fault.what}: not readable undamaged: {expected[fault.what]}")
        return damaged(fault, folder, base, expected)
    place = damage(copy, target.files, fault.kind, np.random.default_rng(fault.seed))
    verdict, text = read(target, copy)
    if verdict in ("value", "warned"):
        right, warned = text == expected[fault.what], verdict == "warned"
        verdict = "silent" if target.checked else "unknowable"
        verdict = "no effect" if right else "refused" if warned else verdict
        text = ""
    return verdict, f"{place}: {text}"


def _serve(pipe: Connection, folder: Path, base: Path) -> None:
    """Answers the requests of an injector."""
    scenarios.share_programs()
    expected: dict[str, str] = {}
    whole: dict[str, dict[str, bytes]] = {}
    trajectory = scenarios.Trajectory(base / "trajectory.json")
    while True:
        fault, code = pipe.recv()
        try:
            if fault.kind in DAMAGES:
                pipe.send(damaged(fault, folder, base, expected))
                continue
            if fault.what == "train":
                found = _train_verdict(fault, code, folder, base, trajectory)
            else:
                if fault.what not in whole:
                    whole[fault.what] = scenarios.whole(fault.what, folder, base)
                right = whole[fault.what]
                if fault.kind == FULL:
                    limit = _size(fault)
                    found = scenarios.full_disk(fault.what, folder, base, limit, right)
                else:
                    found = scenarios.check(fault.what, folder, code, right)
                    found += scenarios.again(fault.what, folder, base, right)
            pipe.send(found)
        except Exception:
            pipe.send([("traceback", traceback.format_exc()[-900:])])


def _train_verdict(
    fault: Fault, code: int, folder: Path, base: Path, trajectory: scenarios.Trajectory
) -> list[scenarios.Violation]:
    if fault.kind == FULL:
        return scenarios.full_disk_of_training(folder, base, _size(fault), trajectory)
    run = folder.with_name("chain") / "run"
    step, found = trajectory.check(run, saved_last=code == 128 + signal.SIGTERM)
    return [*found, (str(step), "step")]


def _size(fault: Fault) -> int:
    """The size beyond which no file can grow, bytes."""
    rng = np.random.default_rng(fault.seed)
    return int(np.exp(rng.uniform(np.log(50), np.log(100_000))))


class Injector:
    """Injects faults one after the other, with a worker for what needs no process of its own."""

    def __init__(self, folder: Path, base: Path) -> None:
        self._folder, self._base = folder, base
        self._durations: dict[str, float] = {}
        self._trained = scenarios.STEPS
        self._start_worker()

    def _start_worker(self) -> None:
        self._pipe, other = multiprocessing.Pipe()
        self._worker = fork(lambda: _serve(other, self._folder / "work", self._base))

    def close(self) -> None:
        """Ends the worker."""
        os.kill(self._worker, signal.SIGKILL)
        os.waitpid(self._worker, 0)

    def ask(self, fault: Fault, code: int = 0) -> Any:
        """The worker's answer; a hang if there is none."""
        self._pipe.send((fault, code))
        with contextlib.suppress(EOFError):
            if self._pipe.poll(TIMEOUT):
                return self._pipe.recv()
        self.close()
        self._start_worker()
        return ("hang", "") if fault.kind in DAMAGES else [("hang", "")]

    def inject(self, fault: Fault) -> tuple[str, str]:
        """Injects a fault; the verdict, and why."""
        if fault.kind in DAMAGES:
            verdict, text = self.ask(fault)
            return verdict, text
        violations = self.ask(fault) if fault.kind == FULL else self._stop(fault)
        return violations[0] if violations else ("no effect", "")

    def _stop(self, fault: Fault) -> list[scenarios.Violation]:
        rng = np.random.default_rng(fault.seed)
        work, errors = self._folder / "work", self._folder / "errors"
        if fault.what == "train":  # one run, continued after each stop
            words = scenarios.train_words(self._folder / "chain", 10**6)
            if self._trained > scenarios.STEPS // 2:
                shutil.rmtree(self._folder / "chain", ignore_errors=True)
                self._trained = 0
        else:
            scenarios.SCENARIOS[fault.what].prepare(work, self._base)
            words = scenarios.SCENARIOS[fault.what].words(work, self._base)
        number = signal.SIGKILL if fault.kind == KILL else signal.SIGTERM
        delay = rng.uniform(0, self._duration(fault.what))
        pid = _start(words, errors)
        time.sleep(delay)
        os.kill(pid, number)
        code = wait(pid, TIMEOUT)
        text = errors.read_text()
        if code is None:
            return [("hang", text[-600:])]
        if "Traceback" in text:
            return [("traceback", text[-600:])]
        if code not in (0, -number, 128 + number):
            return [("lost", f"exit code {code}: {text[-600:]}")]
        violations = self.ask(fault, code)
        if fault.what == "train" and violations[-1][1] == "step":
            before, self._trained = self._trained, int(violations.pop()[0])
            if self._trained < before:
                violations.append(("lost", f"the checkpoint of step {before}"))
        return violations

    def _duration(self, name: str) -> float:
        """Seconds within which a command is stopped; measured once, undisturbed."""
        if name not in self._durations:
            folder, began = self._folder / "timed", time.monotonic()
            if name == "train":
                pid = _start(scenarios.train_words(folder, 10**6), self._folder / "errors")
                while not (folder / "run" / "metrics.jsonl").exists():
                    time.sleep(0.01)
                    if time.monotonic() - began > TIMEOUT:
                        raise RuntimeError((self._folder / "errors").read_text())
                os.kill(pid, signal.SIGKILL)
            else:
                scenarios.SCENARIOS[name].prepare(folder, self._base)
                words = scenarios.SCENARIOS[name].words(folder, self._base)
                pid = _start(words, self._folder / "errors")
            wait(pid, TIMEOUT)
            shutil.rmtree(folder)
            more = 1.5 if name == "train" else 0.05  # some steps, and the end of the process
            self._durations[name] = time.monotonic() - began + more
        return self._durations[name]


def fork(function: Callable[[], int | None]) -> int:
    """Runs a function in a forked process, whose exit code it returns; returns its number."""
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        code = function() or 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


def _start(words: list[str], errors: Path) -> int:
    """Runs a command in a forked process; returns its number."""

    def command() -> int:
        with errors.open("w") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
        return main(words)

    return fork(command)


def wait(pid: int, seconds: float) -> int | None:
    """The exit code of a process, negative for a signal; None, and it is killed, after a while."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.005)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return None


def work(faults: Sequence[Fault], folder: Path, base: Path) -> None:
    """An injector's share of the faults; writes a line for each."""
    folder.mkdir()
    injector = Injector(folder, base)
    with (folder / "found.jsonl").open("w") as file:
        for fault in faults:
            began = time.monotonic()
            verdict, text = injector.inject(fault)
            seconds = round(time.monotonic() - began, 2)
            file.write(json.dumps([*fault, verdict, text, seconds]) + "\n")
            if verdict in BAD:
                harness.log({**fault._asdict(), "verdict": verdict, "why": text})
    injector.close()
