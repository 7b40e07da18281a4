"""Sessions: from small photos to tables and transfer files, twice, without TensorFlow."""

import io
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest

from landmarks_jax.data import loader, prepared
from landmarks_jax.data.box_canvas import BoxCanvas
from landmarks_jax.studies import timed_session
from landmarks_jax.system.errors import ConfigError, DataError
from landmarks_jax.training import loop, run_folder, transfer_files
from tests.running import TINY, command, finish, flags, narrow, write_photos

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
    write_photos(photos, 5, (31, 36))
    assert roots() != first
    assert config.data.source == "synthetic"
    with pytest.raises(ConfigError, match="needs annotated points"):
        roots(narrow(data__crop="box"))


def test_box_crops_take_the_points_that_came_with_the_photos(tmp_path):
    write_photos(tmp_path / "photos", 3)
    lines = ["file,x1,y1,x2,y2", *(f"00000{i}.jpg,8,9,20,{20 + i}" for i in (1, 2, 3))]
    (tmp_path / "photos" / "points.csv").write_text("\n".join(lines))
    config = narrow(data__crop="box")
    made = timed_session.on_canvases(config, [str(tmp_path / "photos")], tmp_path / "canvases")
    found = prepared.PreparedCanvases(made.data.roots[0])
    assert (found.num_points, found.framing) == (2, loader.framing_of(config))
    assert isinstance(found.framing, BoxCanvas)
    other = narrow(data__crop="box", views__margin=0.8)
    assert timed_session.on_canvases(
        other, [str(tmp_path / "photos")], tmp_path / "canvases"
    ).data.roots != (made.data.roots)
    assert timed_session.on_canvases(
        narrow(), [str(tmp_path / "photos")], tmp_path / "canvases"
    ).data.roots != (made.data.roots)


def test_missing_labelled_faces_cost_no_training(tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "train", lambda *_, **__: pytest.fail("trained"))
    config = narrow(eval__protocols=("aflw-dev",), eval__aflw="/nowhere")
    with pytest.raises(DataError, match="/nowhere"):
        timed_session.run_session(
            config, tmp_path / "run", tmp_path / "out", start=time.monotonic(), minutes=1, reserve=0
        )


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
    assert not (out / "results.zip").exists()
    (workdir / "pictures").mkdir()
    for step in (5, 70, 8):
        (workdir / "pictures" / f"step-{step:06d}.png").touch()
    names = zipfile.ZipFile(io.BytesIO(timed_session.results(workdir))).namelist()
    picture = "pictures/step-000070.png"
    assert sorted(names) == ["config.json", "metrics.jsonl", picture, "run.json"]


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
