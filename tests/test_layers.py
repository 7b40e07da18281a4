"""Convolutions and batch norm against sums in NumPy, lax's plain forms and Flax's batch norm."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from landmarks_jax.models import convolutions, layers
from tests import plain


def correlate(x, kernel, padding, stride):
    """The convolution of networks as one sum over windows, in NumPy."""
    k = kernel.shape[0]
    x = np.pad(x, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(x, (k, k), (1, 2))
    return np.einsum("bhwirc,rcio->bhwo", windows[:, ::stride, ::stride], kernel)


def scatter(x, kernel):
    """The transposed convolution by its definition: every input adds its kernel to the output."""
    b, h, w, _ = x.shape
    out = np.zeros((b, 2 * h + 2, 2 * w + 2, kernel.shape[3]))
    for m in range(h):
        for n in range(w):
            patch = np.einsum("bi,rcio->brco", x[:, m, n], kernel)
            out[:, 2 * m : 2 * m + 4, 2 * n : 2 * n + 4] += patch
    return out[:, 1:-1, 1:-1]


def normal(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize(
    ("size", "stride", "padding"),
    [(3, 1, 1), (1, 1, 0), (7, 1, 3), (7, 2, 3), (4, 2, 1)],
)
def test_conv_is_the_sum_over_windows(size, stride, padding):
    x = normal(0, 2, 12, 8, 3)
    conv = layers.Conv(5, size=size, stride=stride, padding=padding, use_bias=True)
    y, variables = jax.jit(conv.init_with_output)(jax.random.key(0), x)
    kernel, bias = variables["params"]["kernel"], variables["params"]["bias"]
    expected = correlate(x, np.asarray(kernel), padding, stride) + np.asarray(bias)
    assert y.shape == (2, 12 // stride, 8 // stride, 5)
    np.testing.assert_allclose(y, expected, atol=1e-5)


# Each rewritten layer, its plain form, and shapes of its input and kernel.
REWRITTEN = {
    "7x7": (convolutions.convolve_7x7, lambda x, k: plain.conv(x, {"kernel": k}, 1, 3), 7),
    "4x4 stride 2": (
        convolutions.convolve_4x4_stride_2,
        lambda x, k: plain.conv(x, {"kernel": k}, 2),
        4,
    ),
    "4x4 stride 2 off the CPU": (
        convolutions.strided_4x4,
        lambda x, k: plain.conv(x, {"kernel": k}, 2),
        4,
    ),
    "transposed": (
        convolutions.convolve_transposed,
        lambda x, k: plain.conv_transposed(x, {"kernel": k}),
        4,
    ),
    "transposed off the CPU": (
        convolutions.strided_transposed,
        lambda x, k: plain.conv_transposed(x, {"kernel": k}),
        4,
    ),
    "3x3": (
        lambda x, k: convolutions.convolve(x, k, 1),
        lambda x, k: plain.conv(x, {"kernel": k}),
        3,
    ),
}


def with_gradients(function, x, kernel):
    """The output and both gradients of a layer, against a cotangent that no symmetry hides in."""

    def run(x, kernel):
        y, back = jax.vjp(function, x, kernel)
        return y, *back(jnp.cos(jnp.arange(y.size, dtype=y.dtype)).reshape(y.shape))

    return jax.jit(run)(x, kernel)


def relative(found, wanted):
    return np.linalg.norm(found - wanted) / np.linalg.norm(wanted)


@pytest.mark.parametrize("name", REWRITTEN)
def test_rewritten_convolutions_and_their_gradients_are_the_plain_ones(name):
    layer, expected, size = REWRITTEN[name]
    x, kernel = normal(1, 2, 8, 12, 3), normal(2, size, size, 3, 5)
    # Rounding of sums in another order, in float32.
    for actual, true in zip(
        with_gradients(layer, x, kernel), with_gradients(expected, x, kernel), strict=True
    ):
        assert actual.shape == true.shape
        assert relative(actual, true) < 1e-5
    with jax.enable_x64(True):
        x, kernel = x.astype(np.float64), kernel.astype(np.float64)
        for actual, true in zip(
            with_gradients(layer, x, kernel), with_gradients(expected, x, kernel), strict=True
        ):
            assert relative(actual, true) < 1e-13


@pytest.mark.parametrize("sums", [layers.sums_in_one_pass, layers.sums_in_two_steps])
@pytest.mark.parametrize("groups", [1, 2])
def test_channel_sums_are_numpys(sums, groups):
    x = normal(10, groups, 2, 3, 4, 5)
    first, second = jax.jit(sums)(x, x**2)
    wanted = x.astype(np.float64)
    np.testing.assert_allclose(first, wanted.sum((1, 2, 3), keepdims=True), atol=1e-5)
    np.testing.assert_allclose(second, (wanted**2).sum((1, 2, 3), keepdims=True), rtol=1e-6)


@pytest.mark.parametrize("groups", [1, 2])
def test_the_gradient_of_normalize_is_autodiffs(groups):
    x = normal(12, groups, 2, 3, 4, 5) + np.arange(5, dtype=np.float32)
    scale, bias, dy = normal(13, 5), normal(14, 5), normal(15, *x.shape)

    def ours(x, scale, bias):
        return layers.normalize(x, scale, bias, 1e-5).y

    def wanted(x, scale, bias):
        each = {"scale": scale, "bias": bias}
        return jnp.stack([plain.norm(group, each) for group in x])

    def gradients(function, *inputs):
        return jax.jit(lambda *a: (function(*a), *jax.vjp(function, *a)[1](dy)))(*inputs)

    for actual, true in zip(
        gradients(ours, x, scale, bias), gradients(wanted, x, scale, bias), strict=True
    ):
        assert relative(actual, true) < 1e-5
    with jax.enable_x64(True):
        x, scale, bias, dy = (a.astype(np.float64) for a in (x, scale, bias, dy))
        for actual, true in zip(
            gradients(ours, x, scale, bias), gradients(wanted, x, scale, bias), strict=True
        ):
            assert relative(actual, true) < 1e-13


def test_channels_that_never_vary_have_finite_gradients():
    x = np.full((1, 2, 3, 3, 2), 0.5, np.float32)
    _, back = jax.vjp(lambda x: layers.normalize(x, jnp.ones(2), jnp.zeros(2), 1e-5).y, x)
    (dx,) = back(normal(16, *x.shape))
    assert np.all(np.isfinite(dx))


def test_statistics_of_normalize_give_no_gradient():
    x = normal(17, 1, 2, 3, 3, 2)
    mean = lambda x: layers.normalize(x, jnp.ones(2), jnp.zeros(2), 1e-5).mean.sum()  # noqa: E731
    np.testing.assert_array_equal(jax.grad(mean)(x), 0)


def test_bias_and_its_gradient():
    x, bias, dy = normal(18, 2, 3, 4, 5), normal(19, 5), normal(20, 2, 3, 4, 5)
    y, back = jax.vjp(layers.add_bias, x, bias)
    np.testing.assert_allclose(y, x + bias)
    dx, d_bias = back(dy)
    np.testing.assert_array_equal(dx, dy)
    np.testing.assert_allclose(d_bias, dy.astype(np.float64).sum((0, 1, 2)), rtol=1e-5)


def test_channels_filled_with_zeros_change_nothing():
    x = normal(21, 2, 4, 6, 5)
    filled = np.pad(x, [(0, 0)] * 3 + [(0, 3)])
    plain_conv, wide = (
        layers.Conv(6, use_bias=True),
        layers.Conv(6, use_bias=True, inputs=5, channel_multiple=4),
    )
    variables = plain_conv.init(jax.random.key(3), x)
    expected, actual = plain_conv.apply(variables, x), wide.apply(variables, filled)
    assert jax.tree.map(jnp.shape, wide.init(jax.random.key(3), filled)) == jax.tree.map(
        jnp.shape, variables
    )
    np.testing.assert_allclose(actual[..., :6], expected, atol=1e-6)
    np.testing.assert_array_equal(actual[..., 6:], 0)
    up, wide_up = layers.ConvTranspose(3), layers.ConvTranspose(3, inputs=5, channel_multiple=8)
    variables = up.init(jax.random.key(4), x)
    actual = wide_up.apply(variables, filled)
    np.testing.assert_allclose(actual[..., :3], up.apply(variables, x), atol=1e-6)
    np.testing.assert_array_equal(actual[..., 3:], 0)
    for running in (False, True):
        variables = start(5)
        norm, wide_norm = layers.BatchNorm(running), layers.BatchNorm(running, inputs=5)
        expected, stats = norm.apply(variables, x, mutable=["batch_stats"])
        actual, wide_stats = wide_norm.apply(variables, filled, mutable=["batch_stats"])
        np.testing.assert_allclose(actual[..., :5], expected, atol=1e-6)
        np.testing.assert_array_equal(actual[..., 5:], 0)
        jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-6), wide_stats, stats)


def test_transposed_convolution_by_its_definition():
    x, kernel = normal(4, 2, 5, 3, 4), normal(5, 4, 4, 4, 3)
    actual = jax.jit(convolutions.convolve_transposed)(x, kernel)
    assert actual.shape == (2, 10, 6, 3)
    np.testing.assert_allclose(actual, scatter(x, kernel), atol=1e-5)


def test_space_to_depth_and_back():
    x = normal(9, 2, 6, 4, 3)
    folded = np.asarray(convolutions.space_to_depth(jnp.asarray(x)))
    assert folded.shape == (2, 3, 2, 12)
    for row in range(2):
        for column in range(2):
            at = 3 * (2 * row + column)
            np.testing.assert_array_equal(folded[..., at : at + 3], x[:, row::2, column::2])
    np.testing.assert_array_equal(convolutions.depth_to_space(jnp.asarray(folded)), x)


def assert_uniform(values, bound):
    values = np.asarray(values).ravel()
    assert np.abs(values).max() <= bound
    assert values.max() > 0.9 * bound
    assert values.min() < -0.9 * bound
    assert values.std() == pytest.approx(bound / np.sqrt(3), rel=0.1)


def test_convolutions_start_uniform_in_the_fan():
    conv = layers.Conv(300, size=3, use_bias=True)
    params = jax.jit(conv.init)(jax.random.key(1), jnp.zeros((1, 4, 4, 6)))["params"]
    assert params["kernel"].shape == (3, 3, 6, 300)
    assert_uniform(params["kernel"], 1 / np.sqrt(9 * 6))
    assert_uniform(params["bias"], 1 / np.sqrt(9 * 6))


def test_transposed_kernel_takes_the_fan_of_its_outputs():
    conv = layers.ConvTranspose(6)
    params = jax.jit(conv.init)(jax.random.key(2), jnp.zeros((1, 2, 2, 40)))["params"]
    assert params["kernel"].shape == (4, 4, 40, 6)
    assert_uniform(params["kernel"], 1 / np.sqrt(16 * 6))


def batches(seed, *shape):
    return (3.0 * normal(seed, *shape) + np.arange(shape[-1])).astype(np.float32)


def start(channels):
    """Variables of a batch norm that has been trained a little."""
    rng = np.random.default_rng(10)
    params = {n: rng.uniform(0.5, 2, channels).astype(np.float32) for n in ("scale", "bias")}
    stats = {n: rng.uniform(0.5, 2, channels).astype(np.float32) for n in ("mean", "var")}
    return {"params": params, "batch_stats": stats}


@pytest.mark.parametrize("running", [False, True])
def test_batch_norm_is_flaxs_but_for_the_running_variance(running):
    x, variables = batches(11, 4, 3, 5, 6), start(6)
    ours = layers.BatchNorm(running)
    flaxs = nn.BatchNorm(use_running_average=running, momentum=0.9, epsilon=1e-5)
    actual, new = jax.jit(lambda x: ours.apply(variables, x, mutable=["batch_stats"]))(x)
    expected, wanted_new = jax.jit(lambda x: flaxs.apply(variables, x, mutable=["batch_stats"]))(x)
    np.testing.assert_allclose(actual, expected, atol=1e-4)
    if not running:  # of 60 values; Flax keeps the biased one, PyTorch the unbiased
        before, biased = variables["batch_stats"]["var"], wanted_new["batch_stats"]["var"]
        wanted_new["batch_stats"]["var"] = biased + (biased - 0.9 * before) / 59
    for name in ("mean", "var"):
        np.testing.assert_allclose(
            new["batch_stats"][name], wanted_new["batch_stats"][name], rtol=1e-5
        )
        moved = np.abs(new["batch_stats"][name] - variables["batch_stats"][name]).max()
        assert (moved == 0) if running else (moved > 0.01)


def test_batch_norm_starts_at_one_and_zero():
    variables = layers.BatchNorm(False).init(jax.random.key(0), batches(12, 4, 3, 3, 2))
    flat = {**variables["params"], **variables["batch_stats"]}
    expected = {"scale": 1, "bias": 0, "mean": 0, "var": 1}
    assert {name: float(a[0]) for name, a in flat.items()} == expected


@pytest.mark.parametrize("first", [0.0, 1.0])
def test_batch_norm_variance_does_not_cancel(first):
    x = 1000.0 + 0.1 * normal(13, 64, 16, 16, 1)
    x[0, 8, 8, 0] += first  # the value that the others are taken against
    y = layers.BatchNorm(False).init_with_output(jax.random.key(0), x)[0]
    assert np.std(np.asarray(y, np.float64)) == pytest.approx(1.0, abs=0.001)


@pytest.mark.parametrize("updates", [(0, 0, 1), (0, 1), (1, 0), (0,)])
def test_grouped_batch_norm_is_calls_one_after_the_other(x64, updates):
    groups = max(updates) + 1
    x = np.stack([batches(20 + g, 3, 4, 4, 5) + 2.0 * g for g in range(groups)]).astype(float)
    cotangent = normal(14, *x.shape).astype(float)
    variables = jax.tree.map(lambda a: a.astype(float), start(5))
    stats = variables["batch_stats"]
    plain = layers.BatchNorm(False, dtype=jnp.float64)
    grouped = layers.BatchNorm(False, updates=updates, dtype=jnp.float64)

    def run(module):
        @jax.jit
        def call(params, stats, x, y):
            def apply(params, x):
                return module.apply(
                    {"params": params, "batch_stats": stats}, x, mutable=["batch_stats"]
                )

            out, back, new = jax.vjp(apply, params, x, has_aux=True)
            return out, new["batch_stats"], back(y)

        return call

    params = variables["params"]
    together = run(grouped)(
        params, stats, x.reshape(-1, *x.shape[2:]), cotangent.reshape(-1, *x.shape[2:])
    )
    apart = run(plain)
    for group in updates:
        stats = apart(params, stats, x[group], cotangent[group])[1]
    calls = [apart(params, stats, x[g], cotangent[g]) for g in range(groups)]
    np.testing.assert_allclose(together[0], np.concatenate([c[0] for c in calls]), atol=1e-12)
    for name in ("mean", "var"):
        np.testing.assert_allclose(together[1][name], stats[name], rtol=1e-12)
    np.testing.assert_allclose(together[2][1], np.concatenate([c[2][1] for c in calls]), atol=1e-12)
    for name in ("scale", "bias"):
        total = sum(c[2][0][name] for c in calls)
        np.testing.assert_allclose(together[2][0][name], total, rtol=1e-12)


def test_reduced_precision_keeps_statistics_in_float32():
    x = jnp.asarray(batches(15, 4, 3, 3, 2), jnp.bfloat16)
    y, variables = layers.BatchNorm(False, dtype=jnp.bfloat16).init_with_output(
        jax.random.key(0), x
    )
    assert y.dtype == jnp.bfloat16
    assert {a.dtype for a in jax.tree.leaves(variables)} == {jnp.dtype(jnp.float32)}
