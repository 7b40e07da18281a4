"""Sessions: from small photos to tables and transfer files, twice, without TensorFlow."""

import io
import json
import os
import re
import signal
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from landmarks_jax.data import cutting, loader, prepared
from landmarks_jax.data.box_canvas import BoxCanvas
from landmarks_jax.studies import timed_session
from landmarks_jax.system.errors import ConfigError, WorkdirError
from landmarks_jax.training import (
    checkpoints,
    loop,
    refiner,
    reports,
    run_folder,
    transfer_files,
)
from tests import test_self_training
from tests.running import (
    TINY,
    call,
    command,
    finish,
    finished_run,
    flags,
    narrow,
    shared_compilation,
    write_photos,
)

BLOCKED = """
import runpy, sys
for name in ("tensorflow", "tensorflow_datasets", "keras"):
    sys.modules[name] = None
runpy.run_module("landmarks_jax", run_name="__main__")
"""


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def faces(folder: Path) -> Path:
    """Labelled faces in MTFL's form, nine in each list of aflw-dev."""
    write_photos(folder / "AFLW", 18, (40, 40))
    rng = np.random.default_rng(1)
    points = np.array([12, 28, 20, 14, 26, 14, 14, 20, 27, 27]) + rng.normal(0, 1, (18, 10))
    lines = [f"AFLW/{i:06d}.jpg {' '.join(f'{v:.2f}' for v in p)}" for i, p in enumerate(points, 1)]
    for name, part in (("dev_fit", lines[:9]), ("dev_score", lines[9:])):
        (folder / f"{name}.txt").write_text("\n".join(part) + "\n")
    return folder


@pytest.mark.slow
def test_sessions_continue_each_other_without_tensorflow(tmp_path, capsys):
    write_photos(tmp_path / "photos", 12)
    (tmp_path / "out.txt").write_text("000002.jpg\n")
    config = narrow(
        **TINY,
        data__exclude=(str(tmp_path / "out.txt"),),
        eval__protocols=("aflw-dev",),
        eval__aflw=str(faces(tmp_path / "aflw")),
        train__steps=2,
    )
    workdir, out, canvases = tmp_path / "run", tmp_path / "out", tmp_path / "canvases"
    arguments = ["session", "--config=configs/synthetic.py", *flags(config), "--minutes=9"]
    arguments += [f"--photos={tmp_path / 'photos'}", f"--canvases={canvases}"]
    arguments += [f"--workdir={workdir}", f"--out={out}"]
    code, printed, err = finish(command(*arguments, code=BLOCKED))
    assert code == 0, err
    assert "| aflw-dev | center | 3 | this detector" in printed
    assert transfer_files.read(out / "transfer").step == 2
    (folder,) = canvases.iterdir()
    assert len(prepared.PreparedCanvases(folder)) == 11  # and one left out
    with zipfile.ZipFile(out / "results.zip") as file:
        names = set(file.namelist())
        assert {"config.json", "run.json", "metrics.jsonl"} < names
        assert {"evaluation/table.md", "evaluation/aflw-dev-box.json"} < names
        assert file.read("evaluation/table.md").decode().strip() in printed

    made = (folder / "manifest.json").stat().st_mtime_ns
    config.train.steps, config.eval.protocols = 4, ()  # tables are written where there are faces
    options = {
        "minutes": 9,
        "reserve": 1,
        "photos": [str(tmp_path / "photos")],
        "canvases": canvases,
    }
    assert timed_session.run_session(config, workdir, out, start=time.monotonic(), **options) == 0
    assert (folder / "manifest.json").stat().st_mtime_ns == made
    read = transfer_files.read(out / "transfer")
    assert (read.step, read.record.transfers) == (4, [])
    assert [row["step"] for row in run_folder.read_log(workdir)] == [1, 2, 3, 4]
    assert len(list(out.rglob("*.*"))) <= 8

    # On another machine: a new folder, from the transfer files.
    new, files = tmp_path / "new", out / "transfer"
    config.eval.protocols = ("aflw-dev",)
    capsys.readouterr()
    start = time.monotonic()
    assert (
        timed_session.run_session(
            config, new, tmp_path / "next", start=start, transfer_from=files, **options
        )
        == 0
    )
    table = capsys.readouterr().out
    assert table.count("Note: transferred, not resumed, at step 4") == table.count("### ") == 9
    again = transfer_files.read(tmp_path / "next" / "transfer")
    assert (again.step, len(again.record.transfers)) == (4, 1)
    assert again.arrays.keys() == read.arrays.keys()
    for name, array in read.arrays.items():  # rounded once, they are not rounded again
        np.testing.assert_array_equal(again.arrays[name], array)


def test_other_photos_and_other_cuts_have_canvases_of_their_own(tmp_path):
    write_photos(tmp_path / "photos", 5)
    config, photos, canvases = narrow(), tmp_path / "photos", tmp_path / "canvases"

    def roots(config=config):
        made = timed_session.on_canvases(config, [str(photos)], canvases)
        assert made.data.source == "prepared"
        return made.data.roots

    first = roots()
    assert roots() == first
    assert roots(narrow(data__split="train")) == first  # of the configuration's own data set
    assert roots(narrow(data__canvas_size=22)) != first
    (tmp_path / "out.txt").write_text("000002.jpg\n")
    assert roots(narrow(data__exclude=(str(tmp_path / "out.txt"),))) != first
    few = roots(narrow(data__max_photos=3))
    assert few != first
    assert len(prepared.PreparedCanvases(few[0])) == 3
    write_photos(photos, 5, (31, 36))
    assert roots() != first
    assert config.data.source == "synthetic"
    with pytest.raises(ConfigError, match="needs annotated points"):
        roots(narrow(data__crop="box"))


def test_canvases_for_self_training_are_as_large_as_its_features_need(tmp_path):
    write_photos(tmp_path / "photos", 9, (50, 50))
    config = test_self_training.narrow(
        targets__view_size=32, targets__network="hog", targets__weights="", targets__taps=("fine",)
    )
    photos = [str(tmp_path / "photos")]
    made = timed_session.on_canvases(config, photos, tmp_path / "canvases")
    found = prepared.PreparedCanvases(made.data.roots[0])
    assert found.canvases.shape[1:] == (40, 40, 3)
    assert refiner.Refiner(made).views(np.arange(2)).shape == (2, 32, 32, 3)
    assert loader.open_loader(made).canvases(np.arange(2)).shape == (2, 20, 20, 3)
    config.targets.view_size = 16
    made = timed_session.on_canvases(config, photos, tmp_path / "canvases")
    assert prepared.PreparedCanvases(made.data.roots[0]).canvases.shape[1:] == (20, 20, 3)


def test_folders_of_one_name_with_files_of_one_size_have_canvases_of_their_own(tmp_path):
    made = []
    for folder, level in (("a", 10), ("b", 240)):
        photos = tmp_path / folder / "frames"
        photos.mkdir(parents=True)
        for number in range(3):
            Image.new("RGB", (24, 24), (level,) * 3).save(photos / f"{number}.bmp")
        config = timed_session.on_canvases(narrow(), [str(photos)], tmp_path / "canvases")
        made.append(loader.open_loader(config).canvases(np.arange(3)).mean())
    assert made == pytest.approx([10, 240], abs=1)


def test_box_crops_take_the_points_that_came_with_the_photos(tmp_path):
    write_photos(tmp_path / "photos", 3)
    lines = ["file,x1,y1,x2,y2", *(f"00000{i}.jpg,8,9,20,{20 + i}" for i in (1, 2, 3))]
    (tmp_path / "photos" / "points.csv").write_text("\n".join(lines))
    config = narrow(data__crop="box")
    made = timed_session.on_canvases(config, [str(tmp_path / "photos")], tmp_path / "canvases")
    found = prepared.PreparedCanvases(made.data.roots[0])
    assert (found.num_points, found.framing) == (2, loader.framing_of(config))
    assert isinstance(found.framing, BoxCanvas)
    edited = tmp_path / "photos" / "points.csv"
    edited.write_text(edited.read_text().replace("8,9,", "9,8,"))  # as long as before
    again = timed_session.on_canvases(config, [str(tmp_path / "photos")], tmp_path / "canvases")
    assert again.data.roots != made.data.roots
    other = narrow(data__crop="box", views__margin=0.8)
    assert timed_session.on_canvases(
        other, [str(tmp_path / "photos")], tmp_path / "canvases"
    ).data.roots != (made.data.roots)
    assert timed_session.on_canvases(
        narrow(), [str(tmp_path / "photos")], tmp_path / "canvases"
    ).data.roots != (made.data.roots)


@pytest.mark.slow
def test_a_stopped_session_writes_transfer_files_and_evaluates_nothing(tmp_path, monkeypatch):
    workdir, out = tmp_path / "run", tmp_path / "out"
    real, deadlines = loop.train, []

    def stopped(*arguments, deadline, **options):
        deadlines.append(deadline)
        real(*arguments, **options)
        return 143

    monkeypatch.setattr(loop, "train", stopped)
    monkeypatch.setattr(
        timed_session.run_evaluation, "evaluate_run", lambda *_, **__: pytest.fail("evaluated")
    )
    config = narrow(train__steps=1)
    assert (
        timed_session.run_session(config, workdir, out, start=1000.0, minutes=9, reserve=2) == 143
    )
    assert deadlines == [1000 + 7 * 60]
    assert transfer_files.read(out / "transfer").step == run_folder.newest_step(workdir) == 1
    held = {"config.json", "run.json", "metrics.jsonl"}
    with zipfile.ZipFile(out / "results.zip") as file:
        assert set(file.namelist()) == held
    (workdir / "pictures").mkdir()
    for step in (5, 70, 8):
        (workdir / "pictures" / f"step-{step:06d}.png").touch()
    names = zipfile.ZipFile(io.BytesIO(timed_session.results(workdir))).namelist()
    assert {*names} == {*held, "pictures/step-000070.png"}


def session(folder, config, *arguments):
    """Runs the command in this process; its exit code, and what it prints."""
    with shared_compilation():
        return call(
            "session",
            "--config=base",
            *flags(config),
            "--minutes=9",
            f"--workdir={folder / 'run'}",
            f"--out={folder / 'out'}",
            *arguments,
        )


STOPPED = "error: ended by SIGTERM; rerun the same command to continue"


def stop(*_, **__):
    signal.raise_signal(signal.SIGTERM)


def test_a_signal_while_photos_are_cut_keeps_those_that_are(tmp_path, monkeypatch):
    write_photos(tmp_path / "photos", 200)
    photos = f"--photos={tmp_path / 'photos'}", f"--canvases={tmp_path / 'canvases'}"
    cut: list[int] = []
    real = cutting.cut_photo

    def counted(source, frame, index):
        cut.append(index)
        if len(cut) == 100:
            os.kill(os.getpid(), signal.SIGTERM)
        return real(source, frame, index)

    monkeypatch.setattr(cutting, "cut_photo", counted)
    code, _, err = session(tmp_path, narrow(), *photos)
    *_, kept, last = err.splitlines()
    assert (code, last) == (128 + signal.SIGTERM, STOPPED)
    number = int(re.search(r": kept (\d+) of 200 canvases; run the same command", kept)[1])
    monkeypatch.setattr(loop, "train", stop)
    before = len(cut)
    code, _, err = session(tmp_path, narrow(), *photos)
    assert (code, err.splitlines()[-1]) == (128 + signal.SIGTERM, STOPPED)
    assert f"resuming after {number} canvases" in err
    assert len(cut) - before == 200 - number
    assert len(list((tmp_path / "canvases").glob("photos-*/canvases.npy"))) == 1


def test_what_is_done_outlives_the_evaluation(tmp_path, monkeypatch):
    finished_run(tmp_path / "run", narrow(**TINY))
    seen = []

    def evaluated(workdir, **_):
        seen.append((tmp_path / "out" / "results.zip").stat().st_size)
        if len(seen) == 2:
            stop()
        (workdir / "evaluation").mkdir()
        (workdir / "evaluation" / "table.md").write_text("tables")
        return "tables"

    monkeypatch.setattr(timed_session.run_evaluation, "evaluate_run", evaluated)
    code, printed, err = session(tmp_path, narrow(**TINY))
    assert code == 0, err
    assert "tables" in printed
    assert transfer_files.read(tmp_path / "out" / "transfer").step == 4
    with zipfile.ZipFile(tmp_path / "out" / "results.zip") as file:
        assert "evaluation/table.md" in file.namelist()
    size = (tmp_path / "out" / "results.zip").stat().st_size
    code, _, err = session(tmp_path, narrow(**TINY))
    assert (code, err.splitlines()[-1]) == (128 + signal.SIGTERM, STOPPED)
    assert 0 < seen[0] < seen[1] == size


def test_transfer_files_of_another_run_are_refused_before_photos_are_cut(tmp_path, monkeypatch):
    workdir = finished_run(tmp_path / "before", narrow(**TINY))
    restored = checkpoints.restore(workdir, run_folder.read_config(workdir))
    transfer_files.write(restored, workdir, tmp_path / "files")
    monkeypatch.setattr(timed_session, "on_canvases", lambda *_: pytest.fail("cut"))
    arguments = [f"--photos={tmp_path}", f"--transfer={tmp_path / 'files'}"]
    code, _, err = session(tmp_path, narrow(**TINY, model__beta=5.0), *arguments)
    assert code == 2
    assert "transfer.json: the run had config.model.beta = 10.0, not 5.0; use its value" in err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--minutes=2", "--reserve=2"), "--minutes 2: must be above --reserve 2, which is for"),
        (("--canvases=x",), "--canvases: goes with --photos"),
        (("--photos=x", "--config.train.batch_size=9"), "train.batch_size = 9: must be divisible"),
        (("--out={file}",), "{file}: cannot be written ({file} is not a folder)"),
    ],
)
def test_what_cannot_work_is_refused_first(words, message, tmp_path, monkeypatch):
    monkeypatch.setattr(timed_session, "on_canvases", lambda *_: pytest.fail("cut"))
    monkeypatch.setattr(timed_session.jax, "device_count", lambda: 4)
    file = tmp_path / "file"
    file.touch()
    code, _, err = session(tmp_path, narrow(**TINY), *(word.format(file=file) for word in words))
    assert code == 2
    assert message.format(file=file) in err
    assert len(err.splitlines()) == 1
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (narrow(**TINY, perceptual__weights="/nowhere/vgg.npz"), "/nowhere/vgg.npz"),
        (test_self_training.narrow(targets__weights="/nowhere/vgg.npz"), "/nowhere/vgg.npz"),
        (narrow(eval__protocols=("aflw-dev",), eval__aflw="/nowhere"), "/nowhere"),
    ],
)
def test_missing_files_cost_no_time(config, message, tmp_path, monkeypatch):
    monkeypatch.setattr(timed_session, "on_canvases", lambda *_: pytest.fail("cut"))
    code, _, err = session(tmp_path, config, f"--photos={tmp_path}")
    assert code == 2
    assert message in err.splitlines()[-1]


@pytest.mark.parametrize(
    ("field", "array"),
    [
        ("generator_channels", r"params/generator/.*/kernel"),
        ("detector_channels", r"params/detector/.*/kernel"),
    ],
)
def test_networks_too_wide_for_transfer_files_are_refused_first(
    field, array, tmp_path, monkeypatch
):
    monkeypatch.setattr(timed_session, "on_canvases", lambda *_: pytest.fail("cut"))
    width = {"generator_channels": 256, "detector_channels": 2048}[field]
    config = narrow(**{f"model__{field}": width, "optimizer__ema_decay": 0.0})
    code, _, err = session(tmp_path, config, f"--photos={tmp_path}")
    assert code == 2
    assert re.fullmatch(
        rf"error: config\.model\.{field} = {width}: must be less, as {array} takes [\d,]+ bytes "
        r"and a transfer file holds 15,728,640\n",
        err,
    )
    assert not (tmp_path / "run").exists()


def test_results_outlive_a_last_transfer_that_fails(tmp_path, monkeypatch):
    def failing(*_):
        raise WorkdirError("transfer: the disk is full")

    monkeypatch.setattr(transfer_files, "write", failing)
    code, _, err = session(tmp_path, narrow(**TINY, train__steps=2))
    assert (code, err.splitlines()[-1]) == (2, "error: transfer: the disk is full")
    assert run_folder.newest_step(tmp_path / "run") == 2
    with zipfile.ZipFile(tmp_path / "out" / "results.zip") as file:
        rows = file.read("metrics.jsonl").decode().splitlines()
        assert {"config.json", "run.json"} < {*file.namelist()}
    assert [json.loads(row)["step"] for row in rows] == [1, 2]


def test_time_that_is_up_before_the_first_step_is_said(tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "train", lambda *_, **__: 0)
    code, _, err = session(tmp_path, narrow())
    assert code == 2
    assert "the time was up before the first step; rerun" in err


@pytest.mark.slow
def test_sessions_stopped_at_any_step_go_on_elsewhere(tmp_path, monkeypatch):
    config = narrow(**TINY, eval__protocols=(), train__steps=1000, train__checkpoint_every=1000)
    step_done, files, steps = reports.Reporter.step_done, [], []
    for place, count in enumerate((2, 1, 3)):
        done = []

        def counted(self, done=done, count=count):
            step_done(self)
            done.append(1)
            if len(done) == count:
                stop()

        monkeypatch.setattr(reports.Reporter, "step_done", counted)
        config.optimizer.cosine_steps = 100 + place  # set anew by what is left of the time
        code, _, err = session(tmp_path / str(place), config, *files)
        assert code == 128 + signal.SIGTERM, err
        files = [f"--transfer={tmp_path / str(place) / 'out' / 'transfer'}"]
        steps.append(transfer_files.read(tmp_path / str(place) / "out" / "transfer").step)
    assert steps == [2, 3, 6]
    rows = run_folder.read_log(tmp_path / "2" / "run")
    assert [row["step"] for row in rows] == [1, 2, 2, 3, 3, 4, 5, 6]
    seconds = [row["seconds"] for row in rows]
    assert seconds == sorted(seconds)
    notes = [
        transfer.changes for transfer in run_folder.read_record(tmp_path / "2" / "run").transfers
    ]
    assert notes == [
        [f"config.optimizer.cosine_steps from {100 + i} to {101 + i}"] for i in range(2)
    ]


def test_folders_of_another_crop_stand_beside_and_count_as_often_as_named(tmp_path):
    write_photos(tmp_path / "photos", 3)
    write_photos(tmp_path / "faces", 2)
    faces = f"{tmp_path / 'faces'}:tight"
    named = [str(tmp_path / "photos"), faces, faces]
    made = timed_session.on_canvases(narrow(), named, tmp_path / "canvases")
    center, tight, again = made.data.roots
    assert tight == again
    assert prepared.PreparedCanvases(center).framing.crop == "center"
    assert prepared.PreparedCanvases(tight).framing.crop == "tight"
    assert len(loader.open_loader(made)) == 3 + 2 + 2
