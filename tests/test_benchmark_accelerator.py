"""The command for an accelerator: its stages, and profiles."""

import contextlib
import importlib.machinery
import json
import sys
import time
import types

import jax
import numpy as np
import pytest

from benchmarks import accelerator, accelerator_stages, harness, hlo, profiling, stages
from benchmarks.profiling import KernelRun
from benchmarks.stages import Stage
from landmarks_jax.system.errors import UserError
from landmarks_jax.system.signals import Interrupt
from tests.benchmarking import HEAD
from tests.running import narrow


def test_kernels_are_summed_by_name_and_part():
    text = """
      %fusion.1 = f32[4]{0} fusion(%a), metadata={op_name="jit(f)/jvp(Generator)/encoder/conv1"}
      ROOT %cudnn.2 = f32[4]{0} custom-call(%b), metadata={op_type="x" op_name="jit(f)/transpose(jvp(Detector))/stem"}
      %add.3 = f32[4]{0} add(%c, %d)
      %loop_add_fusion.7 = f32[4]{0} fusion(%e), metadata={op_name="jit(f)/jvp(Vgg)/conv1_1"}
    """  # noqa: E501
    where = hlo.scopes(text)
    kernels = [
        KernelRun("wgmma", "cudnn.2", 6.0),
        KernelRun("wgmma", "fusion.1", 1.0),
        KernelRun("wgmma", "cudnn.2", 2.0),
        KernelRun("copy", "", 1.0),
        KernelRun("loop_add_fusion_7", "", 0.5),  # of a CUDA graph
    ]
    summary = profiling.summarize(kernels, where, 2)
    assert summary["kernel_ms"] == 5.25
    assert summary["kernels"] == 2.5
    wgmma, copy, add = summary["longest"]
    assert (wgmma["ms"], wgmma["share"], wgmma["calls"]) == (4.5, 0.8571, 1.5)
    assert wgmma["mostly"] == "jit(f)/transpose(jvp(Detector))/stem"
    assert copy["mostly"] == ""
    assert add["mostly"] == "jit(f)/jvp(Vgg)/conv1_1"
    assert summary["parts_ms"] == {
        "detector": {"backward": 4.0},
        "encoder": {"forward": 0.5},
        "other": {"forward": 0.5},
        "vgg": {"forward": 0.25},
    }


def test_a_profile_is_read_without_tensorboard():
    function = jax.jit(lambda x: (x @ x).sum())
    x = np.ones((64, 64), np.float32)
    function(x).block_until_ready()
    kernels = profiling.record(lambda: function(x).block_until_ready())
    assert kernels
    assert all(kernel.operation and kernel.milliseconds >= 0 for kernel in kernels)


MACHINE = {"peak": {"bfloat16": 8e14, "float32": 4e14}, "bandwidth": 4e12, **HEAD}
ROW = {
    "channels": 64,
    "dtype": "bfloat16",
    "batch": 32,
    "contender": "landmarks_jax",
    "quartiles_ms": [900.0, 1000.0, 1100.0],
    "images_per_second": 32.0,
    "over_ours": [1.0] * 3,
    "memory_mib": {},
    "alternated": True,
}


def write(folder, name, *, complete=True, tiny=False, **result):
    text = json.dumps(result | {"complete": complete, "tiny": tiny})
    (folder / f"{name}.json").write_text(text)


def summary(folder, left_out=(), **options):
    accelerator.write_summary(folder, folder, dict(left_out), tiny=False, **options)
    return json.loads((folder / "summary.json").read_text()), (folder / "summary.md").read_text()


def run(table, folder, *, seconds=60.0, tiny=False, changed=lambda _: None, number=None):
    """Runs stages by the stand-in for a stage's process."""
    with Interrupt() as interrupt:
        interrupt.signal = number
        end = time.monotonic() + seconds
        command = ["tests.stage_process", str(folder)]
        return stages.run(
            table, command, folder, tiny=tiny, end=end, interrupt=interrupt, changed=changed
        )


def test_stages_continue_where_they_were_and_stop_in_time(tmp_path):
    write(tmp_path, "machine")
    stage = Stage(0.0, 60.0, None)
    table = {"machine": stage, "whole": stage, "fails": stage, "long": stage._replace(needs=61.0)}
    left_out = run(table, tmp_path)
    assert not (tmp_path / "machine.log").exists()
    assert json.loads((tmp_path / "whole.json").read_text())["complete"]
    assert left_out.pop("long").startswith("would not fit into the ")
    assert left_out == {"fails": "ended with 1; see fails.log"}
    assert "a reason" in (tmp_path / "fails.log").read_text()
    assert run({"whole": stage, "other": stage}, tmp_path, number=15) == {
        "other": "stopped before it began"
    }


def test_a_stage_that_hangs_is_cut_off_and_keeps_its_rows(tmp_path):
    told = []
    table = {"hangs": Stage(0.0, 1.0, None), "whole": Stage(0.0, 60.0, None)}
    left_out = run(table, tmp_path, changed=lambda left_out: told.append(dict(left_out)))
    assert left_out == {"hangs": "cut off, its time was over"}
    result = json.loads((tmp_path / "hangs.json").read_text())
    assert (result["rows"], result["complete"]) == ([1, 2], False)
    assert told[0] == {}  # of its rows, before it ended
    assert json.loads((tmp_path / "whole.json").read_text())["complete"]


def test_a_second_attempt_does_not_lose_the_rows_of_the_first(tmp_path):
    def attempt(*counts, error=None):
        def measure(*, tiny):
            yield from ({"rows": [0] * count} for count in counts)
            if error:
                raise error

        with contextlib.suppress(ValueError):
            stages.measure_here("s", Stage(0.0, 0.0, measure), tmp_path, tiny=False)
        return stages.read(tmp_path, ["s"], tiny=False)["s"]

    first = attempt(1, 2, error=ValueError())
    assert (len(first["rows"]), first["complete"]) == (2, False)
    assert attempt(1, error=ValueError()) == first
    assert len(attempt(1, 2, 3, error=ValueError())["rows"]) == 3
    last = attempt(1, 2)
    assert (len(last["rows"]), last["complete"]) == (2, True)


def test_the_command_of_a_stage_is_the_one_that_a_user_gives(tmp_path, monkeypatch):
    module = types.ModuleType("__main__")
    module.__spec__ = importlib.machinery.ModuleSpec("benchmarks.accelerator", None)
    monkeypatch.setitem(sys.modules, "__main__", module)
    monkeypatch.setattr(sys, "argv", ["x", "--minutes", "9", "--stage", "s"])
    stage = Stage(0.0, 0.0, lambda tiny: iter([harness.environment(())]))
    stages.measure_here("s", stage, tmp_path, tiny=False)
    result = stages.read(tmp_path, ["s"], tiny=False)["s"]
    assert result["command"] == "python -m benchmarks.accelerator --minutes 9"


def test_the_summary_tells_shares_of_the_roofline_and_what_was_cut_off(tmp_path):
    write(tmp_path, "machine", **MACHINE)
    losses = {"64": {"AsReleased": 1e-7, "Fused": 2e-6}}
    trained = {"rows": [ROW], "left_out": {}, "loss_differences": losses}
    write(tmp_path, "train_64_bfloat16_32", **trained, complete=False)
    result, text = summary(tmp_path, {"steps_64": "ended with 1; see steps_64.log"})
    # 163.7 G multiply-adds of 32 photos in a second, of 800 TFLOP/s.
    assert result["rows"][0]["of_peak"] == pytest.approx(2 * 163.68e9 * 32 / 8e14, abs=1e-4)
    assert "| 64 | bfloat16 | 32 | landmarks_jax |" in text
    assert "PyTorch's losses differ from ours by at most 2.0e-06 of them." in text
    assert "Cut off, with what they had measured: train_64_bfloat16_32." in text
    assert "Left out: steps_64 (ended with 1; see steps_64.log)." in text
    write(tmp_path, "machine", **MACHINE, complete=False)
    result, text = summary(tmp_path)
    assert result["rows"][0]["of_peak"] is None
    assert "The stage `machine` has no whole result." in text


def test_who_does_not_fit_beside_ours_is_compared_by_medians(tmp_path):
    alone = ROW | {"batch": 256, "alternated": False}
    theirs = alone | {"contender": "PyTorch fused", "over_ours": None}
    write(tmp_path, "train_64_bfloat16_256", rows=[alone], left_out={})
    write(
        tmp_path,
        "torch_64_bfloat16_256",
        rows=[theirs | {"quartiles_ms": [1.0, 1500.0, 2.0]}],
        left_out={"PyTorch as released": "OutOfMemoryError: CUDA"},
    )
    result, text = summary(tmp_path)
    assert result["rows"][1]["over_ours"] == [1.5] * 3
    assert "| PyTorch fused (alone) | 1,500.00 | 32 | 1.50 |" in text
    assert "Alone: not in turn" in text
    assert "Left out: PyTorch as released (OutOfMemoryError: CUDA)." in text


def test_without_a_summary_it_goes_on(tmp_path, capsys):
    (tmp_path / "machine.json").write_text("[]")
    text = accelerator.try_write_summary(tmp_path, tmp_path, {}, tiny=True)
    assert text.startswith("no summary: UserError: ")
    assert text in capsys.readouterr().out
    assert not (tmp_path / "summary.json").exists()


def test_a_trial_is_not_a_measurement(tmp_path):
    write(tmp_path, "machine", tiny=True)
    assert stages.read(tmp_path, ["machine"], tiny=True)["machine"]["tiny"]
    with pytest.raises(UserError, match=r"machine\.json: was measured with --tiny"):
        stages.read(tmp_path, ["machine"], tiny=False)
    (tmp_path / "machine.json").write_text('{"tiny"')
    with pytest.raises(UserError, match=r"machine\.json: cannot be read"):
        stages.read(tmp_path, ["machine"], tiny=True)


def test_steps_of_other_configurations_are_other_stages():
    words = ["--config", "best", "--config.train.batch_size=16"]
    config = accelerator.configuration_of(words)
    assert config.train.batch_size == 16
    names = list(accelerator_stages.table_of(["steps_64", "machine"], config))
    own = accelerator_stages.name_of_step(config)
    assert names == [own, "steps_64", "machine"]
    config.eval.protocols = ()
    config.data.roots = ("elsewhere",)
    assert accelerator_stages.name_of_step(config) == own
    config.views.shift_std = 0.0
    assert accelerator_stages.name_of_step(config) != own
    assert accelerator.configuration_of([]) is None


def test_a_configurations_own_step_stands_beside_its_profile(tmp_path):
    kernel = {"kernel": "wgmma", "ms": 1.0, "share": 0.5, "calls": 2.0, "mostly": "conv"}
    config = narrow()
    own = accelerator_stages.name_of_step(config)
    result = {"channels": 2, "dtype": "float32", "batch": 8, "compile_seconds": 41.0}
    result |= {"quartiles_ms": [9.0, 10.0, 11.0], "config": config.to_dict()}
    rates = {"peak": {"float32": 4e10}, "bandwidth": 1e10}
    write(tmp_path, "machine", **MACHINE | rates)
    write(tmp_path, own, **result, complete=False)
    assert "10.00 ms a step, 800.0 images/s; compiled in 41.0 s." in summary(tmp_path, own=[own])[1]
    profile = {"kernels": 2.0, "kernel_ms": 8.0, "parts_ms": {"vgg": {"forward": 3.0}}}
    write(tmp_path, own, **result, **profile, longest=[kernel])
    data, text = summary(tmp_path, own=[own])
    assert "2 kernels a step take 8.00 ms of it. By part, in ms: vgg forward 3.00." in text
    assert "| `wgmma` | 1.000 | 50.0% | 2.0 | `conv` |" in text
    assert 0 < data["stages"][own]["of_peak"] < data["stages"][own]["of_roofline"] < 1
