"""The commands as a user meets them: every shipped configuration, evaluation, bad input."""

import importlib
import json
import re
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from landmarks_jax.data import prepared
from landmarks_jax.data.framing import Framing
from landmarks_jax.data.sources.folder import FolderPhotos
from landmarks_jax.data.sources.mtfl import MtflFaces
from landmarks_jax.data.sources.synthetic import SyntheticFaces
from landmarks_jax.evaluation import run_evaluation
from landmarks_jax.system.errors import (
    ConfigError,
    DataError,
    UserError,
    WeightsError,
    WorkdirError,
)
from landmarks_jax.training import loop, program, sharding
from landmarks_jax.training import state as states
from tests import datasets
from tests.running import (
    ROOT,
    TINY,
    call,
    finished_run,
    flags,
    narrow,
    shared_compilation,
    shrink,
    train,
    write_photos,
    write_vgg,
)

CONFIGS = {p.stem for p in (ROOT / "configs").glob("*.py")} - {"__init__", "base"}
CONFIGS = sorted(CONFIGS - {"mpii_pretrain"})  # tests/test_init_from.py trains it
# One from photos, one from the prepared form, the README's first; others are traced.
COMPILED = ("folder", "best_cpu", "quickstart")


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    """A narrow run on synthetic faces of four steps."""
    return finished_run(tmp_path_factory.mktemp("finished"), narrow(**TINY))


def celeba(folder: Path, count: int = 12) -> Path:
    """Photos in CelebA's official layout, with its landmark file."""
    write_photos(folder / "img_align_celeba", count, (178, 218))
    lines = [str(count), "lefteye_x lefteye_y righteye_x righteye_y nose_x nose_y"]
    points = "70 110 108 110 89 135 73 155 105 155"
    lines += [f"{i:06d}.jpg {points}" for i in range(1, count + 1)]
    (folder / "list_landmarks_align_celeba.txt").write_text("\n".join(lines) + "\n")
    return folder


class TracedError(Exception):
    """Ends a run once its step is traced; holds the shapes of the step's results."""


# They compile longest; `quickstart` and the others stay in the fast tests.
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[pytest.mark.slow] * (name in ("best_cpu", "folder")))
        for name in CONFIGS
    ],
)
def test_every_shipped_configuration_trains(name, tmp_path, monkeypatch):
    config = importlib.import_module(f"landmarks_jax.configs.{name}").get_config()
    shrink(config)
    config.train.steps = 1
    config.data.num_synthetic = 16
    if config.data.source == "celeba":
        config.data.roots = (str(celeba(tmp_path / "celeba")),)
    elif config.data.source == "folder":
        write_photos(tmp_path / "photos", 12)
        config.data.roots = (str(tmp_path / "photos"),)
    elif config.data.source == "prepared":
        # AFLW's photos are cut otherwise than CelebA's and stand beside them.
        write_photos(tmp_path / "photos", 12)
        source = FolderPhotos((str(tmp_path / "photos"),))
        for root in set(config.data.roots):
            crop = "tight" if "aflw" in root else "center"
            prepared.prepare(source, Framing(20, 16, crop), tmp_path / root)
        config.data.roots = tuple(str(tmp_path / root) for root in config.data.roots)
    if config.data.exclude:
        # Of prepared photos none can be left out any more.
        (tmp_path / "testing.txt").write_text(
            "other.jpg\n" if config.data.source == "prepared" else "000002.jpg\n000003.jpg\n"
        )
        config.data.exclude = (str(tmp_path / "testing.txt"),)
    if config.perceptual.weights:
        write_vgg(tmp_path / "vgg.npz")
        config.perceptual.weights = str(tmp_path / "vgg.npz")
        config.init.features = config.init.features and config.perceptual.weights
    taps = config.perceptual.taps if config.perceptual.weights else ()
    terms = {"pixel", *taps}
    if config.objective.task == "self_training":
        terms = set()
        config.model.num_landmarks, config.targets.view_size = 4, 16
        config.targets.grid, config.targets.detector = 2, ""
        config.targets.merge = (1, 3) if config.targets.merge else ()
        config.targets.keep = min(config.targets.keep, 4)
        if config.targets.weights:
            write_vgg(tmp_path / "vgg.npz", blocks=2)
            config.targets.weights, config.targets.network = str(tmp_path / "vgg.npz"), "vgg16"
            config.targets.taps = ("relu1_2", "relu2_1")
    if name in COMPILED:
        assert loop.train(config, tmp_path / "run") == 0
        row = json.loads((tmp_path / "run" / "metrics.jsonl").read_text())
        assert 0 < row["pixel" if terms else "loss"] < 2
        assert all(row[tap] > 0 for tap in taps)
        return

    if not config.init.features:
        config.model.detector = TINY["model__detector"]  # whose sizes are no part of a preset

    def trace(function, *inputs):
        raise TracedError(jax.eval_shape(function, *inputs))

    monkeypatch.setattr(program, "_compile", trace)
    monkeypatch.setattr(states, "start_state", states.abstract_state)
    with pytest.raises(TracedError) as traced:
        loop.train(config, tmp_path / "run")
    state, totals = traced.value.args[0]
    assert state.params["detector"]
    assert {"loss", *terms} <= totals.sums.keys()


def test_a_composition_without_intermediate_draws_its_preview(tmp_path):
    config = narrow(**TINY, train__steps=1, train__picture_every=1)
    assert train(config, tmp_path) == 0
    assert (tmp_path / "pictures" / "step-000001.png").stat().st_size > 5_000


def test_evaluation_writes_json_tables_curve_and_page(workdir, capsys):
    code, out, err = call("eval", f"--workdir={workdir}")
    assert code == 0, err
    result = json.loads((workdir / "evaluation" / "synthetic-center.json").read_text())
    assert result["fit"]["faces"] == 12
    assert result["score"]["faces"] == 8
    assert set(result["results"]) == {"running", "batch", "untrained", "mean_shape", "one_photo"}
    assert result["provenance"]["steps"] == 4
    assert result["provenance"]["jax"] == jax.__version__
    assert result["provenance"]["trained_on"] == [sharding.hardware()]
    assert result["provenance"]["training_crop"] == "center"
    for section in out.split("### ")[1:]:
        assert "Note: trained with the center crop, without annotation" in section
    forward = result["results"]["running"]["forward"][-1]["mean"]
    assert f"{forward:.2f}" in out
    assert (workdir / "evaluation" / "table.md").read_text().strip() == out.strip()
    assert len(result["worst"]["rows"]) == 8
    for name in ("curve", "faces", "worst"):
        assert (workdir / "evaluation" / f"synthetic-center-{name}.png").stat().st_size > 5_000

    # The mean shape again, from the faces themselves.
    labels = []
    for seed, count in ((2**31, 12), (2**31 + 1, 8)):
        faces = SyntheticFaces(seed, count, 20)
        labels.append(np.stack([faces.points(i) for i in range(count)]).astype(float))
    fit, score = labels
    eyes = np.linalg.norm(score[:, 0] - score[:, 1], axis=-1)
    errors = np.linalg.norm(score - fit.mean(0), axis=-1).mean(1) / eyes
    mean_shape = result["results"]["mean_shape"]["forward"][-1]["mean"]
    assert mean_shape == pytest.approx(100 * errors.mean(), abs=1e-3)


def test_evaluation_on_the_users_own_lists(workdir, tmp_path):
    fit, score = datasets.mtfl(tmp_path / "fit", 14), datasets.mtfl(tmp_path / "score", 6, seed=1)
    table = run_evaluation.evaluate_run(
        workdir, fit=str(fit), score=str(score), crops=("tight", "box")
    )
    assert "| faces to faces | tight | 3 |" in table
    assert "| faces to faces | box | 3 |" in table

    # The same faces, prepared.
    folders = []
    for name, path in (("fit", fit), ("score", score)):
        folder = tmp_path / f"{name}-prepared"
        prepared.prepare(MtflFaces(str(path)), Framing(20, 16, "tight"), folder)
        folders.append(str(folder))
    # `as_released` says how boxes end: no other crop changes.
    again = run_evaluation.evaluate_run(
        workdir, fit=folders[0], score=folders[1], crops=("tight",), as_released=True
    )

    def headline(markdown: str) -> str:
        row = next(line for line in markdown.splitlines() if "| tight | 3 | this detector" in line)
        return row.split("running statistics")[1]

    # The canvas's centre was resized with its border, so a grey level may differ here and there.
    first, second = (
        [float(n) for n in re.findall(r"[\d.]+", headline(text))] for text in (table, again)
    )
    np.testing.assert_allclose(first, second, rtol=0.05)


def test_an_evaluation_stopped_while_it_replaces_another_leaves_no_json(
    workdir, tmp_path, monkeypatch
):
    faces = {
        "fit": str(datasets.mtfl(tmp_path / "fit", 6)),
        "score": str(datasets.mtfl(tmp_path / "score", 3, 1)),
    }
    run_evaluation.evaluate_run(workdir, **faces, crops=("center",))
    path = workdir / "evaluation" / "faces-to-faces-center.json"
    assert json.loads(path.read_text())["crop"] == "center"

    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(run_evaluation.figures, "save", stop)
    with pytest.raises(KeyboardInterrupt):
        run_evaluation.evaluate_run(workdir, **faces, crops=("center",))
    assert not path.exists()


def test_aflw_protocols_have_both_crops(workdir, tmp_path):
    folder = datasets.mtfl(tmp_path / "aflw", 12).parent
    lines = (folder / "faces.txt").read_text().splitlines(keepends=True)
    for name in ("training", "testing", "dev_fit", "dev_score"):
        half = slice(8) if name in ("training", "dev_fit") else slice(8, 12)
        (folder / f"{name}.txt").write_text("".join(lines[half]))
    names = ["aflw-995", "aflw-dev"]
    table = run_evaluation.evaluate_run(workdir, protocol_names=names, aflw=str(folder))
    for protocol in names:
        assert f"| {protocol} | center |" in table
        assert f"| {protocol} | box |" in table
        assert "not comparable" in table


def test_prepared_training_and_evaluation_without_tensorflow(tmp_path, monkeypatch):
    """The same run from photos with tf.data and from the prepared form without TensorFlow."""
    write_photos(tmp_path / "photos", 20)
    config = narrow(**TINY, data__source="folder", data__roots=(str(tmp_path / "photos"),))
    config.train.steps = 3
    assert train(config, tmp_path / "photos-run") == 0

    for name in ("tensorflow", "tensorflow_datasets", "keras", "landmarks_jax.data.pipeline"):
        monkeypatch.setitem(sys.modules, name, None)
    code, out, err = call("prepare", *flags(config), "--config=base", f"--out={tmp_path / 'out'}")
    assert code == 0, err
    assert "20 canvases of 20 pixels" in out
    config.data.source, config.data.roots = "prepared", (str(tmp_path / "out"),)
    run = tmp_path / "prepared-run"
    with shared_compilation():
        code, _, err = call("train", *flags(config), f"--workdir={run}")
    assert code == 0, err
    fields = ("step", "loss", "norm_detector", "norm_generator")
    metrics = [
        [
            [json.loads(line)[field] for field in fields]
            for line in (r / "metrics.jsonl").read_text().splitlines()
        ]
        for r in (tmp_path / "photos-run", run)
    ]
    assert metrics[0] == metrics[1]
    assert len(metrics[0]) == 3
    code, out, err = call("eval", f"--workdir={run}")
    assert code == 0, err
    assert "| synthetic | center | 3 |" in out


def bad_inputs(folder: Path):
    """Name -> what is wrong with the configuration, and what the message must say."""
    empty = folder / "empty"
    empty.mkdir()
    write_photos(folder / "photos", 10)
    photos = (str(folder / "photos"),)
    table = folder / "points.csv"
    table.write_text("file,x1,y1\nphotos/000001.jpg,3,4\nphotos/000099.jpg,3,4\n")
    broken = folder / "broken.csv"
    broken.write_text("file,x1,y1\nphotos/000001.jpg,3,4\nphotos/000002.jpg,3\n")
    short = datasets.mtfl(folder / "mtfl")
    short.write_text(short.read_text() + "AFLW/000001.jpg 1 2 3\n")
    write_vgg(folder / "partial.npz", blocks=1)
    np.savez(folder / "shape.npz", block1_conv1_kernel=np.zeros((3, 3, 3, 65), np.float32))
    faces = SyntheticFaces(0, 9, 20)
    for name in ("damaged", "cut"):
        prepared.prepare(faces, Framing(20, 16, "center"), folder / name)
    canvases = folder / "damaged" / "canvases.npy"
    data = bytearray(canvases.read_bytes())
    data[-1] ^= 1
    canvases.write_bytes(data)
    folder_of = {"data__source": "folder", "data__roots": photos}
    vgg = {"perceptual__taps": ("relu1_2", "relu3_3")}
    return {
        "missing folder": (
            {"data__source": "folder", "data__roots": ("/nowhere",)}, DataError, "/nowhere"),
        "empty folder": (
            {"data__source": "folder", "data__roots": (str(empty),)}, DataError, str(empty)),
        "no folder": ({"data__source": "folder"}, ConfigError, "config.data.roots"),
        "list names a missing file": (
            {"data__source": "folder", "data__landmarks": str(table)}, DataError, "points.csv:3"),
        "malformed line": (
            {"data__source": "folder", "data__landmarks": str(broken)}, DataError, "broken.csv:3"),
        "malformed MTFL line": (
            {"data__source": "mtfl", "data__landmarks": str(short)}, DataError, "faces.txt:13"),
        "missing exclude list": (
            {**folder_of, "data__exclude": ("/no/list.txt",)}, DataError, "/no/list.txt"),
        "K = 0": ({"model__num_landmarks": 0}, ConfigError, "config.model.num_landmarks = 0"),
        "view larger than canvas": (
            {"data__canvas_size": 12}, ConfigError, "config.views.size = 16"),
        "hourglass too deep": (
            {"model__hourglass_depth": 2}, ConfigError, "config.model.hourglass_depth = 2"),
        "box without points": ({**folder_of, "data__crop": "box"}, ConfigError, "box"),
        "unknown composition": (
            {"objective__composition": "both"}, ConfigError, "config.objective.composition"),
        "tap the file cannot give": (
            {**vgg, "perceptual__weights": str(folder / "partial.npz")}, WeightsError, "relu3_3"),
        "weights of the wrong shape": (
            {**vgg, "perceptual__weights": str(folder / "shape.npz")},
            WeightsError, "(3, 3, 3, 65)"),
        "missing weights": (
            {**vgg, "perceptual__weights": "/no/vgg.npz"}, WeightsError, "/no/vgg.npz"),
        "prepared data damaged": (
            {"data__source": "prepared", "data__roots": (str(folder / "damaged"),)},
            DataError, "canvases.npy"),
        "prepared with another crop": (
            {"data__source": "prepared", "data__roots": (str(folder / "cut"),),
             "data__crop": "tight"}, ConfigError, "config.data.crop"),
        "no prepared data": (
            {"data__source": "prepared", "data__roots": (str(empty),)}, DataError, str(empty)),
    }  # fmt: skip


def test_bad_input_is_refused_before_anything_slow(tmp_path, monkeypatch):
    def compiles(*_):
        raise AssertionError("compiled before the input was checked")

    monkeypatch.setattr(loop, "compile_program", compiles)
    monkeypatch.setattr(states, "start_state", compiles)
    for name, (fields, kind, part) in bad_inputs(tmp_path).items():
        with pytest.raises(UserError) as refused:
            loop.train(narrow(**fields), tmp_path / "run")
        assert refused.type is kind, name
        assert part in str(refused.value), name
        assert "\n" not in str(refused.value), name
        assert not (tmp_path / "run").exists(), name


def test_batch_not_divisible_by_the_devices(tmp_path, monkeypatch):
    for name in ("device_count", "local_device_count"):
        monkeypatch.setattr(jax, name, lambda: 4)
    config = narrow(train__batch_size=10)
    code, out, err = call("train", *flags(config), f"--workdir={tmp_path}")
    assert (code, out) == (2, "")
    assert err == "error: config.train.batch_size = 10: must be divisible by the 4 devices\n"


def test_a_command_fails_with_one_line_and_a_code(tmp_path):
    source = ("--config.data.source=folder", "--config.data.roots=('/nowhere',)")
    code, out, err = call("train", *source, f"--workdir={tmp_path / 'run'}")
    assert (code, out) == (2, "")
    assert re.fullmatch("error: .*/nowhere.*\n", err)


def test_evaluation_refuses_what_it_cannot_score(workdir, tmp_path):
    faces = str(datasets.mtfl(tmp_path / "faces", 3))
    refusals = [
        ((tmp_path,), {}, WorkdirError, "config.json"),
        ((workdir,), {"protocol_names": ["aflw-1"]}, ConfigError, "aflw-995"),
        ((workdir,), {"protocol_names": ["aflw-995"], "aflw": "/no"}, DataError, "/no/training"),
        ((workdir,), {"fit": "a.csv"}, ConfigError, "--score"),
        ((workdir,), {"fit": "/no.csv", "score": "/no.csv"}, DataError, "/no.csv"),
        ((workdir,), {"fit": faces, "score": faces}, DataError, "give --allow_duplicates"),
    ]
    for arguments, options, kind, part in refusals:
        with pytest.raises(kind, match=re.escape(part)):
            run_evaluation.evaluate_run(*arguments, **options)
    (tmp_path / "config.json").write_text((workdir / "config.json").read_text())
    with pytest.raises(WorkdirError, match="no checkpoint yet"):
        run_evaluation.evaluate_run(tmp_path)
