"""The command `landmarks-jax`: its help, its flags, presets by name, errors in one line."""

import importlib
import logging
import re
import signal
import sys
import types

import pytest

from landmarks_jax.cli import main as cli
from landmarks_jax.cli import presets
from landmarks_jax.cli.command import Command, Flag
from landmarks_jax.system.errors import ConfigError, LostError
from tests.running import ROOT, call, command, finish


def module_of(name):
    return importlib.import_module(f"landmarks_jax.cli.{name}")


def parse(name, *arguments):
    return cli.parse(name, module_of(name).COMMAND, arguments)


@pytest.fixture
def fake(monkeypatch):
    """Adds a command `fake` that does what the test says."""

    def add(run, **fields):
        module = types.ModuleType("landmarks_jax.cli.fake", "Do something.")
        module.COMMAND = Command(run, **fields)
        monkeypatch.setitem(cli.COMMANDS, "fake", "do something")
        monkeypatch.setitem(sys.modules, module.__name__, module)

    return add


@pytest.mark.parametrize("arguments", [(), ("--help",)])
def test_alone_it_lists_every_command_with_a_line(arguments):
    code, out, err = call(*arguments)
    assert (code, err) == (0, "")
    files = {p.stem for p in (ROOT / "landmarks_jax" / "cli").glob("*.py")}
    assert cli.COMMANDS.keys() == files - {
        "__init__", "main", "command", "presets", "shared_flags"}  # fmt: skip
    for name, summary in cli.COMMANDS.items():
        assert re.search(rf"^  {name} +{summary}$", out, re.MULTILINE)


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_help_says_what_a_command_does_and_gives_an_example_and_its_flags(name):
    code, out, err = call(name, "--out=x", "--help")
    assert (code, err) == (0, "")
    assert out.startswith(module_of(name).__doc__.strip().split("\n")[0])
    assert f"\nlandmarks-jax {name} " in out
    for flag in module_of(name).COMMAND.flags:
        assert re.search(rf"^  --(\[no\])?{flag.name}\n      \S", out, re.MULTILINE)
    assert max(map(len, out.partition("\nWeights of the loss")[0].splitlines())) <= 100


def test_help_of_training_lists_presets_and_says_where_fields_are_explained():
    out = call("train", "--help")[1]
    presets = "A file, or a preset: ablation_cpu, best, best_cpu, deep_cpu,"
    assert presets in out.replace("\n      ", " ")
    assert "configs/base.py" in out


def test_a_reader_may_close_the_help_early():
    """Such as `head`."""
    code = (
        "import os, sys; read, write = os.pipe(); os.close(read); os.dup2(write, 1);"
        "from landmarks_jax.cli.main import main; sys.exit(main(['train', '--help']))"
    )
    assert finish(command(code=code)) == (141, "", "")


def test_listing_and_help_load_nothing_heavy():
    code = (
        "import sys; from landmarks_jax.cli.main import main; main([]); main(['detect', '--help']);"
        "print(*set(sys.modules) & {'jax', 'numpy', 'ml_collections', 'landmarks_jax.cli.eval'})"
    )
    status, out, err = finish(command(code=code))
    assert status == 0, err
    assert out.splitlines()[-1] == ""


@pytest.mark.parametrize("start", [("train.py",), ("eval.py",), ("-m", "landmarks_jax", "train")])
def test_every_way_to_start_it_fails_with_one_line_and_a_code(start):
    code, out, err = finish(command(*start, "--nope=1"))
    assert (code, out) == (2, "")
    assert err == "error: Unknown command line flag 'nope'; --help lists the flags\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("trian",), "trian: no such command; it is one of train, eval, "),
        (("eval", "runs/a"), "unknown argument 'runs/a'; every argument is a --flag"),
        (("train", "--config"), "--config: give the name of a preset, or a file"),
        (("train", "--config=nothing"), "--config nothing: no such configuration file; .*released"),
        (("train", "--config=configs/no.py"), "--config configs/no.py: no such configuration file"),
        (("train", "--config.model.num_landmark=3"), ".*unknown field: .*num_landmark"),
        (("train", "--config.model.beta=x"), "flag --config.model.beta=x: "),
        (("prepare", "--out=x"), "--config: give the name of a preset, or a file"),
        (("transfer", "--out=x"), "flag --workdir=None: "),
        (("compare",), "give the folders of runs, RUN RUN"),
        (("detect", "faces", "--out=x"), "give DETECTOR and INPUT"),
        (("convert", "--out=x.npz"), "say what to convert, one of vgg, checkpoint"),
        (("convert", "checkpoint", "--workdir=x"), "--detector: needed to convert a checkpoint"),
        (("convert", "vgg", "--workdir=x"), "--workdir: goes with checkpoint, not with vgg"),
        (("convert", "checkpoint", "--out=x"), "--out: goes with vgg or landmarks, not with check"),
        (("convert", "vgg", "--file=x", "--url=y", "--out=z.npz"), "--url: goes with --download"),
        (("reproduce",), "say what to do, one of train, table, check"),
        (("reproduce", "check", "--seeds=1"), "--seeds: goes with train or table, not with check"),
        (("reproduce", "train", "--out=T"), "--out: goes with table, not with train"),
        (("reproduce", "table", "--nodry_run"), "--dry_run: goes with train, not with table"),
        (("demo", "faces", "faces"), "unknown argument 'faces'; one DETECTOR"),
    ],
)
def test_a_wrong_command_line_is_one_line_and_code_2(arguments, message):
    code, out, err = call(*arguments)
    assert (code, out) == (2, "")
    assert re.fullmatch(f"error: {message}.*\n", err)


@pytest.mark.parametrize(
    ("fields", "words", "value"),
    [
        ({}, ["--flag=a,b"], "a,b"),
        ({"default": 7, "kind": int}, [], 7),
        ({"kind": int, "low": 1}, ["--flag=1"], 1),
        ({"kind": float, "high": 2}, ["--flag", "2"], 2.0),
        ({"default": True, "kind": bool}, ["--noflag"], False),
        ({"kind": list}, ["--flag=a,b"], ["a", "b"]),
        ({"repeated": True}, ["--flag=a", "--flag=b,c"], ["a", "b,c"]),
        ({"default": [], "choices": ("a", "b"), "repeated": True}, ["--flag=b"], ["b"]),
        ({"kind": int, "low": 1}, ["--flag=0"], None),
        ({"kind": float, "high": 2}, ["--flag=2.1"], None),
        ({"choices": ("a", "b")}, ["--flag=c"], None),
        ({"required": True}, [], None),
    ],
)
def test_flags_have_kinds_and_bounds(fields, words, value):
    command = Command(lambda call: None, (Flag("flag", "What it does.", **fields),))
    if value is None:
        with pytest.raises(ConfigError, match="--flag="):
            cli.parse("fake", command, words)
    else:
        assert cli.parse("fake", command, words).flags.flag == value


def test_a_configuration_is_a_preset_or_a_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    own = tmp_path / "own.py"
    own.write_text(
        "from landmarks_jax.configs import paper\n"
        "def get_config():\n"
        "    config = paper.get_config()\n"
        "    config.seed = 7\n"
        "    return config\n"
    )
    for name in ("paper", "configs/paper.py", str(ROOT / "configs" / "paper.py"), "own.py"):
        for arguments in ((f"--config={name}",), ("--config", name)):
            read = parse("train", "--config.model.num_landmarks=30", *arguments)
            assert read.config_file == name
            config = read.flags.config
            assert (config.data.source, config.model.num_landmarks) == ("celeba", 30)
            assert config.seed == (7 if name == "own.py" else 0)
    assert parse("train").flags.config.targets.network == "hog"  # the quickstart's
    # A file of the user's comes before a preset.
    (tmp_path / "configs").mkdir()
    own.rename(tmp_path / "configs" / "paper.py")
    assert parse("train", "--config=configs/paper.py").flags.config.seed == 7
    assert parse("train", "--config=paper").flags.config.seed == 0
    own.write_text("def get_config():\n    return undefined\n")
    with pytest.raises(ConfigError, match=r"--config own\.py: NameError: .*undefined"):
        parse("train", "--config=own.py")
    for end, kind in (("pass", "NoneType"), ("return {}", "dict")):
        own.write_text(f"def get_config():\n    {end}\n")
        with pytest.raises(ConfigError, match=rf"own\.py: get_config\(\) returns {kind}, not a C"):
            parse("train", "--config=own.py")


def test_presets_are_named_by_their_paths_too(tmp_path):
    assert presets.short_name("paper") == "paper"
    assert presets.short_name(str(ROOT / "configs" / "paper.py")) == "paper"
    assert presets.short_name(str(tmp_path / "paper.py")) == str(tmp_path / "paper.py")
    assert "base" not in presets.names()


def test_calls_leave_nothing_behind(fake):
    seen = []

    def run(call):
        logging.getLogger("landmarks_jax").info("a note")
        seen.append(call)
        return 3

    fake(run, arguments="ANY ...")
    logger = logging.getLogger("landmarks_jax")
    before = [*logger.handlers], logger.level, logger.propagate, signal.getsignal(signal.SIGTERM)
    for words in (("a",), ("b", "--verbosity=0")):
        assert call("fake", *words) == (3, "", "a note\n")
    after = [*logger.handlers], logger.level, logger.propagate, signal.getsignal(signal.SIGTERM)
    assert after == before
    assert [[*call.arguments] for call in seen] == [["a"], ["b"]]
    assert seen[1].command_line == ["landmarks-jax", "fake", "b", "--verbosity=0"]


def test_an_error_gives_its_own_code(fake):
    def run(call):
        raise LostError("two\nlines")

    fake(run)
    assert call("fake") == (75, "", "error: two lines\n")


@pytest.mark.parametrize("words", [("--flag=",), ("--flag", " "), ("--many=a", "--many="), ("",)])
def test_an_empty_path_is_not_the_current_folder(words, fake):
    fake(pytest.fail, flags=(Flag("flag", "A."), Flag("many", "B.", repeated=True)), arguments="A")
    code, out, err = call("fake", *words)
    assert (code, out) == (2, "")
    assert re.fullmatch("error: .* is empty; give .* leave (the flag|it) out.*\n", err)


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (FileNotFoundError(2, "No such file", "a.jpg"), 1, "error: a.jpg: No such file\n"),
        (OSError(36, "File name too long", "x" * 300), 1, f"error: {'x' * 300}: File name too lo"),
        (OSError(28, "No space left on device"), 1, "error: No space left on device\n"),
        (
            ModuleNotFoundError(name="optax"),
            2,
            "error: fake needs optax: install the extra `train`",
        ),
        (KeyboardInterrupt(), 130, ""),
    ],
)
def test_what_the_system_refuses_is_one_line(error, code, message, fake):
    def run(call):
        raise error

    fake(run)
    actual, out, err = call("fake")
    assert (actual, out) == (code, "")
    assert err.startswith(message)
    assert len(err.splitlines()) == bool(message)


def test_a_module_of_this_package_that_is_missing_is_no_missing_extra(fake):
    def run(call):
        raise ModuleNotFoundError(name="landmarks_jax.gone")

    fake(run)
    with pytest.raises(ModuleNotFoundError):
        call("fake")


@pytest.mark.parametrize(
    ("place", "message"),
    [
        (("node7", 2, 0), "--coordinator=node7: must be HOST:PORT"),
        (("node7:x", 2, 0), "--coordinator=node7:x: must be"),
        (("node7:70000", 2, 0), "--coordinator=node7:70000: must be"),
        (("node7:8476", 0, 0), "--num_processes=0: must be at least 1"),
        (("node7:8476", 2, 2), "--process_id=2: must be from 0 to 1"),
        ((None, None, 0), "--process_id: needs --coordinator and --num_processes as well"),
    ],
)
def test_flags_of_several_processes_are_checked_before_jax_is_loaded(place, message, monkeypatch):
    monkeypatch.setitem(sys.modules, "landmarks_jax.training.loop", None)
    names = ("coordinator", "num_processes", "process_id")
    words = [f"--{n}={value}" for n, value in zip(names, place, strict=True) if value is not None]
    code, out, err = call("train", "--multihost", *words)
    assert (code, out) == (2, "")
    assert err.startswith(f"error: {message}")
    code, _, err = call("train", words[0])
    assert (code, err.split(":")[2]) == (2, " only with --multihost\n")
