"""Refinement against NumPy, SciPy and scikit-learn, its invariances, and a planted pattern."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage
import scipy.stats
from sklearn.decomposition import PCA
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

from landmarks_jax import refinement
from tests import matrix_products

SHAPE = (6, 9)  # of feature maps; not square, so that exchanged axes show


def random_maps(seed, n=3, shape=SHAPE, size=5):
    return np.random.default_rng(seed).normal(size=(n, *shape, size)).astype(np.float32)


def random_points(seed, n=3, num=4, limit=0.9):
    return np.random.default_rng(seed).uniform(-limit, limit, (n, num, 2)).astype(np.float32)


def stage_of(weights, bias=0.0, typical=1.0, spread=0.2, temperature=1.0):
    weights = np.asarray(weights, np.float32)
    num = weights.shape[1]
    parts = weights, np.full(num, bias), np.full(num, typical), spread, temperature
    return refinement.Stage(*(jnp.asarray(part, jnp.float32) for part in parts))


def stacked(*stages):
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *stages)


def center_of(cell, shape=SHAPE):
    """The place `(x, y)` of the centre of cell `(row, column)`."""
    row, column = cell
    return [(2 * column + 1) / shape[1] - 1, (2 * row + 1) / shape[0] - 1]


def test_unit_divides_by_the_length():
    x = np.random.default_rng(0).normal(size=(3, 4, 7)).astype(np.float32)
    expected = x / np.linalg.norm(x, axis=-1, keepdims=True)
    np.testing.assert_allclose(refinement.unit(x), expected, atol=1e-6)
    half = refinement.unit(jnp.asarray([[3.0, 4.0], [0.0, 0.0]], jnp.float16))
    assert half.dtype == np.float32
    np.testing.assert_allclose(half, [[0.6, 0.8], [0, 0]], atol=1e-6)
    gradient = jax.grad(lambda x: refinement.unit(x).sum())(jnp.zeros((2, 3)))
    assert np.isfinite(gradient).all()


def test_moments_are_numpys_mean_and_covariance():
    cells = random_maps(1, n=7) * [1, 2, 3, 0.1, 0.5] + np.arange(5, dtype=np.float32)
    parts = [refinement.moments(cells[rows]) for rows in (slice(0, 3), slice(3, 4), slice(4, 7))]
    sums = refinement.add_moments(iter(parts))
    assert sums.number == 7 * 6 * 9
    mean, covariance = sums.mean_and_covariance()
    flat = cells.reshape(-1, 5).astype(np.float64)
    np.testing.assert_allclose(mean, flat.mean(0), atol=1e-5)
    np.testing.assert_allclose(covariance, np.cov(flat.T, ddof=0), atol=1e-4)


def test_products_keep_full_precision_on_a_gpu():
    maps, points = random_maps(0), random_points(0)
    tap = refinement.Projection(np.zeros(5, np.float32), np.eye(5, dtype=np.float32))
    for function, arguments in (
        (refinement.moments, (maps,)),
        (refinement.project, ({"a": maps}, {"a": tap})),
        (refinement.discriminants, (maps[0, 0], refinement.moments(maps), 0.2, 1.0)),
        (refinement.refine, (maps, points, stacked(stage_of(np.ones((5, 4)))))),
    ):
        text = jax.jit(function).lower(*arguments).as_text()
        assert "stablehlo.dot_general" in text
        assert matrix_products.rounded(text) == []


def test_moments_of_several_taps_add_by_name():
    parts = [{"a": refinement.moments(random_maps(i)), "b": i} for i in range(3)]
    sums = refinement.add_moments(parts)
    assert sums["b"] == 3
    np.testing.assert_allclose(sums["a"].total, sum(part["a"].total for part in parts), atol=1e-5)


@pytest.mark.parametrize(("size", "kept"), [(3, 3), (5, 5), (128, 5)])
def test_projection_is_scikit_learns_pca_up_to_sign(size, kept):
    cells = random_maps(2, n=20) * np.array([1, 3, 0.2, 2, 0.6], np.float32) + np.float32(0.5)
    flat = cells.reshape(-1, 5)
    mean, components = refinement.projection(refinement.moments(cells), size)
    pca = PCA(kept).fit(flat)
    assert components.shape == (5, kept)
    np.testing.assert_allclose(mean, pca.mean_, atol=1e-5)
    cosines = np.abs((np.asarray(components).T * pca.components_).sum(1))
    np.testing.assert_allclose(cosines, 1, atol=1e-4)
    np.testing.assert_allclose(components.T @ components, np.eye(kept), atol=1e-5)


def test_project_resizes_to_the_largest_tap_and_concatenates():
    rng = np.random.default_rng(3)
    taps = {"small": random_maps(4, shape=(4, 6), size=5), "large": random_maps(5, shape=(8, 12))}
    projections = {
        tap: refinement.Projection(
            rng.normal(size=5).astype(np.float32), rng.normal(size=(5, size)).astype(np.float32)
        )
        for tap, size in (("small", 2), ("large", 3))
    }
    actual = jax.jit(refinement.project)(taps, projections)
    assert actual.shape == (3, 8, 12, 5)
    parts = {}
    for tap, maps in taps.items():
        unit = maps / np.linalg.norm(maps, axis=-1, keepdims=True)
        parts[tap] = (unit - projections[tap].mean) @ projections[tap].components
    # Bilinear about half-pixel centres: the place of cell i of 12 is (2 i + 1) / 12 - 1.
    centers = [(2 * np.arange(n) + 1) / n - 1 for n in (12, 8)]
    grid = np.stack(np.meshgrid(*centers), -1).reshape(1, -1, 2).repeat(3, 0)
    parts["small"] = by_scipy(parts["small"], grid).reshape(3, 8, 12, 2)
    # Under `jit` dictionaries come sorted by key.
    expected = np.concatenate([parts["large"], parts["small"]], -1)
    np.testing.assert_allclose(actual, expected, atol=1e-5)


def by_scipy(maps, points):
    """Bilinear samples `[B, N, D]` of maps at normalised points, in float64."""
    height, width = maps.shape[1:3]
    x = ((points[..., 0].astype(float) + 1) * width - 1) / 2
    y = ((points[..., 1].astype(float) + 1) * height - 1) / 2
    return np.stack(
        [
            np.stack(
                [
                    scipy.ndimage.map_coordinates(
                        channel.astype(float), [rows, columns], order=1, mode="nearest"
                    )
                    for channel in one.transpose(2, 0, 1)
                ],
                -1,
            )
            for one, rows, columns in zip(maps, y, x, strict=True)
        ]
    )


@pytest.mark.parametrize("shape", [SHAPE, (1, 5), (4, 1), (1, 1)])
def test_sample_is_scipys_bilinear_interpolation(shape):
    maps = random_maps(6, shape=shape)
    # Inside, on the edges, beyond, at the first and last centres.
    edges = [[-1, -1], [1, 1], [-1.7, 0.3], [0.2, 1.4], [3, -3], center_of((0, 0), shape)]
    edges = np.array([*edges, center_of((shape[0] - 1, shape[1] - 1), shape)], np.float32)
    points = np.concatenate([random_points(7, num=20), np.broadcast_to(edges, (3, 7, 2))], 1)
    actual = jax.jit(refinement.sample)(maps, points)
    assert actual.dtype == np.float32
    np.testing.assert_allclose(actual, by_scipy(maps, points), atol=1e-5)
    half = maps.astype(np.float16)
    np.testing.assert_allclose(refinement.sample(half, points), by_scipy(half, points), atol=1e-5)


def test_sample_at_a_centre_is_the_cell():
    maps = random_maps(8)
    points = np.broadcast_to(np.array([center_of((2, 5))], np.float32), (3, 1, 2))
    np.testing.assert_allclose(refinement.sample(maps, points)[:, 0], maps[:, 2, 5], atol=1e-5)


@pytest.fixture(name="cells")
def make_cells():
    """Cells `[N, D]` of two kinds, the first 50 of the second."""
    rng = np.random.default_rng(9)
    mixing = rng.normal(size=(6, 6))
    cells = rng.normal(size=(900, 6)) @ mixing
    cells[:50] += 3 * rng.normal(size=6)
    return cells.astype(np.float32)


def test_discriminants_are_scikit_learns(cells):
    sums = refinement.moments(cells)
    own = cells[:50].mean(0)
    stage = refinement.discriminants(jnp.asarray(own[None]), sums, 0.15, 0.1)
    lda = LinearDiscriminantAnalysis(solver="lsqr").fit(cells, np.arange(900) < 50)
    direction, actual = lda.coef_[0], np.asarray(stage.weights)[:, 0]
    cosine = direction @ actual / np.linalg.norm(direction) / np.linalg.norm(actual)
    assert cosine == pytest.approx(1, abs=1e-5)
    assert (stage.spread, stage.temperature) == (np.float32(0.15), np.float32(0.1))


def test_discriminants_in_closed_form(cells):
    descriptors = cells[[3, 77, 500]]
    stage = refinement.discriminants(jnp.asarray(descriptors), refinement.moments(cells), 1, 1)
    mean, covariance = cells.mean(0, dtype=float), np.cov(cells.T.astype(float), ddof=0)
    offsets = descriptors - mean
    weights = np.linalg.solve(covariance, offsets.T)
    typical = (offsets * weights.T).sum(1) / 2
    np.testing.assert_allclose(stage.weights, weights, rtol=2e-3, atol=1e-4)
    np.testing.assert_allclose(stage.typical, typical, rtol=1e-3)
    # The mean cell is as far below 0 as a point's own descriptor is above.
    scores = np.vstack([mean, descriptors]) @ np.asarray(stage.weights) + stage.bias
    np.testing.assert_allclose(scores[0], -typical, rtol=1e-3)
    np.testing.assert_allclose(np.diag(scores[1:]), typical, rtol=1e-3)


def test_discriminants_do_not_depend_on_the_axes_of_the_features(cells):
    rng = np.random.default_rng(10)
    mixing = np.eye(6) + 0.3 * rng.normal(size=(6, 6))
    moved = (cells @ mixing + 1).astype(np.float32)
    scores = []
    for features in (cells, moved):
        sums = refinement.moments(features)
        stage = refinement.discriminants(jnp.asarray(features[:2]), sums, 1, 1)
        scores.append(features @ np.asarray(stage.weights) + stage.bias)
    np.testing.assert_allclose(scores[1], scores[0], atol=2e-2)
    assert np.abs(scores[0]).max() > 5


def moved_by_hand(maps, points, stage):
    """One iteration, cell by cell in float64."""
    height, width = maps.shape[1:3]
    out = np.empty(points.shape)
    for b, k in np.ndindex(points.shape[:2]):
        total, mean = 0.0, np.zeros(2)
        for cell in np.ndindex(height, width):
            place = np.array(center_of(cell, (height, width)))
            score = maps[b][cell].astype(float) @ np.asarray(stage.weights, float)[:, k]
            distance = ((place - points[b, k]) ** 2).sum()
            score = float(stage.temperature) * (score + float(stage.bias[k]))
            weight = np.exp(score - distance / (2 * float(stage.spread) ** 2))
            total, mean = total + weight, mean + weight * place
        out[b, k] = mean / total
    return out


def test_move_by_hand():
    maps, points = random_maps(11), random_points(12)
    weights = np.random.default_rng(13).normal(size=(5, 4))
    stage = stage_of(weights, bias=0.3, spread=0.3, temperature=0.7)
    actual = jax.jit(refinement.move)(maps, points, stage)
    np.testing.assert_allclose(actual, moved_by_hand(maps, points, stage), atol=1e-5)
    half = jax.jit(refinement.move)(maps.astype(np.float16), points, stage)
    np.testing.assert_allclose(half, actual, atol=3e-3)


def test_without_temperature_a_point_stays_but_for_the_border():
    maps = random_maps(14, n=2, shape=(32, 40))
    points = random_points(15, n=2, num=6, limit=0.3)
    stage = stage_of(np.ones((5, 6)), spread=0.12, temperature=0.0)
    np.testing.assert_allclose(refinement.move(maps, points, stage), points, atol=1e-5)
    # On the border the prior is half a normal distribution, whose mean is s sqrt(2 / pi) inside.
    corner = np.broadcast_to(np.array([1, -1], np.float32), (2, 6, 2))
    inside = 1 - 0.12 * np.sqrt(2 / np.pi)
    moved = refinement.move(maps, corner, stage)
    expected = np.broadcast_to([inside, -inside], (2, 6, 2))
    np.testing.assert_allclose(moved, expected, atol=2e-3)


def test_a_point_goes_to_a_single_strong_cell_within_reach():
    maps = np.zeros((2, *SHAPE, 2), np.float32)
    maps[0, 1, 7, 0] = maps[1, 4, 2, 0] = 1
    points = np.zeros((2, 1, 2), np.float32)
    stage = stage_of([[1.0], [0.0]], spread=10.0, temperature=60.0)
    expected = [[center_of((1, 7))], [center_of((4, 2))]]
    np.testing.assert_allclose(refinement.move(maps, points, stage), expected, atol=1e-5)
    near = stage_of([[1.0], [0.0]], spread=0.05, temperature=60.0)  # 13 spreads away
    np.testing.assert_allclose(refinement.move(maps, points, near), 0, atol=0.2)


def test_refine_is_move_repeated():
    maps, points = random_maps(16), random_points(17)
    rng = np.random.default_rng(18)
    stages = [
        stage_of(rng.normal(size=(5, 4)), b, spread=s, temperature=t)
        for b, s, t in ((0.1, 0.4, 0.5), (-0.2, 0.3, 1.0), (0.0, 0.2, 2.0))
    ]
    expected = points
    for stage in stages:
        expected = np.asarray(refinement.move(maps, expected, stage))
    actual, confidence = refinement.refine(maps, points, stacked(*stages))
    np.testing.assert_allclose(actual, expected, atol=1e-5)
    at = by_scipy(maps, np.asarray(actual))
    scores = (at * np.asarray(stages[-1].weights).T).sum(-1)  # its bias is 0, `typical` 1
    np.testing.assert_allclose(confidence, scores, atol=1e-4)


def test_confidence_is_1_at_a_cell_that_equals_the_descriptor(cells):
    maps = cells.reshape(10, 9, 10, 6)
    chosen = [(0, 4, 5), (3, 2, 7)]
    descriptors = jnp.stack([maps[at] for at in chosen])
    # A spread of a hundredth of a cell holds the points where they start.
    stage = refinement.discriminants(descriptors, refinement.moments(cells), 2e-3, 1.0)
    points = np.zeros((10, 2, 2), np.float32)
    points[:] = [center_of(at[1:], (9, 10)) for at in chosen]
    refined, confidence = refinement.refine(maps, points, stacked(stage))
    np.testing.assert_allclose(refined, points, atol=1e-5)
    np.testing.assert_allclose([confidence[0, 0], confidence[3, 1]], 1, atol=1e-3)
    # Elsewhere it is the score's share of the descriptor's own.
    scores = cells @ np.asarray(stage.weights) + stage.bias
    at_points = scores.reshape(10, 9, 10, 2)[:, 4, 5, 0] / stage.typical[0]
    np.testing.assert_allclose(confidence[:, 0], at_points, atol=1e-3)


SIDE = 16


def planted(seed, n=40, displaced=0.3):
    """Noise with one cell of a special vector each: maps, its places and starts around them."""
    rng = np.random.default_rng(seed)
    maps = rng.normal(0, 0.3, (n, SIDE, SIDE, 8)).astype(np.float32)
    special = rng.normal(size=8)
    rows, columns = rng.integers(4, SIDE - 4, (2, n))
    maps[np.arange(n), rows, columns] = 3 * special / np.linalg.norm(special)
    places = np.array([center_of(at, (SIDE, SIDE)) for at in zip(rows, columns, strict=True)])
    starts = places + rng.uniform(-displaced, displaced, places.shape)
    return maps, places[:, None].astype(np.float32), starts[:, None].astype(np.float32)


SCHEDULE = ((0.2, 0.5),) * 8


@pytest.fixture(scope="module", name="pattern")
def make_pattern():
    maps, places, starts = planted(19)
    return maps, places, starts, refinement.fit(maps, starts, SCHEDULE)


def test_fit_finds_a_planted_pattern_in_all_photos(pattern):
    maps, places, starts, stages = pattern
    assert np.abs(starts - places).max() > 2 / SIDE  # more than a cell away
    assert [leaf.shape for leaf in stages] == [(8, 8, 1), (8, 1), (8, 1), (8,), (8,)]
    np.testing.assert_allclose(stages.spread, 0.2)
    refined, confidence = refinement.refine(maps, starts, stages)
    np.testing.assert_allclose(refined, places, atol=1e-4)
    np.testing.assert_allclose(confidence, 1, atol=1e-3)
    # Where the pattern is missing nothing is believed.
    blank = np.random.default_rng(20).normal(0, 0.3, maps.shape).astype(np.float32)
    assert refinement.refine(blank, starts, stages)[1].max() < 0.1


def test_the_first_stage_is_of_the_features_at_the_start(pattern):
    maps, _, starts, stages = pattern
    descriptor = by_scipy(maps, starts).mean(0).astype(np.float32)
    expected = refinement.discriminants(
        jnp.asarray(descriptor), refinement.moments(maps), *SCHEDULE[0]
    )
    np.testing.assert_allclose(stages.weights[0], expected.weights, rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(stages.bias[0], expected.bias, rtol=1e-3, atol=1e-3)


def test_batches_make_no_difference(pattern, monkeypatch):
    maps, _, starts, stages = pattern
    monkeypatch.setattr(refinement, "_FIT_BATCH", 15)  # two whole ones and a rest
    for leaf, expected in zip(refinement.fit(maps, starts, SCHEDULE), stages, strict=True):
        np.testing.assert_allclose(leaf, expected, rtol=1e-3, atol=1e-3)


def test_maps_in_16_bits_find_the_same(pattern):
    maps, places, starts, _ = pattern
    half = maps.astype(np.float16)
    refined, confidence = refinement.refine(half, starts, refinement.fit(half, starts, SCHEDULE))
    np.testing.assert_allclose(refined, places, atol=1e-4)
    np.testing.assert_allclose(confidence, 1, atol=1e-2)


def test_points_move_with_their_photos(pattern):
    maps, _, starts, stages = pattern
    refined, confidence = refinement.refine(maps, starts, stages)
    by = 2  # cells to the right, and up
    shifted = np.roll(maps, (-by, by), (1, 2))
    step = np.array([2 * by / SIDE, -2 * by / SIDE], np.float32)
    again = refinement.fit(shifted, starts + step, SCHEDULE)
    there, believed = refinement.refine(shifted, starts + step, again)
    np.testing.assert_allclose(there, refined + step, atol=1e-4)
    np.testing.assert_allclose(believed, confidence, atol=1e-3)


def test_points_do_not_depend_on_each_other_or_on_their_order(pattern):
    maps, places, starts, _ = pattern
    both = np.concatenate([np.zeros_like(starts), starts], 1)
    stages = refinement.fit(maps, both, SCHEDULE)
    refined = refinement.refine(maps, both, stages)[0]
    np.testing.assert_allclose(refined[:, 1:], places, atol=1e-4)
    order = np.random.default_rng(21).permutation(len(maps))
    other = refinement.fit(maps[order], both[order], SCHEDULE)
    np.testing.assert_allclose(
        refinement.refine(maps, both, other)[0], refined, rtol=1e-3, atol=2e-3
    )


@pytest.mark.parametrize("value", [0.0, 0.37, 1.7, -20.0])
@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_constant_maps_give_finite_numbers(value, dtype):
    maps = np.full((5, *SHAPE, 4), value, dtype)
    points = random_points(22, n=5, limit=0.5)
    stages = refinement.fit(maps, points, SCHEDULE[:3])
    refined, confidence = refinement.refine(maps, points, stages)
    for leaf in (*stages, refined, confidence):
        assert np.isfinite(leaf).all()
    assert np.abs(refined).max() < 1
