"""Output and logs that cannot be written: closed, full, or without a reader. Nothing ends of it."""

import contextlib
import errno
import io
import os
import subprocess
import sys

import pytest

from landmarks_jax.cli.main import main
from landmarks_jax.system import streams
from tests.running import ROOT


@pytest.fixture(name="unread")
def make_unread():
    """A pipe that nobody reads."""
    read, write = os.pipe()
    os.close(read)
    with open(write, "w") as file:
        yield file


@pytest.fixture(name="full")
def make_full():
    """A full disk."""
    with open("/dev/full", "w") as file:
        yield file


@contextlib.contextmanager
def replaced(monkeypatch, out, err):
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(sys, "stderr", err)
    with streams.guarded() as output:
        yield output
    assert (sys.stdout, sys.stderr) == (out, err)


def test_a_reader_that_went_away_is_no_news_at_the_end(monkeypatch, unread):
    err = io.StringIO()
    with replaced(monkeypatch, unread, err) as output:
        print("a line")
        assert output.exit_code(0) == 141
        assert output.exit_code(3) == 3
    assert err.getvalue() == ""


def test_output_that_breaks_in_the_middle_is_said_once_and_dropped(monkeypatch, full, tmp_path):
    err = io.StringIO()
    with replaced(monkeypatch, full, err) as output:
        for _ in range(3):
            print("a line", flush=True)
        # Libraries and child processes write to the same descriptor.
        os.write(full.fileno(), b"dropped\n")
        assert output.exit_code(0) == 1
    problem = "standard output: cannot be written (No space left on device)"
    assert err.getvalue() == f"{problem}; continuing without it\n"


def test_output_that_breaks_at_the_end_is_an_error(monkeypatch, full):
    err = io.StringIO()
    with replaced(monkeypatch, full, err) as output:
        print("a line")
        assert output.exit_code(0) == 1
    problem = "standard output: cannot be written (No space left on device)"
    assert err.getvalue() == f"error: {problem}\n"


def test_a_broken_log_is_said_in_the_output_and_changes_no_code(monkeypatch, full):
    out = io.StringIO()
    with replaced(monkeypatch, out, full) as output:
        print("a note", file=sys.stderr, flush=True)
        print("a line")
        assert output.exit_code(0) == 0
    said, line = out.getvalue().splitlines()
    assert said.startswith("standard error: cannot be written (No space left on device)")
    assert line == "a line"


def test_nowhere_is_left_to_say_it(monkeypatch, unread):
    with (
        open(os.dup(unread.fileno()), "w") as other,
        replaced(monkeypatch, unread, other) as output,
    ):
        print("a note", file=sys.stderr, flush=True)
        print("a line", flush=True)
        assert output.exit_code(0) == 141


def test_closed_streams(monkeypatch):
    err = io.StringIO()
    with replaced(monkeypatch, None, err) as output:
        assert not sys.stdout.isatty()
        assert output.exit_code(0) == 0  # nothing was lost
        print("a line")
        assert output.exit_code(0) == 1
    assert err.getvalue() == "error: standard output: cannot be written (Bad file descriptor)\n"
    out = io.StringIO()
    with replaced(monkeypatch, out, None) as output:
        print("a note", file=sys.stderr, flush=True)
        print("a line")
        assert output.exit_code(0) == 0
    assert out.getvalue() == "a line\n"


def test_names_that_the_encoding_lacks_are_escaped(monkeypatch):
    data = io.BytesIO()
    out = io.TextIOWrapper(data, "ascii")
    with replaced(monkeypatch, out, io.StringIO()) as output:
        print("ü.jpg", os.fsdecode(b"\xff.jpg"))
        assert output.exit_code(0) == 0
    assert data.getvalue() == b"\\xfc.jpg \\udcff.jpg\n"


def test_escaped_names_on_a_full_disk_end_nothing(monkeypatch):
    with open("/dev/full", "w", encoding="ascii", buffering=1) as out:
        err = io.StringIO()
        with replaced(monkeypatch, out, err) as output:
            print("ü.jpg\n", end="")
            assert output.exit_code(0) == 1
    assert "standard output: cannot be written (No space left on device)" in err.getvalue()


def test_every_command_ends_by_the_same_rule(monkeypatch, unread):
    monkeypatch.setattr(sys, "stdout", unread)
    assert main(["--help"]) == 141


@pytest.mark.parametrize(
    ("redirection", "expected"),
    [
        (">&-", (1, "", "error: standard output: cannot be written (Bad file descriptor)\n")),
        ("2>&-", (0, "whole", "")),
        ("<&- >&- 2>&-", (1, "", "")),
        (">/dev/full", (1, "", "error: standard output: cannot be written (No space left on ")),
    ],
)
def test_closed_and_full_descriptors(redirection, expected):
    """By the shell: a file that is opened later must not become the standard output."""
    code = (
        "import os, sys; from landmarks_jax.cli.main import main; code = main(['--help']);"
        "assert os.open('/dev/null', os.O_RDONLY) > 2; sys.exit(code)"
    )
    words = ["sh", "-c", f'exec "$@" {redirection}', "sh", sys.executable, "-c", code]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        words, env=environment, capture_output=True, text=True, check=False, stdin=subprocess.PIPE
    )
    status, out, err = expected
    assert done.returncode == status
    assert ("landmarks-jax COMMAND" in done.stdout) == bool(out)
    assert done.stderr.startswith(err)
    assert len(done.stderr.splitlines()) == bool(err)


class SmallDisk:
    """A file on a disk with some bytes left."""

    def __init__(self, left):
        self.left, self.data = left, b""

    def write(self, data):
        if not self.left:
            raise OSError(errno.ENOSPC, "No space left on device")
        written, self.left = data[: self.left], max(self.left - len(data), 0)
        self.data += written
        return len(written)

    def close(self):
        pass


def test_a_log_on_a_full_disk_goes_on_when_there_is_room_again(tmp_path, caplog):
    log = streams.Appender(tmp_path / "logs" / "log.jsonl")
    log.write(b"one\n")
    assert (tmp_path / "logs" / "log.jsonl").read_bytes() == b"one\n"
    log._file.close()
    log._file = disk = SmallDisk(6)
    log.write(b"two\n")
    log.write(b"three\n")
    log.write(b"four\n")
    assert disk.data == b"two\nth"
    assert caplog.text.count("log.jsonl: cannot be written (No space left on device)") == 1
    disk.left = 100
    log.write(b"five\n")
    assert disk.data == b"two\nthree\nfour\nfive\n"
    disk.left = 0
    log.write(b"six\n")
    log.close()
    assert caplog.text.count("log.jsonl: its end is missing") == 1


def test_a_log_that_cannot_be_opened_ends_nothing(tmp_path, caplog):
    (tmp_path / "logs").write_text("a file\n")
    log = streams.Appender(tmp_path / "logs" / "log.jsonl")
    log.write(b"one\n")
    log.close()
    assert "log.jsonl: cannot be written (" in caplog.text
