"""The training step in PyTorch is ours: loss, gradient and update; and how results compare."""

import importlib.util
import json
import subprocess

import jax
import numpy as np
import pytest

from benchmarks import accelerator, contenders, counting, problem, profiling, train
from benchmarks.accelerator import TINY
from benchmarks.profiling import Kernel
from tests.benchmarking import HEAD

without_torch = pytest.mark.skipif(
    importlib.util.find_spec("torch") is None, reason="torch is not installed"
)
TWO_TAPS = {**TINY, "perceptual__taps": ("relu1_2", "relu2_1")}


def make(way, batch=3):
    """A narrow problem in float64, PyTorch's step of it, and views with auxiliaries."""
    config = problem.configure("released", 2, "float64", batch, **TWO_TAPS)
    made = problem.make_problem(config)
    rng = np.random.default_rng(3)
    views = [rng.uniform(0, 1, (batch, 16, 16, 3)) for _ in range(2)]
    return made, contenders.torch_step(way, made), (*views, np.array([1, 2, 0]))


def as_theirs(params):
    """Our arrays under PyTorch's names, in its layout."""
    from benchmarks.torch_detector import state_dict  # noqa: PLC0415

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


def assert_equal_gradients(given, wanted):
    assert given.keys() == wanted.keys()
    for name, gradient in wanted.items():
        difference = np.abs(given[name] - gradient).max()
        assert difference <= 1e-9 * (np.abs(gradient).max() + 1e-6), name


@without_torch
def test_the_program_takes_the_steps_of_the_released_way(x64):
    made, step, _ = make("AsReleased")
    ours = contenders.Ours(made, 1)
    losses = []
    for number in range(2):
        ours.step()
        theirs = step(step.put(*problem.draw_views(made, number)))
        losses.append(float(theirs))
        # Two steps' losses, gradients and updates: the second is of other views, and Adam's.
        assert ours.mean_loss() == pytest.approx(np.mean(losses), rel=1e-7 if number else 1e-10)
    assert losses[0] != losses[1]
    named = dict(step.named_parameters())
    wanted = as_theirs(ours.state.params)
    assert {name for name, given in named.items() if given.requires_grad} == set(wanted)
    before = as_theirs(made.variables["params"])
    for name, array in wanted.items():
        given = named[name].detach().numpy()
        # PyTorch clips by norm + 1e-6.
        np.testing.assert_allclose(given, array, atol=3e-6, err_msg=name)
        assert np.abs(array - before[name]).max() > 5e-5, name
    memory = ours.memory()
    assert memory["arguments"] > 0
    assert memory["temporary"] > 0


def test_another_first_loss_is_no_contender():
    config = problem.configure("paper", 2, "float32", 4, **TINY)
    contenders._check_first_loss(config, "Fused", 1.001, 1.0)
    contenders._check_first_loss(config, "AsReleased", 2.0, 1.0)  # of other statistics
    with pytest.raises(RuntimeError, match="Fused: the first step's loss is 2, ours 1"):
        contenders._check_first_loss(config, "Fused", 2.0, 1.0)


@without_torch
def test_both_ways_are_the_same_but_for_what_batch_norm_sees(x64):
    found = {}
    for way in contenders.GROUPS:
        _, step, batch = make(way)
        found[way] = gradients_of(step.eval(), batch)
        step.zero_grad()
        found[way, "train"], _ = gradients_of(step.train(), batch)
    (released, wanted), (fused, given) = (found[way] for way in contenders.GROUPS)
    assert fused == pytest.approx(released, rel=1e-12)
    assert_equal_gradients(given, wanted)
    ratio = found["Fused", "train"] / found["AsReleased", "train"]
    assert 1e-5 < abs(ratio - 1) < 0.1


@without_torch
def test_pytorch_counts_the_closed_forms_operations(x64):
    from torch.utils.flop_counter import FlopCounterMode  # noqa: PLC0415

    made, step, batch = make("Fused")
    with FlopCounterMode(display=False) as counter:
        step.loss(*step.put(*batch)).backward()
    # It leaves out products with vectors: the soft-argmax's.
    assert counter.get_total_flops() == 2 * 3 * counting.macs_per_photo(made.config)


def row(contender, ratio, **fields):
    base = {"channels": 32, "dtype": "float32", "batch": 8, "contender": contender}
    rates = {"quartiles_ms": [900.0, 1000.0, 1100.0], "images_per_second": 8.0, "tflops": 0.1}
    return {**base, **rates, "over_ours": [ratio] * 3, "memory_mib": {}, **fields}


def result(*ratios):
    names = [name for name, *_ in contenders.TORCH.values()]
    rows = [row("landmarks_jax", 1.0)]
    rows += [row(name, ratio) for name, ratio in zip(names, ratios, strict=False)]
    return {
        **HEAD,
        "command": "python -m benchmarks.train",
        "preset": "released",
        "matmul_gflops": {"float32": 200.0},
        "loss_differences": {"32": {"AsReleased": 1e-7, "Fused": 2e-6}},
        "left_out": {"PyTorch fused, c = 32, float32, batch 8": "out of memory"},
        "rows": rows,
    }


def test_a_check_compares_ratios_and_no_seconds():
    before, after = result(1.2, 0.8), result(1.1, 0.6)
    after["rows"] = [{**one, "quartiles_ms": [1.0] * 3} for one in after["rows"]]
    (line,) = train.compare(before, after, 0.15)
    assert line == (
        "c = 32, float32, batch 8: ours over PyTorch as released, compiled was 0.80 and is 0.60"
    )
    assert train.compare(before, after, 0.3) == []
    (line,) = train.compare(before, result(1.3), 0.15)
    assert line.endswith("compiled was 0.80 and could not be measured")


def test_the_table_says_how_much_faster_ours_is():
    text = train.to_markdown(result(1.25))
    assert "| 32 | float32 | 8 | 8.00 | 8.00 | 1.25 | 50% |" in text
    assert "differ from ours by at most 2.0e-06" in text
    assert "Left out: PyTorch fused, c = 32, float32, batch 8 (out of memory)." in text


def test_kernels_are_summed_by_name_and_part():
    text = """
      %fusion.1 = f32[4]{0} fusion(%a), metadata={op_name="jit(f)/jvp(Generator)/encoder/conv1"}
      ROOT %cudnn.2 = f32[4]{0} custom-call(%b), metadata={op_type="x" op_name="jit(f)/transpose(jvp(Detector))/stem"}
      %add.3 = f32[4]{0} add(%c, %d)
    """  # noqa: E501
    where = profiling.places(text)
    kernels = [
        Kernel("wgmma", "cudnn.2", 6.0),
        Kernel("wgmma", "fusion.1", 1.0),
        Kernel("wgmma", "cudnn.2", 2.0),
        Kernel("copy", "", 1.0),
    ]
    found = profiling.summary(kernels, where, 2)
    assert found["kernel_ms"] == 5.0
    assert found["kernels"] == 2.0
    wgmma, copy = found["longest"]
    assert (wgmma["ms"], wgmma["share"], wgmma["calls"]) == (4.5, 0.9, 1.5)
    assert wgmma["mostly"] == "jit(f)/transpose(jvp(Detector))/stem"
    assert copy["mostly"] == ""
    assert found["parts_ms"] == {
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


def test_stages_go_on_where_they_were_and_stop_in_time(tmp_path, monkeypatch):
    started = []

    def run(command, **_):
        name = command[command.index("--stage") + 1]
        started.append(name)
        if name != "steps_64":
            (tmp_path / f"{name}.json").write_text(json.dumps(stages[name]))
        return subprocess.CompletedProcess(command, int(name == "steps_64"))

    machine = {"peak": {"bfloat16": 8e14, "float32": 4e14}, "bandwidth": 4e12}
    trained = row("landmarks_jax", 1.0, channels=64, dtype="bfloat16", batch=32)
    stages = {"machine": machine | HEAD, "train_64_bfloat16_32": {"rows": [trained]}}
    monkeypatch.setattr(accelerator.subprocess, "run", run)
    (tmp_path / "machine.json").write_text(json.dumps(stages["machine"]))
    names = ["machine", "train_64_bfloat16_32", "steps_64", "detector"]
    left_out = accelerator.run_stages(tmp_path, names, 2.65, tiny=False)
    assert started == ["train_64_bfloat16_32", "steps_64"]
    assert left_out["steps_64"].startswith("ended with 1; see steps_64.log")
    assert left_out["detector"].startswith("would not fit into the 15")
    summary = json.loads((tmp_path / "summary.json").read_text())
    (found,) = summary["rows"]
    # 163.7 G multiply-adds of 32 photos in a second, of 800 TFLOP/s.
    assert found["of_peak"] == pytest.approx(2 * 163.68e9 * 32 / 8e14, abs=1e-4)
    assert "| 64 | bfloat16 | 32 | landmarks_jax |" in (tmp_path / "summary.md").read_text()
