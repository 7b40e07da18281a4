"""The folder of a run: one training at a time, its log repaired, odd files named in one line."""

import contextlib
import itertools
import json
import os

import pytest

from landmarks_jax import config as configuration
from landmarks_jax.system.errors import ConfigError, WorkdirError
from landmarks_jax.system.sealed_json import sealed
from landmarks_jax.training import loop, run_folder
from landmarks_jax.training.record import Record, Transfer
from tests.running import call, finished_run, flags, narrow

ROW = {"step": 1, "seconds": 0.5, "loss": 1.0}
TOO_LONG = "x" * 300


def test_a_second_training_is_refused_before_it_reads_anything(tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "read_inputs", lambda *_: pytest.fail("read"))
    with run_folder.locked(tmp_path):
        for command in ("train", "session"):
            words = ["--minutes=9", f"--out={tmp_path / 'out'}"] if command == "session" else []
            words += ["--config=base", *flags(narrow()), f"--workdir={tmp_path}"]
            code, out, err = call(command, *words)
            assert (code, out) == (2, "")
            assert err.startswith(f"error: {tmp_path}: process {os.getpid()} on ")
            assert err.endswith(" UTC, is working on it; wait until it ends\n")
    assert os.listdir(tmp_path) == [".lock"]


def test_a_folder_that_got_nothing_is_removed(tmp_path):
    new, old = tmp_path / "runs" / "new", tmp_path / "old"
    old.mkdir()
    for folder in (new, old):
        with pytest.raises(ConfigError), run_folder.locked(folder):
            raise ConfigError("wrong")
    assert not new.exists()
    assert old.exists()
    with run_folder.locked(new):
        (new / "config.json").write_text("{}")
    assert sorted(os.listdir(new)) == [".lock", "config.json"]


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", tmp_path / "file" / "run", tmp_path / TOO_LONG):
        with pytest.raises(WorkdirError, match="cannot be written"), run_folder.locked(folder):
            pass


@pytest.mark.parametrize(
    "damage",
    [
        b'{"step": 2, "seconds": 1.0, "loss": \xff}',
        b"\xff\xfe\x00",
        b'{"step": 2, "secon',
        b"[" * 100_000,
        b"[2]",
        b"2",
        b'{"step": "2", "seconds": 1.0}',
        b'{"step": 2.5, "seconds": 1.0}',
        b'{"step": 2, "seconds": "1"}',
        b'{"step": 2, "seconds": NaN}',
        b'{"step": 2, "seconds": -1.0}',
        b'{"step": 2, "seconds": 1%s}' % (400 * b"0"),
        b'{"step": 2}',
        b"",
    ],
)
def test_damaged_lines_of_a_log_are_skipped_and_moved_aside(damage, tmp_path, caplog):
    path, aside = tmp_path / "metrics.jsonl", tmp_path / "metrics.damaged.jsonl"
    rows = [ROW, {**ROW, "step": 3}, {**ROW, "step": 4}]
    lines = [json.dumps(row).encode() for row in rows]
    # The last one was cut by a kill.
    path.write_bytes(b"\n".join([lines[0], damage, *lines[1:], b'{"step": 5, "se']))
    assert run_folder.read_log(tmp_path) == rows
    assert run_folder.read_log(tmp_path, 3) == rows[:2]
    assert f"{path}: damaged at line 2; skipped" in caplog.text
    caplog.clear()
    log = run_folder.continue_log(tmp_path, 3)
    assert f"{path}: damaged at line 2; moved to metrics.damaged.jsonl" in caplog.text
    log.write(lines[2] + b"\n")
    log.close()
    assert path.read_bytes() == b"".join(line + b"\n" for line in lines)
    assert aside.read_bytes() == damage + b"\n"
    caplog.clear()
    run_folder.continue_log(tmp_path, 4)
    assert (caplog.text, aside.read_bytes()) == ("", damage + b"\n")


def test_many_damaged_lines_are_counted(tmp_path, caplog):
    (tmp_path / "metrics.jsonl").write_bytes(b"?\n" * 9)
    assert run_folder.read_log(tmp_path) == []
    assert "damaged at line 1, 2, 3 and 6 more; skipped" in caplog.text


ODD = ("x", None, [], {}, [1], {"a": [None]}, True, -1, 0.5, 10**400, float("nan"), float("inf"))


def paths_of(tree, path=()):
    """The places of a tree of JSON."""
    yield path
    parts = enumerate(tree) if isinstance(tree, list) else getattr(tree, "items", tuple)()
    for name, part in parts:
        yield from paths_of(part, (*path, name))


def odd_files(tree):
    """The tree as JSON with each of its values replaced, or removed."""
    for path in paths_of(tree):
        for value in ODD:
            changed = json.loads(json.dumps({"": tree}))
            part = changed
            for name in ("", *path)[:-1]:
                part = part[name]
            part[("", *path)[-1]] = value
            yield json.dumps(changed[""])
            if path:
                del part[path[-1]]
                yield json.dumps(changed[""])


def refusals(read, path, texts):
    """Reads each text as a file; returns how many were refused."""
    refused = 0
    for text in texts:
        path.write_text(text)
        try:
            read(path.parent)
        except WorkdirError as error:
            message = str(error)
            assert message.startswith(f"{path}: ")
            assert len(message.splitlines()) == 1
            assert len(message) - len(str(path)) < 600
            refused += 1
    return refused


@pytest.mark.parametrize("every", [29, pytest.param(1, marks=pytest.mark.slow)])
def test_a_configuration_of_other_types_is_refused_in_one_line(every, tmp_path):
    def read(folder):
        config = run_folder.read_config(folder)
        assert not list(configuration.differences(config, configuration.from_json(
            configuration.to_json(config))))  # fmt: skip

    for fields in ({}, {"objective__task": "self_training", "targets__grid": 2}):
        tree = json.loads(configuration.to_json(narrow(model__num_landmarks=4, **fields)))
        texts = itertools.islice(odd_files(tree), 0, None, every)
        assert refusals(read, tmp_path / "config.json", texts) > 1000 / every


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b'{"seed": "\xff"}', "invalid start byte"),
        (b'{"seed": 1' + b"0" * 5000 + b"}", "Exceeds the limit"),
        (b"[" * 100_000, "recursion"),
        (b'{\n "seed": 1,\n}', "line (3 column 1|2 column 11)"),
        (b"", "line 1 column 1"),
    ],
)
def test_a_file_that_is_no_json_is_refused_in_one_line(data, problem, tmp_path):
    for name, read in (
        ("config.json", run_folder.read_config),
        ("run.json", run_folder.read_record),
    ):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(WorkdirError, match=problem) as refused:
            read(tmp_path)
        assert str(refused.value).startswith(f"{tmp_path / name}: ")


def test_a_number_in_quotes_is_named(tmp_path):
    run = finished_run(tmp_path / "run", narrow())
    path = run / "config.json"
    path.write_text(path.read_text().replace('"steps": 4', '"steps": "4"'))
    for words in (["train", "--config=base", *flags(narrow())], ["eval"]):
        code, _, err = call(*words, f"--workdir={run}")
        assert code == 2
        problem = "config.train.steps = '4': must be a whole number"
        assert err.splitlines()[-1].startswith(f"error: {path}: {problem}")


def test_another_record_is_refused_in_one_line(tmp_path):
    transfer = Transfer(1, 2.0, 3, other_photos=False, new_targets=False, changes=["c"])
    record = Record("a", "", {"mode": "scratch"}, ["n"], ["h"], [transfer])
    path, fields = tmp_path / "run.json", record.to_json()
    texts = list(odd_files(sealed(fields)))
    assert refusals(run_folder.read_record, path, texts) == len(texts) > 200
    # Of another version of this program.
    others = ({"more": 1}, {"transfers": None}, {"transfers": [{}]}, {"transfers": [{"step": 1}]})
    texts = [json.dumps(sealed(fields | other)) for other in others]
    texts += [json.dumps(sealed({k: v for k, v in fields.items() if k != "transfers"}))]
    assert refusals(run_folder.read_record, path, texts) == len(texts)


def test_no_flipped_bit_of_a_record_passes_unseen(tmp_path):
    transfer = Transfer(1, 2.0, 3, other_photos=False, new_targets=False, changes=["c"])
    record = Record("a", "", {"mode": "scratch"}, ["n"], ["h"], [transfer])
    run_folder.claim(tmp_path, narrow(), record)
    path = tmp_path / "run.json"
    whole = path.read_bytes()
    for place in range(0, 8 * len(whole), 13):
        data = bytearray(whole)
        data[place // 8] ^= 1 << place % 8
        path.write_bytes(data)
        with contextlib.suppress(WorkdirError):
            assert run_folder.read_record(tmp_path) == record
    edited = json.loads(whole) | {"notes": ["other"]}
    path.write_text(json.dumps(edited))
    with pytest.raises(WorkdirError, match=r"run\.json: cannot be read \(damaged: .*; copy it"):
        run_folder.read_record(tmp_path)
    del edited["sha256"]
    path.write_text(json.dumps(edited))
    with pytest.raises(WorkdirError, match=r"run\.json: cannot be read \(not a JSON object with"):
        run_folder.read_record(tmp_path)


@pytest.mark.parametrize(
    "words",
    [
        ("train", "--config=base", *flags(narrow()), f"--workdir={TOO_LONG}"),
        ("train", "--config=base", *flags(narrow()), f"--transfer={TOO_LONG}", "--workdir=new"),
        ("train", "--config=base", "--config.data.source=folder", "--workdir=new",
         f"--config.data.roots=('{TOO_LONG}',)"),
        ("eval", f"--workdir={TOO_LONG}"),
        ("eval", "--workdir=run", f"--fit={TOO_LONG}", f"--score={TOO_LONG}"),
        ("compare", TOO_LONG, "run"),
        ("export", f"--workdir={TOO_LONG}", "--out=x"),
        ("export", f"--detector={TOO_LONG}", "--out=x"),
        ("transfer", f"--workdir={TOO_LONG}", "--out=x"),
        ("detect", "faces", TOO_LONG, "--out=x"),
        ("prepare", "--config=base", *flags(narrow()), f"--out={TOO_LONG}"),
    ],
)  # fmt: skip
def test_a_name_that_is_too_long_is_one_line(words, tmp_path, monkeypatch):
    finished_run(tmp_path / "run", narrow())
    monkeypatch.chdir(tmp_path)
    code, _, err = call(*words)
    assert code in (1, 2)
    line = err.splitlines()[-1]
    assert line.startswith("error: ")
    assert TOO_LONG in line
    assert os.listdir(tmp_path) == ["run"]
