"""The training step's benchmark: how results compare, what cannot be compared, the table."""

import json

import pytest

from benchmarks import contenders, harness, train
from landmarks_jax.system.errors import UserError
from tests.benchmarking import HEAD
from tests.running import ROOT

STORED = ROOT / "docs" / "results" / "benchmarks" / "train_cpu.json"


def row(contender, ratio, **fields):
    base = {"channels": 32, "dtype": "float32", "batch": 8, "contender": contender}
    rates = {"quartiles_ms": [900.0, 1000.0, 1100.0], "images_per_second": 8.0, "tflops": 0.1}
    return {**base, **rates, "over_ours": [ratio] * 3, "memory_mib": {}, **fields}


def result(*ratios):
    names = [torch.name for torch in contenders.TORCH.values()]
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


def test_a_check_compares_ratios_not_seconds():
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


def test_only_a_result_of_here_is_compared_with(tmp_path, monkeypatch):
    monkeypatch.setattr(harness, "why_no_torch", lambda: None)
    assert train.read_stored(STORED)["rows"]
    stored = json.loads(STORED.read_text())
    for name, text, message in (
        ("damaged", STORED.read_text()[:300], "cannot be read"),
        ("foreign", STORED.with_name("input_cpu.json").read_text(), "not a result of benchmarks.t"),
        ("list", "[]", "not a result"),
        ("gpu", json.dumps(stored | {"device": "1 x NVIDIA H200"}), "was measured on 1 x NVIDIA"),
    ):
        (tmp_path / name).write_text(text)
        with pytest.raises(UserError, match=f"{name}: {message}"):
            train.read_stored(tmp_path / name)
    with pytest.raises(UserError, match=r"missing: cannot be read \(No such file"):
        train.read_stored(tmp_path / "missing")
    monkeypatch.setattr(harness, "why_no_torch", lambda: "torch is not installed")
    with pytest.raises(UserError, match="compares with PyTorch, but torch is not installed"):
        train.read_stored(STORED)
