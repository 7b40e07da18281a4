"""Counts and lower bounds: layers against the networks' own kernels, and numbers by hand."""

import jax
import pytest

from benchmarks import problem, roofline
from benchmarks.accelerator_stages import TINY
from landmarks_jax.tasks import task_of
from landmarks_jax.training import sharding
from landmarks_jax.training import state as states


@pytest.mark.parametrize("preset", ["paper", "released"])
def test_convolutions_are_those_of_the_networks(preset):
    config = problem.configure(preset, None, "float32", 32)
    networks = task_of(config).build_networks(config)
    state = states.abstract_state(config, networks, sharding.make_mesh())
    convs = {
        "detector": roofline.detector_convs(config),
        "generator": roofline.generator_convs(config),
    }
    for name, counted in convs.items():
        kernels = [leaf.shape for leaf in jax.tree.leaves(state.params[name]) if leaf.ndim == 4]
        assert sorted(conv.kernel for conv in counted) == sorted(kernels)


def test_parameters_are_those_of_the_papers_networks():
    # Detector and generator, counted by hand for K = 10 and c = 64.
    config = problem.configure("paper", None, "float32", 32)
    assert problem.num_parameters(config) == 6_234_762 + 9_030_824


def macs_of(config, part):
    convs = roofline.step_convs(config)
    return sum(images * passes * conv.macs for conv, images, passes in convs if conv.part == part)


def test_the_papers_step_is_10_5_tera_operations():
    config = problem.configure("paper", None, "bfloat16", 32)
    # Twelve residual convolutions, two transposed ones and the last; four calls, three passes.
    blocks = 12 * 9 * 266**2 * 32**2
    ups = 16 * (266 * 133 * 32**2 + 133 * 66 * 64**2)
    assert macs_of(config, "decoder") == 3 * 4 * (blocks + ups + 49 * 66 * 3 * 128**2)
    widths = [(3, 64, 1), (64, 64, 1), (64, 128, 2), (128, 128, 2), (128, 256, 4), (256, 256, 4)]
    widths += [(256, 256, 4), (256, 512, 8), (512, 512, 8), (512, 512, 8)]
    forward = sum(9 * before * after * (128 // by) ** 2 for before, after, by in widths)
    assert macs_of(config, "vgg") == 2 * 3 * forward  # final and targets forward, final back
    assert 2 * 32 * roofline.macs_per_photo(config) == pytest.approx(10.475e12, rel=1e-3)


def test_unneeded_gradients_are_not_counted():
    config = problem.configure("paper", 4, "float32", 4, **TINY)
    detector = sum(conv.macs for conv in roofline.detector_convs(config))
    assert macs_of(config, "detector") == 2 * (3 * detector - 49 * 3 * 2 * 8**2)
    convs = list(roofline.generator_convs(config))
    encoder, decoder = (
        sum(conv.macs for conv in convs if conv.part == part) for part in ("encoder", "decoder")
    )
    # The gradient of the photos, the first input of the first of two calls.
    assert macs_of(config, "encoder") == 4 * 3 * encoder - 2 * 49 * 3 * 4 * 16**2
    assert macs_of(config, "decoder") == 4 * 3 * decoder
    with config.unlocked():
        config.objective.composition = "baseline"
    assert macs_of(config, "decoder") == 3 * decoder


def test_lower_bounds_are_the_slower_of_computing_and_moving():
    config = problem.configure("paper", 4, "float32", 4, **TINY)
    bounds = roofline.lower_bounds(config, {"peak": {"float32": 1e30}, "bandwidth": 1e9})
    moved = 0
    for conv, images, passes in roofline.step_convs(config):
        k, _, inputs, outputs = conv.kernel
        moved += 4 * passes * (4 * images * (conv.read + conv.written) + k * k * inputs * outputs)
    views = 4 * 20 * 20 * 3 + 2 * 4 * 16 * 16 * 3 * 4
    adam = 28 * problem.num_parameters(config)
    assert bounds["roofline_ms"] == pytest.approx(1e-6 * (moved + views + adam))
    bounds = roofline.lower_bounds(config, {"peak": {"float32": 1e9}, "bandwidth": 1e30})
    assert bounds["roofline_ms"] == pytest.approx(bounds["compute_ms"])
    assert bounds["compute_ms"] == pytest.approx(1e-6 * 8 * roofline.macs_per_photo(config))
    assert bounds["parts"].keys() == {*roofline.PARTS, "views", "optimiser"}


def test_the_table_names_its_device():
    config = problem.configure("paper", 4, "bfloat16", 4, **TINY)
    text = roofline.to_markdown(roofline.measure({"paper": [config]}, roofline.DEVICES["h200"]))
    assert "NVIDIA H200, 790 TFLOP/s in bfloat16" in text
    assert "assumed" in text
