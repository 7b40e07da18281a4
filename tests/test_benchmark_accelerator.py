"""The command for an accelerator: its stages, and profiles."""

import json
import subprocess

import jax
import numpy as np
import pytest

from benchmarks import accelerator, profiling
from benchmarks.profiling import Kernel
from landmarks_jax.system.errors import UserError
from tests.benchmarking import HEAD


def test_kernels_are_summed_by_name_and_part():
    text = """
      %fusion.1 = f32[4]{0} fusion(%a), metadata={op_name="jit(f)/jvp(Generator)/encoder/conv1"}
      ROOT %cudnn.2 = f32[4]{0} custom-call(%b), metadata={op_type="x" op_name="jit(f)/transpose(jvp(Detector))/stem"}
      %add.3 = f32[4]{0} add(%c, %d)
    """  # noqa: E501
    where = profiling.scopes(text)
    kernels = [
        Kernel("wgmma", "cudnn.2", 6.0),
        Kernel("wgmma", "fusion.1", 1.0),
        Kernel("wgmma", "cudnn.2", 2.0),
        Kernel("copy", "", 1.0),
    ]
    summary = profiling.summarize(kernels, where, 2)
    assert summary["kernel_ms"] == 5.0
    assert summary["kernels"] == 2.0
    wgmma, copy = summary["longest"]
    assert (wgmma["ms"], wgmma["share"], wgmma["calls"]) == (4.5, 0.9, 1.5)
    assert wgmma["mostly"] == "jit(f)/transpose(jvp(Detector))/stem"
    assert copy["mostly"] == ""
    assert summary["parts_ms"] == {
        "detector": {"backward": 4.0},
        "encoder": {"forward": 0.5},
        "other": {"forward": 0.5},
    }


def test_a_profile_is_read_without_tensorboard():
    function = jax.jit(lambda x: (x @ x).sum())
    x = np.ones((64, 64), np.float32)
    function(x).block_until_ready()
    kernels = profiling.record(lambda: function(x).block_until_ready())
    assert kernels
    assert all(kernel.operation and kernel.milliseconds >= 0 for kernel in kernels)


def test_stages_continue_where_they_were_and_stop_in_time(tmp_path, monkeypatch):
    started = []

    def run(command, **_):
        name = command[command.index("--stage") + 1]
        started.append(name)
        if name != "steps_64":
            (tmp_path / f"{name}.json").write_text(json.dumps(stages[name]))
        return subprocess.CompletedProcess(command, int(name == "steps_64"))

    machine = {"peak": {"bfloat16": 8e14, "float32": 4e14}, "bandwidth": 4e12}
    trained = {"channels": 64, "dtype": "bfloat16", "batch": 32, "contender": "landmarks_jax"}
    trained |= {"quartiles_ms": [900.0, 1000.0, 1100.0], "images_per_second": 32.0}
    trained |= {"over_ours": [1.0] * 3, "memory_mib": {}}
    stages = {"machine": machine | HEAD, "train_64_bfloat16_32": {"rows": [trained]}}
    monkeypatch.setattr(accelerator.subprocess, "run", run)
    monkeypatch.setitem(accelerator.STAGES, "detector", (3601.0, None))
    (tmp_path / "machine.json").write_text(json.dumps(stages["machine"]))
    names = ["machine", "train_64_bfloat16_32", "steps_64", "detector"]
    left_out = accelerator.run_stages(tmp_path, names, 60.0, tiny=False)
    assert started == ["train_64_bfloat16_32", "steps_64"]
    assert left_out["steps_64"].startswith("ended with 1; see steps_64.log")
    assert left_out["detector"].startswith("would not fit into the 3")  # thousand seconds left
    summary = json.loads((tmp_path / "summary.json").read_text())
    (row,) = summary["rows"]
    # 163.7 G multiply-adds of 32 photos in a second, of 800 TFLOP/s.
    assert row["of_peak"] == pytest.approx(2 * 163.68e9 * 32 / 8e14, abs=1e-4)
    assert "| 64 | bfloat16 | 32 | landmarks_jax |" in (tmp_path / "summary.md").read_text()


def test_a_trial_is_not_a_measurement(tmp_path):
    (tmp_path / "machine.json").write_text('{"tiny": true}')
    assert accelerator.read_stages(tmp_path, tiny=True) == {"machine": {"tiny": True}}
    with pytest.raises(UserError, match=r"machine\.json: was measured with --tiny"):
        accelerator.read_stages(tmp_path, tiny=False)
    (tmp_path / "machine.json").write_text('{"tiny"')
    with pytest.raises(UserError, match=r"machine\.json: cannot be read"):
        accelerator.read_stages(tmp_path, tiny=True)
