"""Box views: against a photo that SciPy and Pillow turn, crop and resize, and by hand."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage
import scipy.stats
from PIL import Image

from landmarks_jax import geometry, losses, views
from landmarks_jax.configs import base
from landmarks_jax.data.box_canvas import BoxCanvas
from landmarks_jax.data.framing import Framing, stretch
from landmarks_jax.system.errors import ConfigError, DataError
from tests.test_views import warp_by_scipy

SIZE = 32
FRAME = BoxCanvas(SIZE, 40.0, 0.7, 0.04)
FACE = np.array([[66.0, 61.3], [101.2, 58.0], [88.5, 83.1], [72.0, 99.7], [97.4, 97.0]], np.float32)


def smooth_photo(height=170, width=190):
    """A photo of slow waves, whose interpolation is exact to a grey level or so."""
    y, x = np.mgrid[:height, :width].astype(float)
    waves = [np.sin(x / 17 + y / 31), np.cos(y / 19 - x / 37), np.sin((x - y) / 23)]
    return np.rint(127.5 + 110 * np.stack(waves, -1)).astype(np.uint8)


def by_scipy_and_pillow(photo, points, degrees, margin, size):
    """Turns the photo on an expanded canvas, takes the box of the turned points, resizes it.

    Returns the view `[size, size, 3]` in grey levels and the points in its frame.
    """
    channels = [
        scipy.ndimage.rotate(photo[..., c].astype(np.float32), degrees, order=3, mode="nearest")
        for c in range(3)
    ]
    before, after = (np.array(part.shape[1::-1]) for part in (photo, channels[0]))
    cos, sin = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
    offsets = points - (before - 1) / 2
    x = cos * offsets[:, 0] + sin * offsets[:, 1] + (after[0] - 1) / 2
    y = -sin * offsets[:, 0] + cos * offsets[:, 1] + (after[1] - 1) / 2
    out = margin * (np.ptp(x) + np.ptp(y)) / 2
    # Pillow counts from the edge of the first pixel.
    box = np.array([x.min() - out, y.min() - out, x.max() + out, y.max() + out]) + 0.5
    view = [
        np.asarray(
            Image.fromarray(part).resize((size, size), Image.Resampling.BILINEAR, box=tuple(box))
        )
        for part in channels
    ]
    places = (np.stack([x, y], -1) + 0.5 - box[:2]) / (box[2:] - box[:2])
    return np.stack(view, -1), 2 * places - 1


@pytest.mark.parametrize("degrees", [0.0, 12.0, -33.5, 40.0])
@pytest.mark.parametrize("margin", [0.7, 0.62])
def test_a_view_is_the_photo_turned_cropped_and_resized(degrees, margin):
    photo = smooth_photo()
    expected, places = by_scipy_and_pillow(photo, FACE, degrees, margin, SIZE)
    canvas, points = FRAME.cut(photo, FACE)
    maps = geometry.rotated_box(points[None], np.deg2rad([degrees]), np.array([margin]))
    actual = views.warp(canvas[None], np.asarray(maps, np.float32), SIZE)[0]
    # Grey levels: the canvas is rounded to whole ones, and both resizes shrink a little.
    assert np.abs(actual - expected).max() < 4
    assert np.abs(actual - expected).mean() < 0.8
    in_view = geometry.apply(geometry.invert(maps), points[None].astype(float))[0]
    np.testing.assert_allclose(in_view, places, atol=1e-4)


def test_upright_with_the_mean_margin_it_is_evaluations_box_up_to_rounding():
    rng = np.random.default_rng(0)
    photo, size = smooth_photo(), (190, 170)
    differences = []
    for _ in range(400):
        # No box is small, none is clipped.
        corners = np.array([[-1, -1], [1, 1]]) * rng.uniform(11, 17, 2)
        points = (rng.uniform(60, 120, 2) + corners).astype(np.float32)
        left, top, right, bottom = FRAME.canvas_rectangle(points)
        origin, sides = np.array([left, top]), np.array([right - left, bottom - top])
        in_canvas = 2 * (points + 0.5 - origin) / sides - 1
        affine = geometry.rotated_box(in_canvas, np.zeros(()), np.array(0.7))
        corners = geometry.apply(affine, np.array([[-1.0, -1.0], [1.0, 1.0]]))
        edges = (corners + 1) / 2 * sides + origin
        expected = np.reshape(Framing(SIZE, SIZE, "box").view_rectangle(size, points), (2, 2))
        differences.append((expected - edges) * [[-1], [1]])  # outwards
    assert np.abs(differences).max() <= 1.0  # a pixel of the photo
    assert abs(np.mean(differences)) < 0.05  # neither larger nor smaller on average
    view, places = Framing(SIZE, SIZE, "box").cut(photo, FACE)
    canvas, points = FRAME.cut(photo, FACE)
    affine = geometry.rotated_box(points, np.zeros(()), np.array(0.7))
    actual = np.asarray(views.warp(canvas[None], affine[None].astype(np.float32), SIZE)[0])
    assert np.abs(actual - view).mean() < 2.5
    in_view = geometry.apply(geometry.invert(affine), points)
    np.testing.assert_allclose(in_view, places, atol=2 * 2 / 80)  # of some 80 pixels a side


@pytest.mark.parametrize(
    ("frame", "half", "canvas_size"),
    [
        # Half sides of the points' box 20 and 10. Limit 45: sin 2t = 1; 30 + 0.5 * 30 * 2.
        (BoxCanvas(16, 45.0, 0.5, 0.0), 60.0, 32),
        (BoxCanvas(16, 120.0, 0.5, 0.0), 60.0, 32),
        # Limit 15: sin 2t = 1/2; 20 + 5, and 0.5 * 30 * 1.5.
        (BoxCanvas(16, 15.0, 0.5, 0.0), 47.5, 24),
        # The largest margin is 0.5 + 4 * 0.125 = 1; 16 * 1.5 * 3 / 2 pixels.
        (BoxCanvas(16, 15.0, 0.5, 0.125), 70.0, 36),
        (BoxCanvas(16, 0.0, 0.0, 0.0), 20.0, 16),
    ],
)
def test_the_canvas_is_a_square_of_the_photo(frame, half, canvas_size):
    points = np.array([[30, 50], [70, 70], [44, 61]], np.float32)
    x, y = 50.5, 60.5
    actual = frame.canvas_rectangle(points)
    assert actual == pytest.approx((x - half, y - half, x + half, y + half))
    assert frame.canvas_size == canvas_size
    photo = smooth_photo(120, 70)  # the square reaches beyond it
    canvas, moved = frame.cut(photo, points)
    np.testing.assert_array_equal(canvas, stretch(photo, actual, canvas_size))
    np.testing.assert_allclose(moved, (points + 0.5 - [x, y]) / half, atol=1e-6)
    assert (canvas.dtype, moved.dtype) == (np.uint8, np.float32)


def test_the_released_codes_canvas():
    assert BoxCanvas(128, 40.0, 0.7, 0.04).canvas_size == 288


@pytest.mark.parametrize("limit", [0.0, 20.0, 40.0, 90.0])
def test_the_canvas_holds_every_view_and_hardly_more(limit):
    rng = np.random.default_rng(1)
    frame = BoxCanvas(SIZE, limit, 0.7, 0.04)
    faces = rng.uniform(50, 90, (40, 5, 2)) * rng.uniform(0.4, 1, (40, 1, 2))
    faces[0] = [[60, 60], [90, 60], [75, 75], [60, 90], [90, 90]]  # a square: the worst case
    reached = []
    for face in faces:
        left, top, right, bottom = frame.canvas_rectangle(face)
        points = 2 * (face + 0.5 - [left, top]) / [right - left, bottom - top] - 1
        angles = np.deg2rad(np.linspace(-limit, limit, 61))
        maps = geometry.rotated_box(np.tile(points, (61, 1, 1)), angles, np.full(61, 0.86))
        corners = np.array([[-1.0, -1.0], [1.0, -1.0], [-1.0, 1.0], [1.0, 1.0]])
        reached.append(np.abs(geometry.apply(maps, corners)).max())
    assert max(reached) <= 1 + 1e-6
    assert reached[0] == pytest.approx(1.0, abs=2e-3)


def test_the_middle_view_has_about_the_canvass_resolution():
    frame = BoxCanvas(128, 40.0, 0.7, 0.04)
    square = np.array([[60.0, 60], [90, 60], [75, 75], [60, 90], [90, 90]], np.float32)
    for face, within in ((square, 0.01), (FACE, 0.1)):
        left, _, right, _ = frame.canvas_rectangle(face)
        points = 2 * (face - face.mean(0)) / (right - left)
        sides = np.diag(geometry.rotated_box(points, np.zeros(()), np.array(0.7))[:, :2])
        np.testing.assert_allclose(sides * frame.canvas_size / 128, 1.0, atol=within)


def box_config(**fields):
    config = base.get_config().views
    config.size = SIZE
    config.rotation_std = (30.0, 15.0)
    for name, value in fields.items():
        config[name] = value
    return config


def angles_and_margins(maps, points):
    """What maps were drawn with, from their columns and the points turned by NumPy."""
    maps, points = np.asarray(maps, np.float64), np.asarray(points, np.float64)
    angles = np.arctan2(maps[:, 1, 0], maps[:, 0, 0])
    cos, sin = np.cos(angles)[:, None], np.sin(angles)[:, None]
    x, y = points[..., 0], points[..., 1]
    sides = np.stack([np.ptp(cos * x + sin * y, 1), np.ptp(cos * y - sin * x, 1)], -1)
    half = np.hypot(maps[:, 0, :2], maps[:, 1, :2])
    margins = (half - sides / 2) / sides.mean(1, keepdims=True)
    np.testing.assert_allclose(margins[:, 0], margins[:, 1], atol=1e-4)
    # A scaling, then a rotation: the columns stand at right angles, and nothing is mirrored.
    np.testing.assert_allclose((maps[:, :, 0] * maps[:, :, 1]).sum(1), 0, atol=1e-5)
    assert np.all(np.linalg.det(maps[:, :, :2]) > 0)
    return np.rad2deg(angles), margins[:, 0]


def test_angles_and_margins_follow_the_configuration():
    n, config = 4000, box_config()
    points = np.random.default_rng(2).uniform(-0.4, 0.4, (n, 5, 2)).astype(np.float32)
    keys = jax.random.split(jax.random.key(0), n)
    drawn = []
    for view, std in enumerate(config.rotation_std):
        draw = jax.jit(partial(views.draw_box_maps, config=config, view=view))
        degrees, margins = angles_and_margins(draw(keys, points), points)
        grid = scipy.stats.norm.ppf((np.arange(200_000) + 0.5) / 200_000) * std
        assert degrees.std() == pytest.approx(np.clip(grid, -40, 40).std(), rel=0.05)
        assert np.abs(degrees).max() <= 40 + 1e-3
        assert margins.mean() == pytest.approx(0.7, abs=4 * 0.04 / np.sqrt(n))
        assert margins.std() == pytest.approx(0.04, rel=0.05)
        assert np.abs(margins - 0.7).max() <= 0.16 + 1e-4
        assert scipy.stats.kstest((margins - 0.7) / 0.04, "norm").pvalue > 1e-3
        drawn += [degrees, margins]
    # Angle and margin of both views are drawn apart.
    assert np.abs(np.corrcoef(drawn) - np.eye(4)).max() < 0.07


def test_margins_are_cut_off_where_the_canvas_ends():
    keys = jax.random.split(jax.random.key(0), 64)
    points = np.tile(np.array([[-0.2, -0.2], [0.2, 0.2]], np.float32), (64, 1, 1))
    real, drawn = jax.random.normal, []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jax.random, "normal", lambda key: drawn.append(key) or 3 * real(key))
        config = box_config(rotation_std=(0.0, 0.0))
        maps = jax.jit(partial(views.draw_box_maps, config=config, view=0))(keys, points)
    assert drawn
    margins = angles_and_margins(maps, points)[1]
    assert margins.max() == pytest.approx(0.86, abs=1e-4)
    assert margins.min() == pytest.approx(0.54, abs=1e-4)


def test_a_pair_of_box_views():
    config = box_config(bend_std=0.05)
    rng = np.random.default_rng(3)
    canvases = rng.integers(0, 256, (4, 40, 40, 3), np.uint8)
    # The last one's points lie on a line.
    points = rng.uniform(-0.4, 0.4, (4, 5, 2)).astype(np.float32)
    points[3, :, 0] = 0.1
    keys = jax.random.split(jax.random.key(1), 4)
    compiled = []

    @jax.jit
    def pair(canvases, keys, points):
        compiled.append(1)
        pair = views.view_pair(canvases, keys, config, points=points)
        expected = [views.draw_box_maps(keys, points, config, view=view) for view in (0, 1)]
        return pair, expected

    (first, second), expected = pair(canvases, keys, points)
    for number, view in enumerate((first, second)):
        assert view.images.shape == (4, SIZE, SIZE, 3)
        assert np.all(np.isfinite(view.images))
        assert np.all(np.isfinite(view.to_canvas))
        np.testing.assert_allclose(view.to_canvas, expected[number], atol=1e-6)
        angles_and_margins(view.to_canvas, points)
    for canvas, affine, image in zip(canvases, first.to_canvas, first.images, strict=True):
        resampled = warp_by_scipy(canvas / 255, np.asarray(affine), SIZE)
        np.testing.assert_allclose(image, resampled, atol=1e-4)
    assert (first.bumps, second.bumps.shape) == (None, (4, 25, 2))
    assert np.abs(first.to_canvas - second.to_canvas).max((1, 2)).min() > 0.01
    # A photo's views depend on its own key and points alone.
    order = np.array([2, 0, 3, 1])
    moved, _ = pair(canvases[order], keys[order], points[order])
    for view, other in zip((first, second), moved, strict=True):
        np.testing.assert_array_equal(view.to_canvas[order], other.to_canvas)
        np.testing.assert_array_equal(view.images[order], other.images)
    assert compiled == [1]


@pytest.mark.parametrize("bent", [False, True])
def test_landmarks_are_carried_through_both_maps(bent):
    rng = np.random.default_rng(4)
    points = rng.uniform(-0.4, 0.4, (3, 5, 2))
    angles, margins = np.array([[0.5, -0.3, 0.0], [-0.2, 0.6, 0.3]]), np.array([0.72, 0.65])
    maps = [
        geometry.rotated_box(points, angle, np.full(3, margin)).astype(np.float32)
        for angle, margin in zip(angles, margins, strict=True)
    ]
    # The views are stretched, each its own way.
    shapes = [np.hypot(*m[:, :, 0].T) / np.hypot(*m[:, :, 1].T) for m in maps]
    assert np.abs(shapes[0] / shapes[1] - 1).max() > 0.03
    bumps = rng.normal(0, 0.05, (3, 25, 2)).astype(np.float32) if bent else None
    second = rng.uniform(-0.5, 0.5, (3, 6, 2)).astype(np.float32)
    second[:, 0] = [0.99, -0.99]
    start = np.asarray(views.bend(second, bumps)) if bent else second
    first = np.zeros((3, 6, 2))
    for b in range(3):
        canvas = start[b] @ maps[1][b, :, :2].T.astype(float) + maps[1][b, :, 2]
        first[b] = np.linalg.solve(maps[0][b, :, :2], (canvas - maps[0][b, :, 2]).T).T
    seen = np.all(np.abs(first) <= 1, -1)
    assert 0 < (~seen).sum() < 4

    @jax.jit
    def loss(first):
        return losses.equivariance_loss((first, jnp.asarray(second)), tuple(maps), bumps)

    assert float(loss(first)) < 1e-10
    offsets = rng.normal(0, 0.1, first.shape)
    expected = (offsets**2).sum(-1)[seen].mean()
    assert float(loss(first + offsets)) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize(
    ("points", "message"),
    [
        (np.full((5, 2), np.nan), "a point is missing"),
        (np.array([[3, 4], [np.inf, 9]]), "a point is missing"),
        (np.full((5, 2), 7.0), "the box of its points is 0 x 0 pixels"),
        (np.array([[3, 4], [4, 4.5]]), "the box of its points is 1 x 0.5 pixels"),
        (np.array([[3, 4], [9000, 50]]), "8997 x 46 pixels, is larger than the photo, 190 x 170"),
    ],
)
def test_points_without_a_box_are_refused(points, message):
    with pytest.raises(DataError, match=message):
        FRAME.cut(smooth_photo(), points.astype(np.float32))


def test_no_points_are_refused():
    with pytest.raises(ConfigError, match="crop = 'box' needs annotated points and photos/"):
        FRAME.check_points(0, "photos/")
    FRAME.check_points(2, "photos/")
    FRAME.check_box(np.array([[3.0, 4.0], [3.0, 40.0]]))  # a line has a box
