"""TPS, COCO keypoints and DeepLabCut's CSV: labels read, landmarks written, round trips."""

import contextlib
import csv
import io
import json
import math
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from landmarks_jax.data.sources import folder, registry
from landmarks_jax.evaluation.labelled_faces import open_lists
from landmarks_jax.inference.media import run_detection
from landmarks_jax.system.errors import DataError
from tests import packing
from tests.detecting import noise
from tests.running import call, narrow

NAMES = ["tip", "left base", "right base"]
POINTS = np.array([[[1.5, 2.25], [0, 0], [10, 8]], [[3, 4], [5.125, 6], [11, 9.5]]])


@pytest.fixture(autouse=True)
def _cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture(name="photos")
def two_photos(tmp_path) -> Path:
    """The folder of `a.png` and `sub/b.png`, 12 x 10 pixels."""
    (tmp_path / "sub").mkdir()
    for seed, name in enumerate(("a.png", "sub/b.png")):
        Image.fromarray(noise(seed, 12, 10)).save(tmp_path / name)
    return tmp_path


def points_of(source) -> np.ndarray:
    return np.stack([source.points(i) for i in range(len(source))])


def names_of(source) -> list[str]:
    return [source.name(i) for i in range(len(source))]


# TPS.


def read_tps(path: Path) -> list[dict]:
    """An independent reader: the fields of each image, and its points as rows of a matrix."""
    images = []
    for block in re.split(r"^LM=", path.read_text(), flags=re.MULTILINE)[1:]:
        count, *lines = block.splitlines()
        rows = [line.split() for line in lines[: int(count)]]
        fields = dict(line.split("=", 1) for line in lines[int(count) :])
        points = [[float(cell.replace("NA", "nan")) for cell in row] for row in rows]
        images.append(fields | {"points": np.array(points)})
    return images


def test_tps_counts_y_from_the_lower_edge(tmp_path):
    Image.new("RGB", (40, 1000)).save(tmp_path / "wing.png")
    # By hand: the centres of the lower left, upper left and upper right pixel, and a point at 900.
    lines = ["LM=4", "0.5 0.5", "0.5 999.5", "39.5 999.5", "10 900", "IMAGE=wing.png", "ID=0"]
    (tmp_path / "wing.TPS").write_text("\n".join(lines))
    source = registry.open_labelled(str(tmp_path / "wing.TPS"))
    assert source.points(0).tolist() == [[0, 999], [0, 0], [39, 0], [9.5, 99.5]]


def test_tps_as_other_programs_write_it(photos):
    text = """LM=3
2.00000 7.25000
.5 9.50
10.5\t1.5
CURVES=1
POINTS=2
1 2
3 4
IMAGE=C:\\Users\\lab\\wings\\A.PNG
ID=0
SCALE=0.004213
LM=0
IMAGE=c.png
ID=1

lm=3
3.5 5.5
5.625 3.5
11.5 0
Comment=two = 2
VARIABLES=2
1 3.5
7
image=sub\\b.png
"""
    (photos / "A.PNG").write_bytes((photos / "a.png").read_bytes())
    (photos / "wings.tps").write_bytes(text.replace("\n", "\r\n").encode())
    source = registry.open_labelled(str(photos / "wings.tps"))
    assert names_of(source) == ["A.PNG", "sub/b.png"]
    np.testing.assert_array_equal(points_of(source), POINTS)
    assert source.summary.endswith("1 images without landmarks left out")


GOOD = "LM=1\n1 2\nIMAGE=a.png\nID=0\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (GOOD + "LM=2\n1 2\n1 2\nIMAGE=a.png", r"x.tps:5: 2 points, those before have 1"),
        (GOOD + "LM=2\n1 2\nIMAGE=a.png", r"x.tps:5: 1 of 2 points follow"),
        (GOOD + "LM=2\n1 2", r"x.tps:5: 1 of 2 points follow"),
        (GOOD + "LM=\n1 2", r"x.tps:5: '' is not a number of points"),
        (GOOD + "LM=1\n1 2\nID=1", r"x.tps:5: its image is not named by a line IMAGE="),
        (GOOD + "LM=1\n1 2 3\nIMAGE=a.png", r"x.tps:6: must be a point, two numbers x y"),
        (GOOD + "LM=1\n1 2,5\nIMAGE=a.png", r"x.tps:6: '2,5' is not a number"),
        (GOOD + "LM=1\n1 2\n3 4\nIMAGE=a.png", r"x.tps:7: '3 4' is neither KEY=value nor one"),
        (GOOD + "LM3=1\n1 2 3\nIMAGE=a.png", r"x.tps:5: an image must start with LM="),
        ("ID=0\n" + GOOD, r"x.tps:1: an image must start with LM="),
        (GOOD.replace("ID=0", "SCALE=1 mm"), r"x.tps:4: '1 mm' is not a number"),
        (GOOD.replace("a.png", "C:\\b.png"), r"x.tps:1: no such file: .*/b.png"),
        (GOOD.replace("1 2", "-1 -1"), r"x.tps: a point is missing in every photo; label some"),
        (GOOD.replace("1 2", "0.00 0"), r"x.tps: a point is missing in every photo"),
        (GOOD.replace("1 2", "NA NA"), r"x.tps: a point is missing in every photo"),
        (GOOD.replace("1 2", "1 900"), r"x.tps:1: point 1 at \(0.5, -890.5\) is far outside"),
        ("LM=0\nIMAGE=a.png\n", r"x.tps: no image with landmarks is listed"),
        ("\xff", r"x.tps: the list is not UTF-8"),
    ],
)
def test_mistakes_in_tps_files_are_named(text, message, photos):
    (photos / "x.tps").write_bytes(text.encode("latin-1"))
    with pytest.raises(DataError, match=message):
        registry.open_labelled(str(photos / "x.tps"))


# COCO.


def coco(visible=((2, 1, 2), (1, 2, 2)), **changes) -> dict:
    """The two photos as COCO keypoints, in another order than their annotations."""
    images = [(7, "sub/b.png"), (3, "a.png")]
    annotations = []
    for i, (image, points, flags) in enumerate(zip((3, 7), POINTS.tolist(), visible, strict=True)):
        keypoints = [value for (x, y), v in zip(points, flags, strict=True) for value in (x, y, v)]
        annotations.append({"id": 10 + i, "image_id": image, "category_id": 1})
        annotations[-1] |= {"keypoints": keypoints, "num_keypoints": 3, "iscrowd": 0}
    parts = {
        "images": [{"id": i, "file_name": n, "width": 12, "height": 10} for i, n in images],
        "annotations": annotations,
        "categories": [{"id": 2, "name": "x"}, {"id": 1, "name": "wing", "keypoints": NAMES}],
    }
    return parts | changes


def test_coco_keypoints_are_read_in_the_order_of_their_annotations(photos):
    content = coco()
    crowd = {"id": 1, "image_id": 3, "category_id": 2, "iscrowd": 1, "bbox": [0, 0, 3, 3]}
    nothing = {"id": 2, "image_id": 3, "category_id": 1, "keypoints": [0] * 9}
    content["annotations"] = [crowd, nothing, *content["annotations"]]
    (photos / "wings.json").write_text(json.dumps(content, indent=1))
    source = registry.open_labelled(str(photos / "wings.json"))
    assert names_of(source) == ["a.png", "sub/b.png"]
    np.testing.assert_array_equal(points_of(source), POINTS)
    assert source.point_names == tuple(NAMES)
    assert source.summary.endswith("2 annotations without keypoints left out")


def changed(**fields) -> dict:
    """`coco` whose second annotation has other fields."""
    content = coco()
    content["annotations"][1] |= fields
    return content


LARGE = [{"id": 7, "file_name": "sub/b.png", "width": 24, "height": 20}, coco()["images"][1]]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (coco(((2, 0, 2), (2, 0, 2))), r"x.json: a point is missing in every photo; label some"),
        (coco(((2, 2, 3), (2, 2, 2))), r"annotations\[0\]: the visibility of point 3 must be 0, 1"),
        (changed(keypoints=[1, 2, 2]), r"annotations\[1\]: 1 points, those before have 3"),
        (changed(keypoints=[1, 2]), r"annotations\[1\]: keypoints must be a list x1, y1, v1"),
        (changed(keypoints=[1, "2", 2]), r"""annotations\[1\]: '"2"' is not a number"""),
        (changed(keypoints=[1, 1e400, 2]), r"annotations\[1\]: 'Infinity' is not a number"),
        (changed(category_id=2), r"annotations\[1\]: category 2, those before have 1; keep one"),
        (changed(image_id=4), r"annotations\[1\]: image_id 4 is not the id of an image"),
        (changed(image_id="3"), r"annotations\[1\]: image_id must be an integer"),
        (coco(images=LARGE), r"\[1\]: annotated at 24 x 20 pixels, but .*b.png has 12 x 10"),
        (coco(images=[{"id": 7}]), r"annotations\[0\]: image_id 3 is not the id of an image"),
        (coco(categories=[{"id": 1, "keypoints": ["a"]}]), r"\[0\]: 1 names for 3 keypoints"),
        (
            coco(categories=[{"id": 1, "keypoints": list("aba")}]),
            r"must be different, of printable",
        ),
        (coco(annotations=[]), r"x.json: no object with keypoints is labelled"),
        (coco(annotations={}), r"x.json: annotations must be a list"),
        (coco(images=[7]), r"x.json: images\[0\]: must be an object"),
        ([], r"x.json: not COCO: must be an object with images, annotations, categories"),
        ('{\n"images": [,]}', r"x.json:2: not JSON \(Expecting value\)"),
        ("[" * 100_000, r"x.json: not JSON \("),
    ],
)
def test_mistakes_in_coco_files_are_named(content, message, photos):
    text = content if isinstance(content, str) else json.dumps(content)
    (photos / "x.json").write_text(text)
    with pytest.raises(DataError, match=message):
        registry.open_labelled(str(photos / "x.json"))


# DeepLabCut.


@pytest.mark.parametrize("columns", [1, 3])
@pytest.mark.parametrize("coords", [["x", "y"], ["x", "y", "likelihood"]])
def test_labels_that_pandas_writes_as_deeplabcut_does(columns, coords, photos):
    pandas = pytest.importorskip("pandas", reason="of the extra `test`")
    project = photos / "project"
    (project / "labeled-data").mkdir(parents=True)
    (photos / "sub").rename(project / "labeled-data" / "clip")
    (photos / "a.png").rename(project / "labeled-data" / "clip" / "a.png")
    paths = [("labeled-data", "clip", name) for name in ("a.png", "b.png")]
    index = pandas.MultiIndex.from_tuples(paths) if columns == 3 else ["/".join(p) for p in paths]
    header = pandas.MultiIndex.from_product(
        [["me"], NAMES, coords], names=["scorer", "bodyparts", "coords"]
    )
    values = np.concatenate([POINTS, np.ones((2, 3, 1))], -1)[..., : len(coords)].reshape(2, -1)
    table = project / "labeled-data" / "clip" / "CollectedData_me.csv"
    values[0, len(coords) :][:2] = 0.125  # 0, 0 stands for a missing point
    pandas.DataFrame(values, index, header).to_csv(table)
    source = registry.open_labelled(str(table))
    expected = POINTS.copy()
    expected[0, 1] = 0.125
    np.testing.assert_array_equal(points_of(source), expected)
    assert names_of(source) == ["/".join(path) for path in paths]
    assert source.point_names == tuple(NAMES)


HEAD = ["scorer,me,me,me,me", "bodyparts,a,a,b,b", "coords,x,y,x,y"]
ROW = "a.png,1,2,3,4"


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([*HEAD, "a.png,1,2,nan,NaN"], r"x.csv: a point is missing in every photo"),
        ([*HEAD, ROW, "a.png,1,2,0,0"], r"x.csv:5: point 2 at \(0, 0\) stands for a missing point"),
        ([*HEAD, "a.png,1,2,3,"], r"x.csv:4: '' is not a number"),
        ([*HEAD, "a.png,1,2,3"], r"x.csv:4: 4 cells, the header has 5"),
        ([*HEAD, "none.png,1,2,3,4"], r"x.csv:4: no such file: .*none.png"),
        ([*HEAD, "17,1,2,3,4"], r"x.csv:4: 17 is a frame of a video; labels must be of images"),
        (HEAD, r"x.csv: no image is listed"),
        (HEAD[:2], r"x.csv: the header must be of the lines scorer, bodyparts, coords"),
        ([HEAD[0], "individuals,m,m,m,m", *HEAD[1:], ROW], r"x.csv:2: labels of several animals"),
        ([*HEAD[:2], "coords,x,y,y,x", ROW], r"x.csv:3: each point must have the columns x,y"),
        ([*HEAD[:2], "coords,x,y,x", ROW], r"x.csv:3: the header must be of the lines"),
        (["scorer", "bodyparts", "coords"], r"x.csv:3: each point must have the columns"),
        ([HEAD[0], "bodyparts,a,a,a,a", HEAD[2], ROW], r"x.csv: names of points must be different"),
    ],
)
def test_mistakes_in_deeplabcut_files_are_named(lines, message, photos):
    (photos / "x.csv").write_text("\n".join(lines))
    with pytest.raises(DataError, match=message):
        registry.open_labelled(str(photos / "x.csv"))


def test_photos_with_missing_points_are_left_out_and_counted(photos, caplog):
    (photos / "x.csv").write_text("\n".join([*HEAD, "sub/b.png,1,2,,", ROW, "a.png,nan,NaN,1,2"]))
    source = registry.open_labelled(str(photos / "x.csv"))
    assert points_of(source).tolist() == [[[1, 2], [3, 4]]]
    assert names_of(source) == ["a.png"]
    assert source.summary.endswith("; 2 photos with missing points left out")
    assert caplog.messages == [
        f"warning: {photos / 'x.csv'}: 2 photos with missing points left out"
    ]
    (photos / "x.json").write_text(json.dumps(coco(((2, 2, 2), (2, 0, 2)))))
    assert names_of(registry.open_labelled(str(photos / "x.json"))) == ["a.png"]


def test_photos_left_out_need_no_label(photos):
    (photos / "x.csv").write_text("\n".join([*HEAD, ROW, "sub/b.png,,,5,6"]))
    (photos / "skip.txt").write_text("b\n")
    source = folder.FolderPhotos((), [str(photos / "skip.txt")], str(photos / "x.csv"))
    assert points_of(source).tolist() == [[[1, 2], [3, 4]]]


def test_names_go_with_the_points_and_must_agree(photos):
    (photos / "fit.json").write_text(json.dumps(coco()))
    head = "scorer,,,,,,\nbodyparts,{0},{0},{1},{1},{2},{2}\ncoords,x,y,x,y,x,y\n"
    (photos / "score.csv").write_text(head.format(*NAMES) + "a.png,1,2,3,4,5,6\n")
    (photos / "other.csv").write_text(head.format(*NAMES[::-1]) + "a.png,1,2,3,4,5,6\n")
    (photos / "plain.csv").write_text("file,x1,y1,x2,y2,x3,y3\na.png,1,2,3,4,5,6\n")
    fit, config = str(photos / "fit.json"), narrow()
    for name in ("score.csv", "plain.csv"):
        (protocol,) = open_lists(fit, str(photos / name), ["tight"], config)
        assert protocol.point_names == tuple(NAMES)
    with pytest.raises(DataError, match="fit has the points tip, left base, right base, and other"):
        open_lists(fit, str(photos / "other.csv"), ["tight"], config)


# What `detect` found.


@pytest.fixture(name="found")
def found_in_photos(photos, landmark_detector, monkeypatch) -> Path:
    """The landmarks.jsonl of the two photos, in a folder of its own."""
    monkeypatch.setattr(run_detection, "load_detector", lambda name: landmark_detector)
    monkeypatch.chdir(photos)
    code, _, err = call("detect", "narrow", "a.png", "sub/b.png", "--out=found", "--nodraw")
    assert code == 0, err
    return Path("found/landmarks.jsonl")


def rows_of(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def write_rows(path: Path, rows: list[dict]) -> None:
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))


def convert(found: Path, out: str, *more: str) -> Path:
    code, printed, err = call("convert", "landmarks", f"--file={found}", f"--out={out}", *more)
    assert code == 0, err
    assert printed.startswith(f"{out}: ")
    return Path(out)


def expected(found: Path, field: str) -> np.ndarray:
    rows = [row[field] for row in rows_of(found)]
    return np.array([list(row.values()) if isinstance(row, dict) else row for row in rows])


@pytest.mark.parametrize(
    ("field", "more"), [("labelled", ()), ("landmarks", ("--points=landmarks",))]
)
@pytest.mark.parametrize("name", ["wings.tps", "new/wings.json", "wings.csv"])
def test_what_was_found_is_read_back_exactly(name, field, more, found):
    source = registry.open_labelled(str(convert(found, name, *more)))
    np.testing.assert_array_equal(points_of(source), expected(found, field).astype(np.float32))
    prefix = "../" if "/" in name else ""
    assert names_of(source) == [f"{prefix}a.png", f"{prefix}sub/b.png"]
    names = {"labelled": packing.POINT_NAMES, "landmarks": tuple(f"landmark_{i}" for i in "123")}
    assert source.point_names == (() if name.endswith("tps") else names[field])


def test_tps_for_geomorph(found):
    first, second = read_tps(convert(found, "wings.tps", "--scale=0.0042"))
    by_hand = expected(found, "labelled") * [1, -1] + [0.5, 10 - 0.5]
    np.testing.assert_allclose(first.pop("points"), by_hand[0], atol=1e-9)
    np.testing.assert_allclose(second.pop("points"), by_hand[1], atol=1e-9)
    assert first == {"IMAGE": "a.png", "ID": "0", "SCALE": "0.0042"}
    assert second == {"IMAGE": "sub/b.png", "ID": "1", "SCALE": "0.0042"}


def test_pycocotools_reads_what_was_found(found):
    module = pytest.importorskip("pycocotools.coco", reason="of the extra `test`")
    with contextlib.redirect_stdout(io.StringIO()):
        read = module.COCO(str(convert(found, "wings.json")))
    (category,) = read.loadCats(read.getCatIds())
    assert category["keypoints"] == list(packing.POINT_NAMES)
    for image, row in zip(read.loadImgs(read.getImgIds()), rows_of(found), strict=True):
        (one,) = read.loadAnns(read.getAnnIds(imgIds=image["id"], catIds=category["id"]))
        assert (image["file_name"], image["width"], image["height"]) == (row["file"], 12, 10)
        points = np.array(one["keypoints"]).reshape(-1, 3)
        np.testing.assert_array_equal(points[:, :2], list(row["labelled"].values()))
        assert (points[:, 2].tolist(), one["num_keypoints"]) == ([2, 2], 2)
        low, high = points[:, :2].min(0), points[:, :2].max(0)
        np.testing.assert_allclose(one["bbox"], [*low, *(high - low)], atol=1e-4)
        assert one["score"] == pytest.approx(np.mean(row["confidence"]), abs=1e-4)


def test_pandas_reads_what_was_found_in_images_and_in_a_video(found):
    pandas = pytest.importorskip("pandas", reason="of the extra `test`")
    table = pandas.read_csv(
        convert(found, "wings.csv", "--points=landmarks"), header=[0, 1, 2], index_col=0
    )
    assert table.index.tolist() == ["a.png", "sub/b.png"]
    assert table.columns.names == ["scorer", "bodyparts", "coords"]
    values = table.to_numpy().reshape(2, 3, 3)
    np.testing.assert_array_equal(values[..., :2], expected(found, "landmarks"))
    np.testing.assert_array_equal(values[..., 2], expected(found, "confidence"))

    rows = [row | {"file": "clip.mp4", "frame": 2 * i} for i, row in enumerate(rows_of(found))]
    write_rows(found, rows)  # as of a video without anything in frame 1
    table = pandas.read_csv(convert(found, "clip.csv"), header=[0, 1, 2], index_col=0)
    assert table.index.tolist() == [0, 1, 2]
    values = table.to_numpy().reshape(3, 2, 3)
    assert np.isnan(values[1]).all()
    np.testing.assert_array_equal(values[::2, :, :2], expected(found, "labelled"))
    assert table["landmarks_jax"]["left eye"]["likelihood"][2] == pytest.approx(
        np.mean(rows[1]["confidence"]), abs=1e-4
    )


def test_several_objects_in_frames_and_points_that_are_not_there(found):
    first, second = rows_of(found)
    first |= {"file": "clip.mp4", "frame": 7, "box": 0}
    gone = {name: [None, None] for name in first["labelled"]}
    first["labelled"] |= {"left eye": [None, None]}
    write_rows(found, [first, first | {"box": 1}, second | {"labelled": gone}])
    images = read_tps(convert(found, "wings.tps"))
    assert [image.get("COMMENT") for image in images] == ["frame 7, box 0", "frame 7, box 1", None]
    assert np.isnan(images[1]["points"]).all(1).tolist() == [True, False]
    content = json.loads(convert(found, "wings.json").read_text())
    assert [image["file_name"] for image in content["images"]] == ["clip.mp4", "sub/b.png"]
    assert content["images"][0]["frame"] == 7
    annotations = content["annotations"]
    assert [one["image_id"] for one in annotations] == [1, 1, 2]
    assert [one["num_keypoints"] for one in annotations] == [1, 1, 0]
    assert annotations[0]["keypoints"][:3] == [0, 0, 0]
    assert annotations[0]["bbox"][2:] == [0, 0]
    write_rows(found, [first])
    (row,) = csv.reader(convert(found, "one.csv").read_text().splitlines()[3 + 7 :])
    assert row[:4] == ["7", "", "", row[6]]


@pytest.mark.parametrize(
    ("change", "out", "message"),
    [
        (lambda rows: rows[:1] * 2, "x.csv", "a.png: several objects, but DeepLabCut's files are"),
        (
            lambda rows: [rows[0] | {"frame": 0}, rows[1]],
            "x.csv",
            "files are of images or of one video; detect each video by itself",
        ),
        (lambda rows: [], "x.tps", "landmarks.jsonl: has no row, so nothing was found"),
        (lambda rows: [rows[0], {"file": 3}], "x.tps", "landmarks.jsonl:2: has no labelled"),
        (lambda rows: [rows[0] | {"size": 3}], "x.tps", "jsonl:1: not a row of landmarks.jsonl"),
        (lambda rows: [7], "x.tps", "jsonl:1: not a row of landmarks.jsonl"),
        (lambda rows: [rows[0] | {"size": [math.inf, 10]}], "x.tps", "jsonl:1: not a row of"),
        (lambda rows: [rows[0] | {"labelled": {}}], "x.json", "jsonl:1: not a row of"),
        (lambda rows: [rows[0] | {"confidence": []}], "x.json", "jsonl:1: not a row of"),
        (
            lambda rows: [rows[0], rows[1] | {"labelled": {"a": [1, 2]}}],
            "x.tps",
            "jsonl:2: other points than in the rows before",
        ),
        (lambda rows: [rows[0] | {"file": "a\nb"}], "x.tps", "a line break in its name"),
        (lambda rows: rows, "x.xml", "--out x.xml: must end in .tps, .csv, .json"),
        (lambda rows: rows, "found/landmarks.csv", "is the table of detect; name another file"),
        (lambda rows: rows, "found", "--out found: must end in"),
    ],
)
def test_what_cannot_be_converted_is_a_line(change, out, message, found):
    write_rows(found, change(rows_of(found)))
    before = sorted(Path().rglob("*"))
    code, printed, err = call("convert", "landmarks", f"--file={found}", f"--out={out}")
    assert (code, printed, err.count("\n")) == (2, "", 1)
    assert message in err
    assert sorted(Path().rglob("*")) == before
