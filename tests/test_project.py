"""The project itself: checks are clean, documents are true, imports go one way, files are small."""

import ast
import graphlib
import json
import os
import re
import shutil
import subprocess
from functools import cache
from pathlib import Path

import pytest

from landmarks_jax.cli import presets
from landmarks_jax.evaluation import score_tables
from landmarks_jax.studies import comparison_tables
from tests.running import ROOT, command, finish

PACKAGE = ROOT / "landmarks_jax"
MODULES = sorted(PACKAGE.rglob("*.py"))
CONFIGS = [p for p in sorted((ROOT / "configs").glob("*.py")) if p.stem != "__init__"]
DOCUMENTS = [
    *sorted(ROOT.glob("*.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
    *sorted((ROOT / "docs").glob("*.ipynb")),
]
MAX_LINES = 300

LINK = re.compile(r"\]\(([^)\s]+)\)|^\[[^\]]+\]:\s*(\S+)", re.MULTILINE)
# The project's own files; `data`, `runs` and `prepared` are the user's.
FILE = re.compile(
    r"(?<![\w/.-])((?:landmarks_jax|configs|tests|docs|\.ci|\.github)/[\w./-]*\w"
    r"|(?:train|eval)\.py"
    r"|[A-Z]+\.md|pyproject\.toml)"
)
PLACEHOLDER = re.compile(r"\b[A-Z]+(?:_[A-Z]+)*_(?:TABLE|TIME)\b")


def first_block() -> list[str]:
    """The lines of the README's first code block."""
    text = (ROOT / "README.md").read_text()
    return text.split("```", 2)[1].split("\n")[1:-1]


def test_the_readme_begins_with_the_two_commands():
    main, tests = first_block()
    for line in (main, tests):
        assert line.startswith("python3 -m venv .venv")
    assert main.endswith("train.py && .venv/bin/python eval.py")
    assert tests.endswith("-m pytest")


def stubs(folder: Path, **scripts: str) -> Path:
    """A folder of commands, for the front of PATH."""
    folder.mkdir()
    for name, script in scripts.items():
        path = folder / name
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)
    return folder


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A folder with .ci/run, and a README whose environment only logs what it is asked to run."""
    (tmp_path / ".ci").mkdir()
    shutil.copy(ROOT / ".ci" / "run", tmp_path / ".ci" / "run")  # with its mode: it is executable
    (tmp_path / "README.md").write_text(
        "# x\n\n```bash\nexit 7\ntrue -m venv own && echo tests $((1 + 1)) >> log\n```\n`b`\n"
    )
    (tmp_path / "own").mkdir()
    tools = ("python", "ruff", "mypy")
    stubs(tmp_path / "own" / "bin", **{tool: f'echo {tool} "$@" >> log' for tool in tools})
    tools = stubs(tmp_path / "bin", sudo='shift; exec "$@"')
    for tool in ("bash", "awk", "dirname", "id", "env"):
        (tools / tool).symlink_to(shutil.which(tool))
    monkeypatch.setenv("PATH", str(tools))
    return tmp_path


def ci(folder: Path) -> subprocess.CompletedProcess[str]:
    script = folder / ".ci" / "run"
    return subprocess.run([script], cwd="/", capture_output=True, text=True, check=False)


def test_ci_runs_the_tests_the_slow_ones_and_the_checks(checkout):
    stubs(checkout / "browser", chromium="", chromedriver="")  # nothing is to be installed
    os.environ["PATH"] += f":{checkout / 'browser'}"
    done = ci(checkout)
    assert done.returncode == 0, done.stderr
    assert (checkout / "log").read_text().splitlines() == [
        "tests 2",
        "python -m pytest -m slow",
        "ruff format --check .",
        "ruff check .",
        "mypy",
    ]
    (checkout / "own" / "bin" / "ruff").write_text("#!/bin/sh\nexit 3\n")
    assert ci(checkout).returncode == 3
    (checkout / "README.md").write_text("no code\n")
    done = ci(checkout)
    assert done.returncode == 2
    assert "README.md" in done.stderr


def test_ci_takes_its_environment_from_the_readme(checkout):
    shutil.copy(ROOT / "README.md", checkout / "README.md")
    script = checkout / ".ci" / "run"
    script.write_text(script.read_text().replace("bash -euo pipefail -c", "printf 'runs %s\\n'"))
    lines = ci(checkout).stdout.splitlines()
    assert f"runs {first_block()[1]}" in lines
    assert "runs .venv-test/bin/mypy" in lines


def test_ci_installs_a_browser_where_there_is_none(checkout):
    assert ci(checkout).stderr.startswith("note: chromium and chromedriver are missing")
    more = stubs(checkout / "apt", **{"apt-get": f'echo "$@" >> {checkout / "calls"}'})
    os.environ["PATH"] += f":{more}"
    assert ci(checkout).stderr == ""
    update, install = (checkout / "calls").read_text().splitlines()
    assert update.endswith(" update")
    assert install.endswith(" install -y --no-install-recommends chromium chromium-driver")


def test_the_workflow_runs_the_same_on_the_oldest_and_newest_python():
    workflow = (ROOT / ".github" / "workflows" / "checks.yml").read_text()
    assert "- run: .ci/run" in workflow
    assert '["3.11", "3.13"]' in workflow
    assert 'requires-python = ">=3.11.4,<3.14" ' in (ROOT / "pyproject.toml").read_text()


def text_of(document: Path) -> str:
    """What a document says: of a notebook its cells, without their outputs."""
    if document.suffix != ".ipynb":
        return document.read_text()
    cells = json.loads(document.read_text())["cells"]
    return "\n\n".join("".join(cell["source"]) for cell in cells)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda p: p.name)
def test_what_documents_name_exists(document):
    text = text_of(document)
    targets = {a or b for a, b in LINK.findall(text)}
    links = {t.partition("#")[0] for t in targets if "://" not in t} - {""}
    missing = [link for link in sorted(links) if not (document.parent / link).exists()]
    named = {name for name in FILE.findall(text) if "NAME" not in name}
    missing += [name for name in sorted(named) if not (ROOT / name).exists()]
    assert not missing


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda p: p.name)
def test_links_within_a_document_lead_to_its_headings(document):
    text = text_of(document)
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    anchors = {re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in headings}
    assert set(re.findall(r"\]\(#([^)]+)\)", text)) <= anchors


def test_texts_use_the_words_of_the_field():
    folders = ("landmarks_jax", "configs", "docs", "benchmarks", "tests", ".ci")
    paths = [path for folder in folders for path in (ROOT / folder).rglob("*.*")]
    paths = [
        *DOCUMENTS,
        *(p for p in paths if p.suffix in (".py", ".md", ".js", ".html", ".ipynb")),
    ]
    phrases = (
        "embedded" + " faces",
        r"\bsitt" + "ing",
        "gone" + " on with",
        r'"""[^"\n]*\bis' + " no ",
    )
    pattern = re.compile("|".join(phrases), re.IGNORECASE)
    assert not [(path, match[0]) for path in paths for match in pattern.finditer(path.read_text())]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda p: p.name)
def test_no_number_is_left_to_fill_in(document):
    assert not PLACEHOLDER.findall(text_of(document))


def test_configurations_named_anywhere_exist():
    sources = [*DOCUMENTS, *CONFIGS, *ROOT.glob("*.py")]
    named = {
        (source.name, name)
        for source in sources
        for name in re.findall(r"--config[ =](?!NAME)([\w./]+)", text_of(source))
    }
    assert named
    for _, name in sorted(named):
        presets.path_of(name)


def test_every_field_of_the_base_configuration_is_explained_on_its_line():
    text = (ROOT / "configs" / "base.py").read_text()
    lines = text.splitlines()
    fields = [
        node
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Assign)
        and len(node.targets) == 1  # a section has two: `config.data = data = ...`
        and isinstance(node.targets[0], ast.Attribute)
    ]
    assert len(fields) > 50
    bare = [
        lines[node.lineno - 1].strip()
        for node in fields
        if not re.match(r"\s*# \S", lines[node.end_lineno - 1][node.end_col_offset :])
    ]
    assert not bare


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.stem)
def test_every_configuration_gives_its_command(path):
    if path.stem == "base":
        pytest.skip("no run of its own")
    docstring = ast.get_docstring(ast.parse(path.read_text()))
    assert "landmarks-jax train" in docstring
    assert path.stem in ("quickstart", "folder") or f"--config {path.stem}" in docstring


@cache
def imports_of(path: Path) -> frozenset[str]:
    """Dotted names that a file imports, anywhere in it; of `from a import b` both `a` and `a.b`."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return frozenset(names)


def importers(*prefixes: str) -> set[str]:
    """The package's files that import something at or below the dotted names."""
    return {
        path.relative_to(PACKAGE).as_posix()
        for path in MODULES
        for name in imports_of(path)
        if name.startswith(tuple(f"{p}." for p in prefixes)) or name in prefixes
    }


def below(*rooms: str) -> set[str]:
    """The package's files in some folders, or of some names."""
    names = [path.relative_to(PACKAGE).as_posix() for path in MODULES]
    return {name for name in names if name.startswith(rooms)}


def test_heavy_libraries_have_one_importer_each_and_pytorch_none():
    assert importers("tensorflow") == {"data/pipeline.py"}
    assert importers("tensorflow_datasets") == {"data/sources/celeba_tfds.py"}
    users = {"data/sources/matlab.py", "data/photo_groups.py", "evaluation/symmetry.py"}
    users |= {"studies/faces_figure.py", "training/merging.py"}
    assert importers("scipy") == users
    assert importers("orbax") == {"training/checkpoints.py"}
    videos = {f"inference/media/{name}.py" for name in ("video_streams", "video_writer", "videos")}
    assert importers("av") == videos
    assert importers("cv2") == {"inference/face_finder.py"}
    assert not importers("torch", "torchvision")


# What each room may import of the others: docs/architecture.md.
NUMERIC = {"system", "geometry", "keypoints", "views", "models"}
ROOMS = {
    "system": set(),
    "geometry": set(),
    "keypoints": {"geometry"},
    "views": {"geometry"},
    "refinement": {"geometry", "keypoints"},
    "models": {"system"},
    "objective": NUMERIC,
    "data": {"system", "geometry"},
    "weights": {"system", "models"},
    "inference": {*NUMERIC, "data"},
    "losses": {*NUMERIC, "objective"},
    "tasks": {*NUMERIC, "objective", "losses", "data"},
    "config": {*NUMERIC, "objective", "losses", "tasks", "data"},
    "training": {
        "refinement",
        *NUMERIC,
        "objective",
        "data",
        "weights",
        "inference",
        "losses",
        "tasks",
        "config",
    },
    "evaluation": {
        *NUMERIC,
        "objective",
        "data",
        "inference",
        "losses",
        "tasks",
        "config",
        "training",
    },
    "studies": {*NUMERIC, "objective", "data", "inference", "losses", "tasks", "config", "training"}
    | {"evaluation", "weights"},
}


def room_of(name: str) -> str:
    """The room, or the module of the root, of a dotted name below the package."""
    return name.removeprefix("landmarks_jax.").split(".")[0]


def own_imports(path: Path) -> set[str]:
    """The package's modules that a file imports."""
    modules = {".".join(p.relative_to(ROOT).with_suffix("").parts) for p in MODULES}
    return {name for name in imports_of(path) if name in modules}


@pytest.mark.parametrize("room", ROOMS)
def test_imports_go_one_way(room):
    for path in MODULES:
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        if room_of(name) == room:
            assert {room_of(other) for other in own_imports(path)} <= ROOMS[room] | {room}, path


def test_every_room_has_a_direction():
    names = {room_of(".".join(p.relative_to(ROOT).with_suffix("").parts)) for p in MODULES}
    assert names - {"__init__", "__main__", "cli"} == ROOMS.keys()


def test_inference_and_studies_take_only_what_they_need_of_data():
    assert not importers("landmarks_jax.data.sources") & below("inference/")
    assert not importers("jax", "flax") & below("data/")


def test_no_import_circle():
    graph = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts): own_imports(path)
        for path in MODULES
    }
    graphlib.TopologicalSorter(graph).prepare()  # raises CycleError, which names the circle


def test_no_two_modules_have_the_same_name():
    stems = [path.stem for path in MODULES if path.stem not in ("__init__", "__main__")]
    assert len(stems) == len(set(stems))


TRAINING = "tensorflow tensorflow_datasets optax orbax matplotlib tensorboardX"


@pytest.mark.parametrize(
    ("modules", "absent"),
    [
        (
            "inference.api inference.media.run_detection",
            f"{TRAINING} tqdm av cv2 landmarks_jax.config",
        ),
        ("studies.comparison_tables studies.paper_tables studies.runner", TRAINING),
        ("evaluation.consistency data.loader cli.main", f"jax flax scipy {TRAINING}"),
    ],
)
def test_importing_loads_no_more_than_it_needs(modules, absent):
    names = ", ".join(f"landmarks_jax.{module}" for module in modules.split())
    code = f"import sys, {names}; print(*set(sys.modules) & set({absent.split()!r}))"
    status, out, err = finish(command(code=code))
    assert status == 0, err
    assert out.split() == []


def test_files_are_small_and_named_after_their_concern():
    lines = {path.relative_to(ROOT): len(path.read_text().splitlines()) for path in MODULES}
    assert not {path: count for path, count in lines.items() if count > MAX_LINES}
    assert not [path for path in lines if path.stem in ("util", "utils", "helpers", "misc")]


def test_functions_fit_on_a_screen():
    lengths = {
        f"{path.stem}.{node.name}": node.end_lineno - node.lineno + 1
        for path in MODULES
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef)
    }
    assert not {name: length for name, length in lengths.items() if length > 60}


@pytest.mark.parametrize(
    "run", ["quickstart", "synthetic", "faces_cpu", "best_cpu", "selftrain_10", "selftrain_40"]
)
def test_tables_in_documents_are_made_from_the_json(run):
    folder = ROOT / "docs" / "results" / run
    results = [json.loads(path.read_text()) for path in sorted(folder.glob("*-*.json"))]
    results.sort(key=lambda result: result["crop"] != "center")
    table = score_tables.to_markdown(results)
    assert (folder / "table.md").read_text() == table
    headline = table.split("###")[1]
    rows = [line for line in headline.splitlines() if line.startswith("|")]
    assert len(rows) > 5
    readme = (ROOT / "README.md").read_text()
    assert f"<!-- {run} -->" in readme or run == "faces_cpu"
    for row in rows if f"<!-- {run} -->" in readme else ():
        assert row in readme


@pytest.mark.parametrize("name", ["accuracy", "best_cpu"])
def test_comparisons_in_documents_are_made_from_their_json(name):
    folder = ROOT / "docs" / "results" / name
    comparison = json.loads((folder / "compare.json").read_text())
    assert comparison_tables.to_markdown(comparison) == (folder / "compare.md").read_text()
    assert comparison_tables.to_csv(comparison) == (folder / "compare.csv").read_text()
