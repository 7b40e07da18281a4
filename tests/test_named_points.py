"""`landmarks-jax eval --fit` alone: a few labels give every photo of a run the named points."""

import json

import jax
import numpy as np
import pandas
import pytest
from sklearn.linear_model import Ridge

from landmarks_jax import load_detector
from landmarks_jax.data import decoding
from landmarks_jax.data.formats import deeplabcut, label_files
from landmarks_jax.evaluation import named_points, run_evaluation
from landmarks_jax.inference import packed_file
from landmarks_jax.inference.detector import ViewDetector
from landmarks_jax.training import run_folder
from tests import datasets
from tests.detecting import noise, save_rotated
from tests.running import TINY, call, finished_run, narrow

NAMES = ("left tip", "right tip", "base")
PHOTOS, LABELLED = 16, 12


@pytest.fixture(autouse=True)
def _cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A run, its photos, and points: an affine map of what the run discovers, and some noise."""
    folder = tmp_path_factory.mktemp("mine")
    for i in range(PHOTOS - 1):
        datasets.save(folder / "photos" / f"{i:02d}.png", (30, 36), i)
    save_rotated(folder / "photos" / f"{PHOTOS - 1}.jpg", noise(99, 30, 36), 6)
    # Not trained on all photos; all get points.
    data = {"data__roots": (str(folder / "photos"),), "data__max_photos": PHOTOS - 4}
    run = finished_run(folder / "run", narrow(data__source="folder", **data, **TINY))
    code, _, err = call(
        "export", f"--workdir={run}", "--noregressor", f"--out={folder / 'bare.safetensors'}"
    )
    assert code == 0, err
    paths = sorted((folder / "photos").iterdir())
    found = load_detector(folder / "bare.safetensors")([decoding.decode(p)[0] for p in paths])
    rows = found.landmarks.reshape(PHOTOS, -1).astype(float)
    rng = np.random.default_rng(0)
    moved = (rows - rows.mean(0)) @ rng.normal(size=(6, 6))
    moved += 0.02 * moved.std() * rng.normal(size=moved.shape)
    points = moved + np.array([8, 9, 22, 10, 15, 28])
    return folder, paths, points.reshape(PHOTOS, 3, 2)


def labels(path, paths, points):
    relative = [f"photos/{photo.name}" for photo in paths]
    rows = dict(zip(relative, points, strict=True))
    path.write_text(deeplabcut.write_labels(rows, NAMES))
    return f"--fit={path}"


@pytest.fixture(scope="module")
def evaluated(made):
    """The last 12 photos labelled, two with a missing point, and the evaluation of the run."""
    folder, paths, points = made
    given = points[-LABELLED:].copy()
    given[3, 2] = given[5, 0] = np.nan
    fit = labels(folder / "few.csv", paths[-LABELLED:], given)
    code, printed, err = call("eval", f"--workdir={folder / 'run'}", fit)
    assert code == 0, err
    return fit, printed, folder / "run" / "evaluation" / "few-center"


def test_every_photo_gets_the_named_points(made, evaluated):
    folder, paths, points = made
    fit, printed, out = evaluated
    read = label_files.read(str(out / "points.csv"))
    assert read.names == NAMES
    assert read.upright
    assert [out / name for _, name in read.entries] == [
        out / "../../.." / "photos" / path.name for path in paths
    ]
    moved = np.linalg.norm(points - points.mean(0), axis=-1).mean()
    assert np.linalg.norm(read.points - points, axis=-1).max() < 0.1 * moved
    table = pandas.read_csv(out / "points.csv", header=[0, 1, 2], index_col=0)
    np.testing.assert_array_equal(table["landmarks_jax"]["base"][["x", "y"]], read.points[:, 2])
    assert f"{out / 'points.csv'}: 16 x 3 points (labelled)" in printed
    # They are what `export --fit` and `detect` find.
    packed = folder / "named.safetensors"
    code, _, err = call("export", f"--workdir={folder / 'run'}", fit, f"--out={packed}")
    assert code == 0, err
    assert call("detect", str(packed), str(folder / "photos"), f"--out={folder / 'found'}")[0] == 0
    for name in ("landmarks.csv", "landmarks.jsonl"):
        assert (out / name).read_text() == (folder / "found" / name).read_text()


def test_the_error_is_that_of_refits(made, evaluated):
    """By scikit-learn, from the landmarks in the views."""
    folder, *_ = made
    fit, printed, out = evaluated
    result = json.loads((out / "leave_one_out.json").read_text())
    config = run_folder.read_config(folder / "run")
    (protocol,) = run_evaluation.open_faces(config, fit=fit.removeprefix("--fit="), fit_alone=True)
    packed = packed_file.read(folder / "bare.safetensors")
    x = ViewDetector(packed.config, packed.variables)(protocol.fit.views)
    x, y = x.reshape(LABELLED, -1).astype(float), protocol.fit.points.astype(float)
    units = np.linalg.norm(y[:, 0] - y[:, 1], axis=1)
    errors = np.full((2, LABELLED, 3), np.nan)
    for point in range(3):
        rows = np.flatnonzero(~np.isnan(y[:, point, 0]))
        centred = x[rows] - x[rows].mean(0)
        alpha = result["penalty"] * (centred.T @ centred).max()
        for row in rows:
            others = rows[rows != row]
            ridge = Ridge(alpha=alpha, solver="svd").fit(x[others], y[others, point])
            both = ridge.predict(x[[row]])[0], y[others, point].mean(0)
            errors[:, row, point] = [np.linalg.norm(one - y[row, point]) for one in both]
    errors = 100 * errors / units[:, None]
    for values, key in zip(errors, ("error", "mean_shape"), strict=True):
        assert result[key] == pytest.approx(np.nanmean(values), rel=1e-3)
        per_point = [point[key] for point in result["points"]]
        assert per_point == pytest.approx(np.nanmean(values, axis=0), rel=1e-3)
    assert result["error"] < 0.2 * result["mean_shape"]
    assert [point["photos"] for point in result["points"]] == [11, 12, 11]
    assert result["provenance"]["steps"] == 4
    assert (out / "table.md").read_text() in printed
    assert f"| all points | 12 | {result['error']:.2f} | {result['mean_shape']:.2f} |" in printed


def test_a_packed_detector_reads_the_points_back(made, evaluated, tmp_path):
    """The predicted points are an affine map of its landmarks, which leave-one-out finds."""
    folder, paths, points = made
    detector, card = f"--detector={folder / 'bare.safetensors'}", tmp_path / "card.md"
    fit = f"--fit={evaluated[2] / 'points.csv'}"
    code, printed, err = call("eval", detector, fit, f"--out={tmp_path / 'scores'}")
    assert code == 0, err
    assert [path.name for path in (tmp_path / "scores").iterdir()] == ["points-center"]
    files = {path.name for path in (tmp_path / "scores" / "points-center").iterdir()}
    assert files == {"table.md", "leave_one_out.json"}
    result = json.loads((tmp_path / "scores/points-center/leave_one_out.json").read_text())
    assert result["error"] < 0.02 * result["mean_shape"]
    assert result["photos"] == PHOTOS
    # Of few labels against many landmarks, the packed file and its card say the same error.
    few = labels(folder / "three.csv", paths[:3], points[:3])
    out = tmp_path / "three.safetensors"
    code, _, err = call("export", detector, few, f"--out={out}", f"--card={card}")
    assert code == 0, err
    (measured,) = packed_file.read(out).summary["leave_one_out"]
    assert measured["photos"] == 3
    line = f"| three | center | 3 | {measured['error']:.1f} | {measured['mean_shape']:.1f} |"
    assert line in card.read_text()
    assert "Not scored" not in card.read_text()
    code, printed, err = call("eval", detector, few, f"--out={tmp_path}", "--landmarks=0,2")
    assert code == 0, err
    assert "Note: landmarks 0, 2 of 3" in printed
    jax.tree.map(
        np.testing.assert_array_equal,
        dict(packed_file.read(out).variables),
        dict(packed_file.read(folder / "bare.safetensors").variables),
    )


def test_a_run_without_photos_gets_the_error_alone(made, evaluated, tmp_path):
    run = finished_run(tmp_path / "run", narrow(**TINY))
    code, printed, err = call("eval", f"--workdir={run}", evaluated[0])
    assert code == 0
    assert "| all points | 12 |" in printed
    assert "the run's photos get no points (source 'synthetic' has no files of photos)" in err
    assert {path.name for path in (run / "evaluation" / "few-center").iterdir()} == {
        "table.md",
        "leave_one_out.json",
    }


def test_labels_that_cannot_be_used_are_refused_in_a_line(made, tmp_path):
    folder, paths, points = made
    workdir = f"--workdir={folder / 'run'}"
    none, one_missing = np.full_like(points[:4], np.nan), points[:4].copy()
    one_missing[:, 1] = np.nan
    copies = folder / "copies"
    copies.mkdir(exist_ok=True)
    (copies / "again.png").write_bytes(paths[0].read_bytes())
    rows = {f"photos/{path.name}": row for path, row in zip(paths[:5], points[:5], strict=True)}
    repeated = folder / "repeated.csv"
    repeated.write_text(
        deeplabcut.write_labels({**rows, "copies/again.png": points[0] + 0.1}, NAMES)
    )
    cases = {
        labels(folder / "one.csv", paths[:1], points[:1]): (
            "one: 1 labelled photos; the linear map needs at least 3"
        ),
        labels(folder / "none.csv", paths[:4], none): "every point is missing in every photo",
        labels(folder / "gap.csv", paths[:4], one_missing): (
            "gap: right tip is labelled in 0 of 4 photos"
        ),
        f"--fit={repeated}": "repeat others: copies/again.png = photos/00.png",
    }
    for fit, part in cases.items():
        code, printed, err = call("eval", workdir, fit)
        assert (code, printed, err.count("\n")) == (2, "", 1), err
        assert part in err
    bare = f"--detector={folder / 'bare.safetensors'}"
    out = f"--out={tmp_path / 'scores'}"
    assert "--mirror: goes with --score" in call("eval", bare, out, "--fit=a.csv", "--mirror")[2]
    assert not (tmp_path / "scores").exists()
    code, printed, err = call("eval", workdir, f"--fit={repeated}", "--allow_duplicates")
    assert code == 0, err
    assert "Note: duplicate faces: 1 of the 6 faces fitted on (repeated) repeat others" in printed


def test_an_ended_detection_leaves_no_points_of_an_earlier_one(made, monkeypatch):
    folder, paths, points = made
    fit = labels(folder / "ended.csv", paths[:3], points[:3])
    old = folder / "run" / "evaluation" / "ended-center" / "points.csv"
    old.parent.mkdir(parents=True)
    old.write_text("old")
    monkeypatch.setattr(named_points.run_detection, "detect_photos", lambda *_: 130)
    code, printed, _ = call("eval", f"--workdir={folder / 'run'}", fit)
    assert (code, "| all points | 3 |" in printed) == (130, True)
    assert not old.exists()
