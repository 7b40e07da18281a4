"""The targets of self-training end to end: made, kept, resumed, refused; where points start."""

import itertools
import os
import shutil
import signal
import time
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from landmarks_jax import geometry, refinement
from landmarks_jax.data import loader, sampling
from landmarks_jax.data.sources.synthetic import SyntheticFaces
from landmarks_jax.system.errors import ConfigError, WeightsError, WorkdirError
from landmarks_jax.training import (
    batches,
    checkpoints,
    loop,
    merging,
    refiner,
    reports,
    run_inputs,
    sharding,
    start_points,
    targets,
    transfer_files,
    transfer_start,
)
from landmarks_jax.training import state as states
from landmarks_jax.training.checkpoints import Checkpoints
from landmarks_jax.training.run_folder import newest_step, read_log, read_record
from tests import test_self_training
from tests.running import call, flags, leaves_of, shared_compilation, train, write_vgg
from tests.test_self_training import blobs

CANVAS, VIEW = 20, 16  # of the features; training has 10 and 8
COUNT = 12


@pytest.fixture(scope="module", autouse=True)
def _cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module", name="data")
def make_data(tmp_path_factory) -> Path:
    """Twelve synthetic faces as photos, prepared, and VGG files of random numbers."""
    folder = tmp_path_factory.mktemp("data")
    faces = SyntheticFaces(1, COUNT, CANVAS)
    (folder / "photos").mkdir()
    for index in range(COUNT):
        Image.fromarray(faces.photo(index)).save(folder / "photos" / f"{index:02d}.png")
    for name, canvas, view in (("prepared", CANVAS, VIEW), ("small", 10, 8)):
        arguments = [
            "prepare",
            "--config=base",
            "--config.data.source=folder",
            f"--config.data.roots=('{folder / 'photos'}',)",
            f"--config.data.canvas_size={canvas}",
            f"--config.views.size={view}",
            "--config.model.detector=tests.tiny_detector",
            f"--out={folder / name}",
        ]
        code, _, err = call(*arguments)
        assert code == 0, err
    write_vgg(folder / "vgg.npz", blocks=2)
    write_vgg(folder / "other.npz", blocks=2, scale=1.1)
    return folder


def narrow(data, **fields):
    """Two rounds of two steps, on prepared photos."""
    own = {
        "data__source": "prepared",
        "data__roots": (str(data / "prepared"),),
        "data__canvas_size": 10,
        "views__size": 8,
        "targets__steps": (0, 2),
        "targets__weights": str(data / "vgg.npz"),
        "targets__view_size": VIEW,
        "targets__components": 8,
        "targets__num_fit": 8,
        "targets__spreads": (0.3, 0.2, 0.2, 0.1),
        "targets__temperatures": (0.1, 0.2, 0.5, 1.0),
        "targets__mirror": True,
        "targets__num_views": 2,
        "optimizer__ema_decay": 0.5,
    }
    return test_self_training.narrow(**{**own, **fields})


@pytest.fixture(scope="module", name="uncut")
def make_uncut(data, tmp_path_factory) -> Path:
    """The folder of a run of both rounds, by the command."""
    workdir = tmp_path_factory.mktemp("uncut")
    with shared_compilation():
        code, _, err = call("train", *flags(narrow(data)), f"--workdir={workdir}")
    assert code == 0, err
    return workdir


def kept(workdir, step):
    with np.load(workdir / "targets" / f"{step}.npz") as arrays:
        return dict(arrays)


def test_each_round_writes_its_points_and_a_page(uncut):
    assert sorted(path.name for path in (uncut / "targets").iterdir()) == [
        *("0.npz", "0.png", "2.npz", "2.png")
    ]
    assert [row["step"] for row in read_log(uncut)] == [1, 2, 3, 4]
    # Of its own points the run has as many again in the mirror images.
    for step, num in ((0, 4), (2, 8)):
        arrays = kept(uncut, step)
        assert arrays["points"].shape == (COUNT, num, 2)
        assert arrays["confidence"].shape == (COUNT, num)
        assert arrays["merging"].shape == (8, num)
        assert arrays["points"].dtype == arrays["confidence"].dtype == np.float32
        assert np.abs(arrays["points"]).max() < VIEW / CANVAS
        assert np.isfinite(arrays["confidence"]).all()
        assert list(arrays["names"]) == [f"photos/{index:02d}.png" for index in range(COUNT)]
        with Image.open(uncut / "targets" / f"{step}.png") as page:
            assert min(page.size) > 300
    first, second = (kept(uncut, step)["points"] for step in (0, 2))
    assert first.std(0).max() > 0.01  # no longer the same in all photos
    assert np.abs(second[:, :4] - first).max() > 0.01
    assert np.abs(second[:, 4:] - first[:, [1, 0, 3, 2]]).max() > 0.01


def test_merged_points_are_refined_later_but_not_merged_again(data, tmp_path):
    assert train(narrow(data, targets__merge=(3, 1)), tmp_path) == 0
    first, second = kept(tmp_path, 0), kept(tmp_path, 2)
    assert first["merging"].shape == (8, 4)
    np.testing.assert_allclose(first["merging"].sum(1), 1)
    np.testing.assert_array_equal(first["merging"][4:], first["merging"][:4, [1, 0, 3, 2]])
    assert second["points"].shape == (COUNT, 8, 2)
    np.testing.assert_array_equal(second["merging"], np.eye(8))


class _Cut(Exception):  # noqa: N818  (no error)
    pass


def cut_after(step, config, workdir):
    """Trains until the checkpoint of a step, as if the process ended then."""
    config = config.copy_and_resolve_references()
    config.train.checkpoint_every = 1
    save = Checkpoints.save

    def cut(self, at, state, seconds):
        save(self, at, state, seconds)
        if at == step:
            raise _Cut

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Checkpoints, "save", cut)
        with pytest.raises(_Cut):
            train(config, workdir)
    assert newest_step(workdir) == step


def stop_at(step, patched):
    """Sends SIGTERM to the training once so many steps are done."""
    step_done, done = reports.Reporter.step_done, []

    def counted(self):
        step_done(self)
        done.append(1)
        if len(done) == step:
            signal.raise_signal(signal.SIGTERM)

    patched.setattr(reports.Reporter, "step_done", counted)


def assert_same_run(workdir, uncut, config):
    for step in (0, 2):
        arrays = kept(uncut, step)
        assert arrays.pop("seconds") > 0  # another each time
        for name, array in arrays.items():
            np.testing.assert_array_equal(kept(workdir, step)[name], array)
    leaves, expected = leaves_of(workdir, config), leaves_of(uncut, config)
    assert leaves.keys() == expected.keys()
    assert leaves["step"] == 4
    for path, array in expected.items():
        np.testing.assert_array_equal(leaves[path], array, err_msg=path)
    assert [row["step"] for row in read_log(workdir)] == [1, 2, 3, 4]
    assert read_log(workdir)[-1]["loss"] == read_log(uncut)[-1]["loss"]


def test_all_rounds_share_a_program_and_read_no_checkpoint(data, tmp_path):
    calls = {}

    def count(patched, owner, name):
        real = getattr(owner, name)

        def counted(*arguments, **options):
            calls[name] = calls.get(name, 0) + 1
            return real(*arguments, **options)

        patched.setattr(owner, name, counted)

    config = narrow(data, train__steps=0, train__minutes=1e6, targets__steps=(0, 2, 3))
    with shared_compilation(), pytest.MonkeyPatch.context() as patched:
        count(patched, loop, "compile_program")
        count(patched, loop, "run_steps")
        count(patched, Checkpoints, "restore")
        stop_at(4, patched)
        assert loop.train(config, tmp_path) == 128 + signal.SIGTERM
    assert calls == {"compile_program": 1, "run_steps": 3, "restore": 1}
    assert [path.stem for path in sorted((tmp_path / "targets").glob("*.npz"))] == ["0", "2", "3"]
    assert newest_step(tmp_path) == 4


@pytest.mark.parametrize("step", [2, 3])
def test_a_run_cut_and_resumed_equals_one_uncut(step, data, uncut, tmp_path):
    config = narrow(data)
    cut_after(step, config, tmp_path)
    assert (tmp_path / "targets" / "2.npz").exists() == (step > 2)
    assert train(config, tmp_path) == 0
    assert_same_run(tmp_path, uncut, config)


def test_a_run_of_a_step_a_session_equals_one_uncut(data, uncut, tmp_path, monkeypatch):
    config, ends, reporter = narrow(data), [], loop.Reporter

    def reported(workdir, limits, **options):
        ends.append(limits.steps)
        return reporter(workdir, limits, **options)

    monkeypatch.setattr(loop, "Reporter", reported)
    shutil.copytree(uncut / "targets", tmp_path / "targets")  # time that is up makes none
    for step in range(1, 5):
        assert train(config, tmp_path, deadline=time.monotonic()) == 0
        assert newest_step(tmp_path) == step
    assert ends == [4, 4, 4, 4]  # of the run, not of the round: the time left is by them
    assert_same_run(tmp_path, uncut, config)


# Where a training is while it makes targets, and how often it has been there before.
PLACES = [("views", 0), ("views", 2), ("fit", 0), ("refine", 0)]
PLACES += [("_means", 0), ("write", 0)]


@pytest.mark.parametrize("where", PLACES)
def test_a_signal_ends_the_making_of_targets(where, data, tmp_path, monkeypatch, caplog):
    place, times = where
    owners = {"views": refiner.Refiner, "_means": merging, "write": targets}
    owner = owners.get(place, refinement)
    done, real = [], getattr(owner, place)

    def signalled(*arguments):
        if len(done) == times:
            os.kill(os.getpid(), signal.SIGTERM)
        done.append(1)
        return real(*arguments)

    monkeypatch.setattr(refiner, "BATCH", 4)  # several batches
    monkeypatch.setattr(owner, place, signalled)
    merged = {"targets__merge": (2, 2)} if place == "_means" else {}
    config, before = narrow(data, **merged), signal.getsignal(signal.SIGTERM)
    assert train(config, tmp_path) == 128 + signal.SIGTERM
    assert signal.getsignal(signal.SIGTERM) is before
    assert newest_step(tmp_path) is None
    # All of it, or nothing.
    made = ["0.npz", "0.png"] if place == "write" else []
    folder = tmp_path / "targets"
    assert sorted(os.listdir(folder) if folder.exists() else []) == made
    assert ("targets/0.npz: stopped after" in caplog.text) == (not made)


def test_time_that_is_up_ends_the_making_of_targets(data, tmp_path, caplog, monkeypatch):
    config = narrow(data)
    assert train(config, tmp_path, deadline=time.monotonic()) == 0
    assert "targets/0.npz: stopped after 0 s, which do not count" in caplog.text
    assert newest_step(tmp_path) is None
    # Once they are made, a step follows, so that their time counts.
    write = targets.write
    end = [time.monotonic() + 100]

    def late(*arguments):
        write(*arguments)
        monkeypatch.setattr(time, "monotonic", lambda start=time.monotonic: start() + 200)

    monkeypatch.setattr(targets, "write", late)
    assert train(config, tmp_path, deadline=end[0]) == 0
    assert newest_step(tmp_path) == 1
    assert read_log(tmp_path)[0]["seconds"] > 200


def stop_when_written(patched):
    """Ends the training with SIGTERM whenever targets are written."""
    write = targets.write
    patched.setattr(
        targets, "write", lambda *given: (write(*given), signal.raise_signal(signal.SIGTERM))
    )


@pytest.mark.parametrize("stopped", ["never", "by a signal", "by a kill", "and transferred"])
def test_the_time_of_making_targets_counts_once(stopped, data, tmp_path, monkeypatch):
    clock, run, passed = time.monotonic, refiner.Refiner.run, [0]

    def slow_run(*arguments, **options):
        passed[0] += 1000
        return run(*arguments, **options)

    monkeypatch.setattr(refiner.Refiner, "run", slow_run)
    monkeypatch.setattr(time, "monotonic", lambda: clock() + passed[0])
    config, workdir = narrow(data), tmp_path / "run"
    with monkeypatch.context() as patched:
        if stopped in ("by a signal", "and transferred"):
            stop_when_written(patched)
            for _ in range(2):
                assert train(config, workdir) == 128 + signal.SIGTERM
        if stopped == "by a kill":
            run_steps = loop.run_steps
            for end in (2, None):  # the rounds

                def cut(*arguments, end, last=end, **options):
                    if end == last:
                        raise _Cut
                    return run_steps(*arguments, end=end, **options)

                patched.setattr(loop, "run_steps", cut)
                for _ in range(2):  # the second time it reads the targets
                    with pytest.raises(_Cut):
                        train(config, workdir)
    if stopped == "and transferred":
        code, _, err = call("transfer", f"--workdir={workdir}", f"--out={tmp_path / 'files'}")
        assert code == 0, err
        workdir = tmp_path / "new"
        continued(config, workdir, tmp_path / "files")
    else:
        assert train(config, workdir) == 0
    seconds = {row["step"]: row["seconds"] for row in read_log(workdir)}
    assert [seconds[step] // 1000 for step in (1, 2, 3, 4)] == [1, 1, 2, 2]


@pytest.fixture(scope="module", name="half_way")
def make_half_way(data, tmp_path_factory) -> Path:
    """The folder of a run cut after its third step."""
    workdir = tmp_path_factory.mktemp("half_way")
    cut_after(3, narrow(data), workdir)
    return workdir


def remove(path):
    path.unlink()


def cut_short(path):
    path.write_bytes(path.read_bytes()[:500])


def no_archive(path):
    path.write_text("points\n")


def one_array(path):
    np.save(path.with_suffix(".npy"), np.zeros(3))
    path.with_suffix(".npy").rename(path)


def without_points(path):
    np.savez(path, confidence=np.zeros((COUNT, 4)))


def of_other_photos(path):
    with np.load(path) as arrays:
        changed = {**arrays, "names": [*arrays["names"][:-1], "other.png"]}
    np.savez(path, **changed)


def of_fewer_points(path):
    with np.load(path) as arrays:
        changed = {**arrays, "points": arrays["points"][:, :3]}
    np.savez(path, **changed)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (remove, "2.npz: missing; copy it there from the folder"),
        (cut_short, "2.npz: damaged ("),
        (no_archive, "2.npz: damaged ("),
        (one_array, "2.npz: damaged ("),
        (without_points, "2.npz: damaged ("),
        (of_other_photos, "2.npz: is of other photos than this run"),
        (of_fewer_points, "2.npz: is of other photos than this run"),
    ],
)
def test_targets_that_are_missing_or_damaged_are_named(damage, message, data, half_way, tmp_path):
    run = shutil.copytree(half_way, tmp_path / "run")
    damage(run / "targets" / "2.npz")
    with shared_compilation():
        code, _, err = call("train", *flags(narrow(data)), f"--workdir={run}")
    assert code == 2
    assert err.splitlines()[-1].startswith(f"error: {run / 'targets' / message}")
    assert newest_step(run) == 3


def continued(config, workdir, files):
    """Trains a new run from transfer files to the configuration's end; returns its record."""
    assert train(config, workdir, transfer_from=files) == 0
    assert newest_step(workdir) == config.train.steps
    return read_record(workdir)


def test_a_transferred_run_has_the_targets_of_its_round(data, half_way, tmp_path):
    code, _, err = call("transfer", f"--workdir={half_way}", f"--out={tmp_path / 'files'}")
    assert code == 0, err
    record = continued(narrow(data), tmp_path / "run", tmp_path / "files")
    assert os.listdir(tmp_path / "run" / "targets") == ["2.npz"]
    before, after = kept(half_way, 2), kept(tmp_path / "run", 2)
    np.testing.assert_array_equal(after["points"], before["points"].astype(np.float16))
    np.testing.assert_array_equal(after["merging"], before["merging"])
    np.testing.assert_array_equal(after["names"], before["names"])
    (transfer,) = record.transfers
    assert (transfer.step, transfer.new_targets) == (3, False)
    assert "targets" not in transfer.note()


def test_targets_that_are_too_many_or_of_other_photos_are_made_again(
    data, half_way, tmp_path, monkeypatch
):
    files, run, config = tmp_path / "files", tmp_path / "run", narrow(data)
    with monkeypatch.context() as patched:
        patched.setattr(transfer_files, "MAX_TARGET_BYTES", 12 * 8 * 2 * 2 - 1)
        call("transfer", f"--workdir={half_way}", f"--out={files}")
    record = continued(config, run, files)
    assert record.transfers[0].new_targets
    assert record.all_notes()[-1].endswith("the targets were made again, from its own points")
    assert sorted(os.listdir(run / "targets")) == ["3.npz", "3.png"]
    assert kept(run, 3)["points"].shape == (COUNT, 8, 2)
    # Training continues on these targets, in this folder and after a transfer.
    config.train.steps = 5
    assert train(config, run) == 0
    call("transfer", f"--workdir={run}", f"--out={files}")
    bundle = transfer_files.read(files)
    found = transfer_start.carried_targets(bundle, config, record.data_digest)
    np.testing.assert_array_equal(found["points"], kept(run, 3)["points"].astype(np.float16))
    assert transfer_start.carried_targets(bundle, config, "of other photos") is None
    again, other = (
        transfer_start.transfers_of(bundle, config, digest)[-1]
        for digest in (record.data_digest, "of other photos")
    )
    assert (again.new_targets, other.new_targets) == (False, True)


def test_a_signal_after_targets_are_made_keeps_them_in_transfer_files(data, tmp_path, monkeypatch):
    config = narrow(data)
    with monkeypatch.context() as patched:
        stop_when_written(patched)
        code = train(config, tmp_path / "run", transfer_to=tmp_path / "out")
    assert code == 128 + signal.SIGTERM
    bundle = transfer_files.read(tmp_path / "out")
    # The time of the targets goes with them.
    made_in = bundle.arrays["targets/0/seconds"]
    assert bundle.step == bundle.seconds == 0 < made_in
    config.targets.steps = (0,)
    record = continued(config, tmp_path / "new", tmp_path / "out")
    assert os.listdir(tmp_path / "new" / "targets") == ["0.npz"]
    (note,) = record.all_notes()
    assert "at step 0 after" in note
    assert "rate" not in note  # nothing was trained that a full rate would disturb
    assert note.endswith("config.targets.steps from [0, 2] to [0]")
    rows = read_log(tmp_path / "new")
    assert [row["step"] for row in rows] == [0, 1, 2, 3, 4]
    assert rows[1]["seconds"] > made_in


def test_only_files_named_by_a_step_are_targets(tmp_path):
    arrays = {"points": np.zeros((2, 3, 2)), "merging": np.eye(3), "seconds": 4.0}
    targets.write_arrays(targets.path_at(tmp_path, 2), ["a", "b"], **arrays)
    (tmp_path / "targets" / "2-old.npz").touch()
    (tmp_path / "targets" / "3x.npz").touch()
    names = {f"targets/2/{part}" for part in ("points-000", "merging", "seconds")}
    assert {*transfer_files.targets_of(tmp_path, 4)} == names


def test_targets_are_carried_in_pieces(tmp_path, monkeypatch):
    monkeypatch.setattr(transfer_files, "MAX_BYTES", 3_000)
    points = np.random.default_rng(0).uniform(-1, 1, (100, 4, 2)).astype(np.float32)
    merging = np.full((2, 4), 1 / 3)
    for made in (0, 7):
        path = targets.path_at(tmp_path, made)
        arrays = {"points": points + made, "merging": merging, "seconds": 1.5 + made}
        targets.write_arrays(path, ["a"] * 100, **arrays)
    (tmp_path / "targets" / ".0123456789abcdef9.npz").touch()  # as a kill leaves it
    arrays = transfer_files.targets_of(tmp_path, 6)
    names = [f"targets/0/points-00{i}" for i in range(4)]  # of 1,600 bytes
    assert list(arrays) == [*names, "targets/0/merging", "targets/0/seconds"]
    assert arrays["targets/0/seconds"] == 1.5
    np.testing.assert_array_equal(
        np.concatenate([arrays[name] for name in names]), points.astype(np.float16)
    )
    np.testing.assert_array_equal(arrays["targets/0/merging"], merging.astype(np.float32))
    assert next(iter(transfer_files.targets_of(tmp_path, 7))).startswith("targets/7/")
    assert transfer_files.targets_of(tmp_path / "none", 7) == {}


def test_no_damaged_byte_passes_unseen(tmp_path):
    rng = np.random.default_rng(0)
    arrays = {"points": rng.normal(size=(3, 2, 2)), "merging": np.eye(2), "seconds": np.pi}
    names = ["a", "b", "c"]
    path = tmp_path / "0.npz"
    np.savez(path, **arrays, names=names)
    whole = path.read_bytes()
    refused = []
    for place in range(0, len(whole), 3):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x41]) + whole[place + 1 :])
        try:
            read = targets.read(path, names)
        except WorkdirError as error:
            refused.append(str(error))
        else:  # a date or another field that is not used
            for array, expected in zip(read, arrays.values(), strict=True):
                np.testing.assert_array_equal(array, expected)
    assert len(refused) > 100
    assert all(message.startswith(f"{path}: ") for message in refused)


def test_other_weights_and_other_photos_are_another_run(data, half_way, tmp_path):
    run = shutil.copytree(half_way, tmp_path / "run")
    with pytest.raises(WorkdirError, match=r"other VGG weights than .*config\.targets\.weights"):
        train(narrow(data, targets__weights=str(data / "other.npz")), run)
    with pytest.raises(WorkdirError, match="trained on other photos"):
        train(narrow(data, data__roots=(str(data / "prepared"),) * 2), run)
    with pytest.raises(WorkdirError, match=r"config\.targets\.extent = 0\.7, not 0\.6"):
        train(narrow(data, targets__extent=0.6), run)
    # The file itself may lie elsewhere.
    shutil.copy(data / "vgg.npz", tmp_path / "moved.npz")
    assert train(narrow(data, targets__weights=str(tmp_path / "moved.npz")), run) == 0


def test_both_networks_of_a_run_with_reconstruction_are_its_own(data, tmp_path):
    fields = {
        "objective__task": "self_training_reconstruction",
        "objective__composition": "baseline",
        "perceptual__weights": str(data / "vgg.npz"),
        "perceptual__taps": ("relu1_2",),
        "targets__steps": (0,),
        "train__steps": 1,
    }
    assert train(narrow(data, **fields), tmp_path) == 0
    for field in ("perceptual__weights", "targets__weights"):
        other = {**fields, field: str(data / "other.npz"), "train__steps": 2}
        with pytest.raises(WorkdirError, match="other VGG weights than"):
            train(narrow(data, **other), tmp_path)
    assert train(narrow(data, **{**fields, "train__steps": 2}), tmp_path) == 0


def test_rounds_after_the_end_are_said(data, tmp_path, caplog):
    assert train(narrow(data, targets__steps=(0, 2), train__steps=1), tmp_path) == 0
    assert "config.targets.steps = (0, 2): no targets are made at step 2" in caplog.text


def test_weights_that_cannot_be_read_name_the_field(data, tmp_path):
    with pytest.raises(WeightsError, match=r"none\.npz: no such file; config\.targets\.weights"):
        train(narrow(data, targets__weights=str(data / "none.npz")), tmp_path / "run")
    with pytest.raises(WeightsError, match=r"cannot compute relu3_1.*config\.targets\.taps"):
        train(narrow(data, targets__taps=("relu3_1",)), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_too_few_pixels_for_the_features_are_refused_at_once(data, tmp_path, monkeypatch):
    monkeypatch.setattr(refinement, "fit", lambda *_: pytest.fail("fitted"))
    config = narrow(data, data__roots=(str(data / "small"),))
    with pytest.raises(ConfigError) as refused:
        train(config, tmp_path / "run")
    message = str(refused.value)
    assert message.startswith(f"config.targets.view_size = {VIEW}: ")
    assert "prepared with 10" in message
    assert not (tmp_path / "run").exists()
    # What is wrong at any size is said as ever.
    missing = narrow(data, data__roots=())
    with pytest.raises(ConfigError, match=r"^config\.data\.roots = \(\)"):
        train(missing, tmp_path / "run")


def test_a_wrong_number_of_landmarks_is_refused_before_anything_is_read(
    data, tmp_path, monkeypatch
):
    monkeypatch.setattr(run_inputs, "Refiner", lambda *_: pytest.fail("opened"))
    config = narrow(data, targets__mirror=False, targets__detector="faces")
    with pytest.raises(ConfigError) as refused:
        train(config, tmp_path / "run")
    assert str(refused.value) == (
        "config.model.num_landmarks = 4: must be 14, the points of config.targets.grid and "
        "config.targets.detector"
    )
    missing = narrow(data, targets__mirror=False, targets__detector="none.safetensors")
    with pytest.raises(WeightsError, match=r"none\.safetensors: no such file"):
        train(missing, tmp_path / "run")
    assert not (tmp_path / "run").exists()
    config.model.num_landmarks = 14
    start_points.first(config)
    for merge, rule in (((1,), r"\(\) with a single point"), ((2,), "at most the 1 points of")):
        config = narrow(data, targets__mirror=False, targets__grid=1, targets__merge=merge)
        with pytest.raises(ConfigError, match=f"targets.merge = .*: must be {rule}"):
            start_points.first(config)


def test_points_start_from_a_grid_and_then_from_a_detector(
    data, packed_path, landmark_detector, monkeypatch
):
    monkeypatch.setattr(
        start_points.api, "load_detector", {str(packed_path): landmark_detector}.get
    )
    config = narrow(
        data, targets__mirror=False, targets__detector=str(packed_path), model__num_landmarks=7
    )
    images = np.random.default_rng(1).integers(0, 256, (5, 16, 16, 3), np.uint8)
    start = start_points.first(config).points(np.arange(5), images)
    grid = [[-0.7, -0.7], [0.7, -0.7], [-0.7, 0.7], [0.7, 0.7]]
    np.testing.assert_allclose(start[:, :4], np.broadcast_to(grid, (5, 4, 2)), atol=1e-6)
    # Views of the detector's own size need no resizing.
    detect, variables = jax.jit(landmark_detector.function), landmark_detector.variables
    expected = detect(variables, images / np.float32(255)).landmarks
    np.testing.assert_allclose(start[:, 4:], expected, atol=1e-4)
    config.targets.grid, config.model.num_landmarks = 0, 3
    np.testing.assert_allclose(
        start_points.first(config).points(np.arange(5), images), start[:, 4:], atol=1e-6
    )


def test_a_grid_of_one_point_starts_in_the_middle(data):
    config = narrow(data, targets__grid=1, model__num_landmarks=1)
    start = start_points.first(config).points(np.arange(2), np.zeros((2, 16, 16, 3), np.uint8))
    np.testing.assert_array_equal(start, np.zeros((2, 1, 2)))


def quadrants(variables, images, *, module, beta):
    """A perfect detector: the centre of mass of each quadrant of the views."""
    size = images.shape[1]
    centers = geometry.pixel_centers(size)
    halves = jnp.asarray([centers < 0, centers > 0], images.dtype)
    light = jnp.einsum("bhwc,rh,sw->brshw", images, halves, halves)
    total = light.sum((3, 4))
    x, y = (jnp.einsum(f"brshw,{axis}->brs", light, centers) / total for axis in "wh")
    return SimpleNamespace(landmarks=jnp.stack([x, y], -1).reshape(len(images), 4, 2))


@pytest.mark.parametrize("mirror", [False, True])
def test_own_points_are_averaged_over_views_and_brought_back(data, mirror, monkeypatch):
    monkeypatch.setattr(start_points, "detect", quadrants)
    config = narrow(
        data,
        data__canvas_size=80,
        views__size=64,
        targets__view_size=64,
        targets__mirror=mirror,
        targets__num_views=6,
    )
    rng = np.random.default_rng(2)
    corners = np.array([[-1, -1], [1, -1], [-1, 1], [1, 1]]) * 0.4
    points = corners + rng.uniform(-0.1, 0.1, (5, 4, 2))
    photos = SimpleNamespace(canvases=blobs(points, np.ones((4, 3))).__getitem__)
    start = start_points.own(config, photos, {})
    places = np.array([3, 0, 4])
    expected = points[places]
    if mirror:
        # In the mirror image the blob on the right is in the quadrant of point 0, on the left.
        expected = np.concatenate([expected, expected[:, [1, 0, 3, 2]]], 1)
        np.testing.assert_array_equal(start.mirrored, [4, 5, 6, 7, 0, 1, 2, 3])
    else:
        assert start.mirrored is None
    # From the canvas's coordinates to those of the undistorted view.
    np.testing.assert_allclose(start.points(places, None), expected * 80 / 64, atol=5e-3)


def opened(config):
    """The photos of a configuration, with their first targets."""
    photos, schedule = loader.open_loader(config), targets.schedule(config, later=False)
    photos.targets = refiner.Refiner(config).run(start_points.first(config), schedule).points
    return photos


def symmetric(data):
    """A VGG file whose features of a mirror image are the mirrored features."""
    with np.load(data / "vgg.npz") as layers:
        even = {
            name: (layer + layer[:, ::-1]) / 2 if layer.ndim == 4 else layer
            for name, layer in layers.items()
        }
    np.savez(data / "symmetric.npz", **even)
    return str(data / "symmetric.npz")


def test_points_of_a_mirrored_photo_are_mirrored(data, tmp_path):
    shutil.copytree(data / "photos", tmp_path / "photos")
    for path in sorted((tmp_path / "photos").iterdir()):
        mirrored = np.asarray(Image.open(path))[:, ::-1]
        Image.fromarray(mirrored).save(path.with_stem(f"mirrored-{path.stem}"))
    config = narrow(
        data,
        data__source="folder",
        data__roots=(str(tmp_path / "photos"),),
        targets__weights=symmetric(data),
    )
    points = opened(config).targets
    expected = points[:COUNT][:, [1, 0, 3, 2]] * [-1, 1]
    np.testing.assert_allclose(points[COUNT:], expected, atol=5e-3)
    assert points.std(0).min() > 0.01


def test_refinement_is_fitted_on_mirror_images_too(data, monkeypatch):
    seen = []
    fit = refinement.fit

    def seen_fit(maps, points, schedule):
        seen.append((maps, points, [*schedule]))
        return fit(*seen[-1])

    monkeypatch.setattr(refinement, "fit", seen_fit)
    refining = refiner.Refiner(narrow(data, targets__weights=symmetric(data)))
    offsets = np.random.default_rng(3).uniform(-0.5, 0.5, (COUNT, 4, 2)).astype(np.float32)
    start = refiner.Start(lambda places, _: offsets[places], np.array([1, 0, 3, 2]))
    refining.run(start, [(0.2, 0.5)])
    (maps, points, schedule), half = seen[0], 4
    assert schedule == [(0.2, 0.5)]
    assert maps.dtype == np.float16
    assert maps.shape == (8, VIEW, VIEW, 16)  # two taps of 8 components
    expected = points[:half][:, [1, 0, 3, 2]] * [-1, 1]
    np.testing.assert_allclose(points[half:], expected, atol=1e-6)
    np.testing.assert_allclose(maps[half:, :, ::-1], maps[:half], atol=2e-3)
    assert np.abs(maps[half:] - maps[:half]).max() > 0.1


def test_refined_points_are_where_photos_look_alike(data, tmp_path):
    rng = np.random.default_rng(4)
    places = rng.uniform(-0.4, 0.4, (40, 1, 2))
    (tmp_path / "photos").mkdir()
    for index, canvas in enumerate(blobs(places, [[1, 0.8, 0.2]], size=CANVAS, sigma=1.5)):
        Image.fromarray(canvas).save(tmp_path / "photos" / f"{index:02d}.png")
    config = narrow(
        data,
        data__source="folder",
        data__roots=(str(tmp_path / "photos"),),
        model__num_landmarks=1,
        targets__grid=1,
        targets__num_fit=30,
        targets__mirror=False,
    )
    schedule = [(0.3, 0.1)] * 6 + [(0.1, 0.5)] * 4
    made = refiner.Refiner(config).run(start_points.first(config), schedule)
    errors = np.linalg.norm(made.points - places, axis=-1)
    assert errors.mean() < np.linalg.norm(places, axis=-1).mean() / 3


def test_all_forms_of_the_photos_give_the_same_targets_and_batches(data):
    whole = {"data__canvas_size": CANVAS, "views__size": VIEW}
    forms = {
        "streamed": {},
        "resident": {"data__resident": True},
        "photos": {"data__source": "folder", "data__roots": (str(data / "photos"),)},
    }
    mesh, batch_of = sharding.make_mesh(), {}
    for name, fields in forms.items():
        config = narrow(data, **whole, **fields)
        photos = opened(config)
        items = batches.batches(config, photos, mesh, 1)
        batch_of[name] = [
            batches.gather(item, jnp.int32(step), mesh)
            for step, item in enumerate(itertools.islice(items, 2), 1)
        ]
        expected = photos.targets[photos.places]
        for step, batch in enumerate(batch_of[name], 1):
            rows = sampling.batch_rows(config.seed, COUNT, 8, step)
            np.testing.assert_array_equal(batch.points, expected[rows])
    for name in ("resident", "photos"):
        for one, other in zip(batch_of["streamed"], batch_of[name], strict=True):
            jax.tree.map(np.testing.assert_array_equal, one, other)


@pytest.mark.parametrize("resident", [False, True])
def test_a_photo_listed_twice_has_one_row_of_targets(data, resident):
    roots = tuple(str(data / name) for name in ("prepared", "prepared"))
    config = narrow(data, data__roots=roots, data__resident=resident, targets__mirror=False)
    photos = opened(config)
    assert (len(photos), photos.num_different) == (2 * COUNT, COUNT)
    assert photos.targets.shape == (COUNT, 4, 2)
    mesh = sharding.make_mesh()
    item = next(batches.batches(config, photos, mesh))
    batch = batches.gather(item, jnp.int32(0), mesh)
    rows = sampling.batch_rows(config.seed, 2 * COUNT, 8, 0) % COUNT
    np.testing.assert_array_equal(batch.points, photos.targets[rows])
    np.testing.assert_array_equal(batch.canvases, photos.canvases(rows))
    shapes = batches.shapes(config, photos, mesh)
    assert shapes.points.shape == batch.points.shape if not resident else (COUNT, 4, 2)


def test_the_command_refines_photos_without_training(data, uncut, tmp_path):
    code, out, err = call(
        "refine", "--config=synthetic", *flags(narrow(data)), f"--out={tmp_path / 'refined'}"
    )
    assert code == 0, err
    assert out == f"{tmp_path / 'refined'}: 4 points of 12 photos\n"
    expected_arrays = kept(uncut, 0)
    assert expected_arrays.pop("seconds") > 0
    assert (tmp_path / "refined" / "points.png").stat().st_size > 5_000
    with np.load(tmp_path / "refined" / "points.npz") as arrays:
        for name, expected in expected_arrays.items():
            np.testing.assert_array_equal(arrays[name], expected)


def test_the_command_refines_the_points_of_a_run(data, uncut, tmp_path):
    # With a temperature of 0 points stay where the run found them, but for the cells' borders.
    config = narrow(data, targets__spreads=(0.1,), targets__temperatures=(0.0,))
    flags_of = ["--config=synthetic", *flags(config), f"--out={tmp_path}"]
    code, out, err = call("refine", *flags_of, f"--workdir={uncut}")
    assert (code, out) == (0, f"{tmp_path}: 8 points of 12 photos\n"), err
    config, photos = narrow(data), loader.open_loader(narrow(data))
    variables = states.trained_variables(checkpoints.restore(uncut, config).state)
    own = start_points.own(config, photos, variables)
    with np.load(tmp_path / "points.npz") as arrays:
        places = own.points(np.arange(COUNT), None)
        np.testing.assert_allclose(arrays["points"], places * VIEW / CANVAS, atol=0.01)


@pytest.mark.parametrize(
    ("name", "message"),
    [("released", "config.data.crop = 'box': must be"), ("paper", "config.targets.weights = ''")],
)
def test_the_command_refuses_what_cannot_be_refined(name, message, tmp_path):
    code, _, err = call("refine", f"--config={name}", f"--out={tmp_path / 'refined'}")
    assert code == 2
    assert err.startswith(f"error: {message}")
    assert not (tmp_path / "refined").exists()


def test_a_page_of_few_photos_says_how_many(data, tmp_path, monkeypatch):
    titles = []
    page = targets.figures.landmark_page
    monkeypatch.setattr(
        targets.figures,
        "landmark_page",
        lambda *given, title, **more: titles.append(title) or page(*given, title=title, **more),
    )
    refining = refiner.Refiner(narrow(data))
    made = refiner.Targets(
        np.zeros((COUNT, 4, 2), np.float32), np.ones((COUNT, 4), np.float32), np.full(4, np.nan)
    )
    targets.write(tmp_path / "points.npz", refining, made, np.eye(4), time.monotonic())
    assert titles == ["refined points of 12 of 12 photos, and their mean confidence"]
