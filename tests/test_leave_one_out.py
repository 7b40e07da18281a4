"""The error of a few labels by leave-one-out: its unit, its controls, what it refuses."""

import numpy as np
import pytest

from landmarks_jax.evaluation import leave_one_out
from landmarks_jax.evaluation.protocols import LabelledSet, Protocol
from landmarks_jax.system.errors import DataError


def protocol(points, names=(), **fields):
    points = np.asarray(points, float)
    views = np.zeros((len(points), 8, 8, 3), np.uint8)
    photos = [f"photo {i}" for i in range(len(points))]
    faces = LabelledSet(views, points, "mine", photos, point_names=names, partial=True)
    return Protocol("mine", "center", faces, faces, point_names=names, **fields)


def shapes(offsets):
    """Three points each; the first two are 1 apart."""
    return np.array([[0, 0], [1, 0], [0, 1]]) + np.array(offsets, float)[:, None, None] * [1, 0]


def test_the_mean_shape_by_hand():
    # Without one of 0, 3, 6 the mean of the others is 4.5, 3 and 1.5: off by 4.5, 0 and 4.5.
    labels = protocol(shapes([0, 3, 6]), ("left", "right", "tip"))
    linear, measured = leave_one_out.measure(labels, np.zeros((3, 2, 2)))
    assert measured["error"] == measured["mean_shape"] == 300.0
    assert measured["penalty"] is None
    assert measured["unit"] == "% of the distance from left to right"
    point = {"name": "tip", "photos": 3, "error": 300.0, "mean_shape": 300.0}
    assert measured["points"][2] == point
    np.testing.assert_allclose(linear(np.zeros((1, 2, 2))), shapes([3]))
    table = leave_one_out.to_markdown(measured, ["a note", "a note"])
    assert "| all points | 3 | 300.00 | 300.00 |" in table
    assert "infinite: the landmarks predict nothing" in table
    assert table.count("Note: a note") == 1
    worst = [(photo["name"], photo["error"]) for photo in measured["worst"]]
    assert worst == [("photo 0", 450.0), ("photo 2", 450.0), ("photo 1", 0.0)]
    assert "Largest errors: photo 0 (450.0), photo 2 (450.0), photo 1 (0.0)." in table


def test_landmarks_that_follow_the_points_beat_the_mean_shape():
    offsets = np.random.default_rng(0).uniform(-3, 3, 12)
    labels = shapes(offsets)
    labels[4, 2] = labels[5, 1] = np.nan
    found = np.stack([offsets, offsets**0], 1)[:, None] / 10
    _, measured = leave_one_out.measure(protocol(labels), found)
    assert measured["penalty"] == 1e-6
    assert measured["error"] < 0.01
    assert measured["mean_shape"] > 100
    assert [point["photos"] for point in measured["points"]] == [12, 11, 11]
    assert measured["photos"] == 12
    # Control: the landmarks of other photos.
    _, shuffled = leave_one_out.measure(protocol(labels), found[::-1])
    assert shuffled["error"] > 0.8 * shuffled["mean_shape"]


def test_photos_without_the_unit_are_fitted_on_but_not_scored():
    labels = shapes([0, 3, 6, 9])
    labels[3, 0] = np.nan
    _, measured = leave_one_out.measure(protocol(labels), np.zeros((4, 2, 2)))
    # The tip's mean of the others is 6, 5, 4 and, without a unit, 3.
    assert {photo["name"] for photo in measured["worst"]} == {"photo 0", "photo 1", "photo 2"}
    assert measured["points"][2]["mean_shape"] == pytest.approx((600 + 200 + 200) / 3, abs=1e-3)
    alone = protocol(shapes([0, 3, 6])[:, 2:])
    _, measured = leave_one_out.measure(alone, np.zeros((3, 2, 2)))
    assert (measured["unit"], measured["error"]) == ("% of the view's side", 150.0)
    eyes = protocol(shapes([0, 3, 6]), eyes=((0, 1), (2,)))
    assert leave_one_out.measure(eyes, np.zeros((3, 2, 2)))[1]["unit"] == "% of eye distance"


def test_too_few_labels_are_refused_and_say_how_many_are_needed():
    few = shapes([0, 3, 6, 9])
    leave_one_out.check(protocol(few[:3]))
    with pytest.raises(
        DataError, match=r"mine: 2 labelled photos; .* needs at least 3, 20 are bet"
    ):
        leave_one_out.check(protocol(few[:2]))
    few[:2, 2] = np.nan
    with pytest.raises(DataError, match=r"mine: tip is labelled in 2 of 4 photos; .* at least 3"):
        leave_one_out.check(protocol(few, ("left", "right", "tip")))
    parted = shapes(range(6))
    parted[::2, 0] = parted[1::2, 1] = np.nan
    with pytest.raises(DataError, match="mine: no photo has both of the first two points"):
        leave_one_out.check(protocol(parted))
    parted[0, 0] = parted[0, 1]
    with pytest.raises(DataError, match="photo 0: the first two points"):
        leave_one_out.check(protocol(parted))
