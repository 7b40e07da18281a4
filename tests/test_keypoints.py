"""Soft-argmax and Gaussian maps against direct sums in double precision."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

from landmarks_jax import geometry, keypoints

soft_argmax = jax.jit(keypoints.soft_argmax)
gaussian_maps = jax.jit(keypoints.gaussian_maps, static_argnums=1)
attention = jax.jit(keypoints.attention)
expected_position = jax.jit(keypoints.expected_position)
mass_near = jax.jit(keypoints.mass_near)


def expectation(scores, beta):
    """Soft-argmax as one sum over the joint grid, in float64."""
    _, h, w, _ = scores.shape
    mass = scipy.special.softmax(beta * scores.astype(np.float64), axis=(1, 2))
    x = (2 * np.arange(w) + 1) / w - 1
    y = (2 * np.arange(h) + 1) / h - 1
    xy = np.stack(np.broadcast_arrays(x[None, :], y[:, None]), -1)
    return np.einsum("bhwk,hwd->bkd", mass, xy)


@pytest.mark.parametrize("size", [(8, 8), (12, 6)])
@pytest.mark.parametrize("beta", [1.0, 10.0])
def test_soft_argmax_is_the_expectation_under_the_softmax(size, beta):
    scores = np.random.default_rng(0).normal(size=(3, *size, 4)).astype(np.float32)
    actual = soft_argmax(jnp.asarray(scores), beta)
    assert actual.shape == (3, 4, 2)
    assert actual.dtype == jnp.float32
    np.testing.assert_allclose(actual, expectation(scores, beta), atol=2e-6)


def test_soft_argmax_of_one_hot_is_that_pixel():
    scores = np.full((1, 8, 16, 2), -100.0, np.float32)
    scores[0, 3, 12, 0] = scores[0, 7, 0, 1] = 100.0
    expected = geometry.to_normalized(np.array([[[12.0, 3.0], [0.0, 7.0]]]), (16, 8))
    np.testing.assert_allclose(soft_argmax(jnp.asarray(scores), 10.0), expected, atol=1e-6)


def test_soft_argmax_of_equal_scores_is_the_centre():
    actual = soft_argmax(jnp.full((1, 8, 6, 1), 3.0), 10.0)
    np.testing.assert_allclose(actual, 0.0, atol=1e-6)


def test_soft_argmax_is_at_least_float32():
    scores = jnp.asarray(np.random.default_rng(1).normal(size=(2, 8, 8, 3)), jnp.bfloat16)
    actual = soft_argmax(scores, 10.0)
    assert actual.dtype == jnp.float32
    np.testing.assert_allclose(actual, expectation(np.asarray(scores), 10.0), atol=2e-6)


def test_double_precision_stays(x64):
    scores = np.random.default_rng(2).normal(size=(2, 8, 12, 3))
    actual = soft_argmax(jnp.asarray(scores), 10.0)
    assert actual.dtype == jnp.float64
    np.testing.assert_allclose(actual, expectation(scores, 10.0), atol=1e-14)
    maps = gaussian_maps(actual, (12, 8), 0.5)
    assert maps.dtype == jnp.float64


@pytest.mark.parametrize("size", [(16, 16), (32, 32), (24, 16)])
def test_gaussian_maps_by_their_formula(size):
    width, height = size
    points = np.random.default_rng(3).uniform(-1.1, 1.1, (2, 5, 2))
    actual = gaussian_maps(jnp.asarray(points, jnp.float32), size, 0.7)
    assert actual.shape == (2, height, width, 5)
    cx = (points[..., 0] + 1) * width / 2 - 0.5
    cy = (points[..., 1] + 1) * height / 2 - 0.5
    y, x = np.mgrid[:height, :width]
    expected = np.exp(
        -((x[..., None] - cx[:, None, None]) ** 2 + (y[..., None] - cy[:, None, None]) ** 2)
        / (2 * 0.7**2)
    )
    np.testing.assert_allclose(actual, expected, atol=1e-5)


def test_peak_is_one_and_sigma_counts_cells():
    # The same cells at two resolutions: 1 at the centre, exp(-1/2) at sigma cells.
    for size in ((16, 16), (32, 32)):
        point = geometry.to_normalized(np.array([[[6.0, 9.0]]], np.float32), size)
        maps = np.asarray(gaussian_maps(jnp.asarray(point), size, 2.0))[0, :, :, 0]
        assert maps.max() == pytest.approx(1.0, abs=1e-6)
        assert maps[9, 6] == maps.max()
        assert maps[9, 8] == pytest.approx(np.exp(-0.5), abs=1e-5)
        assert maps[13, 6] == pytest.approx(np.exp(-2.0), abs=1e-5)


@pytest.mark.parametrize("size", [(16, 16), (32, 24)])
def test_log_of_gaussian_maps_returns_their_landmarks(size):
    points = np.random.default_rng(4).uniform(-0.4, 0.4, (3, 7, 2)).astype(np.float32)
    maps = gaussian_maps(jnp.asarray(points), size, 1.0)
    actual = soft_argmax(jnp.log(jnp.maximum(maps, 1e-30)), 1.0)
    np.testing.assert_allclose(actual, points, atol=1e-5)


@pytest.mark.parametrize("size", [(16, 16), (32, 24)])
def test_sharp_soft_argmax_of_gaussian_maps_returns_their_landmarks(size):
    # beta so large that the peak alone counts: exact where landmarks sit on cell centres.
    rng = np.random.default_rng(5)
    cells = np.stack([rng.integers(0, n, (2, 6)) for n in size], -1).astype(np.float32)
    points = geometry.to_normalized(cells, size)
    maps = gaussian_maps(jnp.asarray(points), size, 0.5)
    np.testing.assert_allclose(soft_argmax(maps, 1e3), points, atol=1e-5)


def test_gradients_are_finite_at_the_edges():
    points = jnp.array([[[-1.0, 1.0], [5.0, -5.0], [0.0, 1e4], [-1e6, 0.0]]])
    gradient = jax.jit(jax.grad(lambda p: gaussian_maps(p, (8, 8), 0.5).sum()))(points)
    assert np.all(np.isfinite(gradient))
    scores = np.zeros((1, 8, 8, 3), np.float32)
    scores[0, 0, 0, 0], scores[0, 7, 7, 0] = 1e6, -1e6
    scores[..., 1] = 1e6
    out, back = jax.vjp(lambda s: soft_argmax(s, 10.0), jnp.asarray(scores))
    assert np.all(np.isfinite(out))
    assert np.all(np.isfinite(back(jnp.ones_like(out))[0]))
    np.testing.assert_allclose(out[0, 0], [-0.875, -0.875], atol=1e-6)


def test_soft_argmax_gradient_is_the_covariance(x64):
    # d E[p] / d S_i = beta * mass_i * (p_i - E[p]).
    scores = np.random.default_rng(6).normal(size=(1, 4, 6, 1))
    mass = scipy.special.softmax(3.0 * scores, axis=(1, 2))[0, :, :, 0]
    mean = expectation(scores, 3.0)[0, 0, 0]
    expected = 3.0 * mass * ((2 * np.arange(6) + 1) / 6 - 1 - mean)
    gradient = jax.grad(lambda s: soft_argmax(s, 3.0)[0, 0, 0])(jnp.asarray(scores))
    np.testing.assert_allclose(gradient[0, :, :, 0], expected, atol=1e-14)


@pytest.mark.parametrize("size", [(8, 8), (12, 6)])
def test_attention_is_the_softmax_over_each_map(size):
    scores = np.random.default_rng(7).normal(size=(3, *size, 4)).astype(np.float32)
    weights = attention(jnp.asarray(scores), 10.0)
    assert weights.dtype == jnp.float32
    np.testing.assert_allclose(
        weights, scipy.special.softmax(10 * scores.astype(np.float64), (1, 2)), atol=1e-6
    )
    np.testing.assert_allclose(weights.sum((1, 2)), 1, atol=1e-6)
    # Only differences count, however large.
    moved = attention(jnp.asarray(scores).at[..., 1].add(4096.0), 10.0)
    np.testing.assert_allclose(moved, weights, atol=2e-2)
    huge = attention(jnp.asarray(scores) * 1e37, 10.0)
    np.testing.assert_array_equal(np.max(huge, (1, 2)), 1)
    assert attention(jnp.asarray(scores, jnp.bfloat16), 10.0).dtype == jnp.float32


def test_expected_position_by_a_sum_over_the_grid():
    weights = np.random.default_rng(8).dirichlet(np.ones(6 * 10), (2, 3))
    weights = np.moveaxis(weights.reshape(2, 3, 6, 10), 1, -1)
    expected = np.zeros((2, 3, 2))
    for row in range(6):
        for column in range(10):
            place = np.array([(2 * column + 1) / 10 - 1, (2 * row + 1) / 6 - 1])
            expected += weights[:, row, column, :, None] * place
    actual = expected_position(jnp.asarray(weights, jnp.float32))
    np.testing.assert_allclose(actual, expected, atol=1e-6)


@pytest.mark.parametrize("size", [(8, 8), (12, 6)])
@pytest.mark.parametrize("radius", [0.6, 1.5, 4.2, 100])
def test_mass_near_by_a_loop_over_the_cells(size, radius):
    height, width = size
    rng = np.random.default_rng(9)
    weights = np.moveaxis(rng.dirichlet(np.ones(height * width), (2, 4)), 1, -1)
    weights = weights.reshape(2, height, width, 4).astype(np.float32)
    points = rng.uniform(-1.2, 1.2, (2, 4, 2)).astype(np.float32)
    expected = np.zeros((2, 4))
    for b, row, column, k in np.ndindex(weights.shape):
        x = (points[b, k, 0] + 1) * width / 2 - 0.5
        y = (points[b, k, 1] + 1) * height / 2 - 0.5
        if np.hypot(column - x, row - y) <= radius:
            expected[b, k] += weights[b, row, column, k]
    actual = mass_near(jnp.asarray(weights), jnp.asarray(points), radius)
    np.testing.assert_allclose(actual, expected, atol=1e-6)
    assert np.max(actual) <= 1


def test_mass_near_says_how_narrow_a_peak_is():
    # All on one cell; on two far apart, between which the expectation falls; everywhere alike.
    weights = np.zeros((1, 8, 8, 3), np.float32)
    weights[0, 3, 5, 0] = 1
    weights[0, 4, [0, 7], 1] = 0.5
    weights[0, :, :, 2] = 1 / 64
    points = expected_position(jnp.asarray(weights))
    # From the middle of the map four cells are 0.71 away, and the next eight 1.58.
    np.testing.assert_allclose(mass_near(jnp.asarray(weights), points), [[1, 0, 4 / 64]], atol=1e-6)
    # Cells exactly 1.5 away count.
    between = geometry.to_normalized(np.array([[[3.5, 3.0]]], np.float32), (8, 8))
    flat = jnp.full((1, 8, 8, 1), 1 / 64)
    np.testing.assert_allclose(mass_near(flat, jnp.asarray(between)), [[8 / 64]])
    # Rounding does not lift it above 1.
    over = jnp.asarray(weights[..., :1]) * (1 + 1e-6)
    assert mass_near(over, points[:, :1]) == 1


def test_gradients_of_the_confidence_are_finite():
    def confidence(scores):
        weights = keypoints.attention(scores, 10.0)
        return keypoints.mass_near(weights, keypoints.expected_position(weights)).sum()

    scores = np.random.default_rng(10).normal(size=(1, 8, 8, 3)).astype(np.float32)
    scores[..., 1], scores[0, 2, 2, 2] = 0, 1e6
    gradient = jax.jit(jax.grad(confidence))(jnp.asarray(scores))
    assert np.all(np.isfinite(gradient))
    assert np.abs(gradient[..., 0]).max() > 1e-3
