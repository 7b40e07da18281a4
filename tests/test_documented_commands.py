"""Every command in the documents parses, and those that need no data run."""

import importlib
import re
import shlex
import shutil
from pathlib import Path

import pytest

from landmarks_jax.cli import main as cli
from landmarks_jax.system.errors import ConfigError
from tests.running import ROOT, TINY, call, flags, narrow, write_photos

DOCUMENTS = [
    *sorted(ROOT.glob("*.md")),
    *sorted((ROOT / "docs").glob("*.md")),
    ROOT / "docs" / "results" / "README.md",
    *sorted((ROOT / "configs").glob("*.py")),
]
START = re.compile(r"(?:landmarks-jax|python -m landmarks_jax|python (?=(?:train|eval)\.py)) ?")


def commands_of(document: Path) -> list[tuple[bool, list[str]]]:
    """The commands of a document: whether in a block of code, and the words after the program."""
    text = document.read_text()
    if document.suffix == ".py":
        blocks = re.findall(r"^ +(?=landmarks-jax)(?:.*\\\n)*.*", text, re.MULTILINE)
        spans = []
    else:
        blocks = re.findall(r"```bash\n(.*?)```", text, re.DOTALL)
        spans = re.findall(r"(?<!`)`([^`]+)`(?!`)", re.sub(r"```.*?```", "", text, flags=re.DOTALL))
    for name, value in re.findall(r'^(\w+)="(.*)"$', text, re.MULTILINE):
        blocks, spans = ([t.replace(f"${name}", value) for t in texts] for texts in (blocks, spans))
    lines = [line for block in blocks for line in re.sub(r"\\\n\s*", " ", block).splitlines()]
    actual = []
    for in_block, texts in ((True, lines), (False, [" ".join(span.split()) for span in spans])):
        for part in (part for text in texts for part in text.split("&&")):
            match = START.search(part) if in_block else START.match(part.strip())
            if match:
                words = shlex.split(match.string[match.end() :], comments=True)
                actual.append((in_block, words))
    actual = [
        (block, [words[0].removesuffix(".py"), *words[1:]]) for block, words in actual if words
    ]
    return [(block, words) for block, words in actual if words[0] != "COMMAND"]


COMMANDS = [
    pytest.param(block, words, id=f"{document.stem}: {' '.join(words)}"[:90])
    for document in DOCUMENTS
    for block, words in commands_of(document)
]


def test_the_documents_show_every_command():
    assert {param.values[1][0] for param in COMMANDS} == cli.COMMANDS.keys()


@pytest.mark.parametrize(("block", "words"), COMMANDS)
def test_it_parses(block, words):
    name, *arguments = words
    command = importlib.import_module(f"landmarks_jax.cli.{name}").COMMAND
    if "--help" in arguments:
        return
    arguments = [re.sub(r"=[NI]$", "=1", word) for word in arguments]  # `process I of N`
    arguments = ["quickstart" if word == "NAME" else word for word in arguments]
    try:
        cli.parse(name, command, arguments)
    except ConfigError as error:
        # A sentence may name a command with one flag of those it needs.
        if block or not re.search("must have a value|--config: give the name", str(error)):
            raise


# Flags that make a training narrow and short.
SMALL = flags(narrow(**TINY, train__steps=2))
SMALL = [flag for flag in SMALL if not flag.startswith("--config.data.source")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with what the documents take for granted: photos, and the quickstart's run."""
    folder = tmp_path_factory.mktemp("documents")
    write_photos(folder / "photos", 4)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        code, out, err = call("train", *SMALL)  # the README's first command
        assert code == 0, err
        code, out, err = call("eval")
        assert code == 0, err
        assert "| synthetic | center | 3 |" in out
        for name in ("mine", "a", "b", "baseline", "all", "faces", "published"):
            shutil.copytree("runs/quickstart", f"runs/{name}")
        code, out, err = call(
            "export", "--workdir=runs/mine", "--noregressor", "--out=mine.safetensors"
        )
        assert code == 0, err
    return folder


# What needs nothing but that folder.
RUNS = re.compile(
    r"compare runs/a|figure runs/baseline runs/all --out|transfer |prepare --config folder "
    r"|detect faces photos/ --out found$|reproduce (train|table) .*(--dry_run|--out)"
    r"|export (?=.*mine)(?!.*(onnx|--fit))"
)
RUNNABLE = [
    param for param in COMMANDS if param.values[0] and RUNS.match(" ".join(param.values[1]))
]


def test_most_commands_are_run():
    assert {param.values[1][0] for param in RUNNABLE} == {
        *("compare", "detect", "export", "figure", "prepare", "reproduce", "transfer")}  # fmt: skip


@pytest.mark.parametrize(("block", "words"), RUNNABLE)
def test_it_runs(block, words, folder, monkeypatch):
    monkeypatch.chdir(folder)
    code, out, err = call(*words)
    assert code == 0, err
    assert out
