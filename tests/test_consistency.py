"""Consistency against SciPy's Procrustes, closed forms, and what must not change it."""

import json

import numpy as np
import pytest
from scipy.linalg import orthogonal_procrustes

from landmarks_jax.evaluation import consistency
from landmarks_jax.system.errors import DataError

FACE = np.array([[-0.2, -0.2], [0.2, -0.2], [0, 0.02], [-0.15, 0.2], [0.15, 0.2]])
PLACES = np.array([[0.0, -0.4], [0.3, 0.1], [-0.02, 0.05], [0.5, -0.6]])


def views(seed, count):
    """How faces lie in their views: turn, scale and shift, as a function of points."""
    rng = np.random.default_rng(seed)
    angle, scale = rng.uniform(-3, 3, count), rng.uniform(0.3, 2, count)
    factor = scale * np.exp(1j * angle)
    shift = rng.normal(0, 1, (count, 1, 2))

    def lie(points):
        rotated = factor[:, None] * (points[..., 0] + 1j * points[..., 1])
        return np.stack([rotated.real, rotated.imag], -1) + shift

    return lie


def faces(seed, count):
    """Upright faces `[N, 5, 2]` of different shapes, and landmarks `[N, 4, 2]` about them."""
    rng = np.random.default_rng(seed)
    labels = FACE + rng.normal(0, 0.02, (count, 5, 2))
    labels[:, 2, 0] += rng.uniform(-0.1, 0.1, count)
    return labels, PLACES + rng.normal(0, [[0.01], [0.03], [0.1], [0.0]], (count, 4, 2))


def measured(labels, landmarks, **options):
    return consistency.of_landmarks(landmarks, consistency.frames(labels, **options))


def column(result, name):
    return np.array([point[name] for point in result["per_point"]])


def procrustes(labels, landmarks):
    """Landmarks in the frame, by SciPy: generalised Procrustes analysis, round by round."""
    centred = labels - labels.mean(1, keepdims=True)
    unit = centred / np.linalg.norm(centred, axis=(1, 2), keepdims=True)

    def fitted(shape, mean):
        rotation, scale = orthogonal_procrustes(shape, mean)
        return scale * rotation / (shape**2).sum()

    mean = unit[0]
    for _ in range(100):
        mean = np.mean([shape @ fitted(shape, mean) for shape in unit], 0)
        mean /= np.linalg.norm(mean)
    mean /= np.linalg.norm(mean[1] - mean[0])
    moved = landmarks - labels.mean(1, keepdims=True)
    return mean, np.stack(
        [at @ fitted(shape, mean) for at, shape in zip(moved, centred, strict=True)]
    )


def test_places_and_spreads_are_those_of_procrustes_by_scipy():
    labels, landmarks = faces(0, 60)
    lie = views(1, 60)
    labels, landmarks = lie(labels), lie(landmarks)
    mean, placed = procrustes(labels, landmarks)
    result = measured(labels, landmarks)
    offsets = placed - placed.mean(0)
    rms = 100 * np.sqrt((offsets**2).sum(-1).mean(0))
    np.testing.assert_allclose(column(result, "rms"), rms, atol=2e-4)
    assert result["rms"] == pytest.approx(rms.mean(), abs=2e-4)
    # The frame is that of the mean shape, turned and moved so that the eyes are at -1/2 and 1/2.
    across = mean[1] - mean[0]
    rotation = np.array([across, [-across[1], across[0]]])
    middle = (mean[0] + mean[1]) / 2
    places = np.stack([point["place"] for point in result["per_point"]])
    np.testing.assert_allclose(places, (placed.mean(0) - middle) @ rotation.T, atol=2e-5)
    shape = consistency.frames(labels).shape
    np.testing.assert_allclose(shape, (mean - middle) @ rotation.T, atol=1e-8)
    np.testing.assert_allclose(shape[:2], [[-0.5, 0], [0.5, 0]], atol=1e-12)


def test_it_does_not_depend_on_how_a_face_lies_in_its_view():
    labels, landmarks = faces(2, 50)
    upright = measured(labels, landmarks)
    lie = views(3, 50)
    moved = measured(lie(labels), lie(landmarks))
    for name in ("rms", "median"):
        np.testing.assert_allclose(column(moved, name), column(upright, name), atol=2e-4)
        assert column(upright, name).min() > 0
    assert moved["rms"] == pytest.approx(upright["rms"], abs=2e-4)
    # Standing still in the view is worth something only where faces lie alike.
    assert moved["still"] > 5 * upright["still"]


def test_landmarks_fixed_to_the_labelled_points_have_none():
    lie = views(4, 40)
    labels, landmarks = lie(np.tile(FACE, (40, 1, 1))), lie(np.tile(PLACES, (40, 1, 1)))
    frame = consistency.frames(labels)
    placed = frame(landmarks)
    assert np.abs(placed - placed[0]).max() < 1e-12
    result = consistency.of_landmarks(landmarks, frame)
    assert result["rms"] == result["median"] == 0
    np.testing.assert_allclose(
        [point["place"] for point in result["per_point"]], (PLACES - [0, -0.2]) / 0.4, atol=1e-5
    )
    assert column(result, "still").min() > 10


def test_gaussian_noise_has_its_own_deviation():
    # On faces of one shape, turned and scaled, noise of 5 % of the eye distance in x and y.
    count, sigma = 40_000, 0.05
    lie, eyes = views(5, count), 0.4
    noise = np.random.default_rng(6).normal(0, sigma * eyes, (count, 4, 2))
    result = measured(lie(np.tile(FACE, (count, 1, 1))), lie(PLACES + noise))
    np.testing.assert_allclose(column(result, "rms"), 100 * sigma * np.sqrt(2), rtol=0.015)
    # Half of all lie within this distance: 1 - exp(-r^2 / 2 sigma^2) = 1/2.
    half = 100 * sigma * np.sqrt(2 * np.log(2))
    np.testing.assert_allclose(column(result, "median"), half, rtol=0.02)


def test_a_landmark_that_is_elsewhere_on_some_faces_shows_in_the_rms_alone():
    labels = np.tile(FACE, (100, 1, 1))
    landmarks = np.tile([[[0.0, 0.1], [0.0, 0.1]]], (100, 1, 1))
    landmarks[:10, 1] = [0.4, 0.1]
    result = measured(labels, landmarks)
    assert column(result, "median").tolist() == [0, 0]
    # A tenth of the faces is one eye distance away: sqrt(0.1 * 0.9) of it.
    assert column(result, "rms").tolist() == [0, pytest.approx(30)]


def test_the_labelled_points_as_landmarks_have_what_shapes_differ_by():
    labels, _ = faces(7, 80)
    lie = views(8, 80)
    frame = consistency.frames(lie(labels))
    result = consistency.measure(frame(lie(labels)))
    _, placed = procrustes(labels, labels)
    rms = 100 * np.sqrt(((placed - placed.mean(0)) ** 2).sum(-1).mean(0))
    np.testing.assert_allclose(column(result, "rms"), rms, atol=2e-4)
    assert np.argmax(rms) == 2  # the nose moves sideways


def test_collapsed_points_are_consistent():
    labels, _ = faces(9, 30)
    result = measured(labels, np.repeat(labels.mean(1, keepdims=True), 3, axis=1))
    assert result["rms"] == 0
    assert result["still"] > 0


def test_eyes_of_several_points_and_two_labelled_points():
    labels, landmarks = faces(10, 30)
    six = np.concatenate([labels[:, :2] - 0.03, labels[:, :2] + 0.03, labels[:, 2:]], 1)
    shape = consistency.frames(six, eyes=((0, 2), (1, 3))).shape
    np.testing.assert_allclose((shape[0] + shape[2]) / 2, [-0.5, 0], atol=1e-12)
    np.testing.assert_allclose((shape[1] + shape[3]) / 2, [0.5, 0], atol=1e-12)
    # Two points are put where they belong exactly: Bookstein's coordinates.
    result = measured(labels[:, :2], landmarks)
    eyes = labels[:, :2, 0] + 1j * labels[:, :2, 1]
    points = landmarks[..., 0] + 1j * landmarks[..., 1]
    placed = (points - eyes.mean(1)[:, None]) / (eyes[:, 1] - eyes[:, 0])[:, None]
    rms = 100 * np.sqrt((abs(placed - placed.mean(0)) ** 2).mean(0))
    np.testing.assert_allclose(column(result, "rms"), rms, atol=1e-4)


def test_one_face_and_plain_json():
    labels, landmarks = faces(11, 1)
    result = measured(labels.astype(np.float32), landmarks.astype(np.float32))
    assert result["rms"] == result["still"] == 0
    assert json.loads(json.dumps(result, allow_nan=False)) == result


def test_a_mean_shape_without_eyes_is_refused():
    labels = np.array([[[0, 0], [1e-13, 0], [0, 1.0]]])
    with pytest.raises(DataError, match="both eyes at one place"):
        consistency.frames(labels)
