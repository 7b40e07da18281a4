"""Random views: the resampling against SciPy, the maps' statistics, points that travel along."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage
import scipy.stats

from landmarks_jax import geometry, views
from landmarks_jax.configs import base
from tests import matrix_products

warp = jax.jit(views.warp, static_argnums=2)
KINDS = {
    "rotation": (0.5, 1.0, (0.0, 0.0)),
    "scale": (0.0, 1.25, (0.0, 0.0)),
    "shift": (0.0, 1.0, (0.15, -0.1)),
    "all": (-0.4, 0.8, (-0.1, 0.12)),
}


def similarities(seed, n):
    rng = np.random.default_rng(seed)
    shift = rng.uniform(-0.4, 0.4, (n, 2))
    maps = geometry.similarity(rng.uniform(-3, 3, n), rng.uniform(0.4, 1.6, n), shift)
    return maps.astype(np.float32)


def warp_by_scipy(image, affine, size, bend=lambda points: points):
    """Bilinear resampling of `[H, W, C]` in float64, at places bent before the map."""
    height, width, channels = image.shape
    centers = geometry.pixel_centers(size, np.float64)
    grid = np.stack(np.meshgrid(centers, centers), -1).reshape(-1, 2)
    moved = geometry.apply(affine.astype(float), bend(grid))
    places = geometry.to_pixels(moved, (width, height))
    out = [
        scipy.ndimage.map_coordinates(
            image[..., c].astype(float), places.T[::-1], order=1, mode="nearest"
        )
        for c in range(channels)
    ]
    return np.stack(out, -1).reshape(size, size, channels)


@pytest.mark.parametrize(("shape", "size"), [((24, 24), 16), ((18, 30), 25)])
def test_warp_is_scipys_bilinear_resampling(shape, size):
    images = np.random.default_rng(0).uniform(0, 1, (6, *shape, 3)).astype(np.float32)
    maps = similarities(1, 6)
    actual = np.asarray(warp(images, maps, size))
    assert actual.shape == (6, size, size, 3)
    for image, affine, one in zip(images, maps, actual, strict=True):
        np.testing.assert_allclose(one, warp_by_scipy(image, affine, size), atol=2e-5)


def test_warp_of_uint8_keeps_its_range():
    images = np.random.default_rng(2).integers(0, 256, (6, 24, 24, 3), np.uint8)
    maps = similarities(3, 6)
    actual = np.asarray(warp(images, maps, 16))
    assert actual.dtype == np.float32
    np.testing.assert_allclose(actual, warp(images.astype(np.float32), maps, 16), atol=1e-4)


def test_identity_is_exact():
    images = np.random.default_rng(4).uniform(0, 1, (2, 16, 16, 3)).astype(np.float32)
    maps = np.stack([geometry.identity()] * 2)
    np.testing.assert_array_equal(warp(images, maps, 16), images)


def test_whole_pixel_shift_is_exact_and_replicates_the_border():
    images = np.random.default_rng(5).uniform(0, 1, (1, 16, 16, 3)).astype(np.float32)
    affine = geometry.similarity(np.zeros(1), np.ones(1), np.array([[3 / 8, -2 / 8]]))
    actual = np.asarray(warp(images, affine.astype(np.float32), 16))[0]
    columns, rows = np.minimum(np.arange(16) + 3, 15), np.maximum(np.arange(16) - 2, 0)
    np.testing.assert_array_equal(actual, images[0][rows][:, columns])


def test_far_outside_is_the_corner():
    images = np.random.default_rng(6).uniform(0, 1, (1, 16, 16, 3)).astype(np.float32)
    affine = np.array([[[1, 0, 9], [0, 1, 9]]], np.float32)
    actual = np.asarray(warp(images, affine, 16))
    np.testing.assert_array_equal(actual, np.broadcast_to(images[:, -1:, -1:], actual.shape))


def test_one_row_or_column_of_pixels():
    images = np.arange(8, dtype=np.float32).reshape(1, 1, 8, 1)
    actual = np.asarray(warp(images, geometry.identity()[None], 8))[0, :, :, 0]
    np.testing.assert_allclose(actual, np.tile(np.arange(8.0), (8, 1)), atol=1e-5)


def test_warp_in_double_precision(x64):
    image = np.random.default_rng(7).uniform(0, 1, (12, 12, 1))
    affine = similarities(8, 1)[0].astype(np.float64)
    actual = views.warp(jnp.asarray(image[None]), jnp.asarray(affine[None]), 12)
    assert actual.dtype == jnp.float64
    np.testing.assert_allclose(actual[0], warp_by_scipy(image, affine, 12), atol=1e-12)


def blobs(places, size):
    """Images `[B, size, size, 3]` of a round blob at each place."""
    centers = geometry.pixel_centers(size, np.float64)
    dx, dy = (centers[None] - places[:, i, None] for i in range(2))
    image = np.exp(-(dx[:, None, :] ** 2 + dy[:, :, None] ** 2) / (2 * 0.14**2))
    return np.repeat(image[..., None], 3, -1).astype(np.float32)


def centroids(images):
    mass = np.asarray(images, np.float64)[..., 0]
    mass = mass / mass.sum((1, 2), keepdims=True)
    centers = geometry.pixel_centers(mass.shape[1], np.float64)
    return np.stack([mass.sum(1) @ centers, mass.sum(2) @ centers], -1)


@pytest.mark.parametrize("size", [32, 64])
def test_a_blob_and_its_centroid_move_together(size):
    angles, scales, shifts = (np.array(part) for part in zip(*KINDS.values(), strict=True))
    maps = geometry.similarity(angles, scales, shifts).astype(np.float32)
    places = np.array([[0.1, -0.15]] * len(KINDS))
    images = blobs(places, size)
    np.testing.assert_allclose(centroids(images), places, atol=1e-3)
    actual = centroids(warp(images, maps, size))
    expected = geometry.apply(geometry.invert(maps), places[:, None])[:, 0]
    assert np.abs(expected - places).max(-1).min() > 0.025
    # A hundredth of a pixel of the smaller image.
    np.testing.assert_allclose(actual, expected, atol=0.01 * 2 / 32, err_msg=str(list(KINDS)))


@pytest.mark.parametrize("size", [32, 64])
def test_between_carries_a_blob_from_view_to_view(size):
    canvas = blobs(np.array([[0.1, -0.05]] * 2), size)
    to_canvas = geometry.similarity(
        np.array([0.4, -0.3]), np.array([0.7, 0.9]), np.array([[0.05, 0.1], [-0.1, 0.0]])
    ).astype(np.float32)
    first, second = centroids(warp(canvas, to_canvas, size))
    assert np.abs(first - second).max() > 0.1
    carry = views.between(to_canvas[:1], to_canvas[1:])
    np.testing.assert_allclose(geometry.apply(carry, first[None, None])[0, 0], second, atol=1e-3)


def test_between_is_exact(x64):
    source, target = similarities(10, 4).astype(float), similarities(11, 4).astype(float)
    points = np.random.default_rng(12).uniform(-1, 1, (4, 7, 2))
    actual = geometry.apply(views.between(source, target), points)
    for b in range(4):
        canvas = points[b] @ source[b, :, :2].T + source[b, :, 2]
        expected = np.linalg.solve(target[b, :, :2], (canvas - target[b, :, 2]).T).T
        np.testing.assert_allclose(actual[b], expected, atol=1e-12)


def drawn(config, view, n=4000, seed=0, share=0.8):
    """Degrees, magnifications and shifts (in shares of the view's side) of drawn maps."""
    keys = jax.random.split(jax.random.key(seed), n)
    draw = jax.jit(partial(views.draw_maps, config=config, view=view, view_share=share))
    maps = np.asarray(draw(keys), np.float64)
    a, b, c, d = maps[:, 0, 0], maps[:, 0, 1], maps[:, 1, 0], maps[:, 1, 1]
    np.testing.assert_allclose(a, d, atol=1e-6)
    np.testing.assert_allclose(b, -c, atol=1e-6)
    return np.rad2deg(np.arctan2(c, a)), share / np.hypot(a, c), maps[:, :, 2] / share / 2


def test_drawn_maps_follow_the_configuration():
    config = base.get_config().views
    config.rotation_std = (30.0, 15.0)
    n, limit = 4000, 40.0
    actual = [drawn(config, view, n) for view in range(2)]
    for view, (degrees, scale, shift) in enumerate(actual):
        std = config.rotation_std[view]
        grid = scipy.stats.norm.ppf((np.arange(200_000) + 0.5) / 200_000) * std
        expected = np.clip(grid, -limit, limit).std()
        assert abs(degrees.mean()) < 4 * expected / np.sqrt(n)
        assert degrees.std() == pytest.approx(expected, rel=0.05)
        assert np.abs(degrees).max() <= limit + 1e-3
        at_limit = np.mean(np.abs(degrees) > limit - 1e-3)
        assert at_limit == pytest.approx(2 * scipy.stats.norm.sf(limit / std), abs=0.025)
        assert scale.mean() == pytest.approx(1.0, abs=0.005)
        assert scale.std() == pytest.approx(0.05, rel=0.06)
        assert np.abs(shift.mean(0)).max() < 4 * 0.04 / np.sqrt(n)
        np.testing.assert_allclose(shift.std(0), 0.04, rtol=0.06)
    numbers = np.concatenate([np.stack([d, s, *m.T]) for d, s, m in actual])
    # Every part of every view is drawn apart.
    assert np.abs(np.corrcoef(numbers) - np.eye(8)).max() < 0.07
    assert np.mean(np.abs(actual[0][0]) > 39.99) > 0.15


def test_scale_range_is_uniform_and_respected():
    config = base.get_config().views
    config.scale_range = (1.0, 1.5)
    config.scale_std = 0.0
    scale = drawn(config, 0)[1]
    assert scale.min() >= 1.0 - 1e-6
    assert scale.max() <= 1.5 + 1e-6
    assert scipy.stats.kstest(scale, scipy.stats.uniform(1.0, 0.5).cdf).pvalue > 1e-3
    config.scale_std = 0.05
    noisy = drawn(config, 0)[1]
    assert noisy.max() > 1.52
    expected = np.sqrt((0.25 / 12 + 1.25**2) * (1 + 0.05**2) - 1.25**2)
    assert noisy.std() == pytest.approx(expected, rel=0.05)


def still(config):
    config.rotation_std = (0.0, 0.0)
    config.scale_std = config.shift_std = 0.0
    return config


def test_a_view_that_does_not_move_is_the_centre_of_its_canvas():
    config = still(base.get_config().views)
    config.size = 16
    canvases = np.random.default_rng(13).integers(0, 256, (2, 20, 20, 3), np.uint8)
    keys = jax.random.split(jax.random.key(0), 2)
    for view in jax.jit(partial(views.view_pair, config=config))(canvases, keys):
        np.testing.assert_allclose(view.images, canvases[:, 2:18, 2:18] / 255, atol=1e-5)


def test_view_pairs():
    config = base.get_config().views
    config.size = 16
    canvases = np.random.default_rng(14).integers(0, 256, (4, 20, 20, 3), np.uint8)
    keys = jax.random.split(jax.random.key(1), 4)
    pair = jax.jit(partial(views.view_pair, config=config))
    first, second = pair(canvases, keys)
    for view in (first, second):
        assert view.images.shape == (4, 16, 16, 3)
        assert view.to_canvas.shape == (4, 2, 3)
        for b in range(4):
            expected = warp_by_scipy(canvases[b] / 255, np.asarray(view.to_canvas[b]), 16)
            np.testing.assert_allclose(view.images[b], expected, atol=1e-4)
    assert np.abs(first.to_canvas - second.to_canvas).max((1, 2)).min() > 0.01
    # A photo's views depend on its own key alone, not on its row or its neighbours.
    order = np.array([2, 0, 3, 1])
    moved = pair(canvases[order], keys[order])
    for view, other in zip((first, second), moved, strict=True):
        np.testing.assert_array_equal(view.to_canvas[order], other.to_canvas)
        np.testing.assert_array_equal(view.images[order], other.images)
    fresh = pair(canvases, keys.at[1].set(jax.random.key(9)))[0]
    changed = np.any(np.asarray(fresh.to_canvas != first.to_canvas), (1, 2))
    np.testing.assert_array_equal(changed, [False, True, False, False])


def bend_by_hand(points, bumps):
    """Sums the 25 bumps one after the other, in float64."""
    centers = [(x, y) for y in (-1, -0.5, 0, 0.5, 1) for x in (-1, -0.5, 0, 0.5, 1)]
    moved = np.array(points, np.float64)
    for center, height in zip(centers, bumps, strict=True):
        distance = np.linalg.norm(points - np.array(center), axis=-1)
        moved += np.exp(-(distance**2) / (2 * 0.4**2))[:, None] * height.astype(np.float64)
    return moved


def test_a_bend_is_the_sum_of_its_bumps():
    rng = np.random.default_rng(20)
    points = rng.uniform(-1.5, 1.5, (3, 7, 2)).astype(np.float32)
    bumps = rng.normal(0, 0.1, (3, 25, 2)).astype(np.float32)
    actual = jax.jit(views.bend)(points, bumps)
    assert matrix_products.rounded(jax.jit(views.bend).lower(points, bumps).as_text()) == []
    for one, inputs, heights in zip(actual, points, bumps, strict=True):
        np.testing.assert_allclose(one, bend_by_hand(inputs, heights), atol=1e-6)
    np.testing.assert_array_equal(views.bend(points, np.zeros((25, 2), np.float32)), points)


def test_bends_move_points_as_far_as_they_say():
    keys = jax.random.split(jax.random.key(3), 4000)
    bumps = jax.jit(partial(views.draw_bumps, std=0.06))(keys)
    assert bumps.shape == (4000, 25, 2)
    assert bumps.std() == pytest.approx(0.06, rel=0.01)
    place = jnp.array([[0.1, -0.2]])
    moved = np.asarray(jax.jit(views.bend)(place, bumps) - place)[:, 0]
    assert np.abs(moved.mean(0)).max() < 0.005
    np.testing.assert_allclose(moved.std(0), 1.4 * 0.06, rtol=0.05)
    # The slope of the field where it is steepest to fold: 2.5 std.
    near = jax.jit(views.bend)(place + jnp.array([1e-2, 0.0]), bumps) - place
    slope = (np.asarray(near)[:, 0, 0] - moved[:, 0]) / 1e-2 - 1
    assert slope.std() == pytest.approx(2.5 * 0.06, rel=0.05)


def test_only_the_second_view_is_bent():
    config = base.get_config().views
    config.size = 16
    canvases = np.random.default_rng(15).integers(0, 256, (4, 20, 20, 3), np.uint8)
    keys = jax.random.split(jax.random.key(2), 4)
    straight = jax.jit(partial(views.view_pair, config=config))(canvases, keys)
    config.bend_std = 0.06
    first, second = jax.jit(partial(views.view_pair, config=config))(canvases, keys)
    np.testing.assert_array_equal(first.images, straight[0].images)
    np.testing.assert_array_equal(second.to_canvas, straight[1].to_canvas)
    assert first.bumps is None
    assert straight[1].bumps is None
    np.testing.assert_allclose(second.bumps, views.draw_bumps(keys, 0.06), rtol=1e-6)
    for b in range(4):
        bend = partial(bend_by_hand, bumps=np.asarray(second.bumps[b]))
        affine = np.asarray(second.to_canvas[b])
        expected = warp_by_scipy(canvases[b] / 255, affine, 16, bend)
        np.testing.assert_allclose(second.images[b], expected, atol=1e-4)
        assert np.abs(second.images[b] - straight[1].images[b]).max() > 0.1
