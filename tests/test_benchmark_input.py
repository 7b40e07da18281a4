"""The benchmark of the input: stages, clock, waiting and table."""

import itertools
import time
from types import SimpleNamespace

import pytest

from benchmarks import input as benchmark
from landmarks_jax.data import prepared
from landmarks_jax.data.loader import framing_of
from landmarks_jax.data.sources import registry
from landmarks_jax.system import parallel
from tests.benchmarking import HEAD
from tests.running import narrow


@pytest.fixture(autouse=True)
def small(monkeypatch, tmp_path):
    for name, value in {"SLOW": 8, "FAST": 16, "BATCH": 4, "PREFETCHED": 2}.items():
        monkeypatch.setattr(benchmark, name, value)
    monkeypatch.setattr(benchmark, "CONFIGS", {"faces_cpu": SimpleNamespace(get_config=narrow)})
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def test_every_stage_is_timed(tmp_path):
    drawn, photos, canvases = (tmp_path / name for name in ("drawn", "photos", "canvases"))
    drawn.mkdir()
    photos.mkdir()
    benchmark.draw_photos(10, drawn)
    benchmark.link_photos(drawn, 8, photos)
    assert [path.name for path in sorted(photos.iterdir())][-1] == "000007.jpg"
    config = benchmark.configure("faces_cpu", photos)
    source = registry.open_source(config.data)
    assert source.photo(0).shape == (218, 178, 3)
    prepared.prepare(source, framing_of(config), canvases)
    rows = benchmark.time_stages("faces_cpu", photos, canvases, rounds=2)
    plain = itertools.product(
        ("decode", "resize", "decode and resize"), sorted({1, parallel.num_threads()})
    )
    fed = (("tf.data", parallel.num_threads()), ("prepared", 1), ("prepared, sent", 1))
    assert [(row["stage"], row["threads"]) for row in rows] == [*plain, *fed, ("resident", 0)]
    assert all(rate > 0 for row in rows for rate in row["photos_per_second"])


def test_the_clock_starts_after_prefetched_batches():
    def slow_at_first():
        for i in itertools.count():
            time.sleep(0.2 if i < 2 else 0)
            yield i

    assert benchmark.rate_of_batches(slow_at_first(), 16, lambda batch: batch) > 16 / 0.2


def test_the_share_of_waiting_leaves_out_the_first_rows(tmp_path, monkeypatch):
    log = [
        {"step": 5, "seconds": 9.0, "wait_ms": 900.0},
        {"step": 10, "seconds": 10.0, "wait_ms": 1.0},
        {"step": 15, "seconds": 11.0, "wait_ms": 3.0},
    ]
    seen = []

    def train(workdir, fields):
        seen.append([fields[f"data.{name}"] for name in ("source", "roots", "resident")])
        return log

    monkeypatch.setattr(benchmark, "train", train)
    monkeypatch.setattr(benchmark.harness, "ROOT", tmp_path)  # where there are no weights
    for kind in benchmark.INPUTS:
        row = benchmark.waiting_of(kind, tmp_path / "a", tmp_path / "b", 50, tmp_path)
        assert row == {
            "input": kind, "steps": 10, "step_ms": 200.0, "wait_ms": 2.0, "share": 0.01,
            "perceptual": False,
        }  # fmt: skip
    photos, canvases = (str(tmp_path / "a"),), (str(tmp_path / "b"),)
    assert seen == [
        ["folder", photos, False], ["prepared", canvases, False], ["prepared", canvases, True]
    ]  # fmt: skip


def test_the_tables():
    def row(stage, threads, rate):
        rates = [rate - 1, rate, rate + 1]
        return {"canvas": 60, "stage": stage, "threads": threads, "photos_per_second": rates}

    result = {
        **HEAD,
        "photos": {"count": 9, "of": "--photos", "height": 218.0, "width": 178.0, "bytes": 2048},
        "batch": 32,
        "rows": [
            row("decode", 2, 2000.0),
            row("decode and resize", 2, 1000.0),
            row("tf.data", 2, 900.0),
            row("resident", 0, 54321.0),
        ],
        "waits": [
            {"input": "JPEG", "steps": 9, "step_ms": 1000.0, "wait_ms": 0.25, "share": 0.00025,
             "perceptual": False},
        ],
    }  # fmt: skip
    lines = benchmark.to_markdown(result).splitlines()
    assert "| tf.data | 2 | 900 |" in lines
    assert "| resident | - | 54,321 |" in lines
    assert "| JPEG | 9 | 1,000.0 ms | 0.25 ms | 0.025% |" in lines
