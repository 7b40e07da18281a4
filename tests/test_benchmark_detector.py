"""The detector's benchmark: PyTorch's network is ours, and the table."""

import importlib.util

import numpy as np
import pytest

from benchmarks import detector as benchmark
from landmarks_jax.inference.detector import ViewDetector
from tests.benchmarking import HEAD


@pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="torch is not installed")
def test_pytorch_finds_the_same_landmarks(narrow_config, filled):
    import torch  # noqa: PLC0415

    from benchmarks.torch_networks import TorchDetector, state_dict  # noqa: PLC0415

    config = narrow_config(compute_dtype="float32", model__hourglass_depth=2)
    module = benchmark.build_detector(config)
    variables = filled(module, (1, 32, 32, 3), use_running_average=True)
    network = TorchDetector(3, 8, 2, config.model.beta)
    keys = network.load_state_dict(state_dict(variables), strict=False)
    assert not keys.unexpected_keys
    assert all(name.endswith("num_batches_tracked") for name in keys.missing_keys)
    views = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), np.uint8)
    with torch.inference_mode():
        theirs = network.eval()(torch.from_numpy(views)).numpy()
    ours = ViewDetector(config, variables)(views)
    assert np.std(ours, 0).min() > 1e-4
    np.testing.assert_allclose(theirs, ours, atol=1e-5)


def test_who_finds_other_landmarks_or_fails_is_left_out():
    def failing(views):
        raise RuntimeError("no engine")

    runs = {
        "landmarks_jax": lambda views: np.zeros((1, 3, 2)),
        "other": lambda views: np.full((1, 3, 2), 0.1),
        "failing": failing,
        "same": lambda views: np.full((1, 3, 2), 5e-4),
    }
    wrong = benchmark.check_landmarks(runs, np.zeros((1, 4, 4, 3), np.uint8), 1e-3)
    assert wrong == {
        "other": "its landmarks in [-1, 1] differ from ours by 0.1",
        "failing": "RuntimeError: no engine",
    }
    assert list(runs) == ["landmarks_jax", "same"]


def test_the_table_compares_with_the_fastest_other():
    common = {"width": "small", "dtype": "float32", "batch": 8, "floor_ms": 1.0}
    rows = [
        {**common, "contender": name, "quartiles_ms": [time, time, time]}
        for name, time in (("landmarks_jax", 4.0), ("PyTorch", 5.0), ("ONNX Runtime", 2.0))
    ]
    result = {**HEAD, "matmul_gflops": {"float32": 100.0}, "left_out": {}, "rows": rows}
    line = benchmark.to_markdown(result).splitlines()[4]
    assert line == "| small | float32 | 8 | 4.0 ms | 5.0 ms | 2.0 ms | 2.00 | 2,000 | 25% |"
