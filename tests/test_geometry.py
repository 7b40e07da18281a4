"""Coordinates and affine maps against closed forms, on NumPy and JAX alike."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from landmarks_jax import geometry

KINDS = {"numpy": lambda f: f, "jax": lambda f: f, "jit": jax.jit}


@pytest.fixture(params=list(KINDS))
def kind(request):
    return request.param


def call(kind, function, *arrays):
    """Runs a function on NumPy or JAX arrays and checks that the result is of the same kind."""
    as_given = np.asarray if kind == "numpy" else jnp.asarray
    out = KINDS[kind](function)(*(as_given(a, np.float32) for a in arrays))
    assert isinstance(out, np.ndarray if kind == "numpy" else jax.Array)
    assert out.dtype == np.float32
    return np.asarray(out)


def rotation(degrees):
    a = np.deg2rad(degrees)
    return np.array([[np.cos(a), -np.sin(a)], [np.sin(a), np.cos(a)]])


def random_maps(seed, *shape):
    rng = np.random.default_rng(seed)
    linear = np.eye(2) + 0.3 * rng.uniform(-1, 1, (*shape, 2, 2))
    return np.concatenate([linear, rng.uniform(-1, 1, (*shape, 2, 1))], -1)


def test_pixels_to_normalized_by_hand(kind):
    pixels = np.array([[0, 0], [3, 1], [-0.5, -0.5], [3.5, 1.5], [1.5, 0.5]])
    expected = [[-0.75, -0.5], [0.75, 0.5], [-1, -1], [1, 1], [0, 0]]
    actual = call(kind, lambda p: geometry.to_normalized(p, (4, 2)), pixels)
    np.testing.assert_allclose(actual, expected, atol=1e-6)


def test_normalized_to_pixels_is_the_inverse(kind):
    points = np.random.default_rng(0).uniform(-2, 2, (5, 7, 2))
    there = call(kind, lambda p: geometry.to_pixels(p, (160, 97)), points)
    back = call(kind, lambda p: geometry.to_normalized(p, (160, 97)), there)
    np.testing.assert_allclose(there[..., 0], (points[..., 0] + 1) * 80 - 0.5, atol=1e-4)
    np.testing.assert_allclose(there[..., 1], (points[..., 1] + 1) * 48.5 - 0.5, atol=1e-4)
    np.testing.assert_allclose(back, points, atol=1e-6)


def test_one_number_is_one_place_at_every_resolution():
    # The corner between four pixels of a fine image is the centre of a pixel of a coarse one.
    fine, coarse = (24, 16), (12, 8)
    point = np.array([2 * 5 + 0.5, 2 * 3 + 0.5])
    np.testing.assert_allclose(
        geometry.to_normalized(point, fine), geometry.to_normalized(np.array([5.0, 3.0]), coarse)
    )


def test_whole_numbers_of_pixels_are_their_centers():
    np.testing.assert_allclose(geometry.pixel_centers(4), [-0.75, -0.25, 0.25, 0.75])
    assert geometry.pixel_centers(4).dtype == np.float32
    columns = np.stack([np.arange(7.0), np.zeros(7)], -1)
    actual = geometry.to_normalized(columns, (7, 1))
    np.testing.assert_allclose(actual[:, 0], geometry.pixel_centers(7, np.float64))


def test_identity_moves_nothing(kind):
    points = np.random.default_rng(1).uniform(-1, 1, (3, 6, 2)).astype(np.float32)
    np.testing.assert_array_equal(call(kind, geometry.apply, geometry.identity(), points), points)


def test_similarity_turns_x_towards_y(kind):
    # A quarter turn takes right (1, 0) to down (0, 1) on a screen.
    angle, scale, shift = np.deg2rad([90.0, 0]), np.array([2.0, 0.5]), np.array([[0.1, -0.3]] * 2)
    maps = call(kind, geometry.similarity, angle, scale, shift)
    assert maps.shape == (2, 2, 3)
    points = np.array([[1.0, 0], [0, 1.0]])
    expected = [[[0.1, 1.7], [-1.9, -0.3]], [[0.6, -0.3], [0.1, 0.2]]]
    np.testing.assert_allclose(call(kind, geometry.apply, maps, points), expected, atol=1e-6)


def test_similarity_of_a_single_map_rotates_scales_then_shifts(kind):
    actual = call(kind, geometry.similarity, 0.3, 1.7, np.array([0.2, -0.1]))
    expected = np.concatenate([1.7 * rotation(np.rad2deg(0.3)), [[0.2], [-0.1]]], 1)
    np.testing.assert_allclose(actual, expected, atol=1e-6)


def test_apply_is_matrix_times_point_for_every_map(kind):
    maps, points = random_maps(2, 4), np.random.default_rng(3).uniform(-1, 1, (4, 5, 2))
    actual = call(kind, geometry.apply, maps, points)
    for b in range(4):
        for n in range(5):
            expected = maps[b, :, :2] @ points[b, n] + maps[b, :, 2]
            np.testing.assert_allclose(actual[b, n], expected, atol=1e-6)


def test_compose_applies_the_inner_map_first(kind):
    outer, inner = random_maps(4, 3), random_maps(5, 3)
    points = np.random.default_rng(6).uniform(-1, 1, (3, 8, 2))
    actual = geometry.apply(call(kind, geometry.compose, outer, inner), points)
    expected = geometry.apply(outer, geometry.apply(inner, points))
    other = geometry.apply(inner, geometry.apply(outer, points))
    np.testing.assert_allclose(actual, expected, atol=1e-5)
    assert np.abs(actual - other).max() > 0.05


def test_invert_is_the_matrix_inverse(kind):
    maps = random_maps(7, 2, 3)
    square = np.concatenate([maps, np.broadcast_to([[0.0, 0, 1]], (2, 3, 1, 3))], -2)
    actual = call(kind, geometry.invert, maps)
    np.testing.assert_allclose(actual, np.linalg.inv(square)[..., :2, :], atol=1e-5)
    for pair in ((actual, maps), (maps, actual)):
        both = call(kind, geometry.compose, *pair)
        np.testing.assert_allclose(
            both, np.broadcast_to(geometry.identity(), both.shape), atol=1e-5
        )


def test_double_precision_is_kept():
    assert geometry.to_normalized(np.zeros((1, 2)), (3, 3)).dtype == np.float64
    assert geometry.apply(geometry.identity(np.float64), np.zeros((1, 2))).dtype == np.float64


def test_integer_pixels_keep_their_fractions():
    actual = geometry.to_normalized(np.array([[1, 0]]), (4, 2))
    np.testing.assert_allclose(actual, [[-0.25, -0.5]])


def test_maps_are_applied_without_matrix_products():
    # Accelerators round their operands, which would move points by a share of a pixel.
    maps, points = jnp.zeros((5, 2, 3)), jnp.zeros((5, 7, 2))
    for traced in (
        jax.make_jaxpr(geometry.apply)(maps, points),
        jax.make_jaxpr(geometry.compose)(maps, maps),
        jax.make_jaxpr(geometry.invert)(maps),
    ):
        assert "dot_general" not in str(traced)
