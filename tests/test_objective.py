"""The compositions against separate calls in the released order; the losses by hand."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from landmarks_jax import geometry, keypoints, losses, objective, views
from landmarks_jax.models.convolutions import depth_to_space
from landmarks_jax.models.hourglass import average_pool
from landmarks_jax.models.layers import BatchNorm, Conv

pytestmark = pytest.mark.usefixtures("module_x64")

separation_loss = jax.jit(losses.separation_loss)
equivariance_loss = jax.jit(losses.equivariance_loss)

BATCH, SIZE, K = 3, 16, 2
AUXILIARY = np.array([2, 0, 1])


class StubDetector(nn.Module):
    """A detector of one convolution; `bn_updates` as the real one's, None for no batch norm."""

    bn_updates: tuple[int, ...] | None = (0,)

    @nn.compact
    def __call__(self, images, *, use_running_average):
        x = Conv(K, dtype=jnp.float64)(average_pool(average_pool(images)))
        if self.bn_updates is None:
            self.variable("batch_stats", "calls", jnp.zeros, ())
            return x
        return BatchNorm(use_running_average, self.bn_updates, dtype=jnp.float64)(x)


class StubGenerator(nn.Module):
    """A generator of one convolution, in [0, 1]; `bn_updates` likewise."""

    bn_updates: tuple[int, ...] | None = (0,)

    @nn.compact
    def __call__(self, images, heatmaps, *, use_running_average):
        x = jnp.concatenate([average_pool(average_pool(images)), heatmaps], -1)
        x = Conv(48, dtype=jnp.float64)(x)
        if self.bn_updates is None:
            self.variable("batch_stats", "calls", jnp.zeros, ())
        else:
            x = BatchNorm(use_running_average, self.bn_updates, dtype=jnp.float64)(x)
        return 0.5 * (jnp.tanh(depth_to_space(depth_to_space(x))) + 1)


@pytest.fixture(scope="module")
def pair():
    return tuple(np.random.default_rng(0).uniform(0, 1, (2, BATCH, SIZE, SIZE, 3)))


@pytest.fixture(scope="module")
def variables(filled):
    images, maps = (BATCH, SIZE, SIZE, 3), (BATCH, SIZE // 4, SIZE // 4, K)
    fill = partial(filled, dtype=np.float64, use_running_average=True)
    drawn = {
        "detector": fill(StubDetector(), images),
        "generator": fill(StubGenerator(), images, maps),
    }
    return tuple({name: v[part] for name, v in drawn.items()} for part in ("params", "batch_stats"))


def stubs(composition, released=True):
    both = composition in ("cycle", "all")
    return objective.Networks(
        StubDetector((0, 0, 1) if released else (0,)),
        StubGenerator((0, 1) if released and both else (0,)),
        None,
    )


class Apart:
    """The method in separate calls, as its released code makes them."""

    def __init__(self, variables, config):
        self.params, stats = variables
        self.stats, self.config = dict(stats), config

    def _call(self, name, module, *inputs):
        given = {"params": self.params[name], "batch_stats": self.stats[name]}
        out, new = module.apply(given, *inputs, use_running_average=False, mutable=["batch_stats"])
        self.stats[name] = new["batch_stats"]
        return out

    def detect(self, images):
        scores = self._call("detector", StubDetector(), images)
        return keypoints.soft_argmax(scores, self.config.model.beta)

    def draw(self, images, landmarks):
        cells = (SIZE // 4, SIZE // 4)
        maps = keypoints.gaussian_maps(landmarks, cells, self.config.model.sigma)
        return self._call("generator", StubGenerator(), images, maps)


def apart(variables, pair, config):
    """Landmarks, intermediates, finals, targets and statistics, call by call."""
    calls, composition = Apart(variables, config), config.objective.composition
    x, other = pair
    auxiliary = calls.detect(x[AUXILIARY])
    u, v = calls.detect(x), calls.detect(other)
    sources, landmarks, targets = [x, other], [v, u], [other, x]
    if composition in ("baseline", "inter"):
        sources, landmarks, targets = [x], [v], [other]
    intermediates = []
    if composition in ("inter", "all"):
        sources = intermediates = [calls.draw(source, auxiliary) for source in sources]
    finals = [calls.draw(*inputs) for inputs in zip(sources, landmarks, strict=True)]
    return jnp.concatenate([u, v]), intermediates, finals, targets, calls.stats


@pytest.mark.parametrize("composition", objective.COMPOSITIONS)
def test_compositions_are_separate_calls(narrow_config, variables, pair, composition):
    config = narrow_config(objective__composition=composition, objective__bn_groups="released")
    run = partial(objective.reconstruct, stubs(composition), config=config)
    made, stats = jax.jit(run)(*variables, pair, AUXILIARY)
    landmarks, intermediates, finals, targets, expected = jax.jit(partial(apart, config=config))(
        variables, pair
    )
    np.testing.assert_allclose(made.landmarks, landmarks, atol=1e-12)
    np.testing.assert_allclose(made.final, np.concatenate(finals), atol=1e-12)
    np.testing.assert_array_equal(made.targets, np.concatenate(targets))
    if intermediates:
        np.testing.assert_allclose(made.intermediate, np.concatenate(intermediates), atol=1e-12)
    else:
        assert made.intermediate is None
    assert made.final.shape[0] == BATCH * (2 if composition in ("cycle", "all") else 1)
    jax.tree.map(partial(np.testing.assert_allclose, atol=1e-12), stats, expected)
    before = jax.tree.leaves(variables[1])
    assert all(np.any(a != b) for a, b in zip(jax.tree.leaves(stats), before, strict=True))


def test_joint_batch_norm_sees_both_views_at_once(narrow_config, variables, pair):
    config = narrow_config(objective__composition="cycle")
    run = partial(objective.reconstruct, stubs("cycle", released=False), config=config)
    _, stats = jax.jit(run)(*variables, pair, AUXILIARY)
    params, before = variables
    kernel = params["detector"]["Conv_0"]["kernel"]
    x = average_pool(average_pool(jnp.concatenate(pair)))
    y = np.asarray(Conv(K, dtype=jnp.float64).apply({"params": {"kernel": kernel}}, x))
    for name, value in (("mean", y.mean((0, 1, 2))), ("var", y.reshape(-1, K).var(0, ddof=1))):
        old = before["detector"]["BatchNorm_0"][name]
        actual = stats["detector"]["BatchNorm_0"][name]
        np.testing.assert_allclose(actual, 0.9 * old + 0.1 * value, atol=1e-12)


@pytest.mark.parametrize("composition", objective.COMPOSITIONS)
def test_gradients_reach_the_auxiliary_landmarks(narrow_config, variables, pair, composition):
    # Without batch norm photos meet in the auxiliary alone: does the first photo's reconstruction
    # from x depend on the x of its auxiliary, and does the gradient know?
    config = narrow_config(objective__composition=composition, model__sigma=1.0)
    networks = objective.Networks(StubDetector(None), StubGenerator(None), None)
    params = {name: {"Conv_0": variables[0][name]["Conv_0"]} for name in variables[0]}
    x, other = pair
    direction = np.zeros_like(x)
    direction[AUXILIARY[0]] = np.random.default_rng(1).normal(size=x.shape[1:])

    def loss(t):
        stats = {name: {"calls": jnp.zeros(())} for name in params}
        made, _ = objective.reconstruct(
            networks, params, stats, (x + t * direction, other), AUXILIARY, config=config
        )
        return losses.pixel_loss(made.final[:1], jnp.asarray(other[:1]), 1)

    both = jax.jit(lambda t: (jax.grad(loss)(t), (loss(t + 1e-4) - loss(t - 1e-4)) / 2e-4))
    gradient, difference = both(0.0)
    assert gradient == pytest.approx(float(difference), rel=1e-4, abs=1e-10)
    if composition in ("inter", "all"):
        assert abs(gradient) > 1e-6
    else:
        assert gradient == 0


def test_networks_follow_the_configuration(narrow_config):
    expected = {
        ("joint", "all"): ((0,), (0,)),
        ("released", "all"): ((0, 0, 1), (0, 1)),
        ("released", "cycle"): ((0, 0, 1), (0, 1)),
        ("released", "inter"): ((0, 0, 1), (0,)),
        ("released", "baseline"): ((0, 0, 1), (0,)),
    }
    for (groups, composition), updates in expected.items():
        config = narrow_config(
            objective__bn_groups=groups, objective__composition=composition, model__beta=7.0
        )
        networks = objective.build_networks(config)
        assert (networks.detector.bn_updates, networks.generator.bn_updates) == updates
        assert networks.vgg is None
    config.perceptual.weights, config.perceptual.taps = "vgg.npz", ("relu1_2",)
    networks = objective.build_networks(config)
    assert networks.vgg.taps == ("relu1_2",)
    assert networks.vgg.network == "vgg16"
    assert networks.detector.dtype == networks.generator.dtype == networks.vgg.dtype == jnp.float64
    assert (networks.detector.num_landmarks, networks.detector.channels) == (3, 8)
    assert (networks.generator.channels, networks.generator.num_blocks) == (2, 1)


def test_auxiliaries_are_permutations_without_fixed_points():
    for size in (2, 3, 4, 5, 16, 33):
        draw = jax.jit(jax.vmap(partial(objective.draw_auxiliary, batch_size=size)))
        drawn = np.asarray(draw(jax.random.split(jax.random.key(size), 5)))
        np.testing.assert_array_equal(np.sort(drawn, 1), np.tile(np.arange(size), (5, 1)))
        assert np.all(drawn != np.arange(size))
        if size > 4:
            assert len(np.unique(drawn, axis=0)) > 1


def test_every_other_photo_is_as_likely_an_auxiliary():
    keys = jax.random.split(jax.random.key(0), 3000)
    drawn = np.asarray(jax.jit(jax.vmap(lambda k: objective.draw_auxiliary(k, 4)))(keys))
    shares = np.stack([(drawn == row).mean(0) for row in range(4)])
    np.testing.assert_allclose(shares, (1 - np.eye(4)) / 3, atol=0.035)


def test_pixel_loss_by_hand():
    final = jnp.asarray([0.0, 0.5, 1.0, 0.25]).reshape(2, 1, 2, 1)
    targets = jnp.asarray([0.0, 1.0, 0.0, 0.75]).reshape(2, 1, 2, 1)
    # (0 + 0.25 + 1 + 0.25) / 4; each of two directions has a mean of its own, 0.125 and 0.625.
    assert losses.pixel_loss(final, targets, 1) == pytest.approx(0.375)
    assert losses.pixel_loss(final, targets, 2) == pytest.approx(0.125 + 0.625)


def test_gradient_loss_of_a_ramp():
    """A slope of a from pixel to pixel is 2a between 2 x 2 means and 4a between 4 x 4 means."""
    ramp = (
        0.01 * jnp.arange(12.0)[None, :, None, None] + 0.02 * jnp.arange(12.0)[None, None, :, None]
    )
    final = jnp.broadcast_to(ramp, (1, 12, 12, 3))
    targets = jnp.full((1, 12, 12, 3), 0.3)
    expected = (1 + 4 + 16) * (0.01**2 + 0.02**2)
    assert losses.gradient_loss(final, targets, 1) == pytest.approx(expected, rel=1e-5)
    assert losses.gradient_loss(final, targets, 2) == pytest.approx(2 * expected, rel=1e-5)
    # A change of brightness has no gradient.
    assert losses.gradient_loss(targets + 0.5, targets, 1) == pytest.approx(0, abs=1e-12)


def test_tap_losses_by_hand_and_targets_get_no_gradient():
    def features(images):
        return {"double": 2 * images, "square": (images**2).sum(-1, keepdims=True)}

    rng = np.random.default_rng(2)
    final, targets = rng.uniform(0, 1, (2, 4, 3, 3, 2))
    actual = losses.tap_losses(features, final, targets, 2)
    for tap in ("double", "square"):
        error = np.asarray(features(final)[tap] - features(targets)[tap]) ** 2
        assert actual[tap] == pytest.approx(error[:2].mean() + error[2:].mean())

    def total(final, targets):
        return sum(losses.tap_losses(features, final, targets, 2).values())

    to_final, to_targets = jax.jit(jax.grad(total, (0, 1)))(
        jnp.asarray(final), jnp.asarray(targets)
    )
    assert np.abs(to_targets).max() == 0
    by_square = 4 * 2 * ((final**2).sum(-1) - (targets**2).sum(-1))[..., None] * final / 36
    by_double = 2 * 8 * (final - targets) / 72
    np.testing.assert_allclose(to_final, by_double + by_square, atol=1e-12)


def test_reduced_features_are_compared_in_float32():
    def features(images):
        return {"tap": images.astype(jnp.bfloat16)}

    actual = losses.tap_losses(features, jnp.ones((1, 2, 2, 3)), jnp.zeros((1, 2, 2, 3)), 1)
    assert actual["tap"].dtype == jnp.float32


def to_canvas(angles, scales, shifts):
    return geometry.similarity(np.array(angles), np.array(scales), np.array(shifts))


def test_equivariance_is_zero_for_carried_points():
    first = to_canvas([0.3, -0.2], [0.8, 0.7], [[0.05, 0.1], [0.0, -0.1]])
    second = to_canvas([-0.1, 0.4], [0.9, 0.8], [[-0.1, 0.0], [0.1, 0.05]])
    points = np.random.default_rng(3).uniform(-0.5, 0.5, (2, 6, 2))
    canvas = points @ first[..., :2].swapaxes(-1, -2) + first[:, None, :, 2]
    there = np.linalg.solve(second[:, None, :, :2], (canvas - second[:, None, :, 2])[..., None])
    carried = there[..., 0]
    assert np.abs(carried).max() < 1
    assert np.abs(carried - points).max() > 0.1
    loss = equivariance_loss
    assert loss((points, carried), (first, second)) == pytest.approx(0, abs=1e-25)
    assert loss((carried, points), (second, first)) == pytest.approx(0, abs=1e-25)
    assert loss((points, points), (first, second)) > 1e-3


def test_equivariance_of_a_bent_view():
    first = to_canvas([0.3], [0.8], [[0.05, 0.1]])
    second = to_canvas([-0.1], [0.9], [[-0.1, 0.0]])
    rng = np.random.default_rng(4)
    bumps, there = rng.normal(0, 0.06, (1, 25, 2)), rng.uniform(-0.6, 0.6, (1, 6, 2))
    canvas = geometry.apply(second, np.asarray(views.bend(jnp.asarray(there), bumps)))
    here = geometry.apply(geometry.invert(first), canvas)
    assert np.abs(here).max() < 1
    maps = (first, second)
    assert equivariance_loss((here, there), maps, bumps) == pytest.approx(0, abs=1e-25)
    assert equivariance_loss((here, there), maps) > 1e-4
    off = here + np.array([0.3, -0.4])
    assert equivariance_loss((off, there), maps, bumps) == pytest.approx(0.25)


def test_equivariance_by_hand_leaves_out_points_that_left_the_view():
    # The second view shows the canvas 0.5 to the right: points of the first lie 0.5 to the left.
    first, second = to_canvas([0.0], [1.0], [[0.0, 0.0]]), to_canvas([0.0], [1.0], [[0.5, 0.0]])
    u = jnp.asarray([[[0.2, 0.1], [0.6, -0.4], [-0.7, 0.0]]])
    v = jnp.asarray([[[-0.3, 0.4], [0.0, -0.4], [9.0, 9.0]]])

    def loss(u, v):
        return equivariance_loss((u, v), (first, second))

    # Carried: (-0.3, 0.1), (0.1, -0.4) and (-1.2, 0), which counts nothing.
    assert loss(u, v) == pytest.approx((0.3**2 + 0.1**2) / 2)
    to_u, to_v = jax.jit(jax.grad(loss, (0, 1)))(u, v)
    expected = np.array([[[0.0, -0.3], [0.1, 0.0], [0.0, 0.0]]])
    np.testing.assert_allclose(to_u, expected, atol=1e-12)
    np.testing.assert_allclose(to_v, -expected, atol=1e-12)


def test_equivariance_of_views_that_share_nothing():
    first, second = to_canvas([0.0], [0.1], [[-0.9, 0.0]]), to_canvas([0.0], [0.1], [[0.9, 0.0]])
    points = jnp.zeros((1, 3, 2))

    def loss(u):
        return equivariance_loss((u, points), (first, second))

    value, gradient = jax.jit(jax.value_and_grad(loss))(points)
    assert value == 0
    np.testing.assert_array_equal(gradient, 0)


def test_separation_of_two_points():
    points = jnp.asarray([[[0.0, 0.0], [0.3, 0.4]], [[0.1, 0.1], [0.1, 0.1]]])
    expected = (np.exp(-(0.5**2) / (2 * 0.2**2)) + 1) / 2
    assert separation_loss(points, 0.2) == pytest.approx(expected)
    away = -jax.jit(jax.grad(separation_loss))(points, 0.2)[0]
    assert away[0] @ jnp.array([0.3, 0.4]) < 0
    assert away[1] @ jnp.array([0.3, 0.4]) > 0


def test_separation_of_many_points_is_the_mean_over_pairs():
    points = np.random.default_rng(4).uniform(-1, 1, (3, 5, 2))
    pairs = [
        np.exp(-((one[i] - one[j]) ** 2).sum() / (2 * 0.4**2))
        for one in points
        for i in range(5)
        for j in range(5)
        if i != j
    ]
    assert separation_loss(jnp.asarray(points), 0.4) == pytest.approx(np.mean(pairs))


def test_separation_of_one_point_is_nothing():
    assert separation_loss(jnp.ones((4, 1, 2)), 0.2) == 0
