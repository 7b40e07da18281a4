"""Counts and floors: the closed form against the networks' own kernels, and numbers by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import counting, problem, roofline, tracing
from benchmarks.accelerator import TINY
from landmarks_jax import objective
from landmarks_jax.training import sharding
from landmarks_jax.training import state as states


@pytest.mark.parametrize("preset", ["paper", "released"])
def test_the_layers_are_those_of_the_networks(preset):
    config = problem.configure(preset, None, "float32", 32)
    networks = objective.build_networks(config)
    state = states.abstract_state(config, networks, sharding.make_mesh())
    layers = {
        "detector": counting.detector_layers(config),
        "generator": counting.generator_layers(config),
    }
    for name, found in layers.items():
        kernels = [leaf.shape for leaf in jax.tree.leaves(state.params[name]) if leaf.ndim == 4]
        assert sorted(layer.kernel for layer in found) == sorted(kernels)


def test_the_papers_step_is_10_5_tera_operations():
    config = problem.configure("paper", None, "bfloat16", 32)
    decoder = sum(one.macs for one in counting.passes(config) if one.part == "decoder")
    # Twelve residual convolutions, two transposed ones and the last, in four calls, thrice.
    blocks = 12 * 9 * 266**2 * 32**2
    ups = 16 * (266 * 133 * 32**2 + 133 * 66 * 64**2)
    assert decoder == 3 * 4 * (blocks + ups + 49 * 66 * 3 * 128**2)
    vgg = sum(one.macs for one in counting.passes(config) if one.part == "vgg")
    widths = [(3, 64, 1), (64, 64, 1), (64, 128, 2), (128, 128, 2), (128, 256, 4), (256, 256, 4)]
    widths += [(256, 256, 4), (256, 512, 8), (512, 512, 8), (512, 512, 8)]
    forward = sum(9 * before * after * (128 // by) ** 2 for before, after, by in widths)
    assert vgg == 2 * 3 * forward  # reconstructions and targets forward, reconstructions back
    assert 2 * 32 * counting.macs_per_photo(config) == pytest.approx(10.475e12, rel=1e-3)


def test_gradients_that_nothing_needs_are_not_counted():
    config = problem.configure("paper", 4, "float32", 4, **TINY)
    macs = {
        (part, direction): sum(
            one.macs
            for one in counting.passes(config)
            if (one.part, one.direction) == (part, direction)
        )
        for part in counting.PARTS
        for direction in ("forward", "backward")
    }
    stem = 2 * 49 * 3 * 2 * 8**2
    assert macs["detector", "backward"] == 2 * macs["detector", "forward"] - stem
    first = 2 * 49 * 3 * 4 * 16**2  # of the first of two calls alone
    assert macs["encoder", "backward"] == 2 * macs["encoder", "forward"] - first
    assert macs["decoder", "backward"] == 2 * macs["decoder", "forward"]
    assert macs["vgg", "backward"] == macs["vgg", "forward"] / 2
    with config.unlocked():
        config.objective.composition = "baseline"
    one_call = sum(one.macs for one in counting.passes(config) if one.part == "decoder")
    assert 4 * one_call == macs["decoder", "forward"] + macs["decoder", "backward"]


def test_the_jaxpr_is_walked_through_gradients_and_loops():
    def convolve(x, kernel):
        return jax.lax.conv_general_dilated(
            x, kernel, (2, 2), [(1, 1)] * 2, dimension_numbers=("NHWC", "HWIO", "NHWC")
        )

    def loss(x, kernel, matrix):
        y = convolve(x, kernel)  # [2, 4, 4, 5]
        y, _ = jax.lax.scan(lambda carry, _: (carry @ matrix, None), y, length=3)
        return y.sum()

    x, kernel, matrix = jnp.ones((2, 8, 8, 3)), jnp.ones((4, 4, 3, 5)), jnp.ones((5, 5))
    forward = jax.make_jaxpr(loss)(x, kernel, matrix)
    once, product = 2 * 4 * 4 * 16 * 3 * 5, 2 * 4 * 4 * 5 * 5
    assert sum(macs for _, macs in tracing.walk(forward.jaxpr)) == once + 3 * product
    both = jax.make_jaxpr(jax.grad(loss, (0, 1)))(x, kernel, matrix)
    counted = [(stack, macs) for stack, macs in tracing.walk(both.jaxpr)]
    gradients = sum(macs for stack, macs in counted if "transpose(" in stack)
    # Of the input at its 8 x 8 places, half of each dilated row zeros; of the kernel as forward.
    assert gradients == 2 * once + 3 * product
    assert sum(macs for _, macs in counted) == 3 * once + 6 * product


def test_what_is_run_is_of_the_networks():
    config = problem.configure("released", 4, "float32", 4, **TINY)
    run = tracing.run_macs(config)
    plain = roofline.closed_form(config)
    for part in counting.PARTS:  # padding and folding add to it
        assert 0.95 * sum(plain[part].values()) <= sum(run[part].values()), part
        assert run[part]["forward"] > 0
    assert sum(run["other"].values()) < 0.01 * counting.macs_per_photo(config)


def test_floors_are_of_the_slower_of_computing_and_moving():
    config = problem.configure("paper", 4, "float32", 4, **TINY)
    passes = counting.passes(config)
    fast = {"peak": {"float32": 1e30}, "bandwidth": 1e9}
    floors = roofline.floors(config, fast)
    moved = 4 * sum(4 * one.moved + one.weights for one in passes)
    views = 4 * 20 * 20 * 3 + 2 * 4 * 16 * 16 * 3 * 4
    adam = 28 * tracing.num_parameters(config)
    assert floors["roofline_ms"] == pytest.approx(1e-6 * (moved + views + adam))
    apart = floors["library_ms"] - floors["roofline_ms"]
    assert apart == pytest.approx(1e-6 * 4 * 4 * sum(one.apart for one in passes))
    slow = {"peak": {"float32": 1e9}, "bandwidth": 1e30}
    floors = roofline.floors(config, slow)
    assert floors["roofline_ms"] == pytest.approx(floors["compute_ms"])
    assert floors["compute_ms"] == pytest.approx(1e-6 * 8 * sum(one.macs for one in passes))
    assert floors["parts"].keys() == {*counting.PARTS, "views", "optimiser"}


def test_the_floors_table_names_its_device():
    device = roofline.DEVICES["h200"]
    result = roofline.count(["paper"], [4], ["bfloat16"], device, channels=4, **TINY)
    text = roofline.to_markdown(result)
    assert "NVIDIA H200, 790 TFLOP/s in bfloat16" in text
    assert "assumed" in text
    given = result["counts"]["paper"]["xla_given"]
    assert set(given) == {*counting.PARTS, "views", "step"}
    parts = sum(given[part]["flops"] for part in counting.PARTS)
    assert parts == pytest.approx(given["step"]["flops"], rel=0.1)
    assert np.isfinite(parts)
