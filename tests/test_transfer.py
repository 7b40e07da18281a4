"""Transfer files: what they keep, how exactly, what is refused, and runs that begin from them."""

import dataclasses
import json
import logging
import shutil
import threading
import time
from pathlib import Path

import jax
import numpy as np
import pytest
import safetensors.numpy

from configs import faces
from landmarks_jax import config as configuration
from landmarks_jax.system.errors import WorkdirError
from landmarks_jax.system.sealed_json import sealed
from landmarks_jax.tasks import task_of
from landmarks_jax.training import (
    checkpoints,
    limits,
    loop,
    reports,
    run_folder,
    sharding,
    transfer_files,
    transfer_start,
    transfer_writer,
)
from landmarks_jax.training import state as states
from tests.running import TINY, call, finished_run, leaves_of, narrow, train, write_vgg


@pytest.fixture(scope="module", name="trained")
def make_run(tmp_path_factory):
    """A run of three steps with averaged parameters and tap means; its folder and configuration."""
    folder = tmp_path_factory.mktemp("transfer")
    write_vgg(folder / "vgg.npz", blocks=1)
    config = narrow(
        **TINY,
        perceptual__weights=str(folder / "vgg.npz"),
        perceptual__taps=("relu1_2",),
        perceptual__balance=True,
        objective__equivariance_weight=1.0,
        optimizer__ema_decay=0.5,
        train__steps=3,
    )
    return finished_run(folder / "run", config), config


def write(workdir: Path, out: Path) -> Path:
    transfer_files.write(
        checkpoints.restore(workdir, run_folder.read_config(workdir)), workdir, out
    )
    return out


@pytest.fixture(scope="module")
def written(trained) -> Path:
    return write(trained[0], trained[0].parent / "files")


@pytest.fixture
def bundle(written) -> transfer_files.Bundle:
    return transfer_files.read(written)


@pytest.fixture
def own(written, tmp_path) -> Path:
    """A copy of the transfer files of `trained` that a test may damage."""
    return shutil.copytree(written, tmp_path / "files")


def test_networks_are_kept_with_kernels_in_float16(trained, bundle):
    workdir, config = trained
    state = leaves_of(workdir, config)
    kept = {name for name in state if not name.startswith(("opt_state", "step"))}
    assert bundle.arrays.keys() == kept
    prefixes = {name.split("/")[0] for name in kept}
    assert prefixes == {"params", "batch_stats", "averaged", "tap_means"}
    rounded = 0
    for name in kept:
        expected = state[name]
        if expected.ndim > 1:
            expected = expected.astype(np.float16)
            rounded += int((expected != state[name]).any())
        assert bundle.arrays[name].dtype == expected.dtype, name
        np.testing.assert_array_equal(bundle.arrays[name], expected, err_msg=name)
    assert rounded >= 10
    assert float(state["tap_means/relu1_2"]) > 0
    kernel = "detector/conv1/kernel"  # the average is its own array, not the last value
    assert (bundle.arrays[f"averaged/{kernel}"] != bundle.arrays[f"params/{kernel}"]).any()
    assert (bundle.step, bundle.seconds) == (3, 1.5)
    assert bundle.config == run_folder.read_config(workdir)
    assert bundle.record == run_folder.read_record(workdir)
    assert bundle.log == run_folder.read_log(workdir)
    assert [row["step"] for row in bundle.log] == [1, 2, 3]


def test_what_float16_cannot_hold_stays_float32(trained, tmp_path):
    workdir, config = trained
    restored = checkpoints.restore(workdir, config)
    kernel = np.array([[1e5, 1 / 3]], np.float32)
    variance = np.array([1e9], np.float32)
    state = restored.state.replace(
        params={"kernel": kernel}, batch_stats={"var": variance}, averaged={}, tap_means={}
    )
    transfer_files.write(restored._replace(state=state), workdir, tmp_path)
    arrays = transfer_files.read(tmp_path).arrays
    assert arrays.keys() == {"params/kernel", "batch_stats/var"}
    np.testing.assert_array_equal(arrays["params/kernel"], kernel)
    np.testing.assert_array_equal(arrays["batch_stats/var"], variance)
    state = state.replace(params={"kernel": kernel * np.inf})
    with pytest.raises(WorkdirError, match="params/kernel is not finite"):
        transfer_files.write(restored._replace(state=state), workdir, tmp_path / "other")


def test_no_file_exceeds_the_limit(trained, written, bundle, tmp_path, monkeypatch):
    assert len(list(written.glob("networks-*"))) == 1
    monkeypatch.setattr(transfer_files, "MAX_BYTES", 3_000)
    files = list(write(trained[0], tmp_path / "parts").glob("networks-*"))
    assert len(files) > 3
    assert max(path.stat().st_size for path in files) <= 3_000
    arrays = transfer_files.read(tmp_path / "parts").arrays
    assert arrays.keys() == bundle.arrays.keys()
    for name, array in bundle.arrays.items():
        np.testing.assert_array_equal(arrays[name], array)
    monkeypatch.setattr(transfer_files, "MAX_BYTES", 500)
    with pytest.raises(WorkdirError, match=r"kernel takes .* a transfer file holds 500"):
        write(trained[0], tmp_path / "none")


def test_the_papers_widths_take_a_few_files_of_15_mib():
    config = faces.get_config()
    with config.unlocked():
        config.optimizer.ema_decay = 0.999
    like = states.abstract_state(
        config, task_of(config).build_networks(config), sharding.make_mesh()
    )
    arrays = {
        name: transfer_files.to_stored(np.ones(leaf.shape, leaf.dtype), name)
        for name, leaf in states.by_name(transfer_files.networks_of(like)).items()
    }
    sizes = [len(safetensors.numpy.save(part)) for part in transfer_files.into_files(arrays)]
    assert len(sizes) <= 4
    assert 0.97 * 15 * 2**20 < max(sizes) <= 15 * 2**20
    # 15.3 million parameters, twice, two bytes each.
    assert sum(sizes) == pytest.approx(4 * 15.3e6, rel=0.02)


def edit(folder: Path, **fields) -> None:
    path = folder / transfer_files.MANIFEST
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def sign(folder: Path, **fields) -> None:
    """Edits the manifest, with the right checksum."""
    path = folder / transfer_files.MANIFEST
    edited = json.loads(path.read_text()) | fields
    del edited["sha256"]
    path.write_text(json.dumps(sealed(edited)))


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda d: flip(*d.glob("networks-*")), r"networks-\w+\.safetensors: damaged"),
        (lambda d: flip(*d.glob("metrics-*")), r"metrics-\w+\.jsonl\.gz: damaged"),
        (lambda d: next(d.glob("networks-*")).unlink(), r"safetensors: missing; copy all"),
        (lambda d: edit(d, step=4), r"transfer\.json: cannot be read \(damaged: the SHA-256"),
        (lambda d: (d / "transfer.json").write_text('{"format'), r"transfer\.json: cannot be read"),
        (lambda d: edit(d, format="other"), r"transfer\.json: not transfer files"),
        (lambda d: edit(d, version=2), r"transfer\.json: not transfer files of version 1"),
        (lambda d: (d / "transfer.json").unlink(), r"no transfer files here"),
        (lambda d: sign(d, record={}), r"transfer\.json: cannot be read \('transfers'\); copy or"),
        (lambda d: sign(d, step=-1), r"cannot be read \(step = -1, seconds = 1.5: must be"),
        (lambda d: sign(d, seconds=float("nan")), r"cannot be read \(step = 3, seconds = nan: m"),
        (lambda d: sign(d, seconds=10**400), r"transfer\.json: cannot be read \("),
        (lambda d: sign(d, step=None), r"transfer\.json: cannot be read \("),
        (lambda d: sign(d, files={"../x": "0"}), r"cannot be read \(files has '../x': must be"),
        (lambda d: (d / "transfer.json").write_text("[]"), r"transfer\.json: cannot be read \("),
        (lambda d: sign(d, record={"transfers": [], "more": 1}), r"unexpected .* 'more'"),
        (
            lambda d: (d / "transfer.json").write_text("[" * 10**5),
            r"transfer\.json: cannot be read",
        ),
    ],
)
def test_damage_is_refused_in_one_line_before_anything_is_made(
    damage, message, trained, own, tmp_path
):
    damage(own)
    with pytest.raises(WorkdirError, match=message) as refused:
        loop.train(trained[1], tmp_path / "new", transfer_from=own)
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "new").exists()


def test_another_run_is_refused_by_name(trained, written, bundle, tmp_path):
    config = trained[1].copy_and_resolve_references()
    config.model.beta = 5.0
    with pytest.raises(WorkdirError, match=r"config\.model\.beta = 10\.0, not 5\.0"):
        loop.train(config, tmp_path / "new", transfer_from=written)
    write_vgg(tmp_path / "vgg.npz", blocks=1, scale=2.0)
    config = trained[1].copy_and_resolve_references()
    config.perceptual.weights = str(tmp_path / "vgg.npz")
    with pytest.raises(
        WorkdirError, match=r"other VGG weights than .* config\.perceptual\.weights"
    ):
        loop.train(config, tmp_path / "new", transfer_from=written)
    assert not (tmp_path / "new").exists()

    config = trained[1]
    networks = task_of(config).build_networks(config)
    digest = bundle.record.weights_digest
    transfer_start.check(bundle, config, networks, digest)
    prepared = config.copy_and_resolve_references()
    prepared.data.source = "prepared"  # photos decoded there may be prepared here
    transfer_start.check(bundle, prepared, networks, digest)
    name = "batch_stats/detector/norm/mean"
    arrays = {key: array for key, array in bundle.arrays.items() if key != name}
    with pytest.raises(WorkdirError, match=f"{name} is missing"):
        transfer_start.check(dataclasses.replace(bundle, arrays=arrays), config, networks, digest)
    arrays[name] = np.zeros(99, np.float32)
    with pytest.raises(WorkdirError, match=rf"{name} has shape \(99,\), expected"):
        transfer_start.check(dataclasses.replace(bundle, arrays=arrays), config, networks, digest)
    for odd in (bundle.arrays[name].astype(np.int8), np.full_like(bundle.arrays[name], np.nan)):
        arrays[name] = odd
        with pytest.raises(WorkdirError, match=f"{name} is not of finite floating-point numbers"):
            transfer_start.check(
                dataclasses.replace(bundle, arrays=arrays), config, networks, digest
            )


def test_writing_again_replaces_and_an_interrupted_write_leaves_the_earlier_files(
    trained, own, monkeypatch
):
    workdir, config = trained
    restored = checkpoints.restore(workdir, config)
    before = {path.name for path in own.iterdir()}
    doubled = restored.state.replace(params=jax.tree.map(lambda a: 2 * a, restored.state.params))
    other = restored._replace(state=doubled, step=7)

    write_file = transfer_files.files.write_file

    def killed(path, data, error):
        if path.name == transfer_files.MANIFEST:
            raise KeyboardInterrupt
        write_file(path, data, error)

    with monkeypatch.context() as patched:
        patched.setattr(transfer_files.files, "write_file", killed)
        with pytest.raises(KeyboardInterrupt):
            transfer_files.write(other, workdir, own)
    assert transfer_files.read(own).step == 3
    # What kills in the middle of a write leave is removed by the next one, and nothing else.
    (own / ".0123456789abcdefetworks-0123456789ab.safetensors").touch()
    (own / ".0123456789abcdeftransfer.json").touch()
    strange = {".gitignore", "networks-of-mine.safetensors"}
    for name in strange:
        (own / name).touch()
    paths = transfer_files.write(other, workdir, own)
    assert transfer_files.read(own).step == 7
    after = {path.name for path in paths}
    assert {path.name for path in own.iterdir()} == after | strange
    assert len(before & after) == 2  # transfer.json and the metrics


class Gate:
    """Holds back the writing of transfer files; lets it fail while it is told to."""

    def __init__(self, monkeypatch):
        self.begun, self.open = threading.Semaphore(0), threading.Event()
        self.failing = False
        write = transfer_files.write

        def held(*arguments):
            self.begun.release()
            assert self.open.wait(20)
            if self.failing:
                raise WorkdirError("the disk is full")
            return write(*arguments)

        monkeypatch.setattr(transfer_files, "write", held)


def test_transfer_files_are_written_while_the_state_changes(trained, tmp_path, monkeypatch, caplog):
    config, out = trained[1], tmp_path / "out"
    workdir = shutil.copytree(trained[0], tmp_path / "run")
    restored = checkpoints.restore(workdir, config)
    gate = Gate(monkeypatch)
    with checkpoints.Checkpoints(workdir, config, transfer_to=out) as saved:

        def transfer(step, value):
            kernel = np.full((2, 2), value, np.float32)
            saved.transfer(
                restored._replace(step=step, state=restored.state.replace(params={"k": kernel}))
            )
            kernel += 1  # as a step does

        transfer(3, 1.0)
        assert gate.begun.acquire(timeout=20)
        transfer(4, 2.0)
        transfer(5, 3.0)
        assert not out.exists()  # nobody has waited
        gate.open.set()
        saved.wait()
        bundle = transfer_files.read(out)
        assert (bundle.step, bundle.arrays["params/k"][0, 0]) == (5, 3.0)
        assert gate.begun.acquire(timeout=20)
        assert not gate.begun.acquire(blocking=False)  # 4 was left out

        gate.failing = True
        transfer(6, 4.0)
        with pytest.raises(WorkdirError, match="the disk is full"):
            saved.wait()
        assert "the disk is full; tried again at the next checkpoint" in caplog.text
        assert transfer_files.read(out).step == 5
        gate.failing = False
        saved.wait()
        assert transfer_files.read(out).step == 6


def test_a_state_that_comes_as_the_thread_ends_is_written(trained, tmp_path, monkeypatch):
    config, out = trained[1], tmp_path / "out"
    workdir = shutil.copytree(trained[0], tmp_path / "run")
    restored = checkpoints.restore(workdir, config)
    ending, end = threading.Event(), threading.Event()
    try_to_write = transfer_writer.TransferWriter._try_to_write

    def slow_to_end(self):
        try_to_write(self)
        ending.set()
        assert end.wait(20)

    monkeypatch.setattr(transfer_writer.TransferWriter, "_try_to_write", slow_to_end)
    with checkpoints.Checkpoints(workdir, config, transfer_to=out) as saved:
        saved.transfer(restored._replace(step=3))
        assert ending.wait(20)
        saved.transfer(restored._replace(step=4))
        end.set()
    assert transfer_files.read(out).step == 4  # and nobody has waited for it


class _Killed(BaseException):
    pass


# Checkpoints by steps, and by the time that intervals end.
@pytest.mark.parametrize(("every", "log_every", "seconds"), [(3, 1, 60), (100, 3, 0)])
def test_a_kill_loses_the_steps_since_a_checkpoint(
    every, log_every, seconds, tmp_path, monkeypatch
):
    monkeypatch.setattr(transfer_writer, "SECONDS", seconds)
    config, out = narrow(**TINY, train__steps=10), tmp_path / "out"
    config.train.checkpoint_every, config.train.log_every = every, log_every
    done, step_done = [], reports.Reporter.step_done

    def killed(self):
        step_done(self)
        done.append(1)
        if len(done) == 8:
            deadline = time.monotonic() + 20
            while '"step": 6' not in (out / transfer_files.MANIFEST).read_text():
                assert time.monotonic() < deadline
                time.sleep(0.01)
            raise _Killed

    with monkeypatch.context() as patched:
        patched.setattr(reports.Reporter, "step_done", killed)
        with pytest.raises(_Killed):
            train(config, tmp_path / "run", transfer_to=out)
    bundle = transfer_files.read(out)
    assert [row["step"] for row in bundle.log] == list(range(log_every, 7, log_every))
    assert bundle.log == run_folder.read_log(tmp_path / "run", 6)
    assert run_folder.newest_step(tmp_path / "run") == 6
    # Elsewhere, where nothing is left to do, they are written too.
    config.train.steps = 6
    assert train(config, tmp_path / "new", transfer_from=out, transfer_to=tmp_path / "next") == 0
    bundle = transfer_files.read(tmp_path / "next")
    assert [row["step"] for row in bundle.log][-2:] == [6, 6]
    assert [transfer.step for transfer in bundle.record.transfers] == [6]


def test_a_transfer_keeps_networks_and_counts_and_forgets_the_optimiser(
    trained, written, tmp_path, caplog
):
    workdir, config = trained
    new = tmp_path / "new"
    with caplog.at_level(logging.INFO, "landmarks_jax"):
        assert train(config, new, transfer_from=written) == 0  # its three steps are done already
    assert "transferred, not resumed, at step 3" in caplog.text
    before, after = leaves_of(workdir, config), leaves_of(new, config)
    assert before.keys() == after.keys()
    moments = [name for name in after if name.startswith("opt_state")]
    assert len(moments) == 2 * len(("count", "mu", "nu", "schedule"))
    for name, array in after.items():
        expected = before[name]
        if name in moments:
            expected = np.zeros_like(expected)
        elif expected.ndim > 1:
            expected = expected.astype(np.float16).astype(np.float32)
        np.testing.assert_array_equal(array, expected, err_msg=name)
        assert array.dtype == before[name].dtype
    assert int(after["step"]) == 3
    *rows, event = run_folder.read_log(new)
    assert rows == run_folder.read_log(workdir)
    assert (event["step"], event["seconds"]) == (3, 1.5)
    assert event["transfer"]["warmup_steps"] == 1_000  # of beta2 = 0.999
    assert not event["transfer"]["other_photos"]

    # It continues from its own checkpoint; the log says that the transfer files are not used.
    longer = config.copy_and_resolve_references()
    longer.train.steps, longer.train.checkpoint_every = 5, 1
    caplog.clear()
    with caplog.at_level(logging.INFO, "landmarks_jax"):
        assert train(longer, new, transfer_from=written) == 0
    assert f"checkpoint of step 3 in {new}; the transfer files {written} are not" in caplog.text
    rows = run_folder.read_log(new)
    assert [row["step"] for row in rows] == [1, 2, 3, 3, 4, 5]
    seconds = [row["seconds"] for row in rows]
    assert seconds == sorted(seconds)
    rates = [row["learning_rate"] for row in rows if "loss" in row]
    assert rates == pytest.approx([1e-3] * 3 + [1e-6, 2e-6], rel=1e-4)
    # Adam's first step moves each parameter by the rate and its second by at most about as much,
    # unless there were moments before.
    moved = np.concatenate(
        [
            np.abs(array.astype(float) - after[name]).ravel()
            for name, array in leaves_of(new, longer).items()
            if name.startswith("params")
        ]
    )
    assert 2.5e-6 < moved.max() < 3.1e-6
    assert np.median(moved) > 1e-6

    # It is among the notes of every table, and in the next transfer files.
    vgg, note = run_folder.read_record(new).all_notes()
    assert vgg.startswith("perceptual loss")
    assert note.startswith("transferred, not resumed, at step 3 after")
    (record,) = transfer_files.read(write(new, tmp_path / "next")).record.transfers
    assert record.step == 3


def test_the_note_tells_of_other_photos(trained, bundle):
    same, other = (
        transfer_start.transfers_of(bundle, trained[1], digest)[-1].note()
        for digest in (bundle.record.data_digest, "another")
    )
    assert "photos" not in same
    assert other.endswith("the photos were renamed or replaced")
    assert "fresh optimiser, the learning rate rising again over 1,000 steps" in same


def test_the_length_of_a_schedule_may_change(tmp_path, caplog):
    config = narrow(**TINY, optimizer__cosine_steps=8)
    write(finished_run(tmp_path / "run", config), tmp_path / "files")
    config.optimizer.cosine_steps, config.optimizer.drop_steps = 12, (5,)
    config.compute_dtype = "bfloat16"
    config.train.steps, config.train.minutes = 9, 0.01  # which are over
    config.train.log_every, config.eval.num_fit = 2, 20  # change no result of training
    with caplog.at_level(logging.INFO, "landmarks_jax"):
        assert train(config, tmp_path / "new", transfer_from=tmp_path / "files") == 0
    changes = [
        "config.compute_dtype from 'float32' to 'bfloat16'",
        "config.optimizer.cosine_steps from 8 to 12",
        "config.optimizer.drop_steps from [] to [5]",
        "config.train.minutes from 0.0 to 0.01",
        "config.train.steps from 4 to 9",
    ]
    note = run_folder.read_record(tmp_path / "new").transfers[0].note()
    assert note.endswith("over 1,000 steps; " + "; ".join(changes))
    assert note in caplog.text
    assert run_folder.read_log(tmp_path / "new")[-1]["transfer"]["changes"] == changes
    # The run itself, once begun, keeps its schedule.
    config.optimizer.cosine_steps = 14
    with pytest.raises(WorkdirError, match=r"has config\.optimizer\.cosine_steps = 12, not 14"):
        train(config, tmp_path / "new", transfer_from=tmp_path / "files")


def test_only_rounds_of_self_training_to_come_may_change(trained, bundle):
    def check(before, now):
        one, other = (
            configuration.with_fields(trained[1], {"targets.steps": steps})
            for steps in (before, now)
        )
        transfer_start.check(
            dataclasses.replace(bundle, config=one),
            other,
            task_of(other).build_networks(other),
            bundle.record.weights_digest,
        )

    check((0, 3, 9), (0, 3, 4))  # the bundle is of step 3
    check((0, 3), (0, 3, 4))
    with pytest.raises(WorkdirError, match=r"config\.targets\.steps = \[0, 3\], not \[0, 4\]"):
        check((0, 3), (0, 4))


def test_a_transfer_cut_before_its_first_checkpoint_asks_for_the_files_again(
    trained, written, tmp_path, monkeypatch
):
    _, config = trained

    def killed(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(transfer_start, "begin", killed)
        with pytest.raises(KeyboardInterrupt):
            train(config, tmp_path / "new", transfer_from=written)
    with pytest.raises(WorkdirError, match="name them again with --transfer"):
        train(config, tmp_path / "new")
    assert train(config, tmp_path / "new", transfer_from=written) == 0
    assert run_folder.newest_step(tmp_path / "new") == 3
    assert len(run_folder.read_record(tmp_path / "new").transfers) == 1


@pytest.mark.parametrize(("beta2", "steps"), [(0.0, 1), (0.9, 10), (0.999, 1_000)])
def test_the_warm_up_after_a_transfer(beta2, steps):
    config = narrow(optimizer__beta2=beta2, optimizer__drop_steps=(5_000,))
    rate = states.learning_rate(config, optimizer_start=4_000)
    plain = states.learning_rate(config)
    for step in (4_000, 4_001, 4_000 + steps // 2, 4_000 + steps - 1, 4_000 + steps, 9_000):
        share = min((step - 4_000 + 1) / steps, 1.0)
        assert float(rate(step)) == pytest.approx(float(plain(step)) * share, rel=1e-5)
    assert float(plain(5_000)) == pytest.approx(1e-4)


def test_a_deadline_shortens_a_session(tmp_path):
    config, now = narrow(train__minutes=10.0, train__steps=4), time.monotonic()
    for deadline in (None, now + 100):
        assert not limits.is_done(config, 3, 599.0, deadline)
        assert limits.is_done(config, 4, 0.0, deadline)
        assert limits.is_done(config, 0, 600.0, deadline)
        assert not limits.is_done(narrow(), 0, 1e6, deadline)
    assert limits.is_done(config, 0, 0.0, now)
    assert limits.is_done(narrow(), 0, 0.0, now)
    endless = narrow(**TINY, train__steps=10**6)
    assert train(endless, tmp_path, deadline=time.monotonic()) == 0
    assert run_folder.read_log(tmp_path)[-1]["step"] == run_folder.newest_step(tmp_path) == 1
    assert run_folder.read_config(tmp_path).train.minutes == 0.0


def test_the_command_writes_transfer_files(trained, tmp_path):
    workdir, _ = trained
    out = tmp_path / "out"
    code, printed, err = call("transfer", f"--workdir={workdir}", f"--out={out}")
    assert code == 0, err
    assert transfer_files.read(out).step == 3
    assert {line.split(":")[0] for line in printed.splitlines()} == set(map(str, out.iterdir()))
    code, _, err = call("train", f"--workdir={tmp_path}", f"--transfer={tmp_path}")
    assert code == 2
    message = f"error: {tmp_path}: no transfer files here (transfer.json is missing)"
    assert err.splitlines()[-1] == message
