"""The networks: sizes of the paper, shapes, and what depends on what."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from landmarks_jax import keypoints
from landmarks_jax.models import hourglass, layers
from landmarks_jax.models.generator import Generator, ResidualBlock
from landmarks_jax.models.hourglass import Block, Detector, Hourglass

CONV = layers.Conv
NORM = partial(layers.BatchNorm, True)
# Batch norm with statistics at their start divides by this alone.
UNIT = np.sqrt(1 + 1e-5)


def shapes(module, *inputs):
    """Output and variables of a module, without computing them."""
    structs = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in inputs]
    call = partial(module.init_with_output, use_running_average=True)
    return jax.eval_shape(call, jax.random.key(0), *structs)


def count(variables):
    return sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(variables["params"]))


@pytest.mark.parametrize(
    ("num", "detector", "narrow", "wide"),
    [
        (10, 6_234_762, 2_424_424, 9_030_824),
        (30, 6_239_902, 3_124_189, 10_334_749),
        (50, 6_245_042, 3_918_354, 11_733_074),
    ],
)
def test_parameter_counts_of_the_paper(num, detector, narrow, wide):
    scores, variables = shapes(Detector(num, 256, 4), (1, 128, 128, 3))
    assert scores.shape == (1, 32, 32, num)
    assert count(variables) == detector
    for channels, expected in ((32, narrow), (64, wide)):
        images, variables = shapes(Generator(channels, 6), (1, 128, 128, 3), (1, 32, 32, num))
        assert images.shape == (1, 128, 128, 3)
        assert count(variables) == expected


@pytest.mark.parametrize(
    ("size", "channels", "depth"), [(32, 8, 1), (32, 8, 2), (48, 16, 2), (64, 32, 3), (256, 64, 5)]
)
def test_shapes_at_other_sizes(size, channels, depth):
    scores, _ = shapes(Detector(7, channels, depth), (2, size, size, 3))
    assert scores.shape == (2, size // 4, size // 4, 7)
    inputs = (2, size, size, 3), (2, size // 4, size // 4, 7)
    images, variables = shapes(Generator(channels // 4, 2), *inputs)
    assert images.shape == (2, size, size, 3)
    assert variables["params"]["encoder"]["conv3"]["kernel"].shape[-1] == channels


def correlate(x, kernel):
    k = kernel.shape[0]
    x = np.pad(x, ((0, 0), (k // 2, k // 2), (k // 2, k // 2), (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(x, (k, k), (1, 2))
    return np.einsum("bhwirc,rcio->bhwo", windows, np.asarray(kernel))


def relu(x):
    return np.maximum(x, 0)


def unit(variables):
    """The same convolutions, with batch norm at its start."""
    ones = ("scale", "var")

    def at_start(path, leaf):
        name = jax.tree_util.keystr(path[-1:], simple=True)
        return leaf if name == "kernel" else np.full_like(leaf, name in ones)

    return jax.tree_util.tree_map_with_path(at_start, variables)


@pytest.mark.parametrize("inputs", [8, 6])
def test_block_by_hand(filled, inputs):
    x = np.random.default_rng(0).normal(size=(2, 5, 6, inputs)).astype(np.float32)
    block = Block(8, CONV, NORM)
    variables = unit(filled(block, x.shape))
    actual = jax.jit(block.apply)(variables, x)
    params = variables["params"]
    y, parts = x, []
    for i in range(1, 4):
        y = correlate(relu(y / UNIT), params[f"conv{i}"]["kernel"])
        parts.append(y)
    assert [part.shape[-1] for part in parts] == [4, 2, 2]
    skip = x if inputs == 8 else correlate(relu(x / UNIT), params["skip_conv"]["kernel"])
    assert ("skip_conv" in params) == (inputs != 8)
    np.testing.assert_allclose(actual, skip + np.concatenate(parts, -1), atol=1e-5)


def test_residual_block_by_hand(filled):
    x = np.random.default_rng(1).normal(size=(2, 5, 6, 4)).astype(np.float32)
    block = ResidualBlock(4, CONV, NORM)
    variables = unit(filled(block, (2, 5, 6, 8)))
    actual = jax.jit(block.apply)(variables, np.pad(x, [(0, 0)] * 3 + [(0, 4)]))
    np.testing.assert_array_equal(actual[..., 4:], 0)
    actual = actual[..., :4]
    params = variables["params"]
    y = relu(correlate(x, params["conv1"]["kernel"]) / UNIT)
    np.testing.assert_allclose(
        actual, x + correlate(y, params["conv2"]["kernel"]) / UNIT, atol=1e-5
    )


class Identity(nn.Module):
    def __call__(self, x):
        return x


def pool(x):
    return (x[::2, ::2] + x[1::2, ::2] + x[::2, 1::2] + x[1::2, 1::2]) / 4


def grow(x):
    return x.repeat(2, 0).repeat(2, 1)


def test_hourglass_of_blocks_that_do_nothing():
    x = np.random.default_rng(2).normal(size=(8, 12)).astype(np.float32)
    inner = pool(x)
    expected = {1: x + grow(inner), 2: x + grow(inner + grow(pool(inner)))}
    for depth in (1, 2):
        actual = Hourglass(depth, Identity).apply({}, x[None, :, :, None])
        np.testing.assert_allclose(actual[0, :, :, 0], expected[depth], atol=1e-6)


def test_hourglass_reaches_far_through_its_bottom_alone(filled):
    # Blocks see 3 cells; three of them at half the size see some 20: the far corner takes depth.
    x = jnp.asarray(np.random.default_rng(3).normal(size=(1, 32, 32, 8)), jnp.float32)
    block = partial(Block, 8, CONV, NORM)

    def seen(depth):
        glass = Hourglass(depth, block)
        variables = filled(glass, x.shape)
        corner = jax.jit(jax.grad(lambda x: glass.apply(variables, x)[0, 0, 0].sum()))
        return np.abs(np.asarray(corner(x))[0]).sum(-1)

    shallow, deep = seen(1), seen(3)
    assert shallow[0, 0] > 0
    assert shallow[24:].max() == shallow[:, 24:].max() == 0
    assert deep[31].max() > 0
    assert deep[:, 31].max() > 0


def test_detector_moves_with_its_input(filled):
    # 8 pixels are one cell at the bottom of a hourglass of depth 1. The detector sees 120 pixels
    # around a place, so the cells farther than that from every border do not know of it.
    size, shift = 304, 8
    wide = np.random.default_rng(5).uniform(0, 1, (1, size + shift, size + shift, 3))
    wide = jnp.asarray(wide, jnp.float32)
    module = Detector(2, 8, 1)
    variables = filled(module, (1, 16, 16, 3), use_running_average=True)
    run = jax.jit(partial(module.apply, variables, use_running_average=True))
    still = np.asarray(run(wide[:, :size, :size]))
    down = np.asarray(run(wide[:, shift:, :size]))
    right = np.asarray(run(wide[:, :size, shift:]))
    low, high, cells = 32, 76 - 32, shift // 4
    inner = slice(low, high - cells)
    moved = slice(low + cells, high)
    assert still.std() > 1e-3
    np.testing.assert_allclose(down[:, inner, inner], still[:, moved, inner], atol=1e-5)
    np.testing.assert_allclose(right[:, inner, inner], still[:, inner, moved], atol=1e-5)
    assert np.abs(down - still)[:, inner, inner].max() > 1e-3


def test_generator_draws_images_from_both_inputs(filled):
    module = Generator(2, 1)
    rng = np.random.default_rng(6)
    images = rng.uniform(0, 1, (2, 16, 16, 3)).astype(np.float32)
    maps = rng.uniform(0, 1, (2, 4, 4, 3)).astype(np.float32)
    variables = filled(module, images.shape, maps.shape, use_running_average=True)
    run = jax.jit(partial(module.apply, use_running_average=True))
    drawn = np.asarray(run(variables, images, maps))
    assert drawn.std() > 1e-3
    assert np.abs(run(variables, images[::-1], maps) - drawn).max() > 1e-4
    assert np.abs(run(variables, images, maps[::-1]) - drawn).max() > 1e-4

    def with_last(factor):
        params = dict(variables["params"])
        params["conv_out"] = {"kernel": factor * params["conv_out"]["kernel"]}
        return np.asarray(run({**variables, "params": params}, images, maps))

    # 0.5 (tanh(y) + 1): a half where y is 0, never outside [0, 1], a sigmoid of 2y between.
    np.testing.assert_array_equal(with_last(np.float32(0)), 0.5)
    loud = with_last(np.float32(1e4))
    assert loud.min() == 0
    assert loud.max() == 1
    doubled = with_last(np.float32(2))
    logit = np.log(drawn / (1 - drawn))
    np.testing.assert_allclose(np.log(doubled / (1 - doubled)), 2 * logit, atol=1e-3)


def test_bfloat16_keeps_parameters_statistics_and_outputs_in_float32():
    half = jnp.bfloat16
    images, maps = (2, 16, 16, 3), (2, 4, 4, 3)
    detector, generator = Detector(3, 8, 1, half), Generator(2, 1, half)
    scores, variables = shapes(detector, images)
    drawn, others = shapes(generator, images, maps)
    new = jax.eval_shape(
        partial(detector.apply, use_running_average=False, mutable=["batch_stats"]),
        variables,
        jax.ShapeDtypeStruct(images, jnp.float32),
    )[1]
    dtypes = {leaf.dtype for leaf in jax.tree.leaves((variables, others, new))}
    assert dtypes == {jnp.dtype(jnp.float32)}
    assert scores.dtype == half
    assert drawn.dtype == jnp.float32
    landmarks = jax.eval_shape(partial(keypoints.soft_argmax, beta=10.0), scores)
    assert landmarks.dtype == jnp.float32


def test_pooling_and_upsampling_by_hand():
    x = np.random.default_rng(7).normal(size=(1, 4, 6, 1)).astype(np.float32)
    np.testing.assert_allclose(
        hourglass.average_pool(x)[0, :, :, 0], pool(x[0, :, :, 0]), atol=1e-6
    )
    np.testing.assert_array_equal(
        hourglass.upsample_nearest(jnp.asarray(x))[0, :, :, 0], grow(x[0, :, :, 0])
    )
