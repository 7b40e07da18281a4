"""Heat maps of joints: the loss, what it leaves out, views; PCKh by hand and by loops."""

import csv
import io
import json
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from landmarks_jax import keypoints
from landmarks_jax.data import prepared
from landmarks_jax.data.framing import Framing
from landmarks_jax.data.sources import synthetic
from landmarks_jax.evaluation import pckh as scoring
from landmarks_jax.system.errors import ConfigError, DataError
from landmarks_jax.tasks import pose
from landmarks_jax.training import run_inputs
from tests import datasets
from tests.running import narrow

NAN = float("nan")


def draw_joints(seed=0, count=3):
    """Joints in and around views, some not annotated."""
    rng = np.random.default_rng(seed)
    joints = rng.uniform(-1.2, 1.2, (count, 16, 2))
    joints[rng.random((count, 16)) < 0.3] = NAN
    joints[0, 0], joints[0, 1] = (0.3, -0.2), (1.1, 0.0)
    return joints


def test_the_loss_is_the_mean_over_the_maps_of_joints_in_view():
    joints = draw_joints()
    scores = np.random.default_rng(1).normal(size=(3, 4, 5, 16))  # 4 rows, 5 columns
    errors = []
    for i in range(3):
        for j in range(16):
            x, y = joints[i, j]
            if not (abs(x) <= 1 and abs(y) <= 1):
                continue
            column, row = ((x + 1) * 5 - 1) / 2, ((y + 1) * 4 - 1) / 2
            for r in range(4):
                for c in range(5):
                    target = np.exp(-((c - column) ** 2 + (r - row) ** 2) / (2 * 0.7**2))
                    errors.append((scores[i, r, c, j] - target) ** 2)
    assert 0 < len(errors) < 3 * 16 * 20
    actual = pose.heatmap_loss(jnp.asarray(scores), jnp.asarray(joints), 0.7)
    assert actual == pytest.approx(np.mean(errors), rel=1e-5)


def test_joints_without_annotation_or_outside_the_view_have_no_gradient():
    joints = draw_joints()
    scores = jnp.asarray(np.random.default_rng(1).normal(size=(3, 4, 4, 16)))
    gradient = np.asarray(jax.grad(pose.heatmap_loss)(scores, jnp.asarray(joints), 1.0))
    with np.errstate(invalid="ignore"):
        seen = (np.abs(joints) <= 1).all(-1)
    assert 5 < seen.sum() < 43
    strengths = np.abs(gradient).max((1, 2))
    assert (strengths[~seen] == 0).all()
    assert (strengths[seen] > 1e-5).all()
    nobody = jnp.full((3, 16, 2), NAN)
    assert pose.heatmap_loss(scores, nobody, 1.0) == 0
    assert not np.asarray(jax.grad(pose.heatmap_loss)(scores, nobody, 1.0)).any()


def test_the_view_and_its_joints_go_together(narrow_config):
    """A white spot of the canvas lies, in the view, where the joint is said to be."""
    config = narrow_config(data__canvas_size=48, views__size=32, views__scale_range=(0.8, 1.2))
    canvases = np.zeros((6, 48, 48, 3), np.uint8)
    points = np.full((6, 18, 2), NAN, np.float32)
    rows, columns = np.arange(18, 30, 2), np.arange(16, 34, 3)
    for i, (row, column) in enumerate(zip(rows, columns, strict=True)):
        canvases[i, row - 1 : row + 2, column - 1 : column + 2] = 255
        points[i, 4] = (2 * column + 1) / 48 - 1, (2 * row + 1) / 48 - 1
    points[:, 16], points[:, 17] = (0.1, 0.1), (0.4, 0.5)  # half the canvas in the diagonal
    draw = jax.jit(partial(pose.draw, config=config))
    drawn = draw(jax.random.key(0), 3, canvases, points)
    images = np.asarray(drawn.images)[..., 0]
    centers = (2 * np.arange(32) + 1) / 32 - 1
    total = images.sum((1, 2))
    actual = np.stack(
        [(images.sum(1) * centers).sum(1) / total, (images.sum(2) * centers).sum(1) / total], -1
    )
    np.testing.assert_allclose(drawn.joints[:, 4], actual, atol=0.02)
    assert np.isnan(np.delete(np.asarray(drawn.joints), 4, 1)).all()
    # The box's area grows as the spot's does.
    expected = 0.6 * 0.5 * 48 / 32 * np.sqrt(total / 9 / 1.5**-2) / 1.5
    np.testing.assert_allclose(drawn.head_sizes, expected, rtol=0.03)
    assert len(np.unique(np.asarray(drawn.head_sizes))) == 6
    changed = np.concatenate([canvases[:2], canvases[:1], canvases[3:]])
    again = draw(jax.random.key(0), 3, changed, points)
    np.testing.assert_array_equal(again.images[:2], drawn.images[:2])
    other = draw(jax.random.key(0), 4, canvases, points)
    assert np.any(np.asarray(other.joints[:, 4]) != np.asarray(drawn.joints[:, 4]))


def test_peaks_are_the_highest_cells_moved_to_their_higher_neighbours():
    maps = np.zeros((1, 4, 6, 4), np.float32)
    maps[0, 1, 3, 0], maps[0, 1, 4, 0], maps[0, 0, 3, 0] = 1.0, 0.5, 0.2
    maps[0, 2, 2, 1] = 1.0  # its neighbours are equal
    maps[0, 0, 5, 2], maps[0, 1, 5, 2] = 1.0, 0.9  # in a corner
    maps[0, 3, 0, 3], maps[0, 2, 0, 3] = 2.0, 1.0
    cells = np.array([[3.25, 0.75], [2, 2], [5, 0], [0, 3]])
    expected = (2 * cells + 1) / [6, 4] - 1
    np.testing.assert_allclose(keypoints.peaks(jnp.asarray(maps))[0], expected, atol=1e-6)
    # A softmax keeps them, so that those of a detector's heat maps are those of its scores.
    heatmaps = keypoints.attention(jnp.asarray(maps), 10.0)
    np.testing.assert_allclose(keypoints.peaks(heatmaps)[0], expected, atol=1e-6)


def test_pckh_by_hand():
    """Two people, heads of 1 and 2: found within 0.5 and within 1."""
    joints = np.full((2, 16, 2), NAN)
    actual = np.zeros((2, 16, 2))
    joints[0, 9], joints[1, 9] = (0.5, 0), (0, 1.0)  # both exactly at the limit
    joints[0, 12], joints[0, 13], joints[1, 13] = (0.3, 0.5), (0, 0.2), (0.8, 0.8)  # out, in, out
    joints[0, 6], joints[1, 7] = (9, 9), (9, 9)  # pelvis and thorax, which the mean leaves out
    heads = np.array([1.0, 2.0])
    right = scoring.found_joints(joints, actual, heads)
    result = scoring.scores(np.isfinite(joints).all(-1), right)
    assert result["mean"] == pytest.approx(100 * 3 / 5)
    assert result["groups"] == {
        "head": 100.0,
        "shoulder": pytest.approx(100 / 3, abs=1e-4),
        **dict.fromkeys(("elbow", "wrist", "hip", "knee", "ankle")),
    }
    assert result["joints"][12:14] == [0.0, 50.0]
    assert result["joints"][6] == 0.0
    assert result["joints"][0] is None
    assert result["annotated"][13] == 2


def test_pckh_agrees_with_loops_over_pixels_and_with_the_log():
    """Once more as MPII's tool does it: pixels of the photo, one joint after the other."""
    rng = np.random.default_rng(3)
    people, side = 40, 480.0  # the view shows 480 pixels of each photo
    joints = draw_joints(4, people)
    joints = np.where(np.abs(joints) > 1, NAN, joints)
    actual = np.nan_to_num(joints) + rng.normal(0, 0.1, joints.shape)
    corners = rng.uniform(0, 100, (people, 2, 2))
    heads = 0.6 * np.linalg.norm(corners[:, 0] - corners[:, 1], axis=-1)
    right, total = np.zeros(16), np.zeros(16)
    for person in range(people):
        for joint in range(16):
            if np.isnan(joints[person, joint]).any():
                continue
            total[joint] += 1
            dx, dy = (actual[person, joint] - joints[person, joint]) * side / 2
            right[joint] += (dx**2 + dy**2) ** 0.5 / heads[person] <= 0.5
    assert 0.2 < right.sum() / total.sum() < 0.8
    sizes = heads / (side / 2)
    annotated = np.isfinite(joints).all(-1)
    ours = scoring.scores(annotated, scoring.found_joints(joints, actual, sizes))
    np.testing.assert_allclose(ours["joints"], 100 * right / total, atol=1e-3)
    counted = np.delete(np.arange(16), [6, 7])
    share = 100 * right[counted].sum() / total[counted].sum()
    assert ours["mean"] == pytest.approx(share, abs=1e-3)
    for name, kinds in scoring.GROUPS.items():
        pooled = 100 * right[list(kinds)].sum() / total[list(kinds)].sum()
        assert ours["groups"][name] == pytest.approx(pooled, abs=1e-3)
        assert all(name in scoring.JOINTS[j] for j in kinds)
    log = pose.pckh(jnp.asarray(actual), jnp.asarray(joints), jnp.asarray(sizes))
    assert float(log) == pytest.approx(100 * right.sum() / total.sum(), abs=1e-3)


@pytest.fixture
def people(tmp_path, narrow_config, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    person = datasets.mpii_person
    images = [
        {"name": "1.jpg", "people": [person(0), person(40, (0, 9, 15))], "apart": [1]},
        {"name": "2.jpg", "people": [person(5)], "video": 18, "apart": [1]},
        {"name": "3.jpg", "people": [person(8, (9, 10)), person(3)], "video": 18, "apart": [2]},
    ]
    config = narrow_config(data__canvas_size=48, views__size=32, data__source="mpii")
    config.eval.mpii = str(datasets.mpii(tmp_path, images))
    return scoring.open_people(config, ["mpii"])


def test_scores_of_the_people_held_out(people):
    assert people.views.shape == (3, 32, 32, 3)
    assert people.apart.tolist() == [True, False, True]
    # A view shows 250 pixels for each unit of scale, here 1.5.
    np.testing.assert_allclose(people.head_sizes, 0.6 * 50 / (375 * 1.5 * 2 / 3 / 2), rtol=0.01)
    assert np.isfinite(people.joints).all(-1).sum(1).tolist() == [16, 2, 16]
    # Both people who train have joint 9; joint 3 the first alone.
    centers = (np.array([[60, 80]] * 2) - 1 + 0.5) + [0, 22.5]
    nine = np.array([[90, 45], [130, 85]]) - 1 + 0.5
    side = 375 * 1.5 * 2 / 3
    mean = (2 * (nine - centers) / side).mean(0)
    np.testing.assert_allclose(people.mean_pose[9], mean, atol=0.01)
    np.testing.assert_allclose(
        people.mean_pose[3], 2 * (np.array([30, 15]) - 0.5 - centers[0]) / side, atol=0.01
    )

    exact = np.nan_to_num(people.joints)
    off = exact + np.array([1.01 * people.head_sizes[0] / 2, 0])
    detectors = {"running": lambda views: off, "perfect": lambda views: exact}
    result = scoring.evaluate(people, detectors, notes=["a note"])
    result = json.loads(json.dumps(result, allow_nan=False))
    assert list(result["results"]) == ["running", "perfect", "mean_pose"]
    assert result["results"]["perfect"]["all"]["mean"] == 100
    assert result["results"]["perfect"]["apart"]["annotated"] == [2] * 16
    assert result["results"]["running"]["all"]["mean"] == 0
    assert result["people"] == {"name": "MPII validation", "all": 3, "apart": 2}
    assert np.array(result["examples"]["joints"], float).shape == (3, 16, 2)
    assert result["examples"]["joints"][1][0] == [None, None]
    table = scoring.to_markdown(result)
    assert "| perfect | apart (2) |" + " 100.0 |" * 8 in table
    assert "Note: a note" in table
    assert "| head top | 3 | 0.0 | 100.0 |" in table
    rows = list(csv.DictReader(io.StringIO(scoring.to_csv(result))))
    assert len(rows) == 3 * 2 * (1 + 7 + 16)
    assert {"row": "perfect", "people": "all", "kind": "head top", "annotated": "3"}.items() <= (
        next(r for r in rows if r["row"] == "perfect" and r["kind"] == "head top").items()
    )
    with pytest.raises(DataError, match="'running': joints are not finite"):
        scoring.evaluate(people, {"running": lambda views: off * NAN})


def test_points_that_are_not_mpiis_are_refused(tmp_path):
    prepared.prepare(synthetic.SyntheticFaces(1, 8, 20), Framing(20, 16, "center"), tmp_path / "p")
    photos = {"data__source": "prepared", "data__roots": (str(tmp_path / "p"),)}
    fields = {"objective__task": "pose", "model__num_landmarks": 16}
    with pytest.raises(ConfigError, match=r"'pose' needs photos with 18 points; these have 5 \("):
        run_inputs.read_inputs(narrow(**photos, **fields), tmp_path / "run", None)
    assert run_inputs.read_inputs(narrow(**photos), tmp_path / "run", None).photos.num_points == 5
