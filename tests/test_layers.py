"""Convolutions and batch norm against sums in NumPy, lax's plain forms and Flax's batch norm."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from landmarks_jax.models import layers


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
    wanted = correlate(x, np.asarray(kernel), padding, stride) + np.asarray(bias)
    assert y.shape == (2, 12 // stride, 8 // stride, 5)
    np.testing.assert_allclose(y, wanted, atol=1e-5)


def test_folded_7x7_and_its_gradient_are_the_plain_ones(x64):
    x, kernel, y = normal(1, 2, 10, 12, 3), normal(2, 7, 7, 3, 2), normal(3, 2, 10, 12, 2)
    x, kernel, y = (jnp.asarray(a, jnp.float64) for a in (x, kernel, y))

    @jax.jit
    def both(x, kernel, y):
        folded, back = jax.vjp(layers.convolve_7x7, x, kernel)
        plain, plain_back = jax.vjp(lambda x, k: layers.convolve(x, k, 3), x, kernel)
        return (folded, *back(y)), (plain, *plain_back(y))

    for found, wanted in zip(*both(x, kernel, y), strict=True):
        np.testing.assert_allclose(found, wanted, atol=1e-11)


def test_transposed_convolution_by_its_definition():
    x, kernel = normal(4, 2, 5, 3, 4), normal(5, 4, 4, 4, 3)
    found = jax.jit(layers.convolve_transposed)(x, kernel)
    assert found.shape == (2, 10, 6, 3)
    np.testing.assert_allclose(found, scatter(x, kernel), atol=1e-5)


def test_transposed_convolution_and_its_gradient_are_laxs(x64):
    x, kernel, y = normal(6, 2, 5, 3, 4), normal(7, 4, 4, 4, 3), normal(8, 2, 10, 6, 3)
    x, kernel, y = (jnp.asarray(a, jnp.float64) for a in (x, kernel, y))

    def plain(x, kernel):
        return jax.lax.conv_general_dilated(
            x,
            kernel[::-1, ::-1],
            (1, 1),
            [(2, 2), (2, 2)],
            lhs_dilation=(2, 2),
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )

    @jax.jit
    def both(x, kernel, y):
        ours, back = jax.vjp(layers.convolve_transposed, x, kernel)
        wanted, wanted_back = jax.vjp(plain, x, kernel)
        return (ours, *back(y)), (wanted, *wanted_back(y))

    for found, wanted in zip(*both(x, kernel, y), strict=True):
        np.testing.assert_allclose(found, wanted, atol=1e-11)


def test_space_to_depth_and_back():
    x = normal(9, 2, 6, 4, 3)
    folded = np.asarray(layers.space_to_depth(jnp.asarray(x)))
    assert folded.shape == (2, 3, 2, 12)
    for row in range(2):
        for column in range(2):
            at = 3 * (2 * row + column)
            np.testing.assert_array_equal(folded[..., at : at + 3], x[:, row::2, column::2])
    np.testing.assert_array_equal(layers.depth_to_space(jnp.asarray(folded)), x)


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
def test_batch_norm_is_flaxs(running):
    x, variables = batches(11, 4, 3, 5, 6), start(6)
    ours = layers.BatchNorm(running)
    flaxs = nn.BatchNorm(use_running_average=running, momentum=0.9, epsilon=1e-5)
    found, new = jax.jit(lambda x: ours.apply(variables, x, mutable=["batch_stats"]))(x)
    wanted, wanted_new = jax.jit(lambda x: flaxs.apply(variables, x, mutable=["batch_stats"]))(x)
    np.testing.assert_allclose(found, wanted, atol=1e-4)
    for name in ("mean", "var"):
        np.testing.assert_allclose(
            new["batch_stats"][name], wanted_new["batch_stats"][name], rtol=1e-5
        )
        moved = np.abs(new["batch_stats"][name] - variables["batch_stats"][name]).max()
        assert (moved == 0) if running else (moved > 0.01)


def test_batch_norm_starts_at_one_and_zero():
    variables = layers.BatchNorm(False).init(jax.random.key(0), batches(12, 4, 3, 3, 2))
    flat = {**variables["params"], **variables["batch_stats"]}
    wanted = {"scale": 1, "bias": 0, "mean": 0, "var": 1}
    assert {name: float(a[0]) for name, a in flat.items()} == wanted


def test_batch_norm_variance_does_not_cancel():
    x = 1000.0 + 0.1 * normal(13, 8, 4, 4, 1)
    y = layers.BatchNorm(False).init_with_output(jax.random.key(0), x)[0]
    assert np.std(np.asarray(y, np.float64)) == pytest.approx(1.0, abs=0.01)


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
