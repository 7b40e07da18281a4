"""Detection where files are odd or disks are full: nothing hangs, half a row is never written."""

import contextlib
import os
import re
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from landmarks_jax.inference.media import detection, video_writer, videos, view_batches
from landmarks_jax.inference.media.inputs import find_inputs
from landmarks_jax.inference.media.result_files import Results, Row, UnwritableError
from landmarks_jax.system.errors import DataError
from tests.detecting import make_odd, noise, read_skipped, read_table
from tests.running import call

RATE = Fraction(10)
resource = pytest.importorskip("resource", reason="limits of POSIX")


@contextlib.contextmanager
def largest_file(size: int) -> Iterator[None]:
    """No file can grow beyond `size` bytes: the system writes up to there, then refuses."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    for i in range(4):
        Image.fromarray(noise(i)).save(folder / f"{i}.png")
    return folder


@pytest.mark.parametrize("cut", ["csv", "jsonl"])
def test_a_full_disk_ends_a_run_with_whole_rows(cut, packed_path, photos, tmp_path, monkeypatch):
    out, add = tmp_path / "out", Results.add

    def add_until_full(self, row):
        if self.rows < 2:
            return add(self, row)
        size = (out / f"landmarks.{cut}").stat().st_size
        if cut == "csv":
            monkeypatch.setattr(self, "_lines", self._skipped)  # a file with room
        with largest_file(size + 10):
            return add(self, row)

    monkeypatch.setattr(Results, "add", add_until_full)
    code, _, err = call("detect", str(packed_path), str(photos), f"--out={out}", "--nodraw")
    assert code == 1
    assert err == (
        f"error: --out {out}: cannot be written (File too large); landmarks.csv holds 2 complete "
        f"rows; missing: {photos / '2.png'}, {photos / '3.png'}\n"
    )
    assert [row["file"][-5:] for row in read_table(out)] == ["0.png", "1.png"]
    assert (out / "landmarks.csv").read_bytes().endswith(b"\n")


VIEW = (0.0, 0.0, 9.0, 9.0)


def test_lines_are_on_disk_as_they_are_made(tmp_path):
    points = np.zeros((3, 2))
    with Results(tmp_path, 3, (), faces=False, smooth=False) as results:
        for i in range(3):
            view = (9, 9), None, VIEW, None
            row = Row(f"{i}.png", None, None, *view, points, points[:, 0], None, None)
            results.add(row)
            results.fail(f"{i}.jpg", "unreadable")
            assert len(read_table(tmp_path)) == len(read_skipped(tmp_path)) == i + 1
        room = (tmp_path / "skipped.csv").stat().st_size + 5
        with largest_file(room), pytest.raises(UnwritableError, match="3 complete rows"):
            results.fail("3.jpg", "unreadable")
        assert len(read_skipped(tmp_path)) == 3
        with pytest.raises(DataError, match=r"process .* is working on it"):
            Results(tmp_path, 3, (), faces=False, smooth=False)
    with largest_file(10), pytest.raises(DataError, match=r"--out .*cannot be written \(File too"):
        Results(tmp_path, 3, (), faces=False, smooth=False)
    (tmp_path / "landmarks.csv").unlink()
    os.mkfifo(tmp_path / "landmarks.csv")
    with pytest.raises(DataError, match=r"cannot be written \(a named pipe, not a regular file"):
        Results(tmp_path, 3, (), faces=False, smooth=False)


def test_a_drawing_that_does_not_fit_is_left_out_whole(packed_path, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (120, 120, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    arguments = ("detect", str(packed_path), str(tmp_path / "a.png"), f"--out={tmp_path / 'out'}")
    assert call(*arguments)[0] == 0
    drawn = (tmp_path / "out" / "drawn" / "a.png").read_bytes()
    with largest_file(len(drawn) // 2):
        code, *_ = call(*arguments)
    assert (code, len(read_table(tmp_path / "out"))) == (1, 1)
    assert (
        "a.png: cannot be written (File too large)" in read_skipped(tmp_path / "out").popitem()[1]
    )
    assert (tmp_path / "out" / "drawn" / "a.png").read_bytes() == drawn  # of the run before
    assert len(os.listdir(tmp_path / "out" / "drawn")) == 1


def test_an_image_that_changes_before_it_is_drawn_is_listed(packed_path, tmp_path, monkeypatch):
    monkeypatch.setattr(detection, "_KEPT_BYTES", 0)  # images are read again to be drawn
    for name in ("changed.png", "vanished.png"):
        Image.fromarray(noise(0)).save(tmp_path / name)
    locate = view_batches.locate

    def locate_and_change(*arguments, **options):
        pairs = list(locate(*arguments, **options))
        Image.fromarray(noise(1, 20, 20)).save(tmp_path / "changed.png")
        (tmp_path / "vanished.png").unlink()
        yield from pairs

    monkeypatch.setattr(view_batches, "locate", locate_and_change)
    out = tmp_path / "out"
    assert call("detect", str(packed_path), str(tmp_path), f"--out={out}")[0] == 1
    assert len(read_table(out)) == 2
    problem = "landmarks detected but not drawn: "
    assert read_skipped(out) == {
        str(tmp_path / "changed.png"): f"{problem}it has changed meanwhile",
        str(tmp_path / "vanished.png"): f"{problem}cannot be read as an image (no such file)",
    }


def test_a_video_that_cannot_be_written_does_not_end_detection(packed_path, tmp_path):
    pytest.importorskip("av", reason="the extra `video` is not installed")
    with video_writer.Writer(tmp_path / "a.mp4", RATE) as writer:
        for i in range(4):
            writer.write(noise(i, 64, 48), i / 10)
    assert (writer.problem, os.listdir(tmp_path)) == ("", ["a.mp4"])
    drawn = tmp_path / "out" / "drawn" / "a.mp4"
    drawn.mkdir(parents=True)
    code, *_ = call(
        "detect", str(packed_path), str(tmp_path / "a.mp4"), f"--out={tmp_path / 'out'}"
    )
    assert (code, len(read_table(tmp_path / "out"))) == (1, 4)
    assert re.search(
        r"detected but not drawn: .*a\.mp4: cannot be written \(a folder",
        read_skipped(tmp_path / "out")[str(tmp_path / "a.mp4")],
    )
    # On a full disk, and after an error, nothing is left of it.
    with largest_file(100), video_writer.Writer(tmp_path / "b.mp4", RATE) as writer:
        for i in range(12):
            writer.write(noise(i, 64, 48), i / 10)
    assert "b.mp4: cannot be written (File too large)" in writer.problem
    with (
        contextlib.suppress(KeyboardInterrupt),
        video_writer.Writer(tmp_path / "c.mp4", RATE) as writer,
    ):
        writer.write(noise(0, 64, 48), 0.0)
        raise KeyboardInterrupt
    assert sorted(os.listdir(tmp_path)) == ["a.mp4", "out"]


def test_what_is_no_regular_file_is_skipped_and_listed(packed_path, photos, tmp_path, monkeypatch):
    expected = make_odd(photos)
    monkeypatch.setattr(videos, "is_missing", lambda: False)
    os.mkfifo(photos / "clip.mp4")
    expected["clip.mp4"] = "a named pipe, not a regular file"
    code, _, err = call("detect", str(packed_path), str(photos), f"--out={tmp_path / 'out'}")
    assert code == 1
    assert f"6 files failed, see {tmp_path / 'out' / 'skipped.csv'}: " in err
    assert [row["file"] for row in read_table(tmp_path / "out")] == [
        str(photos / f"{i}.png") for i in range(4)
    ]
    reasons = read_skipped(tmp_path / "out")
    assert reasons.keys() == {str(photos / name) for name in expected}
    for name, problem in expected.items():
        assert problem in reasons[str(photos / name)]
        # One that is named is an error, before anything is read.
        code, _, err = call("detect", "faces", str(photos / name), f"--out={tmp_path / 'none'}")
        assert (code, err) == (2, f"error: {photos / name}: {problem}\n")
    code, _, err = call(
        "detect", "faces", str(photos), f"--boxes={photos / 'pipe.jpg'}", f"--out={tmp_path / 'n'}"
    )
    assert (code, err.count("\n")) == (2, 1)
    assert "pipe.jpg: the list cannot be read (a named pipe, not a regular file)" in err


def test_globs_enter_every_folder_once(photos, monkeypatch):
    monkeypatch.chdir(photos.parent)
    (photos / "deep").mkdir()
    (photos / "3.png").rename(photos / "deep" / "3.png")
    for name in "xyz":  # Python's own globs would follow them 40 times, in every order
        (photos / name).symlink_to("..")
        (photos / "deep" / name).symlink_to(".")
    expected = [f"photos/{name}" for name in ["0.png", "1.png", "2.png"]]
    expected.append("photos/deep/3.png")
    for pattern in ("**/*.png", "photos/**/*.png", "p*/**", "**/**/[0-9].png", "**"):
        assert [item.path for item in find_inputs([pattern], Path("none"))[0]] == expected
    assert [item.path for item in find_inputs(["**/deep/*.png"], Path("none"))[0]] == expected[-1:]
    with pytest.raises(DataError, match="no match as a glob"):
        find_inputs(["none/**/*.png"], Path("none"))
