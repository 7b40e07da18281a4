"""Benchmarks of our step, on one compiled step: a cell, a long run, memory, compiler options."""

import jax
import pytest

from benchmarks import accelerator, contenders, harness, memory, problem, train
from landmarks_jax.system import compiler

CELL = (2, "float32", 2)


@pytest.fixture(scope="module")
def compiled():
    """Our step, and the options that programs were compiled with."""
    options = []
    compile_ = jax.stages.Lowered.compile

    def record(self, compiler_options=None):
        options.append(compiler_options)
        return compile_(self, compiler_options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jax.stages.Lowered, "compile", record)
        config = problem.configure("released", *CELL, **accelerator.TINY)
        return contenders.Ours(problem.make_problem(config), 1), options


@pytest.fixture
def ours(compiled, monkeypatch):
    for module in (accelerator, contenders, memory):
        monkeypatch.setattr(module, "Ours", lambda *_: compiled[0])
    return compiled[0]


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="only a CPU has options")
def test_the_step_is_compiled_with_the_compiler_options(compiled):
    assert compiler.compiler_options() in compiled[1]


def test_a_cell_is_measured_without_pytorch(ours, monkeypatch):
    monkeypatch.setattr(harness, "why_no_torch", lambda: "torch is not installed")
    monkeypatch.setattr(harness, "matmul_peak", lambda dtype: 1e11)
    result = train.measure(
        "released", [CELL], ["fused"], steps_per_round=1, seconds=0.0, **accelerator.TINY
    )
    assert result["left_out"] == {
        "PyTorch fused, c = 2, float32, batch 2": "torch is not installed"
    }
    (row,) = result["rows"]
    assert row["over_ours"] == [1.0, 1.0, 1.0]
    assert row["rounds"] == 5
    assert row["first_loss"] == ours.loss > 0
    assert row["images_per_second"] == pytest.approx(2e3 / row["quartiles_ms"][1], rel=1e-3)
    assert "| 2 | float32 | 2 |" in train.to_markdown(result)


def test_memory_is_planned_and_does_not_grow(ours):
    fields = {name.replace("__", "."): value for name, value in accelerator.TINY.items()}
    row = memory.measure("released", fields | {"train.batch_size": 2})
    assert (row["config"], row["batch"], row["dtype"]) == ("released", 2, "float32")
    # The state alone: parameters, and Adam's two means of each, in float32.
    assert row["planned_mib"]["arguments"] > 0.05
    assert row["planned_mib"]["temporary"] > 0.05
    first, last = row["host_peak_mib"]
    assert 0 <= last - first < 50


def test_a_stage_writes_its_result(ours, tmp_path, monkeypatch):
    config = problem.configure("released", *CELL, **accelerator.TINY)
    monkeypatch.setattr(accelerator, "_configure", lambda *_, tiny: config)
    settings = []
    monkeypatch.setattr(jax.config, "update", lambda name, value: settings.append((name, value)))
    accelerator.run_stage("steps_32", tmp_path, tiny=True)
    assert settings == [("jax_compilation_cache_dir", str(tmp_path / "compiled"))]
    (stage,) = accelerator.read_stages(tmp_path, tiny=True).values()
    assert (stage["channels"], stage["batch"], stage["steps"], stage["tiny"]) == (32, 2, 4, True)
    assert stage["minutes_of_85000"] == pytest.approx(85 * stage["quartiles_ms"][1] / 60, rel=0.01)
    text = accelerator.write_summary(tmp_path, {"machine": "ran out of time"}, tiny=True)
    assert "Left out: machine (ran out of time)." in text
    assert f"| 32 | 2 | 4 | {stage['quartiles_ms'][1]:,.2f} |" in text
