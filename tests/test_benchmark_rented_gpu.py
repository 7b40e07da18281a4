"""The command for a rented GPU: photos, schedule, what is refused, signals, a whole one."""

import json
import math
import os
import subprocess
import tarfile
import types
import zipfile

import pytest

from benchmarks import accelerator, rented_checks, rented_gpu, rented_photos, rented_schedule
from benchmarks.accelerator_stages import name_of_step
from landmarks_jax import config as configuration
from landmarks_jax.cli import main as cli
from landmarks_jax.cli import session as session_command
from landmarks_jax.data import prepared
from landmarks_jax.studies import timed_session
from landmarks_jax.system.errors import ConfigError, DataError, UserError
from landmarks_jax.training import run_folder, transfer_files
from tests.running import TINY, flags, narrow, write_photos

STEP = {"quartiles_ms": [38.0, 40.0, 41.0], "compile_seconds": 50.0, "from_cache": False}
CONFIG = narrow(**TINY, eval__protocols=(), optimizer__cosine_steps=85_000)
# Without the fields of time, which the command sets.
WORDS = ["--config", "synthetic"] + [
    flag for flag in flags(CONFIG) if "steps=" not in flag or "warmup" in flag
]


def pack(folder, archive):
    """Packs the files of a folder."""
    if archive.suffix == ".zip":
        with zipfile.ZipFile(archive, "w") as file:
            for path in sorted(folder.iterdir()):
                file.write(path, path.name)
        return archive
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(folder, ".")
    return archive


@pytest.mark.parametrize("name", ["photos.tar.gz", "photos.zip"])
def test_archives_are_unpacked_and_cut_as_a_session_looks_for_them(tmp_path, name):
    write_photos(tmp_path / "photos", 3)
    archive = pack(tmp_path / "photos", tmp_path / name)
    texts = [str(archive), f"{tmp_path / 'photos'}:tight", f"{tmp_path / 'photos'}:tight"]
    rented_photos.prepare(texts, tmp_path, WORDS)
    folders = [rented_photos.folder_of(text, tmp_path) for text in texts]
    assert folders[1:] == texts[1:]
    canvases = tmp_path / rented_photos.CANVASES
    before = {path.name: path.stat().st_ino for path in canvases.iterdir()}
    assert len(before) == 2
    found = timed_session.on_canvases(accelerator.configuration_of(WORDS), folders, canvases)
    assert {path.name: path.stat().st_ino for path in canvases.iterdir()} == before
    assert len(prepared.PreparedCanvases(found.data.roots[0])) == 3
    rented_photos.prepare(texts, tmp_path, WORDS)  # again, with nothing left to do
    assert {path.name: path.stat().st_ino for path in canvases.iterdir()} == before


def test_what_is_no_folder_and_no_whole_archive_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"--photos .*none: no such folder, .zip or .tar archive"):
        rented_photos.folder_of(f"{tmp_path / 'none'}:tight", tmp_path)
    (tmp_path / "text").write_text("x")
    with pytest.raises(DataError, match="text: neither a folder nor a"):
        rented_photos.folder_of(str(tmp_path / "text"), tmp_path)
    write_photos(tmp_path / "photos", 3)
    archive = pack(tmp_path / "photos", tmp_path / "photos.tar.gz")
    archive.write_bytes(archive.read_bytes()[:-2000])
    with pytest.raises(DataError, match=r"photos.tar.gz: cannot be unpacked"):
        rented_photos.unpack(archive, tmp_path / "unpacked")
    assert not (tmp_path / "unpacked").exists()
    with tarfile.open(tmp_path / "evil.tar", "w") as tar:
        tar.add(tmp_path / "text", "../evil")
    with pytest.raises(DataError, match=r"evil\.tar: cannot be unpacked"):
        rented_photos.unpack(tmp_path / "evil.tar", tmp_path / "in" / "unpacked")
    assert not (tmp_path / "evil").exists()


def test_the_steps_fill_the_seconds_left():
    # 120 s, of which 20 and 50 pass before the first step: 50 s at 40 ms, less 5 %.
    assert rented_schedule.steps_in(120.0, STEP, 20.0) == math.floor(0.95 * 50 / 0.04)
    assert rented_schedule.steps_in(60.0, STEP, 20.0) == 1
    # The session's program is compiled all the same.
    cached = STEP | {"compile_seconds": 2.0, "from_cache": True}
    assert rented_schedule.steps_in(120.0, cached, 20.0) == math.floor(0.95 * 10 / 0.04)


def parsed(arguments):
    name, *rest = arguments
    assert name == "session"
    return cli.parse(name, session_command.COMMAND, rest).flags


def test_a_schedule_ends_with_the_minutes(tmp_path):
    options = {"photos": ["a", "b:tight"], "canvases": tmp_path, "workdir": tmp_path / "run"}
    options |= {"out": tmp_path, "minutes": 4.25, "reserve": 0.7, "transfer": None}

    def values(*words, **changes):
        schedule = rented_schedule.schedule(accelerator.configuration_of(words), 5000)
        return parsed(rented_schedule.session([*words, *schedule], **options | changes))

    best = values("--config", "best", "--config.train.steps=7")
    assert best.config.optimizer.cosine_steps == best.config.train.steps == 5000
    assert (best.photos, best.minutes, best.reserve) == (["a", "b:tight"], 4.25, 0.7)
    assert best.transfer is None
    faces = values("--config", "faces", transfer=tmp_path / "earlier")  # has no cosine
    assert (faces.config.optimizer.cosine_steps, faces.config.train.steps) == (0, 5000)
    assert faces.transfer == str(tmp_path / "earlier")


def test_a_run_that_was_begun_keeps_its_schedule_and_its_folder(tmp_path):
    workdir = rented_schedule.workdir_of(tmp_path, None)
    assert rented_schedule.begun(workdir) is None
    (workdir / "checkpoints" / "4").mkdir(parents=True)
    (workdir / run_folder.CONFIG_FILE).write_text(configuration.to_json(CONFIG))
    assert rented_schedule.begun(workdir).optimizer.cosine_steps == 85_000
    # They may end at different steps: those of a run whose step could not be measured.
    assert rented_schedule.schedule(rented_schedule.begun(workdir)) == [
        "--config.train.steps=4",
        "--config.optimizer.cosine_steps=85000",
    ]
    (workdir / "checkpoints" / "4").rmdir()
    (workdir / "targets").mkdir()
    assert rented_schedule.begun(workdir).optimizer.cosine_steps == 85_000
    (workdir / "targets").rmdir()  # without anything to lose it gets a new one
    assert rented_schedule.begun(workdir) is None
    assert not workdir.exists()
    for name in "ab":
        (tmp_path / name).mkdir()
        (tmp_path / name / transfer_files.MANIFEST).write_text(name)
    a, b = (rented_schedule.workdir_of(tmp_path, tmp_path / name) for name in "ab")
    assert len({a, b, workdir}) == 3


@pytest.fixture
def rent(tmp_path, monkeypatch):
    """Runs the command with children that only note their command lines, and no stages."""
    started, stages_run = [], []

    class Noted:
        log = tmp_path / "none"

        def __init__(self, module, arguments, log, environment, *, nice=0):
            started.append((module, list(arguments), dict(environment), nice))

        def wait(self, end, interrupt, **_):
            return "stopped by SIGTERM" if interrupt.signal else ""

        def stop(self, grace):
            pass

    def run_stages(table, words, folder, out, *, interrupt, **options):
        stages_run.append((list(table), list(words), options))
        interrupt.signal = received[0]
        return {}

    received = [None]
    write_photos(tmp_path / "photos", 9)
    monkeypatch.setattr(rented_gpu, "Child", Noted)
    monkeypatch.setattr(rented_gpu.accelerator, "run_stages", run_stages)
    monkeypatch.setattr(rented_gpu.jax.config, "update", lambda *_: None)
    monkeypatch.setenv("JAX_PLATFORMS", "")  # put back at the end
    monkeypatch.delenv("JAX_PLATFORMS")

    def run(*arguments, minutes="9.5", words=WORDS):
        started.clear()
        stages_run.clear()
        places = [f"--photos={tmp_path / 'photos'}", f"--out={tmp_path / 'out'}"]
        places += [f"--scratch={tmp_path / 'scratch'}", f"--minutes={minutes}"]
        monkeypatch.setattr(rented_gpu.sys, "argv", ["x", *places, *arguments, *words])
        return rented_gpu.main()

    run.started, run.stages_run, run.received = started, stages_run, received
    run.folder = tmp_path
    return run


def test_without_a_gpu_nothing_is_started(rent, monkeypatch):
    good = ("gpu NVIDIA H200\n", 0)
    answers = iter([("cpu cpu\n", 0), ("", 1), None, ("gpu NVIDIA H200\n", 1), good])

    def answer(command, *, timeout, **_):
        answer_of_gpu = next(answers)
        if answer_of_gpu is None:
            raise subprocess.TimeoutExpired(command, timeout)
        return subprocess.CompletedProcess(
            command, answer_of_gpu[1], answer_of_gpu[0], "x\nno cuDNN\n"
        )

    monkeypatch.setattr(rented_checks.subprocess, "run", answer)
    for message in ("JAX finds cpu", "JAX finds nothing"):
        with pytest.raises(UserError, match=rf"no NVIDIA GPU: {message} \(no cuDNN\); .* --tiny"):
            rent()
    with pytest.raises(UserError, match="none has computed anything in 120 s"):
        rent()
    with pytest.raises(UserError, match=r"NVIDIA H200: cannot train here \(no cuDNN\)"):
        rent()
    assert rent.started == []
    assert rent() == 0
    assert os.environ["JAX_PLATFORMS"] == "cuda,cpu"
    assert len(rent.started) == 2


def test_what_is_wrong_is_said_before_anything_is_started(rent, monkeypatch):
    with pytest.raises(ConfigError, match="--config: give the name"):
        rent("--tiny", words=[])
    with pytest.raises(ConfigError, match="names an unknown field"):
        rent("--tiny", words=["--config", "best", "--config.train.stepz=4"])
    with pytest.raises(UserError, match=r"vgg\.npz"):
        rent("--tiny", words=["--config", "best", "--config.perceptual.weights=vgg.npz"])
    with pytest.raises(UserError, match="no transfer files here"):
        rent("--tiny", f"--transfer={rent.folder}")
    own = ["--config", "selftrain_start_cpu", "--config.targets.weights=vgg19.npz"]
    with pytest.raises(UserError, match=r"vgg19\.npz"):
        rent("--tiny", words=own)
    core = ["--config.init.mode=finetune", f"--config.init.core={rent.folder / 'none'}"]
    with pytest.raises(ConfigError, match=r"config\.init\.core = .*none': no run and no file"):
        rent("--tiny", words=[*WORDS, *core])
    faces = ["--config.eval.protocols=('aflw-dev',)", "--config.eval.aflw=/nowhere"]
    with pytest.raises(DataError, match="/nowhere"):
        rent("--tiny", words=[*WORDS, *faces])
    monkeypatch.setattr(rented_checks, "gpu", lambda: "NVIDIA H200")
    with pytest.raises(ConfigError, match="without joints"):
        rent(words=["--config", "mpii_pretrain"])
    assert rent.started == []


def test_self_training_needs_no_photos_but_those_that_are_given(rent):
    assert rent("--tiny", words=["--config", "folder"]) == 0
    assert len(rent.started) == 2


def test_photos_are_cut_on_the_processor_while_the_gpu_measures_and_then_it_trains(rent):
    own = name_of_step(accelerator.configuration_of([*rented_gpu._DEFAULTS, *WORDS]))
    (rent.folder / "scratch" / "measured").mkdir(parents=True)
    measured = {**STEP, "tiny": False, "complete": False}
    path = rent.folder / "scratch" / "measured" / f"{own}.json"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rented_checks, "gpu", lambda: "NVIDIA H200")
        patch.setattr(rented_gpu.accelerator, "write_summary", lambda *_, **__: "a table")
        path.write_text(json.dumps(measured))
        assert rent("--measure=4", "--reserve=0.5") == 0
        ((names, _, options),) = rent.stages_run
        assert names == [own, "machine", "train_64_bfloat16_32"]
        assert not options["tiny"]
        (cut, _, cpu, nice), (module, session, environment, _) = rent.started
        assert (cut, cpu["JAX_PLATFORMS"], nice) == ("benchmarks.rented_photos", "cpu", 19)
        assert "JAX_PLATFORMS" not in environment
        assert module == "landmarks_jax"
        values = parsed(session)
        # 9.5 minutes less 10 s, of them half one for the end.
        assert values.minutes == pytest.approx(9.5 - 1 / 6, abs=0.1)
        expected = rented_schedule.steps_in(60 * (9.5 - 0.5) - 10, STEP, 40.0)
        assert values.config.train.steps == pytest.approx(expected, abs=5 / 0.04)
        assert values.config.optimizer.cosine_steps == values.config.train.steps
        assert values.config.train.picture_every == 0
        assert values.workdir == str(rent.folder / "scratch" / "run")
        log = (rent.folder / "out" / "log.txt").read_text()
        assert "NVIDIA H200" in log
        assert "a table" in log
        assert f"{values.config.train.steps:,} steps of 40.0 ms after step 0" in log

        # Later, elsewhere: the schedule goes on from the transfer files.
        earlier = rent.folder / "earlier"
        earlier.mkdir()
        (earlier / transfer_files.MANIFEST).write_text("x")
        bundle = types.SimpleNamespace(step=4000, config=CONFIG, path=earlier)
        patch.setattr(transfer_files, "read", lambda _: bundle)
        assert rent(f"--transfer={earlier}", "--stages=", "--reserve=0.5") == 0
        assert rent.stages_run[0][0] == [own]
        again = parsed(rent.started[1][1])
        more = again.config.train.steps - values.config.train.steps
        assert more == pytest.approx(4000, abs=5 / 0.04)
        assert again.config.optimizer.cosine_steps == again.config.train.steps
        assert again.transfer == str(earlier)
        assert again.workdir != values.workdir

        # The step could not be measured: a schedule all the same.
        path.unlink()
        assert rent() == 0
        expected = rented_schedule.steps_in(60 * (9.5 - 0.7) - 10, rented_schedule.ASSUMED, 40.0)
        own_schedule = parsed(rent.started[1][1]).config.optimizer.cosine_steps
        assert own_schedule == pytest.approx(expected, abs=5 / 0.04)
        assert "its time is assumed" in (rent.folder / "out" / "log.txt").read_text()


def test_a_signal_while_it_measures_starts_no_training(rent):
    rent.received[0] = 15
    assert rent("--tiny") == 143
    assert [module for module, *_ in rent.started] == ["benchmarks.rented_photos"]
    assert "summary.json" in (rent.folder / "out" / "log.txt").read_text()


def test_without_time_it_measures_only(rent):
    assert rent("--tiny", minutes="0.5") == 1  # to train was asked for
    assert [module for module, *_ in rent.started] == ["benchmarks.rented_photos"]
    # Not to train was asked for, however early the stages end: no photos are needed.
    for minutes in ("0.5", "4"):
        assert rent("--tiny", f"--measure={minutes}", minutes=minutes) == 0
        assert rent.started == []
    assert "training: none, as --measure" in (rent.folder / "out" / "log.txt").read_text()


def test_too_many_files_are_named(rent):
    out = rent.folder / "out"
    out.mkdir()
    for number in range(9):
        (out / f"{number}.bin").write_bytes(b"x")
    assert rent("--tiny", minutes="0.5") == 1
    assert "more than 8 files" in (out / "log.txt").read_text()


@pytest.mark.slow
def test_a_whole_one_then_a_second_that_continues_it(tmp_path, monkeypatch):
    write_photos(tmp_path / "photos", 12)
    archive = pack(tmp_path / "photos", tmp_path / "photos.tar.gz")
    scratch = tmp_path / "scratch"

    def rent(out, *more):
        # So long before the first step that there is time for one only, however fast it is here.
        arguments = ["--tiny", "--minutes=5", "--reserve=0.1", "--before=1000", "--stages="]
        arguments += [f"--photos={archive}", f"--out={out}", f"--scratch={scratch}"]
        monkeypatch.setattr(rented_gpu.sys, "argv", ["x", *arguments, *more, *WORDS])
        return rented_gpu.main()

    out = tmp_path / "out"
    assert rent(out) == 0
    first = transfer_files.read(out / "transfer")
    assert first.step == first.config.optimizer.cosine_steps == first.config.train.steps == 1
    names = [path.relative_to(out) for path in out.rglob("*") if path.is_file()]
    assert len(names) <= 8
    assert max(len(name.parts) for name in names) == 2
    assert "config.json" in zipfile.ZipFile(out / "results.zip").namelist()
    (stage,) = json.loads((out / "summary.json").read_text())["stages"].values()
    assert stage["complete"]
    (measured,) = (scratch / "measured").glob("*.json")
    before = measured.stat().st_mtime_ns
    assert rent(tmp_path / "out2", f"--transfer={out / 'transfer'}") == 0
    assert measured.stat().st_mtime_ns == before
    second = transfer_files.read(tmp_path / "out2" / "transfer")
    assert second.step == second.config.optimizer.cosine_steps == second.config.train.steps == 2
    assert [transfer.step for transfer in second.record.transfers] == [1]
