"""Runs end to end: cut and resumed, stopped, diverged; what the loop reads, sends and compiles."""

import errno
import io
import json
import os
import re
import signal
import socket
import sys
import time

import jax
import numpy as np
import pytest

from landmarks_jax.cli.main import main
from landmarks_jax.system import streams
from landmarks_jax.system.errors import ConfigError, DataError, WorkdirError
from landmarks_jax.system.signals import Interrupt
from landmarks_jax.training import batches, loop, reports, run_inputs
from landmarks_jax.training.checkpoints import Checkpoints
from landmarks_jax.training.run_folder import newest_step, read_log, read_record
from tests import running
from tests.running import (
    TINY,
    command,
    finish,
    finished_run,
    flags,
    leaves_of,
    shared_compilation,
    train,
    write_vgg,
)


def narrow(**fields):
    """A narrow configuration with a tiny detector: the network is nothing to these tests."""
    return running.narrow(**{**TINY, **fields})


@pytest.fixture(scope="module")
def whole_method(tmp_path_factory):
    """A configuration with everything that a state can hold, the VGG file among it."""
    weights = tmp_path_factory.mktemp("vgg") / "vgg.npz"
    write_vgg(weights, blocks=1)
    return narrow(
        perceptual__weights=str(weights),
        perceptual__taps=("relu1_2",),
        perceptual__balance=True,
        objective__composition="all",
        objective__equivariance_weight=1.0,
        optimizer__ema_decay=0.5,
    )


@pytest.fixture(scope="module")
def uncut(whole_method, tmp_path_factory):
    """The folder of a run of four steps in one go."""
    workdir = tmp_path_factory.mktemp("uncut")
    assert train(whole_method, workdir) == 0
    return workdir


def assert_same_run(resumed, uncut, config):
    assert [row["step"] for row in read_log(resumed)] == [1, 2, 3, 4]
    leaves, expected = leaves_of(resumed, config), leaves_of(uncut, config)
    assert leaves.keys() == expected.keys()
    assert len(leaves) > 70
    assert leaves["step"] == 4
    for path, array in expected.items():
        np.testing.assert_array_equal(leaves[path], array, err_msg=path)
    assert read_log(resumed)[-1]["loss"] == read_log(uncut)[-1]["loss"]


def test_a_run_cut_and_resumed_equals_one_uncut_bit_for_bit(
    whole_method, uncut, tmp_path, monkeypatch, capsys
):
    # As if an earlier session had come further than its last checkpoint, and was cut while writing.
    (tmp_path / "metrics.jsonl").write_text('{"step": 3, "loss": 7.0}\n{"step": 4, "lo')
    save = Checkpoints.save

    def cut(self, step, state, seconds):
        save(self, step, state, seconds)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Checkpoints, "save", cut)
        with pytest.raises(KeyboardInterrupt):
            train(whole_method, tmp_path)
    assert newest_step(tmp_path) == 2
    assert train(whole_method, tmp_path) == 0
    assert_same_run(tmp_path, uncut, whole_method)

    # The same command once more has nothing to do, and says so.
    capsys.readouterr()
    assert train(whole_method, tmp_path) == 0
    assert "already trained for 4 steps" in capsys.readouterr().out


# kill -9 once the checkpoint of step 2 is complete, or while that of step 4 is being written.
KILLED = """
import os, signal, sys
from landmarks_jax.training import checkpoints
save = checkpoints.Checkpoints.save
def killing(self, step, state, seconds):
    save(self, step, state, seconds)
    if os.environ["WHEN"] == "saved" or step == 4:
        os.kill(os.getpid(), signal.SIGKILL)
checkpoints.Checkpoints.save = killing
from landmarks_jax.cli.main import main
main(["train", *sys.argv[1:]])
"""


@pytest.mark.slow
@pytest.mark.parametrize("when", ["saved", "saving"])
def test_a_killed_run_resumes_bit_for_bit(whole_method, uncut, tmp_path, when):
    killed = command(*flags(whole_method), f"--workdir={tmp_path}", code=KILLED, WHEN=when)
    assert finish(killed)[0] == -signal.SIGKILL
    assert newest_step(tmp_path) == 2
    assert train(whole_method, tmp_path) == 0
    assert_same_run(tmp_path, uncut, whole_method)


def at_step(number, monkeypatch, do):
    """Does something after a step."""
    step_done = reports.Reporter.step_done
    done = []

    def counted(self):
        step_done(self)
        done.append(1)
        if len(done) == number:
            do()

    monkeypatch.setattr(reports.Reporter, "step_done", counted)


# `timeout` sends SIGTERM twice; a closed terminal SIGHUP, then often a SIGTERM comes.
@pytest.mark.parametrize(
    "numbers",
    [
        (signal.SIGTERM, signal.SIGTERM),
        (signal.SIGINT,),
        (signal.SIGHUP, signal.SIGHUP, signal.SIGTERM),
    ],
)
def test_a_signal_saves_before_the_end(numbers, tmp_path, monkeypatch):
    at_step(3, monkeypatch, lambda: [os.kill(os.getpid(), number) for number in numbers])
    config = narrow(train__steps=10**6, train__checkpoint_every=10**6)
    before = signal.getsignal(numbers[0])
    assert train(config, tmp_path) == 128 + numbers[-1]
    assert signal.getsignal(numbers[0]) is before
    assert newest_step(tmp_path) == read_log(tmp_path)[-1]["step"] == 3


@pytest.mark.parametrize("first", [signal.SIGINT, signal.SIGTERM])
def test_only_a_second_ctrl_c_ends_at_once(first):
    repeats = (signal.SIGHUP, signal.SIGHUP, first, signal.SIGTERM, signal.SIGHUP)
    with Interrupt() as interrupt:
        for number in (*repeats, *({signal.SIGINT} - {first})):
            os.kill(os.getpid(), number)
        assert interrupt.exit_code == 128 + first
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def test_a_hangup_stays_ignored_under_nohup():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with Interrupt() as interrupt:
            os.kill(os.getpid(), signal.SIGHUP)
        assert interrupt.exit_code == 0
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize("broken", ["stdout", "both"])
def test_output_that_breaks_never_ends_a_training(broken, tmp_path, monkeypatch):
    with open("/dev/full", "w") as out, open("/dev/full", "w") as err:
        for name, stream in {"stdout": out, "stderr": err}.items():
            kept = broken not in ("both", name)
            monkeypatch.setattr(sys, name, io.StringIO() if kept else stream)
        with shared_compilation():
            code = main(["train", "--config=base", *flags(narrow()), f"--workdir={tmp_path}"])
        said = "".join(s.getvalue() for s in (sys.stdout, sys.stderr) if hasattr(s, "getvalue"))
    assert code == 1
    assert said.count("cannot be written (No space left on device); continuing") == (
        broken != "both"
    )
    assert newest_step(tmp_path) == 4
    assert [row["step"] for row in read_log(tmp_path)] == [1, 2, 3, 4]


def test_a_log_that_cannot_be_written_never_ends_a_training(tmp_path, monkeypatch, caplog):
    """As if log, curves and previews had a disk of their own, full from the second step on."""
    (tmp_path / "pictures").write_text("in the way of a folder")

    class Full(io.FileIO):
        def write(self, data):
            if full[0]:
                raise OSError(errno.ENOSPC, "No space left on device")
            return super().write(data)

    full = [False]
    (tmp_path / "tensorboard").mkdir()
    monkeypatch.setattr(streams.Appender, "_open", lambda self: Full(self._path, "ab"))
    at_step(2, monkeypatch, lambda: full.__setitem__(0, True))
    assert train(narrow(train__picture_every=2), tmp_path) == 0
    assert newest_step(tmp_path) == 4
    for name in ("metrics.jsonl", f"events.out.*{socket.gethostname()}"):
        assert len(re.findall(rf"{name}: cannot be written \(No space left", caplog.text)) == 1
        assert len(re.findall(rf"{name}: its end is missing", caplog.text)) == 1
    assert caplog.text.count("step-000002.png: cannot be written (") == 1


def test_a_clock_that_goes_back_changes_no_seconds(tmp_path, monkeypatch):
    clock = iter(range(10**9, 0, -3600))
    monkeypatch.setattr(time, "time", lambda: float(next(clock)))
    assert train(narrow(), tmp_path) == 0
    seconds = [0.0, *(row["seconds"] for row in read_log(tmp_path))]
    assert seconds == sorted(seconds)
    assert newest_step(tmp_path) == 4


def test_a_loss_that_is_not_finite_stops_the_run(whole_method, tmp_path, monkeypatch):
    config, run = whole_method.copy_and_resolve_references(), tmp_path / "run"
    finished_run(run, config, step=2)
    before = leaves_of(run, config)
    load_frozen = run_inputs.load_frozen

    def broken(*arguments):
        """The perceptual network's input is divided by zero."""
        frozen, weights = load_frozen(*arguments)
        return frozen._replace(std=np.zeros(3, np.float32)), weights

    monkeypatch.setattr(run_inputs, "load_frozen", broken)
    config.train.steps = 8
    with pytest.raises(reports.NotFiniteError) as stopped:
        train(config, run)
    assert "step 3:" in str(stopped.value)
    assert str(run / "checkpoints" / "2") in str(stopped.value)
    assert newest_step(run) == 2
    for path, array in leaves_of(run, config).items():
        np.testing.assert_array_equal(array, before[path])

    with pytest.raises(reports.NotFiniteError, match="no checkpoint was saved yet"):
        train(config, tmp_path / "other")


def test_other_weights_are_another_run(whole_method, tmp_path):
    finished_run(tmp_path / "run", narrow())
    config = narrow(
        perceptual__weights=whole_method.perceptual.weights, perceptual__taps=("relu1_2",)
    )
    with pytest.raises(WorkdirError, match=r"config\.perceptual\.taps"):
        loop.train(config, tmp_path / "run")
    finished_run(tmp_path / "other", narrow(perceptual__taps=("relu1_2",)))
    with pytest.raises(
        WorkdirError, match=r"other VGG weights than .* config\.perceptual\.weights"
    ):
        loop.train(config, tmp_path / "other")


def test_minutes_end_a_run_over_all_sessions(tmp_path):
    config = narrow(train__steps=0, train__minutes=1.2 / 60, train__log_every=5)
    finished_run(tmp_path, config, step=2)  # after 1 second
    assert train(config, tmp_path) == 0
    first = read_log(tmp_path)[-1]
    assert first["step"] > 2
    assert 1.2 <= first["seconds"] < 20
    assert train(config, tmp_path) == 0  # spent already
    assert read_log(tmp_path)[-1] == first


@pytest.mark.parametrize("log_every", [1, 2])
def test_a_photo_that_vanishes_loses_no_step(log_every, uncut, whole_method, tmp_path, monkeypatch):
    """Whether the steps since the checkpoint were reported or not."""
    config = whole_method.copy_and_resolve_references()
    config.train.log_every, config.train.checkpoint_every = log_every, 10
    real = batches.batches

    def vanishing(*arguments):
        for _, batch in zip(range(3), real(*arguments), strict=False):
            yield batch
        raise DataError("photos/7.jpg: cannot be read as an image (no such file)")

    with monkeypatch.context() as patched:
        patched.setattr(batches, "batches", vanishing)
        with pytest.raises(DataError, match=r"^photos/7\.jpg: .*; fix it, then rerun .* step 3$"):
            train(config, tmp_path)
    assert newest_step(tmp_path) == 3
    assert train(config, tmp_path) == 0
    leaves, expected = leaves_of(tmp_path, config), leaves_of(uncut, whole_method)
    for name, leaf in expected.items():
        np.testing.assert_array_equal(leaves[name], leaf, err_msg=name)


def test_the_loop_compiles_once_sends_explicitly_and_reads_only_in_reports(tmp_path, monkeypatch):
    """Counts compilations of the step, reads of the device, and reads outside `reports.fetch`."""
    compiled, reads, outside = [], [], []
    depth = [0]

    lowered = jax.stages.Lowered.compile
    monkeypatch.setattr(
        jax.stages.Lowered,
        "compile",
        lambda self, *a, **k: compiled.append(1) or lowered(self, *a, **k),
    )

    real_fetch, real_run = reports.fetch, loop.run_steps

    def fetch(tree):
        reads.append(int(jax.tree.leaves(tree)[0].size))
        depth[0] += 1
        try:
            return real_fetch(tree)
        finally:
            depth[0] -= 1

    monkeypatch.setattr(reports, "fetch", fetch)
    array = type(jax.numpy.zeros(1))
    value = array._value

    def read(self):
        if watching[0] and not depth[0]:
            outside.append(self.shape)
        return value.fget(self)

    watching = [False]
    guards = []

    def run_steps(*args, saved, **kwargs):
        # Saving reads the state by design; Orbax does that, not the loop.
        def save(step, state, seconds):
            watching[0] = False
            type(saved).save(saved, step, state, seconds)
            watching[0] = True

        monkeypatch.setattr(saved, "save", save)
        guards.append(jax.config.jax_transfer_guard_host_to_device)
        watching[0] = True
        try:
            return real_run(*args, saved=saved, **kwargs)
        finally:
            watching[0] = False

    monkeypatch.setattr(loop, "run_steps", run_steps)
    config = narrow(train__steps=12, train__log_every=3, train__checkpoint_every=12)
    monkeypatch.setattr(array, "_value", property(read))
    assert loop.train(config, tmp_path) == 0
    assert len(compiled) == 1
    assert guards == ["disallow"]
    assert outside == []
    # Intervals end at 3, 6, 9 and 12; each is read once, when the next one ends or a save is due.
    assert len(reads) == 4
    assert [row["step"] for row in read_log(tmp_path)] == [3, 6, 9, 12]


def test_an_interval_is_read_only_after_the_next_one_has_begun(tmp_path, monkeypatch):
    events = []
    fetch = reports.fetch
    config = narrow(train__steps=6, train__log_every=2, train__checkpoint_every=6)
    with shared_compilation():
        compile_program = loop.compile_program

        def logged(*arguments, **options):
            program = compile_program(*arguments, **options)

            def step(*inputs):
                events.append("step")
                return program.step(*inputs)

            return program._replace(step=step)

        monkeypatch.setattr(loop, "compile_program", logged)
        monkeypatch.setattr(reports, "fetch", lambda tree: events.append("read") or fetch(tree))
        loop.train(config, tmp_path)
    assert events == ["step"] * 4 + ["read"] + ["step"] * 2 + ["read", "read"]


def test_a_run_writes_log_curves_and_previews(tmp_path):
    config = narrow(train__picture_every=3)
    train(config, tmp_path)
    assert {row["step"] for row in read_log(tmp_path)} == {1, 2, 3, 4}
    for row in read_log(tmp_path):
        assert row["loss"] == pytest.approx(row["pixel"], rel=1e-5)  # no other term is on
        assert row["learning_rate"] == pytest.approx(1e-3)
        assert row["images_per_second"] > 0
    pictures = sorted((tmp_path / "pictures").iterdir())
    assert [path.name for path in pictures] == ["step-000003.png", "step-000004.png"]  # and the end
    assert all(path.stat().st_size > 5_000 for path in pictures)
    assert list((tmp_path / "tensorboard").glob("events.*"))
    assert json.loads((tmp_path / "config.json").read_text())["model"]["num_landmarks"] == 3


def test_a_folder_of_another_run_is_refused(tmp_path):
    finished_run(tmp_path, narrow())
    with pytest.raises(WorkdirError, match=r"config\.model\.beta = 10\.0, not 5\.0"):
        loop.train(narrow(model__beta=5.0), tmp_path)
    other = narrow(train__steps=9, train__log_every=7, data__num_synthetic=63)
    with pytest.raises(WorkdirError, match=r"config\.data\.num_synthetic = 64"):
        loop.train(other, tmp_path)


def test_a_damaged_checkpoint_is_named(tmp_path):
    finished_run(tmp_path, narrow())
    for file in (tmp_path / "checkpoints" / "4" / "state").rglob("*"):
        if file.is_file():
            file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    with pytest.raises(WorkdirError) as refused:
        train(narrow(train__steps=6), tmp_path)
    assert str(tmp_path / "checkpoints" / "4") in str(refused.value)
    assert "damaged" in str(refused.value)


def test_too_few_photos_for_a_batch(tmp_path):
    config = narrow(data__num_synthetic=7)
    with pytest.raises(ConfigError, match=r"config\.train\.batch_size = 8"):
        loop.train(config, tmp_path)


def test_the_record_says_what_trained_that_the_paper_does_not_have(tmp_path):
    config = narrow(train__steps=1, optimizer__muon_rate=0.02)
    assert train(config, tmp_path) == 0
    assert "trained by Muon at a rate of 0.02 (not in the paper)" in read_record(tmp_path).notes
