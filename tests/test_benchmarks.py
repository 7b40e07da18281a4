"""Benchmarks: the detector's contenders are the same, turns are taken, tables are of their JSON."""

import importlib
import importlib.util
import json

import numpy as np
import pytest

from benchmarks import detector as benchmark
from benchmarks import records
from landmarks_jax.inference.detector import ViewDetector
from tests.benchmarking import HEAD
from tests.running import ROOT

RESULTS = sorted((ROOT / "docs" / "results" / "benchmarks").glob("*.json"))


@pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="torch is not installed")
def test_the_network_in_pytorch_finds_the_same(narrow_config, filled):
    import torch  # noqa: PLC0415

    from benchmarks.torch_detector import TorchDetector, state_dict  # noqa: PLC0415

    config = narrow_config(compute_dtype="float32", model__hourglass_depth=2)
    module = benchmark.build_detector(config)
    variables = filled(module, (1, 32, 32, 3), use_running_average=True)
    network = TorchDetector(3, 8, 2, config.model.beta)
    missing = network.load_state_dict(state_dict(variables), strict=False)
    assert not missing.unexpected_keys
    assert all(name.endswith("num_batches_tracked") for name in missing.missing_keys)
    views = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), np.uint8)
    with torch.inference_mode():
        found = network.eval()(torch.from_numpy(views)).numpy()
    wanted = ViewDetector(config, variables)(views)
    assert np.std(wanted, 0).min() > 1e-4
    np.testing.assert_allclose(found, wanted, atol=1e-5)


def test_contenders_take_turns():
    order = []
    runs = {name: lambda name=name: order.append(name) for name in "abc"}
    times = records.in_turn(runs)
    assert order[:6] == list("aabbcc")  # warming up
    assert order[6:] == list("abc") * (len(order[6:]) // 3)
    assert {name: len(rounds) for name, rounds in times.items()} == dict.fromkeys(
        "abc", records.MOST
    )


def test_quartiles_are_of_a_step():
    assert records.quartiles_ms([0.4, 0.1, 0.2, 0.3, 0.5], per=10) == [20.0, 30.0, 40.0]
    assert records.quartiles_ms([0.4], per=10) == [40.0, 40.0, 40.0]


def test_the_table_compares_with_the_fastest_other():
    common = {"width": "small", "dtype": "float32", "batch": 8, "floor_ms": 1.0}
    rows = [
        {**common, "contender": name, "quartiles_ms": [time, time, time]}
        for name, time in (("landmarks_jax", 4.0), ("PyTorch", 5.0), ("ONNX Runtime", 2.0))
    ]
    result = {
        **HEAD,
        "matmul_gflops": {"float32": 100.0},
        "left_out": {},
        "rows": rows,
    }
    line = benchmark.to_markdown(result).splitlines()[4]
    assert line == "| small | float32 | 8 | 4.0 ms | 5.0 ms | 2.0 ms | 2.00 | 2,000 | 25% |"


def test_another_answer_is_no_contender():
    runs = {
        "landmarks_jax": lambda views: np.zeros((1, 3, 2)),
        "other": lambda views: np.full((1, 3, 2), 0.1),
    }
    with pytest.raises(RuntimeError, match=r"other: points differ by 0\.1 "):
        benchmark._check(runs, np.zeros((1, 4, 4, 3), np.uint8), 1e-3)


@pytest.mark.parametrize("path", RESULTS, ids=lambda path: path.stem)
def test_tables_of_benchmarks_are_made_from_the_json(path):
    result = json.loads(path.read_text())
    python, flag, module, *_ = result["command"].split()
    assert (python, flag) == ("python", "-m")
    table = importlib.import_module(module).to_markdown(result)
    assert path.with_suffix(".md").read_text() == table
