"""Photos packed small: their size, their names, their points."""

import csv

import numpy as np
import pytest
from PIL import Image

from landmarks_jax.data import framing, shrink
from landmarks_jax.data.sources import registry
from landmarks_jax.data.sources.folder import FolderPhotos
from landmarks_jax.system.errors import DataError
from tests.running import call, write_photos


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def smooth(width: int, height: int) -> np.ndarray:
    """`[height, width, 3]` uint8 whose red rises with x and green with y: any resize keeps that."""
    x, y = np.meshgrid((np.arange(width) + 0.5) / width, (np.arange(height) + 0.5) / height)
    return np.rint(255 * np.stack([x, y, 0.5 * np.ones_like(x)], -1)).astype(np.uint8)


def test_photos_are_small_and_look_the_same(tmp_path):
    (tmp_path / "photos").mkdir()
    sizes = {"wide": (90, 40), "tall": (30, 75), "small": (20, 10), "thin": (100, 1)}
    for name, size in sizes.items():
        Image.fromarray(smooth(*size)).save(tmp_path / "photos" / f"{name}.png")
    out = tmp_path / "out"
    total = shrink.shrink(FolderPhotos([str(tmp_path / "photos")]), out, 50, quality=90)
    shrunk = {"wide": (50, 22), "tall": (20, 50), "small": (20, 10), "thin": (50, 1)}
    written = {path.stem: path for path in out.rglob("*.webp")}
    assert total == sum(path.stat().st_size for path in written.values())
    assert written.keys() == shrunk.keys()
    for name, size in shrunk.items():
        with Image.open(written[name]) as small:
            assert (small.format, small.size) == ("WEBP", size)
            difference = np.abs(np.asarray(small.convert("RGB"), float) - smooth(*size))
        # Levels of 8 bits: what WebP loses, the borders of the resampling, and roundings.
        assert difference.mean() < 6, name
    assert written["wide"].parent.name == "photos"


def test_names_keep_what_lists_match_by():
    names = [
        "a/000001.jpg",
        "b/000001.PNG",
        "a/000001.jpeg",
        "../a/x.gif",
        "/root/.y.jpg",
        "face-7",
    ]
    assert shrink.small_names([*names, "A/X.jpg"]) == [
        "a/000001.webp",
        "b/000001.webp",
        "2/a/000001.webp",
        "a/x.webp",
        "root/y.webp",
        "face-7.webp",
        "2/A/X.webp",
    ]


def test_lists_of_photos_to_leave_out_still_work(tmp_path):
    for name in ("one", "two"):
        write_photos(tmp_path / name / "faces", 4)
    roots = [str(tmp_path / "one" / "faces"), str(tmp_path / "two" / "faces")]
    (tmp_path / "before.txt").write_text("000004.jpg\n")
    source = FolderPhotos(roots, [str(tmp_path / "before.txt")])
    shrink.shrink(source, tmp_path / "out", 16)
    (tmp_path / "list.txt").write_text("000002.jpg\n")
    again = FolderPhotos([str(tmp_path / "out")], [str(tmp_path / "list.txt")])
    names = [again.name(i) for i in range(len(again))]
    first, second = "out/faces/00000{}.webp", "out/2/faces/00000{}.webp"
    assert names == [second.format(1), second.format(3), first.format(1), first.format(3)]


def test_points_move_with_the_pixels(tmp_path):
    write_photos(tmp_path / "photos", 3, (80, 60))
    points = np.random.default_rng(0).uniform(0, 55, (3, 2, 2)).round(2)
    lines = ["file,x1,y1,x2,y2"]
    lines += [
        f"photos/00000{i + 1}.jpg,{','.join(map(str, p.ravel()))}" for i, p in enumerate(points)
    ]
    (tmp_path / "table.csv").write_text("\n".join(lines))
    shrink.shrink(registry.open_labelled(str(tmp_path / "table.csv")), tmp_path / "out", 20)
    small = registry.open_labelled(str(tmp_path / "out" / shrink.POINTS))
    assert small.photo(0).shape == (15, 20, 3)
    with (tmp_path / "out" / shrink.POINTS).open() as file:
        assert next(csv.reader(file)) == ["file", "x1", "y1", "x2", "y2"]
    # Normalised to the whole photo, which framing does for both, they are the same places.
    frame = framing.Framing(16, 16, "tight")
    for i in range(3):
        _, before = frame.cut(np.zeros((60, 80, 3), np.uint8), points[i])
        _, after = frame.cut(small.photo(i), small.points(i))
        np.testing.assert_allclose(after, before, atol=2e-4)


def test_the_folder_is_complete_or_missing(tmp_path):
    write_photos(tmp_path / "photos", 5)
    source = FolderPhotos([str(tmp_path / "photos")])
    (tmp_path / "photos" / "000003.jpg").write_bytes(b"broken since")
    with pytest.raises(DataError, match=r"000003.jpg: cannot be read"):
        shrink.shrink(source, tmp_path / "deep" / "out", 16)
    assert list((tmp_path / "deep").iterdir()) == []
    write_photos(tmp_path / "photos", 5)
    source = FolderPhotos([str(tmp_path / "photos")])
    shrink.shrink(source, tmp_path / "deep" / "out", 16)
    with pytest.raises(DataError, match="exists already"):
        shrink.shrink(source, tmp_path / "deep" / "out", 16)


def test_the_command_shrinks_a_configuration(tmp_path):
    write_photos(tmp_path / "photos", 4, (40, 60))
    flags = ["--config.data.source=folder", f"--config.data.roots=('{tmp_path / 'photos'}',)"]
    run = ["prepare", "--config=base", *flags, f"--out={tmp_path / 'out'}"]
    code, out, err = call(*run, "--shrink=30", "--quality=80")
    assert code == 0, err
    assert "4 photos, 0.0 MiB" in out
    with Image.open(tmp_path / "out" / "photos" / "000001.webp") as small:
        assert small.size == (20, 30)
    code, _, err = call(*run, "--shrink=0")
    assert code == 2
    assert err.startswith("error: ")
