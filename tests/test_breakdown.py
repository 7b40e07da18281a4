"""Groups of faces: poses against a head turned in space, sizes and limits by hand."""

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from landmarks_jax.evaluation.breakdown import FIVE_POINTS, breakdown, rolls, yaws

# Eyes one unit apart, x to the right, y down, z towards the camera.
HEAD = np.array([[-0.5, 0, 0], [0.5, 0, 0], [0, 0.6, 0.5], [-0.4, 1.0, -0.1], [0.4, 1.0, -0.1]])
# The plane of eyes and mouth is at z = -0.06 where the nose is, 0.6 of the way down.
PROTRUSION = 0.56


def seen(axes, degrees):
    """The head rotated, far from the camera: `[N, 5, 2]` for N rotations."""
    angles = np.reshape(degrees, (-1, len(axes)))
    rotations = Rotation.from_euler(axes, angles, degrees=True)
    return np.stack([rotation.apply(HEAD)[:, :2] for rotation in rotations])


def flat(yaw, roll=0.0, size=1.0):
    """A face in the plane with a yaw, a roll in degrees and a distance between the eyes."""
    face = np.array([[-0.5, 0], [0.5, 0], [yaw, 0.5], [-0.3, 1], [0.3, 1]])
    c, s = np.cos(np.deg2rad(roll)), np.sin(np.deg2rad(roll))
    return size * face @ np.array([[c, s], [-s, c]])


def test_the_yaw_of_a_head_is_its_tangent_times_the_nose():
    angles = np.array([-60.0, -25, 0, 10, 25, 45, 60])
    expected = PROTRUSION * np.tan(np.deg2rad(angles))
    np.testing.assert_allclose(yaws(seen("y", angles)), expected, atol=1e-12)
    # As the limits say: with a nose of 0.6, about 9 and 23 degrees.
    assert np.degrees(np.arctan([0.1 / 0.6, 0.25 / 0.6])) == pytest.approx([9.46, 22.6], abs=0.05)


def test_yaw_does_not_depend_on_roll_place_size_or_stretch():
    rng = np.random.default_rng(0)
    angles = rng.uniform(-50, 50, 20)
    views = seen("yz", np.stack([angles, rng.uniform(-180, 180, 20)], -1))
    stretch = rng.uniform(0.3, 2, (20, 1, 2))
    expected = PROTRUSION * np.tan(np.deg2rad(angles))
    np.testing.assert_allclose(
        yaws(stretch * views + rng.normal(size=(20, 1, 2))), expected, atol=1e-10
    )


def test_a_nodding_head_has_no_yaw():
    np.testing.assert_allclose(yaws(seen("x", [-30.0, 0, 20])), 0, atol=1e-12)


def test_the_roll_is_the_angle_in_the_image():
    angles = np.array([-175.0, -30, 0, 12, 90, 180])
    np.testing.assert_allclose(rolls(seen("z", angles)), angles, atol=1e-10)
    np.testing.assert_allclose(rolls(flat(0.2, roll=12)[None]), [12])


def test_a_mouth_on_the_line_of_the_eyes_has_infinite_yaw():
    points = np.stack([flat(0.0), flat(0.0) * [1, 0]])
    np.testing.assert_array_equal(yaws(points), [0, np.inf])
    by_yaw = breakdown(points, np.ones(2), FIVE_POINTS, {"running": [1, 2]})[0]
    assert [group["faces"] for group in by_yaw["groups"]] == [1, 0, 1]


def test_groups_by_hand():
    faces = [flat(0.0), flat(-0.09, 9), flat(0.1, -15), flat(-0.2, 21), flat(0.25), flat(-3)]
    points = np.stack([0.2 * face for face in faces])
    errors = {"running": [1.0, 2, 3, 4, 5, 6], "mean_shape": [10.0, 20, 30, 40, 50, 60]}
    by_yaw, by_roll, by_size = breakdown(
        points, np.array([0.1, 0.2, 0.3, 0.4, 0.5, 0.6]), FIVE_POINTS, errors
    )
    assert by_yaw == {
        "by": "yaw",
        "unit": "eye distances",
        "groups": [
            {"name": "frontal", "low": None, "high": 0.1, "faces": 2,
             "forward": {"running": 1.5, "mean_shape": 15}},
            {"name": "medium yaw", "low": 0.1, "high": 0.25, "faces": 2,
             "forward": {"running": 3.5, "mean_shape": 35}},
            {"name": "large yaw", "low": 0.25, "high": None, "faces": 2,
             "forward": {"running": 5.5, "mean_shape": 55}},
        ],
    }  # fmt: skip
    assert [g["name"] for g in by_roll["groups"]] == ["upright", "tilted", "strongly tilted"]
    assert [g["faces"] for g in by_roll["groups"]] == [4, 1, 1]
    assert [g["forward"]["running"] for g in by_roll["groups"]] == [3.5, 3, 4]
    # 0.1 of a view 2 wide is 6.4 of 128 pixels; thirds of 6.4, 12.8 ... 38.4 end at 17.07, 27.73.
    assert [(g["low"], g["high"]) for g in by_size["groups"]] == [
        (None, 17.1), (17.1, 27.7), (27.7, None)]  # fmt: skip
    assert [g["faces"] for g in by_size["groups"]] == [2, 2, 2]
    assert [g["forward"]["mean_shape"] for g in by_size["groups"]] == [15, 35, 55]


def test_empty_groups_and_other_points():
    points = np.stack([0.2 * flat(0.01)] * 3)
    by_yaw, _, by_size = breakdown(points, np.full(3, 0.2), FIVE_POINTS, {"running": [1, 2, 6]})
    assert [g["forward"]["running"] for g in by_yaw["groups"]] == [3, None, None]
    assert [g["faces"] for g in by_size["groups"]] == [0, 0, 3]
    for names in (("0", "1", "2", "3", "4"), FIVE_POINTS[::-1]):
        assert [g["by"] for g in breakdown(points, np.ones(3), names, {})] == ["size"]
