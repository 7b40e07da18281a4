"""The curve over the number of labels: its numbers, and its table from the JSON."""

import json

import numpy as np
import pytest

from benchmarks import label_count
from landmarks_jax.evaluation import metrics, regression
from landmarks_jax.evaluation.protocols import LabelledSet, Protocol
from landmarks_jax.evaluation.regression import Split
from tests.running import ROOT


@pytest.fixture(scope="module")
def made():
    """Landmarks that follow one of two points, with noise, and their faces."""
    rng = np.random.default_rng(0)
    found, sets = [], []
    for count in (40, 30):
        offsets = rng.uniform(-3, 3, (count, 1, 2))
        points = np.array([[0, 0], [1, 0]]) + offsets
        found.append(offsets + rng.normal(0, 0.3, (count, 4, 2)))
        sets.append(LabelledSet(np.zeros((count, 8, 8, 3), np.uint8), points, "faces"))
    return Split(*found), Protocol("mine", "center", *sets)


def test_the_errors_are_those_of_the_draws(made):
    landmarks, protocol = made
    rows = label_count.curve(landmarks, protocol, (5, 20), draws=10, seed=3)
    assert [(row["n"], row["draws"]) for row in rows] == [(5, 10), (20, 10), (40, 1)]
    labels, eyes = protocol.fit.points, np.ones(30)
    errors, stated, fewer = [], [], []
    for faces in regression.subsets(40, (20,), 10, 3)[0]:
        fitted = regression.fit_leave_one_out(landmarks.fit[faces], labels[faces])
        predicted = fitted.map(landmarks.score)
        errors.append(metrics.point_errors(predicted, protocol.score.points, eyes).mean())
        offsets = fitted.predicted - labels[faces]
        distances = np.linalg.norm(offsets, axis=-1)
        stated.append(100 * distances.mean())
        kept = faces[np.argsort(distances.sum(1))[:-1]]
        predicted = regression.fit_leave_one_out(landmarks.fit[kept], labels[kept]).map(
            landmarks.score
        )
        fewer.append(metrics.point_errors(predicted, protocol.score.points, eyes).mean())
    assert rows[1]["chosen"]["mean"] == pytest.approx(np.mean(errors), abs=1e-4)
    assert rows[1]["chosen"]["std"] == pytest.approx(np.std(errors, ddof=1), abs=1e-4)
    assert rows[1]["without_worst"]["mean"] == pytest.approx(np.mean(fewer), abs=1e-4)
    assert rows[1]["stated"]["mean"] == pytest.approx(np.mean(stated), abs=1e-4)
    # Noise in every landmark: with few labels a penalty helps.
    assert rows[0]["chosen"]["mean"] < rows[0]["fixed"]["mean"] < rows[0]["mean_shape"]["mean"]
    assert rows[2]["chosen"]["mean"] < rows[1]["chosen"]["mean"] < rows[0]["chosen"]["mean"]
    assert rows[0]["penalties"] == sorted(rows[0]["penalties"])


def test_how_many_are_needed_by_hand():
    means = ((50, 45), (20, 41), (14.1, 30), (10, 12))
    rows = [
        {"n": n, "chosen": {"mean": a}, "fixed": {"mean": b}, "mean_shape": {"mean": 50}}
        for n, (a, b) in zip((5, 10, 20, 99), means, strict=True)
    ]
    # Nine tenths of 40 over the mean shape's 50 is 14.
    assert [label_count.needed(rows, name) for name in ("chosen", "fixed")] == [99, 99]
    rows[2]["chosen"]["mean"] = 13.9
    assert label_count.needed(rows, "chosen") == 20


def test_the_table_is_made_from_the_json():
    stored = ROOT / "docs" / "results" / "benchmarks" / "label_count_cpu.json"
    result = json.loads(stored.read_text())
    assert stored.with_suffix(".md").read_text() == label_count.to_markdown(result)
    for one in result["detectors"]:
        assert [row["n"] for row in one["rows"]] == [*label_count.COUNTS, 1600]
        assert all(row["draws"] >= 10 for row in one["rows"][:-1])
