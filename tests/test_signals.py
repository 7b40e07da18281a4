"""Signals that end a block at once: the message, what defers them, and calls they cannot reach."""

import os
import signal
import threading
import time

import pytest

from landmarks_jax.system import signals
from tests.running import command, finish

NUMBERS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


@pytest.fixture(autouse=True)
def heard():
    """Under nohup SIGHUP is ignored, and stays so."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize("number", NUMBERS)
def test_a_signal_ends_the_block_and_handlers_come_back(number):
    before = [signal.getsignal(number) for number in NUMBERS]
    cleaned, threads = [], threading.active_count()

    @signals.raising("try again")
    def work():
        try:
            os.kill(os.getpid(), number)
            pytest.fail("went on")
        except Exception:  # as libraries do
            pytest.fail("was hidden")
        finally:
            cleaned.append(1)

    with pytest.raises(signals.SignalledError, match=f"^ended by {number.name}; try again$") as end:
        work()
    assert (end.value.exit_code, cleaned) == (128 + number, [1])
    assert [signal.getsignal(number) for number in NUMBERS] == before
    assert signal.set_wakeup_fd(-1) == -1
    assert threading.active_count() == threads


def test_a_second_signal_does_not_cut_the_cleaning_up_short():
    cleaned = []

    @signals.raising("try again")
    def work():
        try:
            signal.raise_signal(signal.SIGHUP)
        finally:
            for number in NUMBERS:
                signal.raise_signal(number)
            cleaned.append(1)

    with pytest.raises(signals.SignalledError, match=r"^ended by SIGHUP; try again$"):
        work()
    assert cleaned == [1]


def test_what_defers_a_signal_is_not_ended(monkeypatch):
    monkeypatch.setattr(signals, "PATIENCE", 0.01)
    with signals.raising("try again"):
        with signals.Interrupt() as interrupt:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.2)  # the thread would have ended this process
        assert interrupt.exit_code == 128 + signal.SIGTERM
        time.sleep(0.1)


def test_other_threads_go_undisturbed():
    done = []

    def work():
        with signals.raising("try again"):
            done.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert done == [signal.getsignal(signal.SIGTERM)]


# One call of a library that runs for minutes; Python's handlers wait for its end.
STUCK = """
import hashlib, threading
from landmarks_jax.system import signals
signals.PATIENCE = 0.2
with signals.raising("try again"):
    threading.Timer(0.2, print, ("stuck",), {"flush": True}).start()
    hashlib.pbkdf2_hmac("sha256", b"", b"", 10**9)
"""


def test_a_call_that_no_signal_reaches_is_ended_too():
    process = command(code=STUCK)
    assert process.stdout.readline() == "stuck\n"
    started = time.monotonic()
    process.send_signal(signal.SIGTERM)
    code, _, err = finish(process)
    assert (code, err) == (128 + signal.SIGTERM, "error: ended by SIGTERM; try again\n")
    assert time.monotonic() - started < 10
