"""The training step in PyTorch is ours: loss, gradient and update."""

import importlib.util

import numpy as np
import pytest

from benchmarks import contenders, problem, roofline
from benchmarks.accelerator import TINY

without_torch = pytest.mark.skipif(
    importlib.util.find_spec("torch") is None, reason="torch is not installed"
)
TWO_TAPS = {**TINY, "perceptual__taps": ("relu1_2", "relu2_1")}


def make(way, batch=3):
    """A narrow problem in float64, PyTorch's step of it, and views with auxiliary rows."""
    config = problem.configure("released", 2, "float64", batch, **TWO_TAPS)
    made = problem.make_problem(config)
    rng = np.random.default_rng(3)
    views = [rng.uniform(0, 1, (batch, 16, 16, 3)) for _ in range(2)]
    return made, contenders.torch_step(way, made), (*views, np.array([1, 2, 0]))


def as_theirs(params):
    """Our parameters with PyTorch's names and layout."""
    from benchmarks.torch_networks import state_dict  # noqa: PLC0415

    return {
        f"{name}.{leaf}": np.ascontiguousarray(array)
        for name, tree in params.items()
        for leaf, array in state_dict({"params": tree, "batch_stats": {}}).items()
    }


def gradients_of(step, batch):
    """The loss, and gradients by name."""
    loss = step.loss(*step.put(*batch))
    loss.backward()
    return float(loss.detach()), {
        name: parameter.grad.numpy()
        for name, parameter in step.named_parameters()
        if parameter.requires_grad
    }


def assert_equal_gradients(actual, expected):
    assert actual.keys() == expected.keys()
    for name, gradient in expected.items():
        difference = np.abs(actual[name] - gradient).max()
        assert difference <= 1e-9 * (np.abs(gradient).max() + 1e-6), name


@without_torch
def test_two_steps_equal_pytorchs_as_released(x64):
    made, step, _ = make("AsReleased")
    ours = contenders.Ours(made, 1)
    losses = []
    for number in range(2):  # the second has other views and follows an update
        ours.step()
        losses.append(float(step(step.put(*problem.draw_views(made, number)))))
        assert ours.mean_loss() == pytest.approx(np.mean(losses), rel=1e-7 if number else 1e-10)
    assert losses[0] != losses[1]
    theirs = dict(step.named_parameters())
    expected = as_theirs(ours.state.params)
    assert {name for name, array in theirs.items() if array.requires_grad} == set(expected)
    before = as_theirs(made.variables["params"])
    for name, array in expected.items():
        # PyTorch clips by norm + 1e-6.
        np.testing.assert_allclose(theirs[name].detach(), array, atol=3e-6, err_msg=name)
        assert np.abs(array - before[name]).max() > 5e-5, name
    memory = ours.memory()
    assert memory["arguments"] > 0
    assert memory["temporary"] > 0


@without_torch
def test_both_ways_differ_only_in_what_batch_norm_sees(x64):
    evaluated, trained = {}, {}
    for way in contenders.BN_GROUPS:
        _, step, batch = make(way)
        evaluated[way] = gradients_of(step.eval(), batch)
        step.zero_grad()
        trained[way], _ = gradients_of(step.train(), batch)
    (released, expected), (fused, actual) = evaluated["AsReleased"], evaluated["Fused"]
    assert fused == pytest.approx(released, rel=1e-12)
    assert_equal_gradients(actual, expected)
    assert 1e-5 < abs(trained["Fused"] / trained["AsReleased"] - 1) < 0.1


@without_torch
def test_pytorch_counts_the_same_operations(x64):
    from torch.utils.flop_counter import FlopCounterMode  # noqa: PLC0415

    made, step, batch = make("Fused")
    with FlopCounterMode(display=False) as counter:
        step.loss(*step.put(*batch)).backward()
    assert counter.get_total_flops() == 2 * 3 * roofline.macs_per_photo(made.config)
