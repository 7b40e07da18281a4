"""MTFL's and CNN_FacePoint's lists, and photos with .pts files beside them."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from landmarks_jax.data.sources import mtfl, pts, registry
from landmarks_jax.system.errors import DataError
from tests import datasets

# Lines as the owners publish them, but for the names.
MTFL = r" net_7876\a.jpg 107.3 147.2 126.3 105.3 140.4 108.7 110.2 142.5 157.4 160.1 1 2 1 3"
BOXED = (
    r"lfw_5590\a.jpg 84 161 92 169 106.250000 107.750000 146.750000 112.250000 125.250000 "
    "142.750000 105.250000 157.750000 139.750000 161.750000"
)


@pytest.fixture(autouse=True)
def _cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture(name="listed")
def list_with_photos(tmp_path) -> Path:
    for folder in ("lfw_5590", "net_7876", "AFLW"):
        datasets.save(tmp_path / folder / "a.jpg", (250, 250))
    return tmp_path / "list.txt"


def test_lists_with_attributes_hold_x_before_y(listed):
    listed.write_text(f"{MTFL}\n" + MTFL.replace("net_7876", "AFLW").replace(" 3", " 5") + "\n")
    source = mtfl.MtflFaces(str(listed))
    expected = [[107.3, 108.7], [147.2, 110.2], [126.3, 142.5], [105.3, 157.4], [140.4, 160.1]]
    np.testing.assert_allclose(source.points(0), expected, rtol=1e-6)
    assert [source.name(i) for i in (0, 1)] == ["net_7876/a.jpg", "AFLW/a.jpg"]


def test_lists_with_a_box_hold_pairs(listed):
    listed.write_text(f"{BOXED}\n")
    source = registry.open_labelled(str(listed))
    expected = [[106.25, 107.75], [146.75, 112.25], [125.25, 142.75], [105.25, 157.75]]
    np.testing.assert_allclose(source.points(0), [*expected, [139.75, 161.75]], rtol=1e-6)
    assert source.name(0) == "lfw_5590/a.jpg"


def test_paths_may_be_relative_to_a_root(listed, tmp_path):
    moved = tmp_path / "lists" / "list.txt"
    moved.parent.mkdir()
    moved.write_text(MTFL)
    assert len(mtfl.MtflFaces(str(moved), str(tmp_path))) == 1
    with pytest.raises(DataError, match=r"list.txt:1: no such file: .*lists/net_7876/a.jpg"):
        mtfl.MtflFaces(str(moved))


def test_attributes_may_be_missing(listed):
    listed.write_text(" ".join(MTFL.split()[:11]) + f"\n{MTFL}\n")
    source = mtfl.MtflFaces(str(listed))
    np.testing.assert_array_equal(source.points(0), source.points(1))


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([BOXED, MTFL], r"list.txt:2: 14 numbers with attributes, the lines before with a box"),
        ([MTFL, BOXED], r"list.txt:2: 14 numbers with a box, the lines before with attributes"),
        # Whichever form was meant: neither attributes nor a box.
        ([MTFL.replace(" 3", " 0")], r"list.txt:1: neither four attributes .* nor a box"),
        ([BOXED.replace(" 161 ", " 61 ", 1)], r"list.txt:1: neither four attributes"),
        ([BOXED.rsplit(" ", 1)[0]], r"list.txt:1: 13 numbers after the photo, must be 10 or 14"),
        ([MTFL.rsplit(" ", 5)[0]], r"list.txt:1: 9 numbers"),
        ([MTFL, BOXED.replace("84", "x")], r"list.txt:2: 'x' is not a number"),
        ([MTFL.replace("107.3", "10_7")], r"list.txt:1: '10_7' is not a number"),
        ([MTFL, MTFL.replace("157.4", "1e30")], r"list.txt:2: point 4 at \(105.3, 1e\+30\) is far"),
        ([MTFL.replace("net_7876", "net")], r"list.txt:1: no such file: .*net/a.jpg"),
        ([], r"list.txt: no face is listed"),
    ],
)
def test_mistakes_in_the_lists_are_named(lines, message, listed):
    listed.write_text("\n".join(lines))
    with pytest.raises(DataError, match=message):
        mtfl.MtflFaces(str(listed))


def test_a_missing_list_is_named_with_its_origin(tmp_path):
    with pytest.raises(DataError, match=r"none.txt: no such file. Needed: MTFL .*CNN_FacePoint"):
        mtfl.MtflFaces(str(tmp_path / "none.txt"))


# .pts files.


def test_pts_files_with_and_without_their_frame(tmp_path):
    points = datasets.pts(tmp_path)
    source = pts.PtsFaces([str(tmp_path)], num_points=68)
    assert (len(source), source.num_points) == (4, 68)
    for i in range(4):
        assert source.name(i).endswith(f"set/image_{i:04d}.{'png' if i % 2 else 'jpg'}")
        # MATLAB's first pixel is 1, here it is 0.
        np.testing.assert_allclose(source.points(i), points[i] - 1, rtol=1e-5)
        assert source.points(i).dtype == np.float32


def test_pts_files_may_have_comments_marks_and_other_line_ends(tmp_path):
    points = datasets.pts(tmp_path)
    path = tmp_path / "set" / "image_0000.pts"
    lines = ["\ufeff# by hand", *path.read_text().splitlines(), "// the end"]
    lines[5] += "  # the chin"
    path.write_bytes("\r\n".join(lines).encode())
    source = pts.PtsFaces([str(tmp_path)], num_points=68)
    np.testing.assert_allclose(source.points(0), points[0] - 1, rtol=1e-5)


def test_five_points_follow_from_68(tmp_path):
    points = datasets.pts(tmp_path) - 1
    five = pts.PtsFaces([str(tmp_path)])
    assert five.num_points == 5
    for i in range(4):
        by_hand = [
            sum(points[i, j] for j in (36, 37, 38, 39, 40, 41)) / 6,
            sum(points[i, j] for j in (42, 43, 44, 45, 46, 47)) / 6,
            *(points[i, j] for j in (30, 48, 54)),
        ]
        np.testing.assert_allclose(five.points(i), by_hand, rtol=1e-5)
    np.testing.assert_array_equal(registry.open_labelled(str(tmp_path)).points(2), five.points(2))


def test_photos_without_points_are_left_out_and_counted(tmp_path):
    datasets.pts(tmp_path)
    datasets.save(tmp_path / "more" / "bare.jpg", (30, 30))
    (tmp_path / "skip.txt").write_text("image_0002\n")
    source = pts.PtsFaces([str(tmp_path)], [str(tmp_path / "skip.txt")])
    assert len(source) == 3
    assert "1 images without .pts left out" in source.summary
    assert "1 photos left out by the 1 ids" in source.summary


GOOD = datasets.pts_text(np.ones((68, 2)))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (datasets.pts_text(np.ones((67, 2)), framed=False), r"image_0001.pts: 67 points, not 68"),
        (datasets.pts_text(np.ones((194, 2))), r"image_0001.pts:2: 194 points, not 68"),
        (GOOD.replace("}", "1 2\n}"), r"image_0001.pts: 69 points, not 68"),
        (GOOD.replace("1.000000 1.0", "1.0 1.0 ", 1), r"pts:4: must be a point, two numbers"),
        (GOOD.replace("1.000000 1.0", "1.0x 1.0", 1), r"image_0001.pts:4: '1.0x' is not a number"),
        (GOOD.replace("1.000000 1.0", "nan 1.0", 1), r"image_0001.pts:4: 'nan' is not a number"),
        (
            GOOD.replace("1.000000 1.0", "1e9 1.0", 1),
            r"image_0001.pts: point 1 at \(1e\+09, 1\) is",
        ),
        (
            GOOD.replace("1.000000 1.000000", "0 0", 1),
            r"image_0001.pts: point 1 at \(0, 0\) stands for a missing point",
        ),
        (GOOD.replace("}", ""), r"image_0001.pts: has no closing brace"),
        ("", r"image_0001.pts: 0 points"),
        ("\xff\xfe", r"image_0001.pts: the list is not UTF-8"),
    ],
)
def test_mistakes_in_pts_files_are_named(text, message, tmp_path):
    datasets.pts(tmp_path)
    (tmp_path / "set" / "image_0001.pts").write_bytes(text.encode("latin-1"))
    with pytest.raises(DataError, match=message):
        pts.PtsFaces([str(tmp_path)])


def test_pts_files_may_end_in_capitals(tmp_path):
    points = datasets.pts(tmp_path)
    for i in (1, 2, 3, 0):
        path = tmp_path / "set" / f"image_{i:04d}.pts"
        path.rename(path.with_suffix(".PTS"))
        source = registry.open_labelled(str(tmp_path), 68)
        assert len(source) == 4
        np.testing.assert_allclose(source.points(2), points[2] - 1, rtol=1e-5)
    (tmp_path / "set" / "image_0000.pts").write_text(GOOD)
    with pytest.raises(DataError, match=r"image_0000.pts: .*image_0000.PTS has the points of the"):
        registry.open_labelled(str(tmp_path))


def test_a_folder_without_points_is_no_missing_list(tmp_path):
    datasets.save(tmp_path / "bare.jpg", (30, 30))
    with pytest.raises(DataError, match=r"a folder without .pts files; give a .csv"):
        registry.open_labelled(str(tmp_path))


def test_pts_files_need_one_photo_each(tmp_path):
    datasets.pts(tmp_path)
    datasets.save(tmp_path / "set" / "image_0000.png", (50, 48))
    with pytest.raises(DataError, match=r"image_0000.pts: several photos of that name beside it"):
        pts.PtsFaces([str(tmp_path)])
    for name in ("image_0000.png", "image_0000.jpg"):
        (tmp_path / "set" / name).unlink()
    with pytest.raises(DataError, match=r"image_0000.pts: no photo of that name beside it"):
        pts.PtsFaces([str(tmp_path)])
    for path in (tmp_path / "set").glob("*.pts"):
        path.unlink()
    with pytest.raises(DataError, match=r"no .pts file in it. Needed: 300-W"):
        pts.PtsFaces([str(tmp_path)])
    shutil.rmtree(tmp_path / "set")
    with pytest.raises(DataError, match=r"set: no such folder. Needed: 300-W .*ibug"):
        pts.PtsFaces([str(tmp_path / "set")])
