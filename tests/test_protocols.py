"""Protocols with detectors whose scores are known."""

import dataclasses
import json

import numpy as np
import pytest
from sklearn.linear_model import Ridge

from landmarks_jax.evaluation import protocols
from landmarks_jax.evaluation.breakdown import FIVE_POINTS
from landmarks_jax.evaluation.protocols import LabelledSet, Protocol, evaluate
from landmarks_jax.system.errors import ConfigError, DataError

_PAIRS = [(i, j) for i in range(10) for j in range(i)]


def _shapes(seed, faces, points=5):
    """Faces that differ by place, size and noise, eyes well apart."""
    rng = np.random.default_rng(seed)
    mean = np.random.default_rng(9).uniform(-0.3, 0.3, (points, 2))
    mean[:2] = [[-0.2, -0.2], [0.2, -0.2]]
    scale, shift = rng.uniform(0.7, 1.3, (faces, 1, 1)), rng.normal(0, 0.1, (faces, 1, 2))
    return (scale * mean + shift + rng.normal(0, 0.01, (faces, points, 2))).astype(np.float32)


def _labelled(seed, faces, name, points=5):
    # The view carries the index of its face, so that a detector can look its points up.
    views = np.zeros((faces, 8, 8, 3), np.uint8)
    views[:, :, :, 0] = np.arange(faces)[:, None, None] % 256
    views[:, :, :, 1] = np.arange(faces)[:, None, None] // 256
    views[:, :, :, 2] = seed
    return LabelledSet(views, _shapes(seed, faces, points), name)


@pytest.fixture(scope="module")
def protocol():
    return Protocol("toy", "center", _labelled(1, 150, "toy-fit"), _labelled(2, 40, "toy-score"))


def _lookup(protocol, change):
    """A detector that gives `change(labels)` for the views of a protocol."""
    known = {1: protocol.fit.points, 2: protocol.score.points}

    def detect(views):
        centers = views[:, 4, 4].astype(int)
        index, seed = centers[:, 0] + 256 * centers[:, 1], centers[0, 2]
        return change(known[seed][index].astype(float))

    return detect


def _linear(points):
    matrix = np.random.default_rng(4).normal(size=(10, 20)) * 0.3
    return (points.reshape(len(points), -1) @ matrix).reshape(-1, 10, 2)


def _noisy(points):
    rng = np.random.default_rng(5)
    return _linear(points) + rng.normal(0, 0.02, (len(points), 10, 2))


def _still(points):
    return np.tile(np.random.default_rng(6).uniform(-1, 1, (10, 2)), (len(points), 1, 1))


def _collapsed(points):
    """Ten points at one place, which follows the nose a little."""
    return np.repeat(0.01 * points[:, 2:3], 10, axis=1)


def _evaluate(protocol, angles=(), **changes):
    detectors = {name: _lookup(protocol, change) for name, change in changes.items()}
    return evaluate(protocol, detectors, angles=angles)


def test_linear_image_of_the_labels_scores_nearly_zero(protocol):
    scores = _evaluate(protocol, running=_linear)["results"]["running"]
    assert scores["forward"][-1]["mean"] < 0.2
    assert scores["backward"][-1]["mean"] < 0.5
    assert scores["forward_without_intercept"] < 0.2
    assert max(scores["per_photo"]) < 1


def test_a_still_detector_scores_exactly_the_mean_shape(protocol):
    results = _evaluate(protocol, running=_still)["results"]
    assert results["running"]["forward"] == results["mean_shape"]["forward"]
    assert results["running"]["per_photo"] == results["mean_shape"]["per_photo"]
    assert results["running"]["backward"][-1]["mean"] == 0


def test_mean_shape_and_one_photo_by_hand(protocol):
    results = _evaluate(protocol, running=_noisy)["results"]
    labels = protocol.score.points.astype(float)
    eyes = np.linalg.norm(labels[:, 0] - labels[:, 1], axis=1)

    def error(shape):
        return 100 * (np.linalg.norm(labels - shape, axis=2) / eyes[:, None])

    mean = error(protocol.fit.points.mean(0, dtype=float))
    entry = results["mean_shape"]["forward"][-1]
    assert entry["mean"] == pytest.approx(mean.mean(), abs=1e-4)
    np.testing.assert_allclose(entry["per_point"], mean.mean(0), atol=1e-4)
    np.testing.assert_allclose(results["mean_shape"]["per_photo"], mean.mean(1), atol=1e-3)
    rng = np.random.default_rng((0, 1))
    single = [error(protocol.fit.points[rng.permutation(150)[0]]).mean() for _ in range(10)]
    one = results["one_photo"]["forward"]
    assert one == results["running"]["forward"][:1]
    assert one[0]["mean"] == pytest.approx(np.mean(single), abs=1e-4)
    assert one[0]["std"] == pytest.approx(np.std(single, ddof=1), abs=1e-4)


def test_forward_and_backward_errors_are_scikit_learns(protocol):
    scores = _evaluate(protocol, running=_noisy)["results"]["running"]
    labels = [part.points.astype(float) for part in (protocol.fit, protocol.score)]
    actual = [_noisy(points) for points in labels]
    eyes = np.linalg.norm(labels[1][:, 0] - labels[1][:, 1], axis=1)
    for name, source, target in (("forward", actual, labels), ("backward", labels, actual)):
        x, new = (points.reshape(len(points), -1) for points in source)
        gram = (x - x.mean(0)).T @ (x - x.mean(0))
        ridge = Ridge(alpha=1e-4 * (gram.max() + 1e-12)).fit(x, target[0].reshape(150, -1))
        offsets = ridge.predict(new).reshape(target[1].shape) - target[1]
        expected = 100 * np.linalg.norm(offsets, axis=2) / eyes[:, None]
        assert scores[name][-1]["mean"] == pytest.approx(expected.mean(), abs=1e-4)
        np.testing.assert_allclose(scores[name][-1]["per_point"], expected.mean(0), atol=1e-4)
    pairs = [np.linalg.norm(actual[1][:, i] - actual[1][:, j], axis=1) for i, j in _PAIRS]
    assert scores["spread"] == pytest.approx(100 * np.mean(np.mean(pairs, 0) / eyes), abs=1e-4)


def test_order_of_the_points_changes_nothing_but_their_order(protocol):
    order = np.random.default_rng(7).permutation(10)
    first = _evaluate(protocol, running=_noisy)["results"]["running"]
    other = _evaluate(protocol, running=lambda labels: _noisy(labels)[:, order])
    other = other["results"]["running"]
    for entry, permuted in zip(first["forward"], other["forward"], strict=True):
        assert permuted["mean"] == pytest.approx(entry["mean"], abs=2e-4)
        np.testing.assert_allclose(permuted["per_point"], entry["per_point"], atol=2e-4)
    backward = np.array(first["backward"][-1]["per_point"])
    np.testing.assert_allclose(other["backward"][-1]["per_point"], backward[order], atol=2e-4)
    assert other["spread"] == pytest.approx(first["spread"], abs=2e-4)


def test_a_collapsed_detector_is_given_away_by_its_spread(protocol):
    results = _evaluate(protocol, running=_collapsed, batch=_noisy)["results"]
    assert results["running"]["spread"] == 0
    assert results["running"]["backward"][-1]["mean"] < 0.1
    assert results["running"]["backward"][-1]["mean"] < results["batch"]["backward"][-1]["mean"]


def test_counts_are_those_the_data_can_give(protocol):
    results = _evaluate(protocol, running=_noisy)["results"]
    for quantity in ("forward", "backward"):
        entries = results["running"][quantity]
        assert [entry["n"] for entry in entries] == [1, 2, 5, 10, 100, 150]
        assert [entry["draws"] for entry in entries] == [10] * 5 + [1]
        assert [entry["std"] is None for entry in entries] == [False] * 5 + [True]
    forward = [entry["mean"] for entry in results["running"]["forward"]]
    assert forward[0] > forward[3] > forward[5]


def test_structure_survives_json(protocol, monkeypatch):
    notes = ["Caffe VGG-16, 3 taps"]
    detectors = {
        name: _lookup(protocol, change)
        for name, change in (("running", _noisy), ("batch", _linear), ("untrained", _still))
    }
    monkeypatch.setattr(protocols, "NUM_EXAMPLES", 4)
    result = evaluate(protocol, detectors, angles=(), notes=notes)
    assert json.loads(json.dumps(result, allow_nan=False)) == result
    assert evaluate(protocol, detectors, angles=(), notes=notes) == result
    assert list(result["results"]) == ["running", "batch", "untrained", "mean_shape", "one_photo"]
    assert result["fit"] == {"name": "toy-fit", "faces": 150}
    assert result["score"] == {"name": "toy-score", "faces": 40}
    assert (result["num_landmarks"], result["num_points"], result["view_size"]) == (10, 5, 8)
    assert result["point_names"] == ["0", "1", "2", "3", "4"]
    assert result["notes"] == notes
    assert len(result["results"]["running"]["per_photo"]) == 40
    assert result["examples"]["rows"] == [0, 13, 26, 39]
    actual = _noisy(protocol.score.points.astype(float))[[0, 13, 26, 39]]
    np.testing.assert_allclose(result["examples"]["landmarks"], actual, atol=1e-5)
    labels = protocol.score.points[[0, 13, 26, 39]]
    np.testing.assert_allclose(result["examples"]["labels"], labels, atol=1e-5)
    assert np.shape(result["examples"]["predicted"]) == (4, 5, 2)


def test_breakdown_and_worst_faces_are_of_the_errors_of_each_photo(protocol):
    named = dataclasses.replace(protocol, point_names=FIVE_POINTS)
    result = _evaluate(named, running=_noisy, untrained=_still)
    running = result["results"]["running"]["per_photo"]
    assert [grouping["by"] for grouping in result["breakdown"]] == ["yaw", "roll", "size"]
    for grouping in result["breakdown"]:
        groups = grouping["groups"]
        assert sum(group["faces"] for group in groups) == 40
        for row in ("running", "untrained", "mean_shape"):
            total = sum(group["faces"] * (group["forward"][row] or 0) for group in groups)
            mean = result["results"][row]["forward"][-1]["mean"]
            assert total / 40 == pytest.approx(mean, abs=2e-3)
    assert [grouping["by"] for grouping in _evaluate(protocol, running=_noisy)["breakdown"]] == [
        "size"
    ]

    worst = result["worst"]
    assert sorted(worst["rows"]) == list(range(40))
    shown = [running[row] for row in worst["rows"]]
    assert shown == sorted(running, reverse=True)
    labels, predicted = np.array(worst["labels"]), np.array(worst["predicted"])
    eyes = np.linalg.norm(labels[:, 0] - labels[:, 1], axis=1)
    errors = np.linalg.norm(predicted - labels, axis=2).mean(1) / eyes
    np.testing.assert_allclose(100 * errors, shown, atol=1)  # points to a thousandth
    many = Protocol("toy", "center", protocol.fit, protocol.fit)
    assert len(_evaluate(many, running=_noisy)["worst"]["rows"]) == 40


def test_consistency_of_detectors_and_controls(protocol):
    def nose(points):
        """Ten points that move as the nose does, in every view."""
        return points[:, 2:3] + np.zeros((1, 10, 1))

    result = _evaluate(protocol, running=nose, batch=_still, untrained=_collapsed)
    rows, labelled = result["results"], result["frame"]["labelled"]
    assert "consistency" not in rows["one_photo"]
    # What a detector of a labelled point has is that point's own.
    assert rows["running"]["consistency"]["rms"] == labelled["per_point"][2]["rms"]
    assert [point["rms"] for point in rows["running"]["consistency"]["per_point"]] == [
        labelled["per_point"][2]["rms"]
    ] * 10
    still = rows["batch"]["consistency"]
    assert still["rms"] == still["still"]
    assert [p["rms"] for p in still["per_point"]] == [p["still"] for p in still["per_point"]]
    assert still["rms"] > 5 * labelled["rms"]
    # A detector that answers the mean shape is the control.
    mean = protocol.fit.points.mean(0, dtype=float)
    answers = _evaluate(protocol, running=lambda points: np.tile(mean, (len(points), 1, 1)))
    answers = answers["results"]["running"]["consistency"]
    assert answers["rms"] == rows["mean_shape"]["consistency"]["rms"]
    assert [point["rms"] for point in answers["per_point"]] == [
        point["rms"] for point in rows["mean_shape"]["consistency"]["per_point"]
    ]
    np.testing.assert_allclose(result["frame"]["shape"][:2], [[-0.5, 0], [0.5, 0]], atol=1e-5)
    assert np.shape(result["frame"]["shape"]) == (5, 2)


def test_equivariance_is_measured_for_trained_detectors(protocol):
    def still(points):
        return np.tile([[0.0, 0.5]], (len(points), 1, 1))

    results = _evaluate(protocol, angles=(-30, 30), running=still, untrained=still)["results"]
    chord = 2 * 0.5 * np.sin(np.pi / 12) * 64
    expected = {"error": pytest.approx(chord, abs=1e-4), "compared": 80, "left_out": 0}
    assert results["running"]["equivariance"] == expected
    assert "equivariance" not in results["untrained"]


@pytest.mark.parametrize(("num_landmarks", "points"), [(1, 2), (50, 68)])
def test_few_and_many_points(num_landmarks, points):
    fit, score = _labelled(1, 30, "a", points), _labelled(2, 12, "b", points)
    toy = Protocol("toy", "box", fit, score)
    result = _evaluate(toy, running=lambda labels: labels[:, np.arange(num_landmarks) % points])
    entry = result["results"]["running"]
    assert len(entry["forward"][-1]["per_point"]) == points
    assert len(entry["backward"][-1]["per_point"]) == num_landmarks
    json.dumps(result, allow_nan=False)


def test_one_labelled_photo():
    protocol = Protocol("toy", "box", _labelled(1, 1, "a"), _labelled(2, 3, "b"))
    results = _evaluate(protocol, running=_linear)["results"]
    assert [entry["n"] for entry in results["running"]["forward"]] == [1]
    assert results["one_photo"]["forward"] == results["mean_shape"]["forward"]


def test_what_cannot_be_scored_is_named(protocol):
    def broken(points):
        points[7:9] = np.nan
        return points

    with pytest.raises(DataError, match=r"'running'.* 2 photos of toy-fit .* first photo 7"):
        _evaluate(protocol, running=broken)
    with pytest.raises(ValueError, match=r"'running'.*\[150, K, 2\]"):
        _evaluate(protocol, running=lambda points: points[1:])
    with pytest.raises(ConfigError, match="'running': 10, 'batch': 5"):
        _evaluate(protocol, running=_linear, batch=lambda points: points)
    with pytest.raises(ConfigError, match=r"counts: \[0, 5\]"):
        evaluate(protocol, {}, counts=(0, 5))
    with pytest.raises(ConfigError, match="detectors"):
        evaluate(protocol, {})


def test_what_cannot_be_a_protocol_is_named(protocol):
    part = protocol.fit
    with pytest.raises(ConfigError, match="crop: 'round' is not one of center, tight, box"):
        Protocol("toy", "round", part, part)
    with pytest.raises(ConfigError, match="point_names: 1 names for 5 points"):
        Protocol("toy", "box", part, part, point_names=("nose",))
    with pytest.raises(DataError, match=r"toy-fit has 5 .* other 4"):
        Protocol("toy", "box", part, LabelledSet(part.views, part.points[:, :4], "other"))
    with pytest.raises(ValueError, match="one size"):
        Protocol("toy", "box", part, LabelledSet(part.views[:, :4, :4], part.points, "small"))
    with pytest.raises(ValueError, match="uint8"):
        LabelledSet(part.views / 255, part.points, "float")
    with pytest.raises(ValueError, match=r"\[150, P, 2\]"):
        LabelledSet(part.views, part.points[1:], "short")
    with pytest.raises(DataError, match="no labelled face"):
        LabelledSet(part.views[:0], part.points[:0], "empty")
    bad = part.points.copy()
    bad[3, 0, 0] = np.inf
    with pytest.raises(DataError, match="face 3 is not finite"):
        LabelledSet(part.views, bad, "bad")
