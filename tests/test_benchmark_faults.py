"""The benchmark of faults: the plan, damage, what counts as wrong, the table."""

import collections
import json
import logging
import resource

import numpy as np
import pytest

from benchmarks import fault_scenarios, fault_targets, fault_workers, faults
from benchmarks.fault_workers import Fault
from landmarks_jax.system.errors import DataError
from landmarks_jax.training import run_folder
from tests.benchmarking import HEAD
from tests.running import command, finish


def test_a_thousand_faults_are_of_all_kinds_and_seeded():
    plan = faults.plan(1000, 0)
    assert len(set(plan)) == len(plan) == 1000
    assert plan[:50] == faults.plan(50, 0)
    assert plan != faults.plan(1000, 1)
    counts = collections.Counter(fault.kind for fault in plan)
    assert set(counts) == {"flipped bit", "cut", "zeros", "full disk", "SIGKILL", "SIGTERM"}
    assert min(counts.values()) > 80
    assert {fault.what for fault in plan} > {*fault_targets.TARGETS, *fault_scenarios.SCENARIOS}


def test_damage_is_where_it_says(tmp_path):
    path, data = tmp_path / "a", bytes(range(1, 100))
    for kind in fault_workers.DAMAGES:
        path.write_bytes(data)
        where = fault_workers.damage(tmp_path, "*", kind, np.random.default_rng(3))
        place, left = int(where.removeprefix("a, byte ")), path.read_bytes()
        changed = bytes(99 - place) if kind == "zeros" else b""
        if kind == "flipped bit":
            changed = left[place : place + 1] + data[place + 1 :]
            assert (left[place] ^ data[place]).bit_count() == 1
        assert left == data[:place] + changed


def _target(read, **options):
    return fault_targets.Target("x", "a", read, **options)


def test_a_result_that_differs_is_silent_unless_it_cannot_be_known(tmp_path, monkeypatch):
    (tmp_path / "base" / "x").mkdir(parents=True)
    (tmp_path / "base" / "packed").mkdir()
    (tmp_path / "base" / "x" / "a").write_bytes(b"content")

    def read(folder):
        return (folder / "a").read_bytes()

    def refuse(folder):
        if read(folder) != b"content":
            raise DataError("a: damaged")
        return "right"

    def warn(folder):
        if read(folder) != b"content":
            logging.getLogger("landmarks_jax.data").warning("a: damaged")
        return read(folder)

    def fail(folder):
        return {b"content": 1}[read(folder)]

    for verdict, target in {
        "silent": _target(read),
        "unknowable": _target(read, checked=False),
        "refused": _target(refuse),
        "no effect": _target(lambda folder: "anything"),
        "traceback": _target(fail),
    }.items():
        monkeypatch.setitem(fault_targets.TARGETS, "it", target)
        fault = Fault("it", "flipped bit", 0)
        found, why = fault_workers.damaged(fault, tmp_path / "work", tmp_path / "base", {})
        assert (found, why[:8]) == (verdict, "a, byte ")
    monkeypatch.setitem(fault_targets.TARGETS, "it", _target(warn))
    assert fault_workers.damaged(fault, tmp_path / "work", tmp_path / "base", {})[0] == "refused"


def test_half_a_file_and_a_missing_one_are_silent_losses(tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    right = {"landmarks.csv": b"a\nb\n", "landmarks.jsonl": b"{}\n", "skipped.csv": b"file\n"}

    def problems(code, **files):
        for path in out.iterdir():
            path.unlink()
        for name, data in files.items():
            (out / name.replace("_", ".")).write_bytes(data)
        return [why for _, why in fault_scenarios.check("detect", tmp_path, code, right)]

    whole = {name.replace(".", "_"): data for name, data in right.items()}
    assert problems(0, **whole) == []
    assert problems(1, landmarks_csv=b"a\n", skipped_csv=b"file\nx\n") == []
    assert problems(1, landmarks_csv=b"a\nb") == ["landmarks.csv is not whole (3 of 4 bytes)"]
    assert problems(0, landmarks_csv=b"a\nb\n") == [
        "exit code 0 without landmarks.jsonl, skipped.csv"
    ]
    assert problems(0, **whole | {"landmarks_csv": b"a\n"}) == ["exit code 0 with some rows only"]


def test_the_limit_of_a_full_disk_is_only_in_its_block(tmp_path):
    first, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = 10**9, hard
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
    try:
        with fault_scenarios.limited(50), pytest.raises(OSError, match="File too large"):
            (tmp_path / "a").write_bytes(bytes(100))
        assert resource.getrlimit(resource.RLIMIT_FSIZE) == before
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (first, hard))


def test_lost_steps_and_other_losses_are_found(tmp_path):
    rows = [{"step": step, "loss": 1 / step, "digest": str(step)} for step in range(1, 9)]
    (tmp_path / "trajectory.json").write_text(json.dumps(rows))
    trajectory = fault_scenarios.Trajectory(tmp_path / "trajectory.json")
    run_folder.write_log(tmp_path, rows[:4])
    assert trajectory.check(tmp_path, saved_last=False) == (0, [])
    run_folder.write_log(tmp_path, rows[:5])
    assert trajectory.check(tmp_path, saved_last=False) == (
        0, [("lost", "no checkpoint after 5 steps")]
    )  # fmt: skip


def test_the_table():
    rows = [
        {"what": "run.json", "kind": "cut", "faults": 3, "verdicts": {"refused": 2, "silent": 1}}
    ]
    result = {**HEAD, "count": 3, "jobs": 2, "minutes": 1.25, "rows": rows}
    text = faults.to_markdown(result)
    assert "| run.json | cut | 3 | 2 | 0 | 0 | 1 | 0 | 0 | 0 |" in text
    assert "| all |  | 3 | 2 | 0 | 0 | 1 | 0 | 0 | 0 |" in text


@pytest.mark.slow
def test_some_faults_are_made(tmp_path):
    out = tmp_path / "faults.json"
    process = command("-m", "benchmarks.faults", "--count=12", "--jobs=1", f"--out={out}")
    code, text, err = finish(process)
    assert (code, "| all |  | 12 |" in text) == (0, True), err
    assert json.loads(out.read_text())["count"] == 12
