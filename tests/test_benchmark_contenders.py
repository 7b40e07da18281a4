"""Benchmarks of the step: PyTorch's is ours, and what is measured of one compiled step."""

import importlib.util
import json
import time
import types

import jax
import numpy as np
import pytest

from benchmarks import (
    accelerator,
    accelerator_stages,
    contenders,
    harness,
    memory,
    problem,
    roofline,
    stages,
    step_times,
    train,
)
from landmarks_jax.system import compiler
from tests.running import narrow as narrow_run

pytestmark = pytest.mark.usefixtures("module_x64")

without_torch = pytest.mark.skipif(
    importlib.util.find_spec("torch") is None, reason="torch is not installed"
)
CELL = (2, "float64", 3)
FIELDS = {**accelerator_stages.TINY, "perceptual__taps": ("relu1_2", "relu2_1")}


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
    for module in (accelerator_stages, step_times, memory):
        monkeypatch.setattr(module, "Ours", Fake)
    monkeypatch.setattr(harness, "matmul_peak", lambda dtype: 1e11)


def begin(flags=("released", "fused"), **options):
    options = {"check_losses": False, "steps_per_round": 1, "seconds": 0.0} | options
    return step_times.measure("released", [CELL], flags, **options, **FIELDS)


def measure(*arguments, **options):
    """All results of a cell."""
    return list(begin(*arguments, **options))


def test_a_cell_is_measured_without_pytorch(fake, monkeypatch):
    monkeypatch.setattr(harness, "why_no_torch", lambda: "torch is not installed")
    result = measure(["fused"], check_losses=True)[-1]
    assert result["left_out"] == {
        "PyTorch fused, c = 2, float64, batch 3": "torch is not installed"
    }
    (row,) = result["rows"]
    assert row["over_ours"] == [1.0, 1.0, 1.0]
    assert (row["rounds"], row["alternated"]) == (5, False)
    assert (row["first_loss"], row["memory_mib"]["arguments"]) == (0.5, 1.5)
    assert row["images_per_second"] == pytest.approx(3e3 / row["quartiles_ms"][1], rel=1e-3)
    assert "| 2 | float64 | 3 |" in train.to_markdown(result)
    (nothing,) = measure(["fused"], with_ours=False)
    assert nothing["rows"] == []


class Failing(Fake):
    """A contender that fails in its fourth round."""

    def __call__(self):
        super().__call__()
        if self.rounds == 4:
            raise RuntimeError("CUBLAS_STATUS_ALLOC_FAILED")


def test_an_error_of_a_contenders_own_leaves_the_other_rows(fake, monkeypatch):
    def make(_, flag, __):
        if flag == "released":
            raise NotImplementedError("GET was unable to find an engine")
        return Failing()

    monkeypatch.setattr(harness, "why_no_torch", lambda: None)
    monkeypatch.setattr(contenders, "make_theirs", make)
    monkeypatch.setattr(contenders, "release_memory", lambda: None)
    results = measure()
    assert [row["contender"] for row in results[0]["rows"]] == ["landmarks_jax"]
    assert [result["left_out"] for result in results[:3]] == [{}] * 3  # nothing of PyTorch's yet
    assert all(result["rows"] for result in results)
    ours, theirs = results[-1]["rows"]
    assert (ours["rounds"], theirs["rounds"]) == (5, 2)  # after the warm-up
    assert ours["alternated"]
    assert theirs["alternated"]
    assert results[-1]["left_out"] == {
        "PyTorch as released, c = 2, float64, batch 3": (
            "NotImplementedError: GET was unable to find an engine"
        ),
        "PyTorch fused, c = 2, float64, batch 3": (
            "after 2 rounds: RuntimeError: CUBLAS_STATUS_ALLOC_FAILED"
        ),
    }
    monkeypatch.setattr(contenders, "make_theirs", lambda *_: Fake())
    theirs = measure(with_ours=False)[-1]["rows"]
    assert [(row["over_ours"], row["alternated"]) for row in theirs] == 2 * [(None, False)]


def test_who_computes_another_loss_is_not_timed(fake, monkeypatch):
    monkeypatch.setattr(harness, "why_no_torch", lambda: None)
    monkeypatch.setattr(contenders, "make_theirs", lambda *_: Fake())
    monkeypatch.setattr(contenders, "release_memory", lambda: None)
    wrong = {"AsReleased": "its loss is 2, ours 1"}
    monkeypatch.setattr(contenders, "check_losses", lambda _: ({"Fused": 1e-6}, wrong))
    result = measure(check_losses=True)[-1]
    assert [row["contender"] for row in result["rows"]] == ["landmarks_jax", "PyTorch fused"]
    assert result["left_out"] == {
        "PyTorch as released, c = 2, float64, batch 3": "its loss is 2, ours 1"
    }


def test_ours_is_timed_before_losses_are_compared(fake, monkeypatch):
    monkeypatch.setattr(harness, "why_no_torch", lambda: None)

    def killed(_):
        raise KeyboardInterrupt

    monkeypatch.setattr(contenders, "check_losses", killed)
    results = begin(check_losses=True)
    assert [row["contender"] for row in next(results)["rows"]] == ["landmarks_jax"]
    with pytest.raises(KeyboardInterrupt):
        list(results)


def test_losses_are_compared_whatever_one_way_does(monkeypatch):
    class Step:
        def __init__(self, loss):
            self._loss = loss

        def put(self, *batch):
            return batch

        def loss(self, *_):
            return self

        def detach(self):
            return self._loss

    def make(way, _):
        if way == "AsReleased":
            raise RuntimeError("CUDNN_STATUS_NOT_SUPPORTED")
        return Step(loss)

    monkeypatch.setattr(contenders, "torch_step", make)
    monkeypatch.setattr(contenders, "_our_loss", lambda *_: 2.0)
    monkeypatch.setattr(contenders, "_allow_tf32", lambda _: None)
    monkeypatch.setattr(contenders, "draw_views", lambda _: ())
    monkeypatch.setattr(contenders, "make_problem", lambda _: None)
    monkeypatch.setattr(contenders, "release_memory", lambda: None)
    config = problem.configure("released", 2, "float32", 3, **FIELDS)
    loss = 2.00001
    differences, wrong = contenders.check_losses(config)
    assert wrong == {"AsReleased": "RuntimeError: CUDNN_STATUS_NOT_SUPPORTED"}
    assert differences == {"Fused": pytest.approx(5e-6)}
    loss = 2.1
    assert contenders.check_losses(config)[1]["Fused"] == "its loss is 2.1, ours 2"


def test_memory_without_a_plan(narrow):
    ours = object.__new__(contenders.Ours)
    step = types.SimpleNamespace(memory_analysis=lambda: None)
    ours._program = types.SimpleNamespace(step=step)
    assert ours.memory().keys() <= {"device_peak"}


def test_a_configurations_memory(fake):
    fields = {name.replace("__", "."): value for name, value in FIELDS.items()}
    row = memory.measure("released", fields | {"train.batch_size": 3})
    assert (row["config"], row["batch"], row["dtype"]) == ("released", 3, "float32")
    assert row["planned_mib"] == {"arguments": 1.5, "temporary": 2.5}
    first, last = row["host_peak_mib"]
    assert 0 <= last - first < 50


def test_a_stage_writes_its_result(narrow, fake, tmp_path, monkeypatch):
    monkeypatch.setattr(accelerator_stages, "preset_of", lambda *_, tiny: narrow.config)
    written = []
    monkeypatch.setattr(stages.harness, "write_json", lambda path, result: written.append(result))
    stage = accelerator_stages.STAGES["steps_32"]
    stages.measure_here("steps_32", stage, tmp_path, tiny=True)
    assert [(result["steps"], result["complete"]) for result in written] == [
        (2, False),
        (4, False),
        (4, True),
    ]
    last = written[-1]
    assert (last["channels"], last["batch"], last["tiny"]) == (32, 3, True)
    assert last["minutes_of_85000"] == pytest.approx(85 * last["quartiles_ms"][1] / 60, rel=0.01)
    (tmp_path / "steps_32.json").write_text(json.dumps(last))
    left_out = {"machine": "cut off, its time was over"}
    text = accelerator.write_summary(tmp_path, tmp_path, left_out, tiny=True)
    assert "Left out: machine (cut off, its time was over)." in text
    assert f"| 32 | 3 | 4 | {last['quartiles_ms'][1]:,.2f} |" in text


@pytest.mark.parametrize("mirror", [False, True])
def test_points_of_self_training_are_its_targets(mirror):
    config = narrow_run(objective__task="self_training", targets__mirror=mirror)
    assert problem.input_shapes(config).points.shape == (8, 6 if mirror else 3, 2)
