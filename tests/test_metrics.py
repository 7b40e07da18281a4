"""Errors by hand, and equivariance with detectors whose answer is known."""

import tracemalloc

import numpy as np
import pytest
from scipy import ndimage

from landmarks_jax.evaluation import metrics
from landmarks_jax.system.errors import ConfigError, DataError


def test_inter_ocular_by_hand():
    labels = np.array([[[0, 0], [3, 4], [9, 9]], [[1, 1], [1, 2], [9, 9]]], np.float32)
    np.testing.assert_array_equal(metrics.inter_ocular(labels), [5, 1])
    np.testing.assert_array_equal(metrics.inter_ocular(labels, ((1,), (0,))), [5, 1])


def test_inter_ocular_takes_the_centres_of_68_points():
    labels = np.random.default_rng(0).uniform(-1, 1, (4, 68, 2))
    labels[:, 36:42] += [-0.2, 0.1] - labels[:, 36:42].mean(1, keepdims=True)
    labels[:, 42:48] += [0.4, 0.9] - labels[:, 42:48].mean(1, keepdims=True)
    eyes = (tuple(range(36, 42)), tuple(range(42, 48)))
    np.testing.assert_allclose(metrics.inter_ocular(labels, eyes), 1.0)


def test_coinciding_eyes_name_the_face():
    labels = np.random.default_rng(0).uniform(-1, 1, (9, 5, 2))
    labels[6, 1] = labels[6, 0] + 0.002  # of a face of about 1.5
    with pytest.raises(DataError, match=r"^face 6 of 9 \(counted from 0\): the first two points"):
        metrics.inter_ocular(labels)
    names = [f"{i}.jpg" for i in range(9)]
    with pytest.raises(
        DataError,
        match=r"^6.jpg: the first two points \(of a face: the eyes\) are labelled at one place",
    ):
        metrics.inter_ocular(labels, names=names)
    labels[6, 1] = labels[6, 0] + 0.1
    assert metrics.inter_ocular(labels)[6] == pytest.approx(0.1 * np.sqrt(2))


@pytest.mark.parametrize("eyes", [((0,), (5,)), ((-1,), (0,)), ((), (0,))])
def test_eyes_must_be_labelled(eyes):
    with pytest.raises(ConfigError, match=r"eyes: .* from 0 to 4"):
        metrics.inter_ocular(np.ones((2, 5, 2)), eyes)


def test_one_labelled_point_has_no_eyes():
    with pytest.raises(ConfigError, match="eyes"):
        metrics.inter_ocular(np.ones((2, 1, 2)))


def test_point_errors_by_hand():
    predicted = np.array([[[0.0, 0.0], [0.3, 0.4]], [[1.0, 0.0], [0.0, 0.0]]])
    errors = metrics.point_errors(predicted, np.zeros((2, 2, 2)), np.array([1.0, 4.0]))
    np.testing.assert_allclose(errors, [[0, 50], [25, 0]])


def test_point_errors_do_not_broadcast():
    with pytest.raises(ValueError, match="must be"):
        metrics.point_errors(np.zeros((2, 1, 2)), np.zeros((2, 5, 2)), np.ones(2))


def test_summary_by_hand():
    draws = [np.array([[1.0, 3.0], [3.0, 5.0]]), np.array([[5.0, 7.0], [5.0, 7.0]])]
    # Means by point 2, 4 and 5, 7; by draw 3 and 6, so a standard deviation of 3 / sqrt(2).
    assert metrics.summary(draws) == {"mean": 4.5, "std": 2.1213, "per_point": [3.5, 5.5]}
    assert metrics.summary(draws[:1]) == {"mean": 3.0, "std": None, "per_point": [2.0, 4.0]}


def test_spread():
    triangle = np.array([[[0.0, 0.0], [3.0, 0.0], [0.0, 4.0]]])
    np.testing.assert_allclose(metrics.spread(triangle), [(3 + 4 + 5) / 3])
    np.testing.assert_array_equal(metrics.spread(np.full((3, 10, 2), 0.7)), np.zeros(3))
    np.testing.assert_array_equal(metrics.spread(np.ones((3, 1, 2))), np.zeros(3))


def test_distances_of_many_points_take_little_memory():
    first, second = np.random.default_rng(0).normal(size=(2, 40, 300, 2))
    tracemalloc.start()
    mean, spread = metrics.mean_distances(first, second), metrics.spread(first)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 8 * 40 * 300**2 / 4  # all distances at once are 29 MB, offsets twice that
    plain = np.linalg.norm(first[:, :, None] - second[:, None], axis=-1).mean(0)
    np.testing.assert_allclose(mean, plain, rtol=1e-12)
    between = np.linalg.norm(first[:, :, None] - first[:, None], axis=-1)
    np.testing.assert_allclose(spread, between.sum((1, 2)) / (300 * 299), rtol=1e-12)


def _blobs(places, size):
    """One soft spot a view, on black: `[N, 2]` normalised places to uint8 `[N, S, S, 3]`."""
    centers = (2 * np.arange(size) + 1) / size - 1
    x, y = np.meshgrid(centers, centers)
    squared = (x - places[:, 0, None, None]) ** 2 + (y - places[:, 1, None, None]) ** 2
    return np.rint(255 * np.exp(-squared / 0.02))[..., None].repeat(3, -1).astype(np.uint8)


def _centroid(views):
    centers = (2 * np.arange(views.shape[1]) + 1) / views.shape[1] - 1
    mass = views[..., 0].astype(float)
    total = mass.sum((1, 2))
    return np.stack([mass.sum(1) @ centers / total, mass.sum(2) @ centers / total], -1)[:, None]


@pytest.mark.parametrize("size", [64, 128])
def test_an_equivariant_detector_has_no_equivariance_error(size):
    places = np.array([[0.3, -0.2], [-0.4, 0.1], [0.0, 0.5]])
    views = _blobs(places, size)
    np.testing.assert_allclose(_centroid(views)[:, 0], places, atol=2e-3)
    actual = metrics.equivariance_error(_centroid, views)
    assert actual["error"] < 0.1
    assert (actual["compared"], actual["left_out"]) == (12, 0)


def test_a_detector_that_stays_put_is_off_by_the_chord():
    views = np.zeros((4, 32, 32, 3), np.uint8)
    stays = lambda views: np.tile([[[0.0, 0.5]]], (len(views), 1, 1))  # noqa: E731
    actual = metrics.equivariance_error(stays, views, angles=(30,))
    assert actual["error"] == pytest.approx(2 * 0.5 * np.sin(np.pi / 12) * 64, abs=5e-5)


def test_points_that_leave_the_view_are_counted():
    views = np.zeros((3, 16, 16, 3), np.uint8)
    # The first point leaves at every angle, the second stays where it is.
    stays = lambda views: np.tile([[[0.9, 0.9], [0.0, 0.0]]], (len(views), 1, 1))  # noqa: E731
    half = {"error": 0.0, "compared": 12, "left_out": 12}
    assert metrics.equivariance_error(stays, views) == half
    corner = lambda views: stays(views)[:, :1]  # noqa: E731
    nothing = {"error": None, "compared": 0, "left_out": 12}
    assert metrics.equivariance_error(corner, views) == nothing


def test_known_landmarks_save_a_pass():
    seen = []

    def detect(views):
        seen.append(len(views))
        return np.zeros((len(views), 1, 2))

    views = np.zeros((3, 16, 16, 3), np.uint8)
    metrics.equivariance_error(detect, views, landmarks=np.zeros((3, 1, 2)))
    assert seen == [3, 3, 3, 3]


@pytest.mark.parametrize("angle", [-30, 15, 90])
def test_rotation_is_scipys(angle):
    rng = np.random.default_rng(0)
    # More views than one chunk holds, so that chunks are joined in order.
    views = rng.integers(0, 256, (300, 8, 8, 3), dtype=np.uint8)
    rotated = metrics.rotate_views(views, angle)
    assert rotated.dtype == np.uint8
    cos, sin = np.cos(np.deg2rad(angle)), np.sin(np.deg2rad(angle))
    # Rows and columns (y, x): the inverse rotation about the centre, 3.5.
    inverse = np.array([[cos, -sin], [sin, cos]])
    offset = 3.5 - inverse @ [3.5, 3.5]
    for index in (0, 255, 256, 299):
        for channel in range(3):
            expected = ndimage.affine_transform(
                views[index, :, :, channel].astype(float), inverse, offset, order=1, mode="nearest"
            )
            difference = rotated[index, :, :, channel] - expected
            assert np.abs(difference).max() <= 0.51
