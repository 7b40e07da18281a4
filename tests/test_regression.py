"""The closed forms against scikit-learn and NumPy, and at their edges."""

import numpy as np
import pytest
from sklearn.linear_model import Ridge, RidgeCV

from landmarks_jax.evaluation import regression


def _points(seed, n, k):
    return np.random.default_rng(seed).uniform(-1, 1, (n, k, 2))


@pytest.mark.parametrize(("n", "k", "p"), [(200, 10, 5), (8, 10, 5), (30, 1, 68), (150, 50, 1)])
def test_fit_is_scikit_learns_ridge(n, k, p):
    X, Y, new = _points(0, n, k), _points(1, n, p), _points(2, 7, k)
    centered = (X - X.mean(0)).reshape(n, -1)
    lam = 1e-4 * (np.max(centered.T @ centered) + 1e-12)
    ridge = Ridge(alpha=lam, solver="cholesky").fit(X.reshape(n, -1), Y.reshape(n, -1))
    linear = regression.fit(X, Y)
    expected = ridge.predict(new.reshape(7, -1)).reshape(7, p, 2)
    np.testing.assert_allclose(linear(new), expected, rtol=0, atol=1e-10)
    np.testing.assert_allclose(linear.matrix, ridge.coef_, rtol=0, atol=1e-10)


def test_fit_by_hand():
    # x: -1, 1 with mean 0; y = 3 x + 1 and 0; X^T X = 2, so lambda = 0.5 (2 + 1e-12) = 1.
    X = np.array([[[-1.0, 0.0]], [[1.0, 0.0]]])
    Y = np.array([[[-2.0, 0.0]], [[4.0, 0.0]]])
    linear = regression.fit(X, Y, lam_scale=0.5)
    np.testing.assert_allclose(linear.matrix, [[6 / 3, 0], [0, 0]], atol=1e-11)
    np.testing.assert_allclose(linear.y_origin, [1, 0])
    np.testing.assert_allclose(linear(np.array([[[0.5, 9.0]]])), [[[2.0, 0.0]]], atol=1e-11)


def test_one_photo_gives_a_constant():
    X, Y = _points(0, 1, 10), _points(1, 1, 5)
    predicted = regression.fit(X, Y)(_points(2, 4, 10))
    np.testing.assert_array_equal(predicted, np.broadcast_to(Y, (4, 5, 2)))


@pytest.mark.parametrize("n", [1, 2, 50])
def test_collapsed_inputs_give_the_mean(n):
    X, Y = np.full((n, 10, 2), 0.3, np.float32), _points(1, n, 5)
    predicted = regression.fit(X, Y)(X)
    np.testing.assert_allclose(predicted, np.broadcast_to(Y.mean(0), (n, 5, 2)), atol=1e-12)
    assert np.isfinite(regression.fit_without_intercept(X, Y)(X)).all()


def test_recovers_an_affine_map():
    rng = np.random.default_rng(3)
    A, b, X = rng.normal(size=(10, 20)), rng.normal(size=10), _points(0, 500, 10)
    Y = (X.reshape(500, -1) @ A.T + b).reshape(500, 5, 2)
    exact = regression.fit(X, Y, lam_scale=0.0)
    np.testing.assert_allclose(exact.matrix, A, atol=1e-12)
    # The penalty shrinks the least certain direction by lambda / (s + lambda), others by less.
    centered = (X - X.mean(0)).reshape(500, -1)
    gram = centered.T @ centered
    lam = 1e-4 * gram.max()
    shrink = lam / (np.linalg.eigvalsh(gram)[0] + lam)
    bound = shrink * np.linalg.norm(A, 2) * np.linalg.norm(centered, axis=1)
    error = np.linalg.norm((regression.fit(X, Y)(X) - Y).reshape(500, -1), axis=1)
    assert (error <= bound).all()
    assert shrink < 2e-4


def test_float32_inputs_are_fitted_in_float64():
    X, Y = _points(0, 40, 10).astype(np.float32), _points(1, 40, 5).astype(np.float32)
    linear = regression.fit(X, Y)
    assert linear(X).dtype == np.float64
    np.testing.assert_array_equal(
        linear.matrix, regression.fit(X.astype(float), Y.astype(float)).matrix
    )


def _refitted(X, Y, lam_scale):
    """`[N, P, 2]`, each photo's points by scikit-learn's ridge of all others; NaN stays missing."""
    x, y = X.reshape(len(X), -1), Y.reshape(len(Y), -1)
    expected = np.full_like(y, np.nan)
    for column in range(y.shape[1]):
        rows = np.flatnonzero(~np.isnan(y[:, column]))
        centred = x[rows] - x[rows].mean(0)
        alpha = lam_scale * ((centred.T @ centred).max() + 1e-12)
        for row in rows:
            others = rows[rows != row]
            ridge = Ridge(alpha=alpha, solver="svd").fit(x[others], y[others, column])
            expected[row, column] = ridge.predict(x[[row]])[0]
    return expected.reshape(Y.shape)


def _affine(n, k, noise=0.1):
    """Inputs, and targets that depend on them but for noise."""
    X = _points(0, n, k)
    return X, 0.4 * X[:, :1] + noise * _points(1, n, 2) + [0.1, -0.2]


@pytest.mark.parametrize("lam_scale", [1e-4, 0.1, 100.0])
@pytest.mark.parametrize(("n", "k"), [(25, 4), (6, 10), (3, 1)])
def test_leave_one_out_is_that_of_refits(n, k, lam_scale, monkeypatch):
    X, Y = _affine(n, k)
    monkeypatch.setattr(regression, "PENALTIES", (lam_scale,))
    fitted = regression.fit_leave_one_out(X, Y)
    np.testing.assert_allclose(fitted.predicted, _refitted(X, Y, lam_scale), rtol=0, atol=1e-9)
    others = np.stack([np.delete(Y, row, 0).mean(0) for row in range(n)])
    np.testing.assert_allclose(fitted.mean_shape, others, rtol=0, atol=1e-12)
    np.testing.assert_allclose(fitted.map.matrix, regression.fit(X, Y, lam_scale).matrix, atol=1e-9)
    np.testing.assert_array_equal(fitted.map.y_origin, regression.fit(X, Y).y_origin)


@pytest.mark.parametrize(("n", "noise"), [(40, 0.3), (40, 0.01), (8, 0.3)])
def test_the_penalty_is_the_one_that_scikit_learn_chooses(n, noise):
    X, Y = _affine(n, 6, noise)
    x, y = X.reshape(n, -1), Y.reshape(n, -1)
    centred = x - x.mean(0)
    alphas = np.array(regression.PENALTIES[:-1]) * ((centred.T @ centred).max() + 1e-12)
    chosen = RidgeCV(alphas, store_cv_results=True).fit(x, y)
    fitted = regression.fit_leave_one_out(X, Y)
    assert fitted.penalty * alphas[-1] / 100 == pytest.approx(chosen.alpha_)
    errors = chosen.cv_results_[:, :, list(alphas).index(chosen.alpha_)]
    np.testing.assert_allclose((fitted.predicted - Y).reshape(n, -1) ** 2, errors, atol=1e-9)
    np.testing.assert_allclose(fitted.map.matrix, chosen.coef_, atol=1e-9)


def test_less_noise_needs_less_penalty_and_none_of_it_helps_noise():
    penalties = [regression.fit_leave_one_out(*_affine(40, 2, n)).penalty for n in (1e-4, 0.1, 0.5)]
    assert penalties[0] < penalties[1] < penalties[2]
    # Collapsed inputs: all penalties are equal, and the strongest is taken.
    Y = _points(1, 9, 2)
    fitted = regression.fit_leave_one_out(np.full((9, 3, 2), 0.3), Y)
    assert fitted.penalty == np.inf
    np.testing.assert_array_equal(fitted.predicted, fitted.mean_shape)
    np.testing.assert_allclose(fitted.map(_points(2, 4, 3)), [Y.mean(0)] * 4, atol=1e-15)


def test_missing_points_are_fitted_on_the_photos_that_have_them():
    X, Y = _affine(20, 3)
    whole = regression.fit_leave_one_out(X, Y)
    Y[[2, 5], 1] = Y[[5, 7], 0] = np.nan
    fitted = regression.fit_leave_one_out(X, Y)
    expected = _refitted(X, Y, fitted.penalty)
    np.testing.assert_allclose(fitted.predicted, expected, rtol=0, atol=1e-9)
    assert np.isnan(fitted.mean_shape).sum() == 8
    for point, rows in ((0, [5, 7]), (1, [2, 5])):
        there = np.delete(np.arange(20), rows)
        alone = regression.fit(X[there], Y[there, point : point + 1], fitted.penalty)
        new = _points(3, 5, 3)
        np.testing.assert_allclose(fitted.map(new)[:, [point]], alone(new), rtol=0, atol=1e-12)
    assert not np.allclose(fitted.map.matrix, whole.map.matrix)


def test_a_point_of_one_photo_cannot_be_left_out():
    X, Y = _affine(4, 3)
    Y[1:, 1] = np.nan
    with pytest.raises(ValueError, match="two photos with each point"):
        regression.fit_leave_one_out(X, Y)


def test_without_intercept_is_least_squares_in_pixels_from_the_corner():
    X, Y, new = _points(0, 100, 10), _points(1, 100, 5), _points(2, 3, 10)
    pixels = [(64 * (points + 1)).reshape(len(points), -1) for points in (X, Y, new)]
    solution = np.linalg.lstsq(pixels[0], pixels[1], rcond=None)[0]
    expected = (pixels[2] @ solution).reshape(3, 5, 2) / 64 - 1
    np.testing.assert_allclose(
        regression.fit_without_intercept(X, Y)(new), expected, rtol=0, atol=1e-10
    )


def test_fit_mean_ignores_its_input():
    X, Y = _points(0, 6, 10), _points(1, 6, 5)
    predicted = regression.fit_mean(X, Y)(_points(2, 4, 10))
    np.testing.assert_array_equal(predicted, np.broadcast_to(Y.mean(0), (4, 5, 2)))


def test_no_photo_maps_to_no_photo():
    linear = regression.fit(_points(0, 6, 10), _points(1, 6, 5))
    assert linear(np.zeros((0, 10, 2))).shape == (0, 5, 2)


@pytest.mark.parametrize(
    ("x_shape", "y_shape"),
    [((5, 10, 2), (6, 5, 2)), ((5, 10), (5, 5, 2)), ((5, 10, 3), (5, 5, 2)), ((0, 1, 2),) * 2],
)
def test_wrong_shapes_raise(x_shape, y_shape):
    with pytest.raises(ValueError, match=r"points must be|as many inputs"):
        regression.fit(np.zeros(x_shape), np.zeros(y_shape))


def test_subsets_mean_n_photos_without_replacement():
    drawn = regression.subsets(20, (10, 1, 5, 20, 1000), draws=12, seed=0)
    assert [rows.shape for rows in drawn] == [(12, 1), (12, 5), (12, 10), (1, 20)]
    for rows in drawn:
        assert all(len(set(draw)) == len(draw) for draw in rows.tolist())
        assert rows.min() >= 0
        assert rows.max() < 20
    np.testing.assert_array_equal(drawn[-1], [range(20)])
    assert len({tuple(draw) for draw in drawn[1].tolist()}) == 12


def test_subsets_depend_on_the_seed_and_the_count_alone():
    few = regression.subsets(20, (5,), draws=10, seed=0)[0]
    np.testing.assert_array_equal(few, regression.subsets(20, (2, 5, 7), draws=10, seed=0)[1])
    np.testing.assert_array_equal(few, regression.subsets(20, (5,), draws=12, seed=0)[0][:10])
    assert not np.array_equal(few, regression.subsets(20, (5,), draws=10, seed=1)[0])


def test_one_labelled_photo_is_all():
    np.testing.assert_array_equal(regression.subsets(1, (1, 2), draws=10, seed=0), [[[0]]])


def test_scores_by_count_by_hand():
    # Two labels fitted on, at (0, 0) and (2, 0); scored at (1, 0): the means of one are 1 off.
    target = regression.Split(np.array([[[0.0, 0]], [[2.0, 0]]]), np.array([[[1.0, 0]]]))
    drawn = [np.array([[0], [1]]), np.array([[0, 1]])]
    scores = regression.scores_by_count(regression.fit_mean, target, target, np.array([4.0]), drawn)
    assert scores == [
        {"n": 1, "draws": 2, "mean": 25.0, "std": 0.0, "per_point": [25.0]},
        {"n": 2, "draws": 1, "mean": 0.0, "std": None, "per_point": [0.0]},
    ]
