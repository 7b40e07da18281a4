"""Merging many points to few: groups, weights and noise against closed forms."""

import numpy as np
import pytest
from sklearn.linear_model import Ridge

from landmarks_jax.tasks.self_training import mirrored_order
from landmarks_jax.training import merging
from landmarks_jax.training.targets import for_training, merging_of
from tests.running import narrow


def groups_of_points(noise, count=2_000):
    """Points `[N, G, 2]` that follow one of three moving centres, each with a noise of its own."""
    rng = np.random.default_rng(0)
    centers = np.array([[-0.5, 0.0], [0.5, 0.0], [0.0, 0.6]]) + rng.normal(0, 0.2, (count, 3, 2))
    follows = np.arange(len(noise)) % 3
    points = centers[:, follows] + noise[:, None] * rng.normal(size=(count, len(noise), 2))
    return points.astype(np.float32), centers, follows


NOISE = np.array([0.02, 0.02, 0.02, 0.04, 0.04, 0.04, 0.08, 0.08, 0.08])


def test_points_that_move_together_are_merged_and_the_precise_ones_count_more():
    points, centers, follows = groups_of_points(NOISE)
    weights = merging.merging(points, 3)
    np.testing.assert_allclose(weights.sum(1), 1, rtol=1e-12)
    owners = weights.argmax(0)
    for center in range(3):
        assert len(set(owners[follows == center])) == 1
    assert len(set(owners)) == 3
    merged = np.einsum("kg,ngc->nkc", weights, points)
    for center in range(3):
        mine = owners[center]
        errors = merged[:, mine] - centers[:, center]
        evenly = points[:, follows == center].mean(1) - centers[:, center]
        assert errors.std() < 0.8 * evenly.std()
        own = weights[mine, follows == center]
        assert own[0] > own[1] > own[2] > 0


def test_as_many_groups_as_points_keep_them():
    points, _, _ = groups_of_points(NOISE, 200)
    weights = merging.merging(points, len(NOISE))
    assert sorted(weights.argmax(1)) == list(range(len(NOISE)))
    np.testing.assert_array_equal(np.sort(weights.max(1)), np.ones(len(NOISE)))


def test_noise_is_what_a_ridge_regression_leaves():
    points, _, _ = groups_of_points(NOISE, 500)
    rows = (points - points.mean(0)).astype(float).transpose(0, 2, 1).reshape(-1, len(NOISE))
    noise = merging._unexplained(rows)
    penalty = 1e-2 * (rows**2).mean() * len(rows)
    for k in (0, 5):
        others = np.delete(rows, k, 1)
        fitted = Ridge(alpha=penalty, fit_intercept=False).fit(others, rows[:, k])
        left = ((rows[:, k] - fitted.predict(others)) ** 2).sum() + penalty * (
            1 + (fitted.coef_**2).sum()
        )
        assert noise[k] == pytest.approx(left / len(rows), rel=1e-6)


def test_points_that_stand_still_are_merged_to_finite_weights():
    weights = merging.merging(np.zeros((10, 4, 2), np.float32), 2)
    assert np.isfinite(weights).all()
    np.testing.assert_allclose(weights.sum(1), 1)


def test_targets_are_merged_in_photos_and_in_their_mirror_images():
    points = np.random.default_rng(1).uniform(-1, 1, (50, 9, 2)).astype(np.float32)
    config = narrow(targets__merge=(2, 4), targets__mirror=True)
    made = for_training(config, points, merging_of(config, points))
    assert made.shape == (50, 12, 2)
    weights = np.concatenate([merging.merging(points, 2), merging.merging(points, 4)])
    plain, mirrored = made[:, :6], made[:, 6:]
    np.testing.assert_allclose(plain, np.einsum("kg,ngc->nkc", weights, points), atol=1e-6)
    swapped = points[:, mirrored_order(9)]
    np.testing.assert_allclose(mirrored, np.einsum("kg,ngc->nkc", weights, swapped), atol=1e-6)
    unmerged = narrow(targets__mirror=False)
    same = for_training(unmerged, points, merging_of(unmerged, points))
    np.testing.assert_array_equal(same, points)
