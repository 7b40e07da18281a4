"""The metrics' registry: a metric added at run time is in the JSON, tables, notes and CSV."""

import csv
import io

import numpy as np
import pytest

from landmarks_jax.evaluation import protocols, score_tables, scores
from landmarks_jax.evaluation.protocols import LabelledSet, Protocol
from landmarks_jax.evaluation.scores import METRICS, Metric
from landmarks_jax.studies import comparison, comparison_tables
from landmarks_jax.studies.runs import Run
from tests.running import narrow

FACE = np.array([[-0.2, -0.2], [0.2, -0.2], [0, 0.02], [-0.15, 0.2], [0.15, 0.2]])


@pytest.fixture(scope="module")
def protocol():
    rng = np.random.default_rng(0)
    views = np.zeros((20, 8, 8, 3), np.uint8)
    points = FACE + rng.normal(0, 0.05, (20, 5, 2))
    return Protocol("toy", "center", *(LabelledSet(views, points, "20 faces") for _ in range(2)))


def _highest(case):
    """The mean of the landmarks' least y."""
    if case.landmarks is None:
        return None
    return float(case.landmarks.score[..., 1].min(1).mean())


def test_one_entry_adds_a_metric(protocol, monkeypatch):
    entry = Metric("highest", "view sides", "how far up the landmarks reach.", _highest)
    monkeypatch.setitem(METRICS, entry.name, entry)
    detector = lambda views: np.tile([[[0.1, -0.25], [0.3, 0.5]]], (len(views), 1, 1))  # noqa: E731
    result = protocols.evaluate(protocol, {"running": detector}, counts=(1,), angles=())
    assert result["results"]["running"]["highest"] == -0.25
    assert "highest" not in result["results"]["mean_shape"]

    lines = score_tables.to_markdown([result]).splitlines()
    (header,) = [line for line in lines if line.startswith("| Protocol")]
    assert header.endswith("| Spread | Highest |")
    (row,) = [line for line in lines if line.startswith("| toy | center | 2 |")]
    assert row.endswith("| -0.25 |")
    note = "Highest (view sides): how far up the landmarks reach."
    assert any(note in line for line in lines)
    written = list(csv.DictReader(io.StringIO(score_tables.to_csv(result))))
    (line,) = [line for line in written if line["quantity"] == "highest"]
    assert (line["mean"], line["unit"], line["row"]) == ("-0.25", "view sides", "running")

    provenance = {"steps": 4, "training_minutes": 1.0, "trained_on": [], "command": "x eval"}
    result["provenance"] = provenance
    run = Run("a", narrow(), {}, 4, 1.0, {("toy", "center"): result})
    compared = comparison.compare([run])
    assert compared["tables"][0]["rows"][0]["values"]["highest"] == [-0.25]
    markdown = comparison_tables.to_markdown(compared)
    assert "| Highest |" in markdown
    assert note in markdown
    assert "highest,highest_low,highest_high" in comparison_tables.to_csv(compared)


def test_a_metric_that_no_row_has_makes_no_column():
    assert [metric.name for metric in scores.columns([{"forward": [], "per_photo": []}])] == [
        "forward"
    ]
    assert METRICS["spread"].cell({}) == "-"
    assert METRICS["spread"].of({}) is None
