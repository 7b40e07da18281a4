"""Child processes of benchmarks: limits, signals, and an end with their parent."""

import os
import signal
import subprocess
import sys
import time

import pytest

from benchmarks import child_processes
from landmarks_jax.system.signals import Interrupt
from tests.running import ROOT

# A module that notes SIGTERM in a file and ends, or goes on.
CHILD = """
import signal, sys, time
note, stubborn = sys.argv[1:]

def end(number, _):
    open(note, "a").write(f"{number} ")
    if stubborn == "no":
        sys.exit(3)

signal.signal(signal.SIGTERM, end)
open(note, "a").write("ready ")
time.sleep(60)
"""
PARENT = """
import sys, time
from pathlib import Path
from benchmarks.child_processes import Child
note = sys.argv[1]
child = Child("noting", [note, "no"], Path(note + ".log"), {})
print(child.process.pid, flush=True)
time.sleep(60)
"""


@pytest.fixture
def noting(tmp_path, monkeypatch):
    """Makes the module importable; returns the file it notes things in."""
    (tmp_path / "noting.py").write_text(CHILD)
    monkeypatch.setenv("PYTHONPATH", f"{ROOT}{os.pathsep}{tmp_path}")
    return tmp_path / "note"


def wait_for(condition):
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def ready(note):
    return note.exists() and note.read_text().startswith("ready")


@pytest.mark.parametrize("stubborn", ["no", "yes"])
def test_a_signal_of_the_command_reaches_the_child_once(noting, tmp_path, stubborn):
    child = child_processes.Child("noting", [str(noting), stubborn], tmp_path / "log", {})
    with Interrupt() as interrupt:

        def signal_twice():
            if ready(noting):
                os.kill(os.getpid(), signal.SIGTERM)
                os.kill(os.getpid(), signal.SIGTERM)

        why = child.wait(time.monotonic() + 20, interrupt, grace=0.3, meanwhile=signal_twice)
    assert why == "stopped by SIGTERM"
    assert noting.read_text() == "ready 15 "
    assert child.process.returncode == (3 if stubborn == "no" else -signal.SIGKILL)


def test_a_child_ends_when_its_parent_is_killed(noting):
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, str(noting)], stdout=subprocess.PIPE, text=True, cwd=ROOT
    )
    wait_for(lambda: ready(noting))
    parent.kill()
    parent.communicate()
    wait_for(lambda: noting.read_text() == "ready 15 ")


def test_the_end_of_a_log(tmp_path):
    (tmp_path / "log").write_text("".join(f"{i}\n" for i in range(50)))
    assert child_processes.tail(tmp_path / "log", 2) == "48\n49"
    assert child_processes.tail(tmp_path / "none") == ""
