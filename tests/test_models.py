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
    scores, variables = shapes(Detector(num), (1, 128, 128, 3))
    assert scores.shape == (1, 32, 32, num)
    assert count(variables) == detector
    for channels, wanted in ((32, narrow), (64, wide)):
        images, variables = shapes(Generator(channels), (1, 128, 128, 3), (1, 32, 32, num))
        assert images.shape == (1, 128, 128, 3)
        assert count(variables) == wanted


@pytest.mark.parametrize(
    ("size", "channels", "depth"), [(32, 8, 1), (32, 8, 2), (48, 16, 2), (64, 32, 3), (256, 64, 5)]
)
def test_shapes_at_other_sizes(size, channels, depth):
    scores, _ = shapes(Detector(7, channels, depth), (2, size, size, 3))
    assert scores.shape == (2, size // 4, size // 4, 7)
    given = (2, size, size, 3), (2, size // 4, size // 4, 7)
    images, variables = shapes(Generator(channels // 4, 2), *given)
    assert images.shape == (2, size, size, 3)
    assert variables["params"]["encoder"]["conv3"]["kernel"].shape[-1] == channels


def correlate(x, kernel):
    k = kernel.shape[0]
    x = np.pad(x, ((0, 0), (k // 2, k // 2), (k // 2, k // 2), (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(x, (k, k), (1, 2))
    return np.einsum("bhwirc,rcio->bhwo", windows, np.asarray(kernel))


def relu(x):
    return np.maximum(x, 0)


@pytest.mark.parametrize("inputs", [8, 6])
def test_block_by_hand(inputs):
    x = np.random.default_rng(0).normal(size=(2, 5, 6, inputs)).astype(np.float32)
    block = Block(8, CONV, NORM)
    found, variables = jax.jit(block.init_with_output)(jax.random.key(0), x)
    params = variables["params"]
    y, parts = x, []
    for i in range(1, 4):
        y = correlate(relu(y / UNIT), params[f"conv{i}"]["kernel"])
        parts.append(y)
    assert [part.shape[-1] for part in parts] == [4, 2, 2]
    skip = x if inputs == 8 else correlate(relu(x / UNIT), params["skip_conv"]["kernel"])
    assert ("skip_conv" in params) == (inputs != 8)
    np.testing.assert_allclose(found, skip + np.concatenate(parts, -1), atol=1e-5)


def test_residual_block_by_hand():
    x = np.random.default_rng(1).normal(size=(2, 5, 6, 4)).astype(np.float32)
    found, variables = jax.jit(ResidualBlock(CONV, NORM).init_with_output)(jax.random.key(0), x)
    params = variables["params"]
    y = relu(correlate(x, params["conv1"]["kernel"]) / UNIT)
    np.testing.assert_allclose(found, x + correlate(y, params["conv2"]["kernel"]) / UNIT, atol=1e-5)


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
    wanted = {1: x + grow(inner), 2: x + grow(inner + grow(pool(inner)))}
    for depth in (1, 2):
        found = Hourglass(depth, Identity).apply({}, x[None, :, :, None])
        np.testing.assert_allclose(found[0, :, :, 0], wanted[depth], atol=1e-6)


def test_hourglass_reaches_far_through_its_bottom_alone():
    # Blocks see 3 cells; three of them at half the size see some 20: the far corner takes depth.
    x = jnp.asarray(np.random.default_rng(3).normal(size=(1, 32, 32, 8)), jnp.float32)
    block = partial(Block, 8, CONV, NORM)

    def seen(depth):
        glass = Hourglass(depth, block)
        variables = jax.jit(glass.init)(jax.random.key(1), x)
        corner = jax.jit(jax.grad(lambda x: glass.apply(variables, x)[0, 0, 0].sum()))
        return np.abs(np.asarray(corner(x))[0]).sum(-1)

    shallow, deep = seen(1), seen(3)
    assert shallow[0, 0] > 0
    assert shallow[24:].max() == shallow[:, 24:].max() == 0
    assert deep[31].max() > 0
    assert deep[:, 31].max() > 0


def trained(variables, seed=4):
    """Variables with running statistics and batch norm parameters away from their start."""
    leaves, tree = jax.tree.flatten(variables)
    rng = np.random.default_rng(seed)
    moved = [
        a * jnp.asarray(rng.uniform(0.8, 1.2, a.shape), a.dtype)
        + jnp.asarray(rng.normal(0, 0.05, a.shape), a.dtype)
        for a in leaves
    ]
    return jax.tree.unflatten(tree, moved)


def test_detector_moves_with_its_input():
    # 8 pixels are one cell at the bottom of a hourglass of depth 1. The detector sees 120 pixels
    # around a place, so the cells farther than that from every border do not know of it.
    size, shift = 304, 8
    wide = np.random.default_rng(5).uniform(0, 1, (1, size + shift, size + shift, 3))
    wide = jnp.asarray(wide, jnp.float32)
    module = Detector(2, 8, 1)
    variables = trained(
        jax.jit(partial(module.init, use_running_average=True))(
            jax.random.key(2), jnp.zeros((1, 16, 16, 3))
        )
    )
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


def narrow_generator(dtype=jnp.float32):
    module = Generator(2, 1, dtype)
    rng = np.random.default_rng(6)
    images = jnp.asarray(rng.uniform(0, 1, (2, 16, 16, 3)), jnp.float32)
    maps = jnp.asarray(rng.uniform(0, 1, (2, 4, 4, 3)), jnp.float32)
    init = jax.jit(partial(module.init, use_running_average=True))
    return module, init(jax.random.key(3), images, maps), images, maps


def test_generator_draws_images_from_both_inputs():
    module, variables, images, maps = narrow_generator()
    variables = trained(variables)
    run = jax.jit(partial(module.apply, variables, use_running_average=True))
    drawn = np.asarray(run(images, maps))
    assert drawn.min() >= 0
    assert drawn.max() <= 1
    assert drawn.std() > 1e-3
    assert np.abs(run(images[::-1], maps) - drawn).max() > 1e-4
    assert np.abs(run(images, maps[::-1]) - drawn).max() > 1e-4
    loud = jax.tree.map(lambda a: 1e3 * a, variables["params"])
    loud = module.apply({**variables, "params": loud}, images, maps, use_running_average=True)
    assert np.asarray(loud).min() >= 0
    assert np.asarray(loud).max() <= 1


def test_generator_ends_in_half_of_tanh_plus_one():
    module, variables, images, maps = narrow_generator()
    params = dict(variables["params"])
    params["conv_out"] = {"kernel": jnp.zeros_like(params["conv_out"]["kernel"])}
    drawn = module.apply({**variables, "params": params}, images, maps, use_running_average=True)
    np.testing.assert_array_equal(drawn, 0.5)


def test_bfloat16_keeps_parameters_statistics_and_outputs_in_float32():
    module, variables, images, maps = narrow_generator(jnp.bfloat16)
    detector = Detector(3, 8, 1, jnp.bfloat16)
    found = jax.jit(partial(detector.init, use_running_average=True))(jax.random.key(4), images)
    dtypes = {leaf.dtype for leaf in jax.tree.leaves((variables, found))}
    assert dtypes == {jnp.dtype(jnp.float32)}

    @jax.jit
    def run(images, maps):
        scores, new = detector.apply(
            found, images, use_running_average=False, mutable=["batch_stats"]
        )
        drawn = module.apply(variables, images, maps, use_running_average=True)
        return scores, new, keypoints.soft_argmax(scores, 10.0), drawn

    scores, new, landmarks, drawn = run(images, maps)
    assert scores.dtype == jnp.bfloat16
    assert {leaf.dtype for leaf in jax.tree.leaves(new)} == {jnp.dtype(jnp.float32)}
    assert landmarks.dtype == drawn.dtype == jnp.float32


def test_pooling_and_upsampling_by_hand():
    x = np.random.default_rng(7).normal(size=(1, 4, 6, 1)).astype(np.float32)
    np.testing.assert_allclose(
        hourglass.average_pool(x)[0, :, :, 0], pool(x[0, :, :, 0]), atol=1e-6
    )
    np.testing.assert_array_equal(
        hourglass.upsample_nearest(jnp.asarray(x))[0, :, :, 0], grow(x[0, :, :, 0])
    )
