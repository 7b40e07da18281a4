"""What is measured of points, with detectors whose answers are known."""

import numpy as np
import pytest
from sklearn.linear_model import Ridge

from landmarks_jax import geometry
from landmarks_jax.data.framing import Framing
from landmarks_jax.evaluation import report_measures, report_verdict
from landmarks_jax.evaluation.report_verdict import FAILED, RELIABLE, SETTLED, UNRELIABLE, Progress

FRAMING = Framing(40, 32, "center")
COMPLETE = Progress(100, "", 0.0, True)
COUNT = 60


@pytest.fixture(scope="module")
def things():
    """Photos of a red, a green and a blue blob that stray about together, and a little each."""
    rng = np.random.default_rng(0)
    together = rng.normal(0, 0.15, (COUNT, 1, 2)).clip(-0.3, 0.3)
    alone = rng.normal(0, 0.03, (COUNT, 3, 2))
    places = np.array([[-0.3, -0.2], [0.3, -0.2], [0.0, 0.3]]) + together + alone
    grid = np.stack(np.meshgrid(*2 * [geometry.pixel_centers(40, np.float64)]), -1)
    squares = ((grid[None, :, :, None] - places[:, None, None] * 0.8) ** 2).sum(-1)
    return np.rint(255 * np.exp(-squares / (2 * 0.1**2))).astype(np.uint8), places


def centroids(views):
    """The centre of mass of each colour: a detector that is right, `[N, 3, 2]`."""
    weights = views.astype(np.float64)
    centers = geometry.pixel_centers(views.shape[1], np.float64)
    x, y = (
        np.einsum("nijk,i->nk" if axis == 1 else "nijk,j->nk", weights, centers) for axis in (0, 1)
    )
    return np.stack([x, y], -1) / weights.sum((1, 2))[..., None]


def sure(points):
    return points, np.full(points.shape[:2], 0.9)


def right(views):
    return sure(centroids(views))


def stays(views):
    places = np.array([[0.1, 0.2], [-0.5, 0.4], [0.6, -0.3], [0.0, -0.6]])
    return sure(np.broadcast_to(places, (len(views), 4, 2)))


def jumps(views):
    """Anywhere, by the content of the view."""
    return sure(
        np.stack(
            [np.random.default_rng(int(view.sum())).uniform(-0.8, 0.8, (4, 2)) for view in views]
        )
    )


def of_others(views):
    return sure(np.roll(centroids(views), 1, 0))


def judge(find, canvases):
    measured, _ = report_measures.measure(find, canvases, FRAMING)
    points = report_verdict.of_points(measured)
    return measured, points, report_verdict.of_run(points, COMPLETE)


def test_points_that_are_right_are_reliable(things):
    canvases, places = things
    measured, points, run = judge(right, canvases)
    assert run.verdict == SETTLED
    assert [point.verdict for point in points] == [RELIABLE] * 3
    np.testing.assert_allclose(measured.follows, 1, atol=0.02)
    assert (measured.error < 0.3).all()  # a tenth of a pixel
    assert (measured.missed < 0.05).all()
    np.testing.assert_allclose(measured.confidence, 0.9)
    offset = places - places.mean(0)
    np.testing.assert_allclose(
        measured.spread, 50 * np.sqrt((offset**2).sum(-1).mean(0)), rtol=0.02
    )
    assert (measured.border == 0).all()
    assert (measured.agreement > 0.8).all()  # they stray together by 0.15, each by 0.03


def test_points_that_stay(things):
    measured, points, run = judge(stays, things[0])
    np.testing.assert_allclose(measured.follows, 0, atol=1e-12)
    np.testing.assert_allclose(measured.missed, 1)
    place = np.array([0.1, 0.2])
    moved = np.stack(
        [geometry.apply(warps, place[None])[:, 0] for warps in report_measures.draw_warps(COUNT)]
    )
    distance = 50 * np.linalg.norm(moved - place, axis=-1).mean()
    np.testing.assert_allclose(measured.error[0], distance)
    assert np.isnan(measured.agreement).all()
    assert {point.cause for point in points} == {"stays"}
    assert run.verdict == FAILED


@pytest.mark.parametrize("find", [jumps, of_others])
def test_points_that_have_nothing_to_do_with_the_photo(find, things):
    measured, points, run = judge(find, things[0])
    assert (measured.missed > 1).all()
    assert (measured.follows < 0.5).all()
    assert {point.verdict for point in points} == {UNRELIABLE}
    assert run.verdict == FAILED


def test_noise_pictures():
    noise = np.random.default_rng(0).integers(0, 256, (COUNT, 40, 40, 3), dtype=np.uint8)
    measured, _, run = judge(right, noise)
    assert (measured.missed > 0.8).all()
    assert run.verdict == FAILED


def test_one_photo_repeated(things):
    _, points, run = judge(right, np.repeat(things[0][:1], COUNT, 0))
    assert {point.cause for point in points} == {"same"}
    assert run.verdict == FAILED
    assert "copies of one" in run.advice


def test_of_two_points_at_one_place_the_better_is_kept(things):
    def find(views):
        found = centroids(views)
        noise = np.random.default_rng(1).normal(0, 0.01, found[:, :1].shape)
        return sure(np.concatenate([found[:, :1] + noise, found], 1))

    measured, points, _ = judge(find, things[0])
    np.testing.assert_array_equal(measured.nearest[:2], [1, 0])
    np.testing.assert_array_equal(measured.distance, measured.between[range(4), measured.nearest])
    # A normal offset of deviation 0.01 on each axis is sqrt(pi / 2) times that away.
    np.testing.assert_allclose(measured.distance[:2], 50 * 0.01 * np.sqrt(np.pi / 2), rtol=0.2)
    assert points[0].cause == "collapsed"
    assert "at the place of point 1" in points[0].reason
    assert points[1].verdict == RELIABLE


@pytest.mark.parametrize("copies", [3, 4])
def test_of_several_points_at_one_place_one_is_reliable(copies, things):
    def find(views):
        found = centroids(views)
        shape = len(views), copies, 2
        noise = np.random.default_rng(1).normal(0, 0.01, shape)
        return sure(np.concatenate([found[:, :1] + noise, found[:, 1:]], 1))

    _, points, _ = judge(find, things[0])
    causes = [point.cause for point in points]
    assert sorted(causes[:copies]) == [""] + ["collapsed"] * (copies - 1)
    assert causes[copies:] == ["", ""]


def test_a_point_that_jumps_about_on_its_own():
    rng = np.random.default_rng(0)
    shared = rng.normal(size=(400, 1, 2))
    points = np.concatenate(
        [shared + 0.1 * rng.normal(size=(400, 4, 2)), rng.normal(size=(400, 1, 2))], 1
    )
    explained = report_measures.agreement(points)
    # Of variance 1.01 the mean of three others, each with noise 0.01, explains all but 0.0133.
    np.testing.assert_allclose(explained[:4], 1 - 0.0133 / 1.01, atol=0.005)
    assert explained[4] < 0.02


def test_agreement_is_that_of_ridge_regressions():
    rng = np.random.default_rng(3)
    points = rng.normal(size=(23, 4, 2)) + rng.normal(size=(23, 1, 2))
    left, total = np.zeros(4), np.zeros(4)
    for fold in range(5):
        unseen = np.arange(23) % 5 == fold
        rows = points.reshape(23, 8)
        covariance = np.cov(rows[~unseen].T, bias=True)
        penalty = 1e-2 * np.trace(covariance) / 8 * (~unseen).sum()
        for k in range(4):
            others = np.delete(np.arange(8), [2 * k, 2 * k + 1])
            fitted = Ridge(alpha=penalty).fit(rows[~unseen][:, others], points[~unseen, k])
            left[k] += ((fitted.predict(rows[unseen][:, others]) - points[unseen, k]) ** 2).sum()
            total[k] += ((points[~unseen, k].mean(0) - points[unseen, k]) ** 2).sum()
    expected = np.clip(1 - left / total, 0, 1)
    assert (expected > 0).any()
    np.testing.assert_allclose(report_measures.agreement(points), expected, atol=1e-9)


def test_what_cannot_be_measured_is_nan():
    assert np.isnan(report_measures.agreement(np.zeros((4, 3, 2)))).all()  # too few photos
    canvases = np.zeros((6, 40, 40, 3), np.uint8)
    measured, points, _ = judge(lambda views: sure(np.full((len(views), 1, 2), 0.5)), canvases)
    assert (measured.nearest, np.isnan(measured.distance)) == (0, True)
    assert np.isnan(measured.agreement).all()
    assert points[0].cause == "stays"
    beyond, points, _ = judge(lambda views: sure(np.full((len(views), 2, 2), 3.0)), canvases)
    assert np.isnan(beyond.follows).all()
    assert beyond.border[0] == 1
    assert points[0].verdict == UNRELIABLE


def test_the_border(things):
    def find(views):
        return sure(centroids(views) + np.array([0.6, 0]))

    measured, points = report_measures.measure(find, things[0], FRAMING)
    np.testing.assert_allclose(measured.border, (points[..., 0] > 0.9).mean(0))
    assert 0.2 < measured.border[1] < 0.8


def test_warps_are_similarities_of_known_size_and_always_the_same():
    warps = report_measures.draw_warps(500)
    np.testing.assert_array_equal(warps, report_measures.draw_warps(500))
    scale = np.sqrt(np.linalg.det(warps[..., :2]))
    angle = np.rad2deg(np.arctan2(warps[..., 1, 0], warps[..., 0, 0]))
    for values, limit in ((np.log(scale), np.log(1.15)), (angle, 20), (warps[..., 2] / 2, 0.08)):
        assert 0.95 * limit < np.abs(values).max() <= limit
        assert abs(values.mean()) < 0.06 * limit
