"""Tables and figures of a small result written by hand."""

import copy
import csv
import io
import re

import numpy as np
import pytest
from PIL import Image

from landmarks_jax.evaluation import plots, score_tables
from landmarks_jax.system import figures, palette


def _entry(n, mean, std, per_point):
    return {"n": n, "draws": 1 if std is None else 10, "mean": mean, "std": std,
            "per_point": per_point}  # fmt: skip


def _group(name, low, high, faces, running):
    forward = {"running": running, "mean_shape": None if running is None else 24.1234}
    return {"name": name, "low": low, "high": high, "faces": faces, "forward": forward}


@pytest.fixture
def result():
    return {
        "format": 1,
        "protocol": "aflw-995",
        "crop": "center",
        "num_landmarks": 1,
        "num_points": 2,
        "point_names": ["left eye", "right eye"],
        "fit": {"name": "aflw-training", "faces": 2000},
        "score": {"name": "aflw-testing", "faces": 4},
        "view_size": 64,
        "eyes": [[0], [1]],
        "draws": 10,
        "seed": 0,
        "notes": [],
        "angles": [-30.0, 15.0],
        "results": {
            "running": {
                "forward": [
                    _entry(1, 32.125, 4.5678, [31.0, 33.25]),
                    _entry(2000, 6.2012, None, [5.9, 6.5024]),
                ],
                "backward": [
                    _entry(1, 40.0, 1.0, [40.0]),
                    _entry(2000, 9.876, None, [9.876]),
                ],
                "forward_without_intercept": 6.4321,
                "per_photo": [2.0, 4.0, 8.0, 60.0],
                "spread": 71.2345,
                "equivariance": {"error": 1.2345, "compared": 7, "left_out": 1},
            },
            "untrained": {
                "forward": [
                    _entry(1, 32.125, 4.5678, [31.0, 33.25]),
                    _entry(2000, 23.9, None, [23.0, 24.8]),
                ],
                "backward": [
                    _entry(1, 5.0, 1.0, [5.0]),
                    _entry(2000, 2.0, None, [2.0]),
                ],
                "forward_without_intercept": 24.0,
                "per_photo": [20.0, 20.0, 24.0, 31.6],
                "spread": 3.0,
            },
            "mean_shape": {
                "forward": [
                    _entry(1, 32.125, 4.5678, [31.0, 33.25]),
                    _entry(2000, 24.1, None, [24.0, 24.2]),
                ],
                "per_photo": [20.0, 22.0, 24.0, 30.4],
            },
            "one_photo": {"forward": [_entry(1, 32.125, 4.5678, [31.0, 33.25])]},
        },
        "breakdown": [
            {
                "by": "yaw",
                "unit": "eye distances",
                "groups": [
                    _group("frontal", None, 0.1, 3, 4.567),
                    _group("medium yaw", 0.1, 0.25, 0, None),
                ],
            },
            {
                "by": "size",
                "unit": "pixels of a 128 view",
                "groups": [
                    _group("small", None, 36.2, 2, 9.0),
                    _group("large", 40.1, None, 2, 3.4),
                ],
            },
        ],
    }


def test_headline(result):
    lines = score_tables.to_markdown([result]).splitlines()
    for line in (
        "| Protocol | Crop | K |  | Forward | Backward | Spread | Equivariance |",
        "| aflw-995 | center | 1 | this detector (running statistics) "
        "| 6.20 | 9.88 | 71.23 | 1.23 (1 left out) |",
        "| aflw-995 | center | 1 | untrained detector | 23.90 | 2.00 | 3.00 | - |",
        "| aflw-995 | center | - | mean shape | 24.10 | - | - | - |",
        "| aflw-995 | center | - | one photo | 32.12 ± 4.57 | - | - | - |",
    ):
        assert line in lines
    assert any("Views are rotated by -30, 15 degrees." in line for line in lines)
    assert any("fitted on 2000 (aflw-training), scored on 4" in line for line in lines)


def test_table_over_n_and_over_points(result):
    lines = score_tables.to_markdown([result]).splitlines()
    for line in (
        "### Over the number of labelled faces: aflw-995, center crop, K = 1",
        "| N | this detector (running statistics) | untrained detector | mean shape |",
        "| 1 | 32.12 ± 4.57 | 32.12 ± 4.57 | 32.12 ± 4.57 |",
        "| all (2000) | 6.20 | 23.90 | 24.10 |",
        "### Point by point: aflw-995, center crop, K = 1",
        "| right eye, forward | 6.50 | 24.80 | 24.20 |",
        "| discovered 0, backward | 9.88 | 2.00 | - |",
    ):
        assert line in lines


def test_table_over_pose_and_size(result):
    text = score_tables.to_markdown([result])
    for line in (
        "### By pose and size: aflw-995, center crop, K = 1",
        "| Faces | Limits | Number | this detector (running statistics) | mean shape |",
        "| yaw: frontal | below 0.1 eye distances | 3 | 4.57 | 24.12 |",
        "| yaw: medium yaw | 0.1 to 0.25 eye distances | 0 | - | - |",
        "| size: large | 40.1 pixels of a 128 view and more | 2 | 3.40 | 24.12 |",
    ):
        assert line in text.splitlines()
    assert "the nose's offset" in text
    rows = list(csv.DictReader(io.StringIO(score_tables.to_csv(result))))
    (frontal,) = [r for r in rows if r["point"] == "frontal" and r["row"] == "running"]
    assert frontal["quantity"] == "forward_by_yaw"
    assert (frontal["mean"], frontal["faces"]) == ("4.567", "3")
    assert (frontal["low"], frontal["high"]) == ("", "0.1")
    assert not [r for r in rows if r["faces"] and r["row"] not in ("running", "mean_shape")]
    result["breakdown"] = result["breakdown"][1:]  # as of things without heads
    text = score_tables.to_markdown([result])
    assert "### By size: aflw-995, center crop, K = 1" in text
    assert not re.search("the nose's offset|[Yy]aw|Roll", text)


def test_every_table_names_its_crop_and_carries_the_notes(result):
    result["notes"] = ["Caffe VGG-16, 3 taps"]
    box = copy.deepcopy(result) | {"crop": "box"}
    sections = score_tables.to_markdown([result, box]).split("### ")[1:]
    assert len(sections) == 7
    for section, crops in zip(sections, ("center box", *["center"] * 3, *["box"] * 3), strict=True):
        assert section.count("Note: Caffe VGG-16, 3 taps") == 1
        assert section.count("The crops center and box are not comparable") == 1
        for crop in crops.split():
            assert f"{crop} crop" in section


@pytest.fixture
def consistent(result):
    """The result with the consistency of its rows."""

    def row(rms, median, **more):
        numbers = {"rms": rms, "median": median, **more}
        return {**numbers, "per_point": [{**numbers, "place": [0.0, 0.5]}]}

    newer = copy.deepcopy(result)
    rows = newer["results"]
    rows["running"]["consistency"] = row(9.3123, 5.1, still=24.018)
    rows["untrained"]["consistency"] = row(23.5, 20.5, still=23.9)
    shape = row(21.8, 18.5)
    shape["per_point"] *= 2
    rows["mean_shape"]["consistency"] = shape
    newer["frame"] = {"shape": [[-0.5, 0], [0.5, 0]], "labelled": {"rms": 4.321}}
    return newer


def test_consistency_beside_the_other_errors(consistent, result):
    text = score_tables.to_markdown([consistent])
    for line in (
        "| Protocol | Crop | K |  | Forward | Backward | Consistency | Spread | Equivariance |",
        "| aflw-995 | center | 1 | this detector (running statistics) "
        "| 6.20 | 9.88 | 9.31 | 71.23 | 1.23 (1 left out) |",
        "| aflw-995 | center | - | mean shape | 24.10 | - | 21.80 | - | - |",
        "| aflw-995 | center | - | one photo | 32.12 ± 4.57 | - | - | - | - |",
        "### Consistency: aflw-995, center crop, K = 1",
        "| Point | this detector (running statistics) | untrained detector |",
        "| discovered 0 | 9.31 (median 5.10, still 24.02) | 23.50 (median 20.50, still 23.90) |",
        "| mean | 9.31 (median 5.10, still 24.02) | 23.50 (median 20.50, still 23.90) |",
        "| spread | 71.23 | 3.00 |",
    ):
        assert line in text.splitlines()
    assert "The labelled points themselves have 4.32," in text
    assert "standing still in the view, 21.80." in text
    # Together with a result that has none.
    both = score_tables.to_markdown([result, consistent]).splitlines()
    assert (
        "| aflw-995 | center | 1 | this detector (running statistics) "
        "| 6.20 | 9.88 | - | 71.23 | 1.23 (1 left out) |"
    ) in both
    assert sum(line.startswith("### Consistency") for line in both) == 1
    assert "onsistency" not in score_tables.to_markdown([result])
    assert "consistency" not in score_tables.to_csv(result)

    rows = list(csv.DictReader(io.StringIO(score_tables.to_csv(consistent))))
    read = {
        (r["row"], r["quantity"], r["point"]): r["mean"]
        for r in rows
        if r["quantity"].startswith("consistency")
    }
    assert read["running", "consistency", ""] == read["running", "consistency", "0"] == "9.3123"
    assert read["running", "consistency_median", "0"] == "5.1"
    assert read["untrained", "consistency_standing_still", ""] == "23.9"
    assert read["mean_shape", "consistency", "right eye"] == "21.8"
    assert ("mean_shape", "consistency_standing_still", "") not in read


def test_nothing_compared_is_a_dash(result):
    result["results"]["running"]["equivariance"]["error"] = None
    assert "| - (1 left out) |" in score_tables.to_markdown([result])


def test_csv_reads_back(result):
    rows = list(csv.DictReader(io.StringIO(score_tables.to_csv(result))))

    def pick(**wanted):
        return [row for row in rows if wanted.items() <= row.items()]

    (headline,) = pick(row="running", quantity="forward", n="2000", point="")
    assert headline["mean"] == "6.2012"
    assert headline["std"] == ""
    assert (headline["protocol"], headline["crop"]) == ("aflw-995", "center")
    (point,) = pick(row="mean_shape", quantity="forward", n="1", point="right eye")
    assert point["mean"] == "33.25"
    (backward,) = pick(row="untrained", quantity="backward", n="2000", point="0")
    assert backward["mean"] == "2.0"
    (jakab,) = pick(row="running", quantity="forward_without_intercept")
    assert (jakab["mean"], jakab["unit"]) == ("6.4321", "% of eye distance")
    (left_out,) = pick(row="running", quantity="equivariance_left_out")
    assert left_out["mean"] == "1"
    assert not pick(row="untrained", quantity="equivariance")


def test_colors_are_distinct_and_stay_with_their_landmark():
    colors = palette.landmark_colors(50)
    assert colors.shape == (50, 3)
    assert colors.min() >= 0
    assert colors.max() <= 1
    gaps = np.linalg.norm(colors[:, None] - colors, axis=-1) + 9 * np.eye(50)
    assert gaps.min() > 0.1
    for count in (0, 1, 10, 30):
        np.testing.assert_array_equal(palette.landmark_colors(count), colors[:count])


def test_lab_of_known_colors():
    rgb = np.array([[1.0, 1, 1], [0, 0, 0], [1, 0, 0], [0, 0, 1]])
    expected = [[100, 0, 0], [0, 0, 0], [53.24, 80.09, 67.20], [32.30, 79.19, -107.86]]
    np.testing.assert_allclose(palette._to_lab(rgb), expected, atol=0.05)


def test_error_curves(result):
    (axes,) = plots.error_curves(result).axes
    assert [line.get_label() for line in axes.lines] == [
        # (38 + 36 + 32 + 0) / 4 / 40 and so on.
        "this detector (running statistics): mean 18.50 %, AUC 0.662",
        "untrained detector: mean 23.90 %, AUC 0.403",
        "mean shape: mean 24.10 %, AUC 0.398",
    ]
    np.testing.assert_allclose(axes.lines[0].get_xdata(), [0, 2, 4, 8, 60, 60])
    np.testing.assert_allclose(axes.lines[0].get_ydata(), [0, 0.25, 0.5, 0.75, 1, 1])
    assert axes.get_title() == "aflw-995, center crop, K = 1"


def test_page_shows_views_and_points_in_their_places(tmp_path):
    views = np.full((3, 32, 32, 3), 90, np.uint8)
    views[1] = 200
    landmarks = np.tile([[[-0.5, 0.0], [0.5, 0.5]]], (3, 1, 1))
    page = figures.to_array(figures.landmark_page(views, landmarks, columns=2))
    # Two columns of 160 and a gap of 4, in the middle of 560 pixels; no title; a head of 4.
    left = (560 - 2 * 164 + 4) // 2
    assert page.shape[1] == 560
    np.testing.assert_array_equal(page[4 + 20, left + 20], [90] * 3)
    np.testing.assert_array_equal(page[4 + 20, left + 164 + 20], [200] * 3)
    np.testing.assert_array_equal(page[4 + 164 + 20, left + 164 + 20], [255] * 3)
    first, second = np.rint(255 * palette.landmark_colors(2)).astype(int)
    np.testing.assert_array_equal(page[4 + 80, left + 40], first)
    np.testing.assert_array_equal(page[4 + 120, left + 164 + 120], second)
    path = tmp_path / "page.png"
    figures.save(figures.landmark_page(views, landmarks, columns=2), path)
    np.testing.assert_array_equal(np.asarray(Image.open(path)), page)


def test_page_prints_captions_on_their_views():
    views = np.full((2, 32, 32, 3), 90, np.uint8)
    points = np.tile([[[0.5, 0.5]]], (2, 1, 1))
    bare, page = (
        figures.to_array(figures.landmark_page(views, points, captions=captions, columns=2)).astype(
            int
        )
        for captions in ((), ("1.0", "123.4"))
    )
    left = (560 - 2 * 164 + 4) // 2
    rows, columns = np.nonzero((bare != page).any(-1))
    assert rows.max() < 4 + 40
    for view in range(2):
        start = left + view * 164
        inside = (columns >= start) & (columns < start + 60)
        printed = page[rows[inside], columns[inside]]
        assert {0, 255} <= set(printed.flat)  # white on black, readable on any view
        columns = columns[~inside]
        rows = rows[~inside]
    assert not len(rows)


def test_page_has_a_second_row_for_the_regression():
    views = np.full((2, 32, 32, 3), 90, np.uint8)
    points = np.tile([[[-0.5, 0.0]]], (2, 1, 1))
    page = figures.to_array(
        figures.landmark_page(views, points, predicted=points + 0.5, labels=points, columns=2)
    )
    left = (560 - 2 * 164 + 4) // 2
    np.testing.assert_array_equal(page[4 + 164 + 120, left + 80], [255, 212, 0])
    # Inside the circle of the label the view shows.
    np.testing.assert_array_equal(page[4 + 164 + 80, left + 40], [90] * 3)


@pytest.mark.parametrize(("k", "p"), [(1, 1), (50, 68)])
def test_page_takes_few_and_many_points(k, p):
    rng = np.random.default_rng(0)
    page = figures.landmark_page(
        rng.integers(0, 256, (1, 16, 16, 3), dtype=np.uint8),
        rng.uniform(-1, 1, (1, k, 2)),
        predicted=rng.uniform(-1, 1, (1, p, 2)),
        labels=rng.uniform(-1, 1, (1, p, 2)),
        title="a title " * 20,
    )
    first = figures.to_array(page)
    np.testing.assert_array_equal(first, figures.to_array(page))
    assert first.shape[1] == 560
