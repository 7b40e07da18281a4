"""Atomic files and folders, locks, digests, and the reason of an error."""

import errno
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from landmarks_jax.system import errors, files
from landmarks_jax.system.errors import DataError, WeightsError


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_write_file_replaces_and_makes_folders(tmp_path):
    path = tmp_path / "deep" / "a.json"
    files.write_file(path, "ü")
    assert path.read_bytes() == b"\xc3\xbc"
    files.write_file(path, b"two")
    assert path.read_bytes() == b"two"
    assert names(path.parent) == ["a.json"]
    mask = os.umask(0o022)
    os.umask(mask)
    assert path.stat().st_mode & 0o777 == 0o666 & ~mask


@pytest.mark.parametrize("failure", [KeyboardInterrupt, OSError("disk full")], ids=["stop", "disk"])
def test_a_failing_block_leaves_the_old_file(failure, tmp_path):
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")

    def write():
        with files.new_file(path, WeightsError) as file:
            file.write(b"half")
            raise failure

    expected = KeyboardInterrupt if failure is KeyboardInterrupt else WeightsError
    with pytest.raises(expected):
        write()
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["a.bin"]


def test_places_that_cannot_be_written_raise_the_given_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(WeightsError, match=r"file/a: cannot be written \(\w"):
        files.write_file(tmp_path / "file" / "a", "", WeightsError)
    with pytest.raises(DataError, match=r"cannot be written \(a folder, not a regular file"):
        files.write_file(tmp_path, "")


def test_a_temporary_path_ends_as_its_file_does(tmp_path):
    path = tmp_path / ("ü" * 120 + ".mp4")  # of 244 bytes; most systems allow 255
    with files.new_path(path) as temporary:
        assert temporary.name.startswith(".")
        assert temporary.suffix == ".mp4"
        temporary.write_text("1")
        assert not path.exists()
    assert names(tmp_path) == [path.name]


def test_sha256_of_a_file(tmp_path):
    (tmp_path / "abc").write_bytes(b"abc")
    digest = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"  # FIPS 180-2, B.1
    assert files.sha256_of(tmp_path / "abc") == digest
    with pytest.raises(WeightsError, match=r"none: cannot be read \(No such file or directory\)"):
        files.sha256_of(tmp_path / "none", WeightsError)


def test_a_new_folder_exists_only_once_it_is_complete(tmp_path):
    target = tmp_path / "deep" / "out"

    def write(fail):
        with files.new_folder(target) as folder:
            (folder / "a").write_text("1")
            assert not target.exists()
            if fail:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write(fail=True)
    assert names(target.parent) == []
    write(fail=False)
    assert names(target.parent) == ["out"]
    assert (target / "a").read_text() == "1"
    with pytest.raises(DataError, match="out: exists already"):
        write(fail=False)


def test_a_resumable_folder_keeps_files_but_no_temporary_ones(tmp_path):
    target = tmp_path / "out"

    def killed():
        with files.resumable_folder(target) as folder:
            (folder / "a").write_text("1")
            (folder / ".b.x7").write_text("half")  # as `new_file` leaves it when killed
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        killed()
    assert names(tmp_path) == [".out.partial"]
    with files.resumable_folder(target) as folder:
        assert names(folder) == [".lock", "a"]
        (folder / "b").write_text("2")
    assert names(tmp_path) == ["out"]
    assert names(target) == ["a", "b"]
    with pytest.raises(DataError, match="exists already"), files.resumable_folder(target):
        pass


def test_a_locked_folder_is_refused_or_waited_for(tmp_path):
    attempts, path = [], tmp_path / files.LOCK
    with files.lock(path) as handle:
        with pytest.raises(WeightsError) as refused, files.lock(path, WeightsError):
            pass
        with (
            pytest.raises(DataError),
            files.lock(path, wait=lambda: attempts.append(1) or len(attempts) < 3),
        ):
            pass
        inherited = os.dup(handle)  # as a child process holds it
    assert len(attempts) == 3
    who = rf"process {os.getpid()} on {re.escape(socket.gethostname())}, since 20.* UTC, is working"
    assert re.match(rf"{re.escape(str(tmp_path))}: {who} on it", str(refused.value))
    with pytest.raises(DataError), files.lock(path):
        pass

    def release() -> bool:
        os.close(inherited)
        return True

    with files.lock(path, wait=release):
        pass


def test_a_lock_ends_with_its_process(tmp_path):
    code = (
        "import os, sys, pathlib\n"
        "from landmarks_jax.system import files\n"
        "with files.lock(pathlib.Path(sys.argv[1])):\n"
        "    os.kill(os.getpid(), 9)\n"
    )
    path = tmp_path / files.LOCK
    assert subprocess.run([sys.executable, "-c", code, path], check=False).returncode == -9
    assert path.read_text().startswith("process ")  # it says who it was, and locks nothing
    with files.lock(path):
        pass


def test_a_lock_whose_file_was_removed_locks_nothing(tmp_path, monkeypatch):
    path, flock = tmp_path / files.LOCK, files.fcntl.flock

    def removed(handle, how):
        path.unlink()  # by its last holder, between the opening and the lock
        return flock(handle, how)

    monkeypatch.setattr(files.fcntl, "flock", removed)
    with pytest.raises(DataError, match="another process is working on it"), files.lock(path):
        pass


def test_without_locks_nothing_is_locked(tmp_path, monkeypatch, caplog):
    def flock(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    path = tmp_path / files.LOCK
    with files.lock(path):
        monkeypatch.setattr(files.fcntl, "flock", flock)
        with files.lock(path) as handle:
            assert handle >= 0
        assert f"{tmp_path}: cannot be locked (No locks available)" in caplog.text
        monkeypatch.setattr(files, "fcntl", None)
        with files.lock(path) as handle:
            assert handle == -1


def test_a_place_that_cannot_be_written_is_refused(tmp_path, monkeypatch):
    files.check_writable(tmp_path / "a" / "b")
    monkeypatch.setattr(os, "access", lambda path, mode: path != tmp_path)  # root may do anything
    with pytest.raises(WeightsError, match=r"a/b: cannot be written \(.* read-only file system"):
        files.check_writable(tmp_path / "a" / "b", WeightsError)


def test_a_file_where_a_folder_is_needed_is_refused(tmp_path):
    file = tmp_path / "file"
    file.touch()
    files.check_writable(file)
    files.check_writable(tmp_path, folder=True)
    for path, folder in ((file, True), (file / "a", True), (file / "a" / "b", False)):
        with pytest.raises(WeightsError, match=rf"^{path}: cannot .* \({file} is not a folder\)$"):
            files.check_writable(path, WeightsError, folder=folder)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (FileNotFoundError(errno.ENOENT, "No such file or directory", "a"), "No such file or d"),
        (ValueError("two\n  lines"), "two lines"),
        (KeyError(), "KeyError"),
        (ValueError("x" * 300), "x" * 200),
    ],
)
def test_a_reason_is_one_short_line(error, expected):
    text = errors.reason(error)
    assert text.startswith(expected)
    assert len(text) <= 200
