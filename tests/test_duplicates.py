"""Faces that are fitted on and scored, or several times in one set, are named."""

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from landmarks_jax.data import prepared
from landmarks_jax.data.framing import Framing
from landmarks_jax.data.sources import registry
from landmarks_jax.evaluation import duplicates, protocols, run_evaluation, score_tables
from landmarks_jax.evaluation.duplicates import Faces
from landmarks_jax.system.errors import DataError
from tests import datasets
from tests.running import narrow

POINTS = (9, 10, 21, 10, 15, 25)


@pytest.fixture(autouse=True)
def _cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))


def table(folder: Path, rows: dict[str, int], shift: float = 0.0) -> str:
    """A CSV of PNG photos by the seed of their pixels; their points are `POINTS`, shifted."""
    lines = ["file,x1,y1,x2,y2,x3,y3"]
    for name, seed in rows.items():
        datasets.save(folder / f"{name}.png", (30, 36), seed)
        lines.append(f"{name}.png," + ",".join(str(value + shift) for value in POINTS))
    (folder / "faces.csv").write_text("\n".join(lines))
    return str(folder / "faces.csv")


def opened(fit: str, score: str, **options):
    return run_evaluation.open_faces(narrow(), fit=fit, score=score, **options)


def test_photos_in_both_sets_are_named_whatever_their_names(tmp_path):
    fit = table(tmp_path / "one", {"a": 1, "b": 2, "c": 3})
    # Another name, another format, and points of another annotator.
    score = table(tmp_path / "two", {"x": 2, "y": 4}, shift=0.4)
    for crop in ("center", "box"):
        with pytest.raises(DataError, match=r"1 of the 2 faces scored .*: x.png = b.png: the err"):
            opened(fit, score, crops=[crop])
    (protocol,) = opened(fit, score, allow_duplicates=True)
    (note,) = protocol.notes
    assert note.startswith("duplicate faces: 1 of the 2 faces scored (faces) are also fitted on")
    other = table(tmp_path / "other", {"x": 5, "y": 6})
    (protocol,) = opened(fit, other)
    assert protocol.notes == ()
    with Image.open(tmp_path / "two" / "x.png") as image:
        image.save(tmp_path / "other" / "y.png", optimize=True)
    with pytest.raises(DataError, match=r"1 of the 2 faces scored .*: y.png = b.png"):
        opened(fit, other)


def test_a_photo_several_times_in_one_set(tmp_path):
    fit = table(tmp_path / "one", {"a": 1, "b": 1, "c": 1})
    score = table(tmp_path / "two", {"x": 4})
    named = "2 of the 3 faces fitted on (faces) repeat others: b.png = a.png, c.png = a.png"
    with pytest.raises(DataError, match=re.escape(named)):
        opened(fit, score)
    with pytest.raises(DataError, match=r"2 of the 3 faces scored \(faces\) repeat others"):
        opened(score, fit)


def test_faces_of_one_photo_are_told_apart_by_their_points():
    views = np.zeros((3, 8, 8, 3), np.uint8)
    points = np.array([[[0, 0], [4, 0], [2, 5]]] * 3) + np.array([0, 20, 21])[:, None, None]
    faces = duplicates.of_views(["a", "a", "a"], views, points)
    assert list(duplicates._pairs(faces, None)) == [(2, 1)]
    one = Faces(["b"], faces.digests[:1], points[:1] + 1.5)
    assert duplicates.describe(faces, one, ("f", "s"))[0].endswith("fitted on (f): b = a")
    assert len(duplicates.describe(faces, one._replace(points=points[:1] + 3), ("f", "s"))) == 1


def test_prepared_faces_are_compared_by_their_views(tmp_path):
    fit = table(tmp_path / "one", {"a": 1, "b": 2})
    score = table(tmp_path / "two", {"x": 2, "y": 3})
    frame = Framing(20, 16, "center")
    prepared.prepare(registry.open_labelled(score), frame, tmp_path / "made")
    with pytest.raises(DataError, match=r"faces scored \(made\) are also .*: x.png = b.png"):
        opened(fit, str(tmp_path / "made"), crops=["center"])


def test_published_lists_are_scored_with_a_note_in_every_table(tmp_path):
    places = {
        "celeba": str(datasets.celeba(tmp_path / "celeba", (6, 1, 1))),
        "mafl": str(datasets.mafl(tmp_path / "mafl", [4, 1, 6, 2], [8, 6])),
    }
    for protocol in run_evaluation.open_faces(narrow(), ["mafl"], **places):
        (note,) = protocol.notes
        assert "1 of the 2 faces scored (MAFL testing) are also fitted on (MAFL training)" in note
        detectors = {"running": lambda views: views[:, :3, 0, :2] / 255.0}
        result = protocols.evaluate(protocol, detectors, notes=["own"], angles=())
        assert result["notes"] == ["own", note]
        assert score_tables.to_markdown([result]).count(f"Note: {note}") == 5  # tables
