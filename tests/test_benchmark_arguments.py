"""What benchmarks refuse, before anything is timed."""

import json
import sys
from argparse import ArgumentTypeError

import pytest

from benchmarks import accelerator, arguments, records, train
from landmarks_jax.system.errors import UserError
from tests.running import ROOT

STORED = ROOT / "docs" / "results" / "benchmarks" / "train_cpu.json"


def test_what_is_given_by_commas_is_read_or_named():
    assert arguments.names(("a", "b"))("b, a,b") == ("b", "a")
    assert arguments.names(("a",), none=True)("") == ()
    assert arguments.counts(2)("8,2") == (8, 2)
    for read, text, message in (
        (arguments.names(("a",)), "a,x", "'x': must be of a"),
        (arguments.names(("a",)), "", "nothing: must be of a"),
        (arguments.counts(2), "8,1", "'1': must be a whole number from 2"),
        (arguments.counts(2), "8,", "'': must be"),
        (arguments.amount, "nan", "'nan': must be a number from 0"),
        (arguments.amount, "-1", "must be a number"),
    ):
        with pytest.raises(ArgumentTypeError, match=message):
            read(text)


def test_results_have_a_place_before_anything_is_timed(tmp_path):
    assert arguments.out_file(str(tmp_path / "new" / "a.json")).parent.is_dir()
    (tmp_path / "file").touch()
    for text, message in (
        (tmp_path, "must be a JSON file"),
        (tmp_path / "a.md", "must be a JSON file"),
        (tmp_path / "file" / "a.json", "cannot be made"),
    ):
        with pytest.raises(ArgumentTypeError, match=message):
            arguments.out_file(str(text))


def test_what_is_no_earlier_result_is_not_compared_with(tmp_path, monkeypatch):
    torch_is = pytest.MonkeyPatch()
    torch_is.setattr(records, "why_no_torch", lambda: None)
    assert train.read_stored(STORED)["rows"]
    torch_is.undo()
    result = json.loads(STORED.read_text())
    for name, text, message in (
        ("damaged", STORED.read_text()[:300], "is no JSON"),
        ("foreign", STORED.with_name("input_cpu.json").read_text(), "is no result of benchmarks.t"),
        ("list", "[]", "is no result"),
        ("rows", json.dumps(result | {"rows": [{}]}), "is not whole"),
        ("gpu", json.dumps(result | {"device": "1 x NVIDIA H200"}), "was measured on 1 x NVIDIA"),
    ):
        (tmp_path / name).write_text(text)
        with pytest.raises(UserError, match=f"{name}: {message}"):
            train.read_stored(tmp_path / name)
    with pytest.raises(UserError, match=r"missing: cannot be read \(No such file"):
        train.read_stored(tmp_path / "missing")
    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.setattr(records.importlib.util, "find_spec", lambda _: True)
    with pytest.raises(UserError, match="ratios to PyTorch, and torch cannot be imported"):
        train.read_stored(STORED)


def test_a_trial_is_not_taken_for_a_measurement(tmp_path):
    (tmp_path / "machine.json").write_text('{"tiny": true}')
    accelerator.check_folder(tmp_path, tiny=True)
    with pytest.raises(UserError, match=r"machine\.json: was measured with --tiny"):
        accelerator.check_folder(tmp_path, tiny=False)
    (tmp_path / "machine.json").write_text('{"tiny"')
    with pytest.raises(UserError, match=r"machine\.json: cannot be read"):
        accelerator.check_folder(tmp_path, tiny=True)


def test_an_error_is_one_line(capsys):
    def main():
        raise UserError("what, where,\nwhat to do")

    with pytest.raises(SystemExit) as ended:
        arguments.run(main)
    assert ended.value.code == 2
    assert capsys.readouterr().err == "error: what, where, what to do\n"
