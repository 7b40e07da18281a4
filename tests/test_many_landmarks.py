"""The paper's 10, 30 and 50 landmarks wherever there are any: scores, tables, pictures, files."""

import csv
import dataclasses
import functools
import io

import jax
import numpy as np
import pytest

from landmarks_jax import load_detector
from landmarks_jax.evaluation import consistency, protocols, score_tables
from landmarks_jax.inference import card, detector, graph_export, packed_file
from landmarks_jax.inference.browser import site
from landmarks_jax.inference.linear_map import LinearMap
from landmarks_jax.inference.media import drawing, result_files
from landmarks_jax.studies import comparison, comparison_tables
from landmarks_jax.studies.runs import Run
from landmarks_jax.system import figures, palette
from landmarks_jax.tasks.task import Panel
from landmarks_jax.training import reports
from tests import packing
from tests.running import narrow

FACE = np.array([[-0.2, -0.2], [0.2, -0.2], [0, 0.02], [-0.15, 0.2], [0.15, 0.2]])
COUNTS = (1, 5, 20)

every_k = pytest.mark.parametrize("k", [10, 30, 50])


def grid(k, spacing):
    """`[K, 2]` places, ten in a row."""
    return spacing * np.stack(np.divmod(np.arange(k), 10)[::-1], -1).astype(float)


def labelled(seed, count):
    rng = np.random.default_rng(seed)
    points = FACE + rng.normal(0, 0.1, (count, 1, 2)) + rng.normal(0, 0.02, (count, 5, 2))
    return protocols.LabelledSet(np.zeros((count, 8, 8, 3), np.uint8), points, f"{count} faces")


FIT, SCORE = labelled(0, 40), labelled(1, 30)  # fewer faces than coordinates of 30 points


def found(k):
    """Landmarks of both sets: linear in the labels, with noise."""
    rng = np.random.default_rng(k)
    matrix = rng.normal(0, 0.4, (10, 2 * k))
    return {
        len(part.points): (part.points.reshape(-1, 10) @ matrix).reshape(-1, k, 2)
        + rng.normal(0, 0.03, (len(part.points), k, 2))
        for part in (FIT, SCORE)
    }


@functools.cache
def result_of(k):
    landmarks = found(k)
    protocol = protocols.Protocol("toy", "center", FIT, SCORE)
    detectors = {name: lambda views: landmarks[len(views)] for name in ("running", "untrained")}
    result = protocols.evaluate(protocol, detectors, counts=COUNTS, angles=())
    return result | {"provenance": {"steps": 4, "training_minutes": 1.0, "trained_on": []}}


def ridge(x, y, new):
    """The centred ridge in its dual form, which inverts photos and not coordinates."""
    x, y, new = (points.reshape(len(points), -1) for points in (x, y, new))
    mean = x.mean(0)
    gram = ((x - mean).T @ (x - mean)).max()
    kernel = (x - mean) @ (x - mean).T + 1e-4 * (gram + 1e-12) * np.eye(len(x))
    weights = np.linalg.solve(kernel, y - y.mean(0))
    return ((new - mean) @ (x - mean).T @ weights + y.mean(0)).reshape(len(new), -1, 2)


@every_k
def test_errors_are_those_of_the_dual_ridge_also_with_few_labels(k):
    landmarks, scores = found(k), result_of(k)["results"]["running"]
    eyes = np.linalg.norm(SCORE.points[:, 0] - SCORE.points[:, 1], axis=1)
    for quantity, source, target in (
        ("forward", (landmarks[40], landmarks[30]), (FIT.points, SCORE.points)),
        ("backward", (FIT.points, SCORE.points), (landmarks[40], landmarks[30])),
    ):
        entries = scores[quantity]
        assert [entry["n"] for entry in entries] == [1, 5, 20, 40]
        for entry in entries:
            chosen = [np.arange(40)]
            if entry["n"] < 40:
                rng = np.random.default_rng((0, entry["n"]))
                chosen = [rng.permutation(40)[: entry["n"]] for _ in range(10)]
            offsets = [
                ridge(source[0][rows], target[0][rows], source[1]) - target[1] for rows in chosen
            ]
            errors = 100 * np.linalg.norm(offsets, axis=-1) / eyes[:, None]
            assert entry["mean"] == pytest.approx(errors.mean(), abs=1e-3)
            np.testing.assert_allclose(entry["per_point"], errors.mean((0, 1)), atol=1e-3)
    assert scores["forward"][-1]["mean"] < scores["forward"][1]["mean"]


@every_k
def test_consistency_is_each_landmarks_own(k):
    landmarks, measured = found(k)[30], result_of(k)["results"]["running"]["consistency"]
    frame = consistency.frames(SCORE.points)
    alone = [consistency.of_landmarks(landmarks[:, [i]], frame)["per_point"][0] for i in range(k)]
    assert measured["per_point"] == alone
    assert measured["rms"] == pytest.approx(np.mean([point["rms"] for point in alone]), abs=1e-3)


@every_k
def test_tables_have_every_landmark(k):
    result = result_of(k)
    scores = result["results"]["running"]
    lines = score_tables.to_markdown([result]).splitlines()
    for i, (backward, point) in enumerate(
        zip(scores["backward"][-1]["per_point"], scores["consistency"]["per_point"], strict=True)
    ):
        (line,) = [text for text in lines if text.startswith(f"| discovered {i}, backward |")]
        assert line.split(" | ")[1] == f"{backward:.2f}"
        (line,) = [text for text in lines if text.startswith(f"| discovered {i} |")]
        assert line.split(" | ")[1].startswith(f"{point['rms']:.2f} (median {point['median']:.2f}")
    assert f"| toy | center | {k} | this detector (running statistics) |" in "\n".join(lines)
    read = list(csv.DictReader(io.StringIO(score_tables.to_csv(result))))
    of_points = [
        line for line in read if line["quantity"] == "consistency" and line["row"] == "running"
    ]
    assert [line["point"] for line in of_points] == ["", *map(str, range(k))]
    assert float(of_points[-1]["mean"]) == scores["consistency"]["per_point"][-1]["rms"]


@every_k
def test_compared_with_a_run_of_other_landmarks(k):
    runs = [
        Run(
            f"k{n}",
            narrow(model__num_landmarks=n),
            {"data_digest": "a"},
            4,
            1.0,
            {("toy", "center"): r},
        )
        for n, r in ((k, result_of(k)), (5, result_of(5)))
    ]
    compared = comparison.compare(runs)
    (table,) = compared["tables"]
    assert [row["num_landmarks"] for row in table["rows"][:2]] == [k, 5]
    # Spreads and backward errors of other numbers of points are no measure.
    assert not [text for text in table["remarks"] if "collapse" in text or "loses" in text]
    row = table["rows"][0]["values"]
    assert row["consistency"] == [
        runs[0].results["toy", "center"]["results"]["running"]["consistency"]["rms"]
    ]
    assert f"| k{k} | {k} | 0 | {row['forward'][0]:.2f} |" in comparison_tables.to_markdown(
        compared
    )


@every_k
def test_pages_show_and_number_every_landmark(k):
    colors = np.rint(255 * palette.landmark_colors(k)).astype(int)
    places = grid(k, 0.18) - 0.81
    views = np.full((1, 16, 16, 3), 90, np.uint8)
    page = figures.to_array(figures.landmark_page(views, places[None]))
    left, top = (560 - 164 + 4) // 2, 4
    pixels = (places + 1) * 80 + (left, top)
    for color, (x, y) in zip(colors, pixels.astype(int), strict=True):
        np.testing.assert_array_equal(page[y, x], color)
    # Below it the legend, as many in a line as fit, each with its number beside it.
    for i, color in enumerate(colors):
        line, column = divmod(i, 560 // 34)
        x = (560 - min(k, 560 // 34) * 34) / 2 + 8.5 + column * 34
        y = 4 + 164 + (line + 0.6) * 26
        np.testing.assert_array_equal(page[round(y), round(x)], color)
        assert page[round(y) - 5 : round(y) + 5, round(x) + 6 : round(x) + 14].min() < 80
    assert page.shape[0] >= y + 10


@every_k
def test_previews_of_a_training_have_smaller_dots(k):
    images = np.full((1, 16, 16, 3), 0.5)
    panels = Panel("x", images, grid(k, 0.1)[None]), Panel("I_x", images)
    figure = reports.preview_figure(panels, "step 1")
    dots = figure.axes[0].collections[0]
    np.testing.assert_allclose(dots.get_sizes(), 14 * palette.crowding(k) ** 2)
    np.testing.assert_allclose(dots.get_facecolors()[:, :3], palette.landmark_colors(k))


@every_k
def test_colours_can_be_told_apart(k):
    lab = palette._to_lab(palette.landmark_colors(k))
    gaps = np.linalg.norm(lab[:, None] - lab, axis=-1) + 100 * np.eye(k)
    assert gaps.min() > 20  # in CIELAB, where 2 can just be told apart side by side
    assert palette.crowding(k) == {10: 1.0, 30: 0.75, 50: 0.6}[k]


@every_k
def test_drawn_dots_are_not_hidden_by_numbers(k):
    # In pairs so close that a number to the right of the first would cover the second.
    size = drawing.radius(400.0, k)
    pairs = grid(k, 14 * size)[: k // 2] + 60
    places = np.concatenate([pairs, pairs + np.array([2.6 * size, 0])])
    image = np.full((600, 2000, 3), 128, np.uint8)
    plain, numbered = (
        np.asarray(drawing.draw(image, [drawing.Marks(places, 400.0)], numbers=numbers))
        for numbers in (False, True)
    )
    for i, (x, y) in enumerate(places):
        reach = round(0.6 * size)
        square = np.s_[round(y) - reach : round(y) + reach, round(x) - reach : round(x) + reach]
        np.testing.assert_array_equal(numbered[square], plain[square])
        # The first of a pair has its number to the left, the second to the right.
        start = round(x + (-3.5 if i < k // 2 else 1.4) * size)
        beside = numbered[round(y) - 4 : round(y) + 4, start : start + round(2 * size)]
        assert beside.min(-1).max() > 200


@every_k
def test_results_have_columns_of_every_landmark(k, tmp_path):
    rng = np.random.default_rng(0)
    landmarks, confidence = rng.uniform(0, 99, (k, 2)), rng.uniform(0, 1, k)
    smooth = rng.uniform(0, 99, (k, 2))
    view = (0.0, 0.0, 9.0, 9.0)
    with result_files.Results(tmp_path, k, (), faces=False, smooth=True) as files:
        files.add(
            result_files.Row(
                "a.png", 0, 0.0, (9, 9), None, view, None, landmarks, confidence, None, smooth
            )
        )
    (row,) = csv.DictReader(io.StringIO((tmp_path / "landmarks.csv").read_text()))
    assert len(row) == 4 + 3 * k + 2 * k
    for i in range(k):
        point = [float(row[f"{axis}{i + 1}"]) for axis in "xyc"]
        np.testing.assert_allclose(point, [*landmarks[i], confidence[i]], atol=1e-4)
        smoothed = [float(row[f"smooth_{axis}{i + 1}"]) for axis in "xy"]
        np.testing.assert_allclose(smoothed, smooth[i], atol=1e-4)


@pytest.mark.parametrize("k", [50, *(pytest.param(k, marks=pytest.mark.slow) for k in (1, 1000))])
def test_packed_exported_and_shown_on_the_page(k, narrow_config, filled, tmp_path):
    content = packing.make(narrow_config, filled, model__num_landmarks=k)
    rng = np.random.default_rng(k)
    regressor = LinearMap(rng.normal(size=(4, 2 * k)), np.zeros(2 * k), np.zeros(4))
    content = dataclasses.replace(content, regressor=regressor, summary={})
    packed_file.write(tmp_path / "k.safetensors", content)
    images = [packing.scene(40, 50, seed) for seed in range(2)]
    points = load_detector(tmp_path / "k.safetensors")(images)
    assert points.landmarks.shape == (2, k, 2)
    assert points.confidence.shape == (2, k)
    # The graphs of the exports, against the detector of the evaluation and the map by hand.
    views = np.stack([packing.scene(16, 16, seed) for seed in range(2)])
    expected = detector.ViewDetector(content.config, content.variables)(views)
    outputs = jax.jit(graph_export.view_function(content))(views)
    np.testing.assert_allclose(outputs["landmarks"], expected, atol=1e-5)
    mapped = (expected.reshape(2, -1) @ regressor.matrix.T).reshape(2, 2, 2)
    np.testing.assert_allclose(outputs["labelled"], mapped, atol=1e-4)
    assert np.ptp(expected, 0).max() > 1e-3  # the points move with the picture
    assert graph_export.metadata(content)["num_landmarks"] == str(k)
    assert f"{k} points discovered" in card.to_markdown(content, "k")
    page = site.describe(content, "k", False)
    assert len(page["colors"]) == page["num_landmarks"] == k
    assert len(set(page["colors"])) >= min(k, 400)  # more can hardly be told apart
    assert page["dot_scale"] == palette.crowding(k)
