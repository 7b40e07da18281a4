"""Landmarks drawn by Pillow: the right colour at the right pixel, sizes, trails, crosses."""

import numpy as np
import pytest

from landmarks_jax.inference.media.drawing import Marks, draw, radius
from landmarks_jax.system.palette import byte_colors, hex_colors, landmark_colors

GREY = np.full((120, 160, 3), 128, np.uint8)
POINTS = np.array([[30.2, 40.4], [100.0, 80.0], [150.6, 20.5]])
YELLOW = (255, 212, 0)


def drawn(landmarks=POINTS, side=100.0, numbers=False, **marks):
    return np.asarray(draw(GREY, [Marks(landmarks, side, **marks)], numbers=numbers))


def changed(image):
    return (image != GREY).any(-1)


def test_colours_are_those_of_the_evaluations_pages():
    assert np.array_equal(byte_colors(12), np.rint(255 * landmark_colors(12)))
    assert byte_colors(3)[0] == (255, 0, 0)
    assert hex_colors(2) == ["#ff0000", "#1f5bff"]


@pytest.mark.parametrize("side", [1.0, 40.0, 160.0])
def test_each_landmark_is_a_dot_in_its_colour(side):
    image = drawn(side=side)
    size = radius(side, 3)
    for color, (x, y) in zip(byte_colors(3), POINTS, strict=True):
        assert tuple(image[round(y), round(x)]) == color
    rows, columns = np.nonzero(changed(image))
    distance = np.hypot(columns[:, None] - POINTS[:, 0], rows[:, None] - POINTS[:, 1]).min(1)
    assert distance.max() <= size + 3
    assert 3 * size**2 < len(rows) < 3 * 3.3 * (size + 2) ** 2
    assert (GREY == 128).all()


def test_dots_scale_with_what_the_view_shows_and_shrink_in_crowds():
    assert radius(400, 10) == pytest.approx(11)
    assert radius(200, 10) == pytest.approx(5.5)
    assert radius(400, 30) < radius(400, 10)
    assert radius(400, 50) < radius(400, 30)
    assert radius(4, 10) == 1


def test_points_outside_or_not_finite_are_left_out():
    far = np.array([[np.nan, 3], [np.inf, 3], [3, -1e30], [1e4, 1e4], [-2.0, 50]])
    image = drawn(far, labelled=far, trail=np.stack([far, far]), numbers=True)
    rows, columns = np.nonzero(changed(image))
    assert columns.max() < 20
    assert np.abs(rows - 50).max() < 20


def test_numbers_stand_beside_their_dots():
    plain, numbered = drawn(), drawn(numbers=True)
    rows, columns = np.nonzero((plain != numbered).any(-1))
    assert len(rows) > 30
    for x, y in POINTS[:2]:
        near = (columns > x) & (columns < x + 20) & (np.abs(rows - y) < 10)
        assert near.any()
        assert numbered[rows[near], columns[near]].min(-1).max() > 170  # white, edges softened


def test_labelled_points_are_crosses():
    image = drawn(POINTS[:1], labelled=POINTS[1:2])
    assert tuple(image[80, 100]) == YELLOW
    for dx, dy in ((2, 2), (-2, 2), (2, -2), (-2, -2)):
        assert tuple(image[80 + dy, 100 + dx]) == YELLOW
    assert tuple(image[80, 106]) == (128, 128, 128)


def test_trails_lead_to_the_dots_in_their_colours():
    trail = np.stack([POINTS - (0, 20), POINTS - (0, 10), POINTS])
    image = drawn(trail=trail)
    for color, (x, y) in zip(byte_colors(3), POINTS - (0, 15), strict=True):
        assert tuple(image[round(y), round(x)]) == color
    np.testing.assert_array_equal(drawn(trail=trail[2:]), drawn())


def test_several_views_are_drawn_on_one_image():
    marks = [Marks(POINTS[:1], 100.0), Marks(POINTS[1:2], 20.0)]
    image = np.asarray(draw(GREY, marks))
    for x, y in POINTS[:2]:
        assert tuple(image[round(y), round(x)]) == (255, 0, 0)
