"""Benchmarks of the step: PyTorch's is ours, and what is measured of one compiled step."""

import importlib.util
import time

import jax
import numpy as np
import pytest

from benchmarks import accelerator, contenders, harness, memory, problem, roofline, train
from landmarks_jax.system import compiler

pytestmark = pytest.mark.usefixtures("module_x64")

without_torch = pytest.mark.skipif(
    importlib.util.find_spec("torch") is None, reason="torch is not installed"
)
CELL = (2, "float64", 3)
FIELDS = {**accelerator.TINY, "perceptual__taps": ("relu1_2", "relu2_1")}


@pytest.fixture(scope="module")
def narrow(module_x64):
    """A narrow problem in float64."""
    return problem.make_problem(problem.configure("released", *CELL, **FIELDS))


@pytest.fixture
def views():
    """A pair of views, and rows of the auxiliary photos."""
    rng = np.random.default_rng(3)
    first, second = (rng.uniform(0, 1, (3, 16, 16, 3)) for _ in range(2))
    return first, second, np.array([1, 2, 0])


def torch_step(way, narrow):
    import torch  # noqa: PLC0415

    torch.set_num_threads(1)  # more of them spend their time waiting
    return contenders.torch_step(way, narrow)


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
def test_two_steps_equal_pytorchs_as_released(narrow, monkeypatch):
    options = []
    compile_ = jax.stages.Lowered.compile

    def record(self, compiler_options=None):
        options.append(compiler_options)
        return compile_(self, compiler_options)

    monkeypatch.setattr(jax.stages.Lowered, "compile", record)
    ours = contenders.Ours(narrow, 1)
    if jax.default_backend() == "cpu":
        assert compiler.compiler_options() in options
    step = torch_step("AsReleased", narrow)
    losses = []
    for number in range(2):  # the second has other views and follows an update
        ours.step()
        losses.append(float(step(step.put(*problem.draw_views(narrow, number)))))
        assert ours.mean_loss() == pytest.approx(np.mean(losses), rel=1e-7 if number else 1e-10)
    assert losses[0] != losses[1]
    theirs = dict(step.named_parameters())
    expected = as_theirs(ours.state.params)
    assert {name for name, array in theirs.items() if array.requires_grad} == set(expected)
    before = as_theirs(narrow.variables["params"])
    for name, array in expected.items():
        # PyTorch clips by norm + 1e-6.
        np.testing.assert_allclose(theirs[name].detach(), array, atol=3e-6, err_msg=name)
        assert np.abs(array - before[name]).max() > 5e-5, name
    memory = ours.memory()
    assert memory["arguments"] > 0
    assert memory["temporary"] > 0


@without_torch
def test_both_ways_differ_only_in_what_batch_norm_sees(narrow, views):
    evaluated, trained = {}, {}
    for way in contenders.BN_GROUPS:
        step = torch_step(way, narrow)
        evaluated[way] = gradients_of(step.eval(), views)
        step.zero_grad()
        trained[way], _ = gradients_of(step.train(), views)
    (released, expected), (fused, actual) = evaluated["AsReleased"], evaluated["Fused"]
    assert fused == pytest.approx(released, rel=1e-12)
    assert_equal_gradients(actual, expected)
    assert 1e-5 < abs(trained["Fused"] / trained["AsReleased"] - 1) < 0.1


@without_torch
def test_pytorch_counts_the_same_operations(narrow, views):
    from torch.utils.flop_counter import FlopCounterMode  # noqa: PLC0415

    step = torch_step("Fused", narrow)
    with FlopCounterMode(display=False) as counter:
        step.loss(*step.put(*views)).backward()
    assert counter.get_total_flops() == 2 * 3 * roofline.macs_per_photo(narrow.config)


class Fake:
    """Stands for our step where only its times and numbers are of interest."""

    loss, compile_seconds = 0.5, 1.0

    def __init__(self, *_):
        self.rounds = 0

    def __call__(self):
        self.rounds += 1
        time.sleep(0.001)

    def step(self, batch):
        self()
        assert {len(rows) for rows in batch} == {3}
        return batch[0]

    def mean_loss(self):
        return 0.25

    def memory(self):
        return {"arguments": 1.5, "temporary": 2.5}


@pytest.fixture
def fake(monkeypatch):
    for module in (accelerator, contenders, memory):
        monkeypatch.setattr(module, "Ours", Fake)


def test_a_cell_is_measured_without_pytorch(fake, monkeypatch):
    monkeypatch.setattr(harness, "why_no_torch", lambda: "torch is not installed")
    monkeypatch.setattr(harness, "matmul_peak", lambda dtype: 1e11)
    result = train.measure("released", [CELL], ["fused"], steps_per_round=1, seconds=0.0, **FIELDS)
    assert result["left_out"] == {
        "PyTorch fused, c = 2, float64, batch 3": "torch is not installed"
    }
    (row,) = result["rows"]
    assert row["over_ours"] == [1.0, 1.0, 1.0]
    assert row["rounds"] == 5
    assert (row["first_loss"], row["memory_mib"]["arguments"]) == (0.5, 1.5)
    assert row["images_per_second"] == pytest.approx(3e3 / row["quartiles_ms"][1], rel=1e-3)
    assert "| 2 | float64 | 3 |" in train.to_markdown(result)


def test_a_configurations_memory(fake):
    fields = {name.replace("__", "."): value for name, value in FIELDS.items()}
    row = memory.measure("released", fields | {"train.batch_size": 3})
    assert (row["config"], row["batch"], row["dtype"]) == ("released", 3, "float32")
    assert row["planned_mib"] == {"arguments": 1.5, "temporary": 2.5}
    first, last = row["host_peak_mib"]
    assert 0 <= last - first < 50


def test_a_stage_writes_its_result(narrow, fake, tmp_path, monkeypatch):
    monkeypatch.setattr(accelerator, "_configure", lambda *_, tiny: narrow.config)
    settings = []
    monkeypatch.setattr(jax.config, "update", lambda name, value: settings.append((name, value)))
    accelerator.run_stage("steps_32", tmp_path, tiny=True)
    assert settings == [("jax_compilation_cache_dir", str(tmp_path / "compiled"))]
    (stage,) = accelerator.read_stages(tmp_path, tiny=True).values()
    assert (stage["channels"], stage["batch"], stage["steps"], stage["tiny"]) == (32, 3, 4, True)
    assert stage["minutes_of_85000"] == pytest.approx(85 * stage["quartiles_ms"][1] / 60, rel=0.01)
    text = accelerator.write_summary(tmp_path, {"machine": "ran out of time"}, tiny=True)
    assert "Left out: machine (ran out of time)." in text
    assert f"| 32 | 3 | 4 | {stage['quartiles_ms'][1]:,.2f} |" in text
