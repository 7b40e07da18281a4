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
    noise = merging._unexplained(rows.T @ rows / len(rows))
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
    made = for_training(points, merging_of(config, points, mirrored_order(9), later=False))
    assert made.shape == (50, 12, 2)
    weights = np.concatenate([merging.merging(points, 2), merging.merging(points, 4)])
    plain, mirrored = made[:, :6], made[:, 6:]
    np.testing.assert_allclose(plain, np.einsum("kg,ngc->nkc", weights, points), atol=1e-6)
    swapped = points[:, mirrored_order(9)]
    np.testing.assert_allclose(mirrored, np.einsum("kg,ngc->nkc", weights, swapped), atol=1e-6)
    unmerged = narrow(targets__mirror=False)
    same = for_training(points, merging_of(unmerged, points, None, later=False))
    np.testing.assert_array_equal(same, points)


def test_own_points_are_merged_already_and_their_second_half_is_of_the_mirror_images():
    points = np.random.default_rng(1).uniform(-1, 1, (50, 12, 2)).astype(np.float32)
    config = narrow(targets__merge=(2, 4), targets__mirror=True, model__num_landmarks=6)
    mirrored = np.roll(np.arange(12), 6)
    made = for_training(points, merging_of(config, points, mirrored, later=True))
    np.testing.assert_array_equal(made, points)


def left_by_ridge(rows, weights, noise):
    """What a ridge regression of all points from merged ones leaves, with its penalty."""
    merged = rows @ weights.T
    penalty = 1e-2 * (merged**2).mean() * len(rows)
    fitted = Ridge(alpha=penalty, fit_intercept=False).fit(merged, rows)
    left = ((rows - fitted.predict(merged)) ** 2).sum(0) + penalty * (fitted.coef_**2).sum(1)
    return (left / len(rows) / noise).mean()


def test_no_single_point_belongs_better_to_another_group():
    # Chains of points, of which each is like the next: many groupings are nearly as good.
    rng = np.random.default_rng(6)
    steps = rng.normal(0, 0.1, (300, 9, 2)) * rng.uniform(0.2, 3, 9)[:, None]
    points = steps.cumsum(1) + rng.normal(0, 0.02, (300, 9, 2))
    rows = (points - points.mean(0)).transpose(0, 2, 1).reshape(-1, 9)
    noise = merging._unexplained(rows.T @ rows / len(rows))
    owners = merging.merging(points, 3).argmax(0)
    least = left_by_ridge(rows, merging.merging(points, 3), noise)
    compared = 0
    for point in range(9):
        if (owners == owners[point]).sum() > 1:
            for other in set(range(3)) - {owners[point]}:
                moved = np.where(np.arange(9) == point, other, owners)
                means = (moved == np.arange(3)[:, None]) / noise
                means /= means.sum(1, keepdims=True)
                assert left_by_ridge(rows, means, noise) > least - 2e-6
                compared += 1
    assert compared >= 8


def test_merging_can_be_stopped():
    points, _, _ = groups_of_points(NOISE, 100)
    calls = []

    def check():
        calls.append(1)
        if len(calls) == 5:
            raise TimeoutError

    with pytest.raises(TimeoutError):
        merging.merging(points, 3, check)
    assert len(calls) == 5
