"""Preparing that is interrupted at any moment is resumed and gives the same files."""

import hashlib
import json
import logging
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from landmarks_jax.data import framing, prepared, prepared_writer
from landmarks_jax.data.box_canvas import BoxCanvas, Frame
from landmarks_jax.data.sources import registry
from landmarks_jax.data.sources.synthetic import SyntheticFaces
from landmarks_jax.system.errors import DataError
from tests import datasets

COUNT = 9
FRAME = BoxCanvas(16, 40.0, 0.7, 0.04)


@pytest.fixture(name="table")
def make_photos(tmp_path, monkeypatch) -> Path:
    """Nine photos with three points each, and their table."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(prepared_writer, "_FLUSH_EVERY", 2)
    rng = np.random.default_rng(0)
    lines = ["file,x1,y1,x2,y2,x3,y3"]
    (tmp_path / "photos").mkdir()
    for i in range(COUNT):
        save(tmp_path / "photos" / f"{i}.png", i)
        lines.append(",".join([f"photos/{i}.png", *map(str, rng.integers(5, 35, 6))]))
    (tmp_path / "points.csv").write_text("\n".join(lines))
    return tmp_path / "points.csv"


def save(path: Path, seed: int) -> None:
    pixels = np.random.default_rng(seed).integers(0, 256, (40, 50, 3), np.uint8)
    Image.fromarray(pixels).save(path)


def contents(folder: Path) -> dict[str, str]:
    """The checksum of every file."""
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in folder.iterdir()}


def undisturbed(table: Path, name: str = "undisturbed") -> dict[str, str]:
    """What an undisturbed call writes."""
    out = table.parent / name
    prepared.prepare(registry.open_labelled(str(table)), FRAME, out)
    assert set(contents(out)) == {"canvases.npy", "points.npy", "names.json", "manifest.json"}
    return contents(out)


class Stop(BaseException):
    """As Ctrl-C: nothing catches it."""


def stopped(table: Path, out: Path, at: int, frame: Frame = FRAME) -> None:
    """A call that is stopped at a photo."""
    source = registry.open_labelled(str(table))
    real = source.photo

    def photo(index):
        if index == at:
            raise Stop
        return real(index)

    source.photo = photo  # type: ignore[method-assign]
    with pytest.raises(Stop):
        prepared.prepare(source, frame, out)
    assert not out.exists()


def cut_again(table: Path, out: Path) -> list[int]:
    """The photos that the next call decodes."""
    source = registry.open_labelled(str(table))
    real, seen = source.photo, []
    source.photo = lambda index: seen.append(index) or real(index)  # type: ignore[method-assign]
    prepared.prepare(source, FRAME, out)
    return sorted(seen)


def test_a_stopped_preparation_is_resumed(table, caplog):
    expected = undisturbed(table)
    out = table.parent / "deep" / "out"
    stopped(table, out, 5)
    assert [p.name for p in out.parent.iterdir()] == [".out.partial"]
    kept = json.loads((out.parent / ".out.partial" / "progress.json").read_text())
    assert kept["done"] == 5
    with caplog.at_level(logging.INFO, "landmarks_jax"):
        assert cut_again(table, out) == [5, 6, 7, 8]
    assert "resuming after 5 canvases" in caplog.text
    assert contents(out) == expected
    assert [p.name for p in out.parent.iterdir()] == ["out"]


def test_a_broken_photo_stops_it_until_it_is_repaired(table):
    expected = undisturbed(table)
    source = registry.open_labelled(str(table))
    photo = table.parent / "photos" / "4.png"
    good = photo.read_bytes()
    photo.write_bytes(b"broken since")
    with pytest.raises(DataError, match=r"4.png: cannot be read"):
        prepared.prepare(source, FRAME, table.parent / "out")
    photo.write_bytes(good)  # another time of change, but it was not cut yet
    assert cut_again(table, table.parent / "out") == [4, 5, 6, 7, 8]
    assert contents(table.parent / "out") == expected


def change_points(table: Path) -> None:
    lines = table.read_text().splitlines()
    lines[1] = "photos/0.png,6,7,20,9,12,30"
    table.write_text("\n".join(lines))


def change_order(table: Path) -> None:
    head, *lines = table.read_text().splitlines()
    table.write_text("\n".join([head, *lines[::-1]]))


def longer(table: Path) -> None:
    save(table.parent / "photos" / "more.png", 77)
    table.write_text(table.read_text() + "\nphotos/more.png,6,7,20,9,12,30")


def shorten(table: Path) -> None:
    os.truncate(table.parent / ".out.partial" / "canvases.npy", 3000)


def garble(table: Path) -> None:
    (table.parent / ".out.partial" / "progress.json").write_text('{"done": 5')


@pytest.mark.parametrize(
    "change",
    [
        lambda table: save(table.parent / "photos" / "2.png", 99),
        change_points,
        change_order,
        longer,
        shorten,
        garble,
        lambda table: (table.parent / ".out.partial" / "points.npy").unlink(),
    ],
    ids=["photo", "points", "order", "longer", "shortened", "garbled", "no points"],
)
def test_rows_of_other_photos_or_damaged_ones_are_not_reused(change, table):
    out = table.parent / "out"
    stopped(table, out, 5)
    change(table)
    cut_again(table, out)
    assert contents(out) == undisturbed(table)


def test_another_cut_starts_again(table):
    out = table.parent / "out"
    stopped(table, out, 5)
    stopped(table, out, 1, BoxCanvas(20, 40.0, 0.7, 0.04))  # larger rows, in their place
    stopped(table, out, 5)
    stopped(table, out, 1, BoxCanvas(16, 39.9, 0.7, 0.04))  # of the same size
    assert cut_again(table, out) == list(range(COUNT))
    assert contents(out) == undisturbed(table)


def test_synthetic_faces_of_another_seed_are_other_photos(table):
    out, frame = table.parent / "out", framing.Framing(20, 16, "center")

    class Faces(SyntheticFaces):
        def photo(self, index):
            if index == 4:
                raise Stop
            return super().photo(index)

    with pytest.raises(Stop):
        prepared.prepare(Faces(1, 6, 24), frame, out)
    faces = SyntheticFaces(2, 6, 24)
    prepared.prepare(faces, frame, out)
    np.testing.assert_array_equal(
        prepared.PreparedCanvases(out).canvases, datasets.canvases_of(faces, frame)[0]
    )


def test_two_processes_cannot_write_one_folder(table):
    pytest.importorskip("fcntl")
    out = table.parent / "out"
    source = registry.open_labelled(str(table))
    real = source.photo

    def photo(index):
        if index == 0:
            with pytest.raises(DataError, match=r"process .* is working on it"):
                prepared.prepare(registry.open_labelled(str(table)), FRAME, out)
        return real(index)

    source.photo = photo  # type: ignore[method-assign]
    prepared.prepare(source, FRAME, out)
    assert len(prepared.PreparedCanvases(out)) == COUNT


# Forks a process for every moment at which it is killed: each file operation and each photo.
KILLED = """
import os, signal, sys
from pathlib import Path
from landmarks_jax.data import prepared, prepared_writer
from landmarks_jax.data.sources import registry
from landmarks_jax.system import parallel
from landmarks_jax.data.box_canvas import BoxCanvas

table, folder = Path(sys.argv[1]), Path(sys.argv[2])
frame = BoxCanvas(16, 40.0, 0.7, 0.04)
prepared_writer._FLUSH_EVERY = 2
source = registry.open_labelled(str(table))
left = -1
# In order and in one thread, so that every moment comes in its turn.
parallel.in_order = lambda function, items, window=None: map(function, items)

def moment(*_):
    global left
    left -= 1
    if left == 0:
        os.kill(os.getpid(), signal.SIGKILL)

def before(owner, name):
    real = getattr(owner, name)
    def act(*arguments, **options):
        moment()
        return real(*arguments, **options)
    setattr(owner, name, act)

sys.addaudithook(lambda event, _: moment() if event in ("open", "os.rename", "os.remove") else None)
for owner, name in ((os, "fsync"), (os, "replace"), (source, "photo")):
    before(owner, name)

def attempt(out, moments):
    global left
    child = os.fork()
    if not child:
        left = moments
        prepared.prepare(source, frame, out)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

moments = 0
while True:
    moments += 1
    out = folder / str(moments)
    if attempt(out, moments) == 0:
        break
    if not out.exists() and moments % 3 == 0:  # killed once more, somewhere else
        attempt(out, 1 + moments * 7 % 40)
    if not out.exists():
        assert attempt(out, -1) == 0
print(moments)
"""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
def test_killed_at_any_moment_it_is_complete_in_the_end_or_missing(table):
    table.write_text("\n".join(table.read_text().splitlines()[:6]))  # five photos
    expected = undisturbed(table)
    folder = table.parent / "many"
    folder.mkdir()
    command = [sys.executable, "-c", KILLED, str(table), str(folder)]
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=120)
    moments = int(done.stdout)
    assert moments > 40

    made = sorted(folder.iterdir())
    assert len(made) == moments
    for out in made:
        actual = contents(out)
        # Killed between the renaming and the tidying up, the note of progress and the lock stay.
        for left_over in ("progress.json", ".lock"):
            actual.pop(left_over, None)
        assert actual == expected
        prepared.PreparedCanvases(out)
