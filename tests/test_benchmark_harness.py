"""Benchmarks: arguments, rounds, and stored tables that match their JSON."""

import importlib
import json
from argparse import ArgumentTypeError

import pytest

from benchmarks import harness, rounds
from landmarks_jax.system.errors import UserError
from tests.running import ROOT

RESULTS = sorted((ROOT / "docs" / "results" / "benchmarks").glob("*.json"))


def test_comma_separated_arguments():
    names = harness.comma_separated(harness.one_of(("a", "b")))
    sizes = harness.comma_separated(harness.at_least(2))
    assert names("b, a,b") == ("b", "a")
    assert names("") == ()
    assert sizes("8,2") == (8, 2)
    assert harness.at_least(0.0)("0.5") == 0.5
    for read, text, message in (
        (names, "a,x", "'x': must be one of a, b"),
        (sizes, "8,1", "'1': must be a whole number from 2"),
        (sizes, "8,", "'': must be a whole number"),
        (harness.at_least(0.0), "nan", "'nan': must be a number from 0"),
        (harness.at_least(0.0), "-1", "must be a number"),
    ):
        with pytest.raises(ArgumentTypeError, match=message):
            read(text)


def test_out_must_be_a_writable_json_file(tmp_path):
    assert harness.out_file(str(tmp_path / "new" / "a.json")).parent.is_dir()
    (tmp_path / "file").touch()
    for path, message in (
        (tmp_path, "must be a JSON file"),
        (tmp_path / "a.md", "must be a JSON file"),
        (tmp_path / "file" / "a.json", "cannot be made"),
    ):
        with pytest.raises(ArgumentTypeError, match=message):
            harness.out_file(str(path))


def test_user_errors_are_one_line(capsys):
    def main():
        raise UserError("what, where,\nwhat to do")

    with pytest.raises(SystemExit) as ended:
        harness.run_command(main)
    assert ended.value.code == 2
    assert capsys.readouterr().err == "error: what, where, what to do\n"


def test_contenders_take_turns():
    order = []
    runs = {name: lambda name=name: order.append(name) for name in "abc"}
    *_, (times, stopped) = rounds.time_in_turn(runs, at_most=10)
    assert "".join(order) == "aabbcc" + 10 * "abc"  # warm-up first
    assert {name: len(spent) for name, spent in times.items()} == dict.fromkeys("abc", 10)
    assert stopped == {}
    seen = [len(times["a"]) for times, _ in rounds.time_in_turn(runs, seconds=0, at_least=4)]
    assert seen == [1, 2, 3, 4]


def test_a_contender_that_fails_stops_and_ours_raises():
    calls = {"theirs": 0}

    def theirs():
        calls["theirs"] += 1
        if calls["theirs"] > 3:
            raise RuntimeError("cuDNN: no engine")

    def broken():
        raise MemoryError("x")

    runs = {harness.OURS: lambda: None, "theirs": theirs, "broken": broken}
    *_, (times, stopped) = rounds.time_in_turn(runs, seconds=0, at_least=5, warm_up=1)
    assert {name: len(spent) for name, spent in times.items()} == {
        harness.OURS: 5,
        "theirs": 2,
        "broken": 0,
    }
    assert stopped == {"theirs": "RuntimeError: cuDNN: no engine", "broken": "MemoryError: x"}
    assert calls["theirs"] == 4  # not again
    with pytest.raises(MemoryError):
        list(rounds.time_in_turn({harness.OURS: broken}))


def test_quartiles():
    assert harness.quartiles([0.4, 0.1, 0.2, 0.3, 0.5], scale=100) == [20.0, 30.0, 40.0]
    assert harness.quartiles([0.4567], digits=2) == [0.46, 0.46, 0.46]


@pytest.mark.parametrize("path", RESULTS, ids=lambda path: path.stem)
def test_stored_tables_match_their_json(path):
    result = json.loads(path.read_text())
    python, flag, module, *_ = result["command"].split()
    assert (python, flag) == ("python", "-m")
    table = importlib.import_module(module).to_markdown(result)
    assert path.with_suffix(".md").read_text() == table
