"""The benchmark of found faces measures, and its table is made from its JSON."""

import json

import numpy as np
import pytest

from benchmarks import found_faces, scenes
from landmarks_jax.inference import api
from tests import grace
from tests.running import ROOT

pytest.importorskip("cv2", reason="the extra `faces` is not installed")


def test_recall_false_positives_and_errors():
    group, people = grace.group(), grace.Portrait()
    detector = api.load_detector("faces")
    scorer = found_faces.SceneScorer(detector, people)
    # All of a photo is viewed where its points choose the view.
    views = scorer.views(np.stack([people.points(0), people.points(1)]))
    np.testing.assert_allclose(views.mean(0), [0 - 10, 0 + 10, 178 + 10, 218 - 10], atol=3)
    scorer.fit([group])
    rng = np.random.default_rng(5)
    result = scorer.measure(
        [group, scenes.Scene(np.asarray(scenes.texture(rng)), np.zeros((0, 5, 2)), [])]
    )
    assert result["faces"] == 5
    assert result["recall"] == 100
    assert result["false_positives"] == 0
    assert 0 < result["errors"]["fitted, found"] < result["errors"]["file, found"] < 15
    assert found_faces.match(views + 500, views) == []
    assert found_faces.match(views[::-1], views[1:] + 1) == [(0, 0)]


def test_the_table_is_made_from_the_json():
    stored = ROOT / "docs" / "results" / "benchmarks" / "found_faces_cpu.json"
    table = found_faces.to_markdown(json.loads(stored.read_text()))
    assert stored.with_suffix(".md").read_text() == table
