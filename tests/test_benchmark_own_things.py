"""The benchmarks of training on folders: what they measure, and the stored tables."""

import json
import subprocess

import numpy as np
import pytest

from benchmarks import kept_points, own_things
from landmarks_jax.data.formats import label_files
from landmarks_jax.system.errors import UserError
from landmarks_jax.training.refiner import Targets
from tests.running import ROOT

RESULTS = ROOT / "docs" / "results" / "benchmarks"


@pytest.mark.parametrize(
    ("module", "name"), [(own_things, "own_things_cpu"), (kept_points, "kept_points_cpu")]
)
def test_the_stored_table_is_that_of_the_json(module, name):
    result = json.loads((RESULTS / f"{name}.json").read_text())
    assert (RESULTS / f"{name}.md").read_text() == module.to_markdown(result)


def test_drawn_things_are_drawn_once_and_their_points_lie_beside_the_photos(tmp_path, monkeypatch):
    monkeypatch.setattr(own_things, "_TRAIN", 3)
    monkeypatch.setattr(own_things, "_TEST", 2)
    things = own_things.things_of("wings", tmp_path, tmp_path)
    assert len(list(things.photos.iterdir())) == 3
    assert label_files.read(str(things.fit)).points.shape == (3, 12, 2)
    assert label_files.read(str(things.score)).points.shape == (2, 12, 2)
    before = (things.photos / "0000.jpg").stat().st_mtime_ns
    assert own_things.things_of("wings", tmp_path, tmp_path) == things
    assert (things.photos / "0000.jpg").stat().st_mtime_ns == before


def test_a_training_that_fails_ends_the_benchmark_and_a_finished_one_is_not_repeated(
    tmp_path, monkeypatch
):
    run = tmp_path / "run"
    with pytest.raises(UserError, match=r"run: training ended with exit code 2"):
        own_things.train(tmp_path / "nowhere", run, ())
    run.mkdir()
    ended = subprocess.CompletedProcess([], 0)
    monkeypatch.setattr(own_things.subprocess, "run", lambda *_, **__: ended)
    own_things.train(tmp_path / "photos", run, ("--minutes=1",))
    monkeypatch.setattr(own_things.subprocess, "run", lambda *_, **__: pytest.fail("trained"))
    own_things.train(tmp_path / "photos", run, ("--minutes=1",))
    with pytest.raises(
        UserError, match=r"time.json: the run has flags \['--minutes=1'\], not \[\]"
    ):
        own_things.train(tmp_path / "photos", run, ())
    with pytest.raises(UserError, match=r"has photos '.*photos', not '.*others'; use another --wo"):
        own_things.train(tmp_path / "others", run, ("--minutes=1",))


def test_the_points_of_another_folder_of_lfw_are_found_anew(tmp_path, monkeypatch):
    found = []

    def faces(folder):
        found.append(folder)
        return f"fit of {folder.name}", f"score of {folder.name}"

    monkeypatch.setattr(own_things, "_faces", faces)
    for name in ("a", "b", "a"):
        things = own_things.things_of("lfw", tmp_path / "work", tmp_path / name)
        assert things.photos == tmp_path / name
        assert (things.fit.read_text(), things.score.read_text()) == (
            f"fit of {name}", f"score of {name}")  # fmt: skip
    assert found == [tmp_path / "a", tmp_path / "b"]


def test_points_that_follow_are_scored_without_those_that_do_not():
    rng = np.random.default_rng(0)
    labels = rng.normal(0, 0.2, (400, 2, 2)) + np.array([[-0.5, 0], [0.5, 0]])
    exact = np.repeat(labels, 32, 1)  # 64 points, 32 at each label
    noise = rng.normal(0, 1, exact.shape)
    followed = np.where(np.arange(64) % 2, 0.9, 0.1).astype(np.float32)
    points = np.where(followed[:, None] > 0.5, exact + 0.01 * noise, noise)
    made = Targets(points, np.ones((400, 64)), followed)
    rows = kept_points.rows_of(made, labels, groups=16)
    assert [(row["kept"], row["merged"]) for row in rows] == [
        (64, None), (64, 16), (40, 16), (28, 16), (20, 16)]  # fmt: skip
    by_kept = {row["kept"]: row for row in rows[1:]}
    # Sixteen points of noise 0.01 average to about 0.01 / sqrt(14) of one another's label.
    assert by_kept[28]["all"] < 0.5
    assert by_kept[28]["few"] < 2
    assert rows[0]["few"] > 5 * by_kept[28]["few"]
