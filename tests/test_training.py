"""Runs end to end: resumed, killed, stopped, diverged; what the loop reads, sends and compiles."""

import json
import signal
import time

import jax
import numpy as np
import pytest

from landmarks_jax.system.errors import ConfigError, WorkdirError
from landmarks_jax.tasks import task_of
from landmarks_jax.training import loop, reports, sharding
from landmarks_jax.training import state as states
from landmarks_jax.training.checkpoints import Checkpoints
from tests.running import command, finish, flags, narrow, write_vgg


def final_state(workdir, config):
    """The newest checkpoint's leaves, as NumPy arrays by path, and its step."""
    mesh = sharding.make_mesh()
    with Checkpoints(workdir) as saved:
        networks = task_of(config).build_networks(config)
        restored = saved.restore(states.abstract_state(config, networks, mesh))
    leaves = jax.tree_util.tree_leaves_with_path(restored.state)
    return {jax.tree_util.keystr(p): np.asarray(a) for p, a in leaves}, restored.step


def rows(workdir):
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


# kill -9 once the checkpoint of step 2 stands, or while it is being written.
KILLED = """
import os, signal, sys
from landmarks_jax.training import checkpoints
save = checkpoints.Checkpoints.save
def killing(self, step, state, seconds):
    save(self, step, state, seconds)
    if os.environ["WHEN"] == "saved":
        self.wait()
    os.kill(os.getpid(), signal.SIGKILL)
checkpoints.Checkpoints.save = killing
sys.argv[0] = "train.py"
import runpy
runpy.run_path("train.py", run_name="__main__")
"""


@pytest.mark.parametrize("when", ["saved", "saving"])
def test_killed_and_resumed_equals_uninterrupted_bit_for_bit(tmp_path, when):
    config = narrow(
        perceptual__weights=str(tmp_path / "vgg.npz"),
        perceptual__taps=("relu1_2",),
        perceptual__balance=True,
        objective__equivariance_weight=1.0,
        optimizer__ema_decay=0.5,
    )
    write_vgg(tmp_path / "vgg.npz", blocks=1)
    cut, whole = tmp_path / "cut", tmp_path / "whole"
    cut.mkdir()
    # As if an earlier session had come further than its last checkpoint, and was cut while writing.
    (cut / "metrics.jsonl").write_text('{"step": 3, "loss": 7.0}\n{"step": 4, "lo')
    killed = command(*flags(config), f"--workdir={cut}", code=KILLED, WHEN=when)
    assert finish(killed)[0] == -signal.SIGKILL
    with Checkpoints(cut, read_only=True) as saved:
        assert saved.last_step() == (2 if when == "saved" else None)

    code, out, err = finish(command("train.py", *flags(config), f"--workdir={cut}"))
    assert code == 0, err
    assert [row["step"] for row in rows(cut)] == [1, 2, 3, 4]
    assert loop.train(config, whole) == 0

    resumed, step = final_state(cut, config)
    straight, _ = final_state(whole, config)
    assert step == 4
    assert resumed.keys() == straight.keys()
    assert len(resumed) > 300
    for path, array in straight.items():
        np.testing.assert_array_equal(resumed[path], array, err_msg=path)
    last_cut, last_whole = rows(cut)[-1], rows(whole)[-1]
    assert last_cut["loss"] == last_whole["loss"]

    # The same command once more has nothing to do, and says so.
    code, out, _ = finish(command("train.py", *flags(config), f"--workdir={cut}"))
    assert code == 0
    assert "already trained for 4 steps" in out


def test_sigterm_saves_before_the_end(tmp_path):
    config = narrow(train__steps=10**6, train__checkpoint_every=10**6)
    run = command("train.py", *flags(config), f"--workdir={tmp_path}")
    metrics, deadline = tmp_path / "metrics.jsonl", time.monotonic() + 200
    while not (metrics.exists() and metrics.read_text()):
        assert time.monotonic() < deadline
        assert run.poll() is None, run.stderr.read()
        time.sleep(0.05)
    run.send_signal(signal.SIGTERM)
    code, _, err = finish(run)
    assert code == 128 + signal.SIGTERM, err
    with Checkpoints(tmp_path) as saved:
        assert saved.last_step() == rows(tmp_path)[-1]["step"] >= 2


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path, monkeypatch):
    write_vgg(tmp_path / "vgg.npz", blocks=1)
    config = narrow(perceptual__weights=str(tmp_path / "vgg.npz"), perceptual__taps=("relu1_2",))
    config.train.steps = 2
    run = tmp_path / "run"
    assert loop.train(config, run) == 0
    good, _ = final_state(run, config)

    real = loop.compile_program

    def compile_program(config, networks, state, frozen, mesh, **options):
        """The perceptual network's input is divided by zero."""
        program = real(config, networks, state, frozen, mesh, **options)
        broken = frozen._replace(std=jax.device_put(np.zeros(3, np.float32), frozen.std.sharding))
        return program._replace(step=lambda *inputs: program.step(*inputs[:3], broken))

    monkeypatch.setattr(loop, "compile_program", compile_program)
    config.train.steps = 8
    with pytest.raises(reports.NotFiniteError) as stopped:
        loop.train(config, run)
    assert "step 3:" in str(stopped.value)
    assert str(run / "checkpoints" / "2") in str(stopped.value)
    still, step = final_state(run, config)
    assert step == 2
    for path, array in good.items():
        np.testing.assert_array_equal(still[path], array)

    with pytest.raises(reports.NotFiniteError, match="no checkpoint was saved yet"):
        loop.train(config, tmp_path / "other")


def test_other_weights_are_another_run(tmp_path):
    config = narrow(train__steps=1)
    loop.train(config, tmp_path / "run")
    write_vgg(tmp_path / "vgg.npz", blocks=1)
    config.perceptual.weights = str(tmp_path / "vgg.npz")
    config.perceptual.taps = ("relu1_2",)
    with pytest.raises(WorkdirError, match=r"config\.perceptual\.taps"):
        loop.train(config, tmp_path / "run")
    other = narrow(train__steps=1, perceptual__taps=("relu1_2",))
    loop.train(other, tmp_path / "other")
    with pytest.raises(WorkdirError, match=r"other weights than config\.perceptual\.weights"):
        loop.train(config, tmp_path / "other")


def test_minutes_end_a_run_over_all_sittings(tmp_path):
    config = narrow(train__steps=0, train__minutes=0.02, train__log_every=5)
    assert loop.train(config, tmp_path) == 0
    first = rows(tmp_path)[-1]
    assert 1.2 <= first["seconds"] < 20
    assert loop.train(config, tmp_path) == 0  # spent already
    assert rows(tmp_path)[-1] == first


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
    assert [row["step"] for row in rows(tmp_path)] == [3, 6, 9, 12]


def test_an_interval_is_read_only_after_the_next_one_is_under_way(tmp_path, monkeypatch):
    events = []
    real_fetch, real_compile = reports.fetch, loop.compile_program

    def compile_program(*args, **options):
        program = real_compile(*args, **options)

        def step(*inputs):
            events.append("step")
            return program.step(*inputs)

        return program._replace(step=step)

    monkeypatch.setattr(loop, "compile_program", compile_program)
    monkeypatch.setattr(reports, "fetch", lambda tree: events.append("read") or real_fetch(tree))
    config = narrow(train__steps=6, train__log_every=2, train__checkpoint_every=6)
    loop.train(config, tmp_path)
    assert events == ["step"] * 4 + ["read"] + ["step"] * 2 + ["read", "read"]


def test_a_run_tells_what_it_did(tmp_path):
    config = narrow(train__picture_every=4)
    loop.train(config, tmp_path)
    assert {row["step"] for row in rows(tmp_path)} == {1, 2, 3, 4}
    for row in rows(tmp_path):
        assert row["loss"] == pytest.approx(row["pixel"], rel=1e-5)  # no other term is on
        assert row["learning_rate"] == pytest.approx(1e-3)
        assert row["images_per_second"] > 0
    assert (tmp_path / "pictures" / "step-000004.png").stat().st_size > 5_000
    assert list((tmp_path / "tensorboard").glob("events.*"))
    assert json.loads((tmp_path / "config.json").read_text())["model"]["num_landmarks"] == 3


def test_a_folder_of_another_run_is_refused(tmp_path):
    config = narrow(train__steps=1)
    loop.train(config, tmp_path)
    other = narrow(train__steps=1, model__beta=5.0)
    with pytest.raises(WorkdirError, match=r"config\.model\.beta = 10\.0, asked for is 5\.0"):
        loop.train(other, tmp_path)
    more = narrow(train__steps=2, train__log_every=7, data__num_synthetic=63)
    with pytest.raises(WorkdirError, match=r"config\.data\.num_synthetic = 64"):
        loop.train(more, tmp_path)


def test_a_damaged_checkpoint_is_named(tmp_path):
    config = narrow()
    loop.train(config, tmp_path)
    for file in (tmp_path / "checkpoints" / "4" / "state").rglob("*"):
        if file.is_file():
            file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    config.train.steps = 6
    with pytest.raises(WorkdirError) as refused:
        loop.train(config, tmp_path)
    assert str(tmp_path / "checkpoints" / "4") in str(refused.value)
    assert "damaged" in str(refused.value)


def test_too_few_photos_for_a_batch(tmp_path):
    config = narrow(data__num_synthetic=7)
    with pytest.raises(ConfigError, match=r"config\.train\.batch_size = 8"):
        loop.train(config, tmp_path)


DEVICES = """
import functools, json, sys
import jax, jax.numpy as jnp, numpy as np
from landmarks_jax.tasks import task_of
from landmarks_jax.training import run_inputs, sharding, state as states
from tests.running import narrow

def loss_and_gradient(devices, dtype, bn_groups="joint"):
    with jax.enable_x64(dtype == "float64"):
        config = narrow(compute_dtype=dtype, objective__equivariance_weight=1.0,
                        objective__separation_weight=0.1, objective__gradient_weight=1.0,
                        objective__bn_groups=bn_groups, train__batch_size=16)
        task = task_of(config)
        networks = task.build_networks(config)
        mesh = sharding.make_mesh(jax.devices()[:devices])
        state = states.start_state(config, networks, mesh)
        frozen, _ = run_inputs.load_frozen(config, networks)
        frozen = sharding.put_replicated(mesh, frozen)
        canvases = np.random.default_rng(0).integers(0, 256, (16, 20, 20, 3), np.uint8)

        def run(params, state, canvases, frozen):
            drawn = task.draw(frozen.key, state.step, canvases, config=config)
            def loss(params):
                return task.loss(params, state, drawn, frozen, config=config, networks=networks)[0]
            return jax.value_and_grad(loss)(params)

        batch = sharding.put_batch(mesh, canvases)
        assert len(batch.addressable_shards) == devices
        loss, gradient = jax.jit(run)(state.params, state, batch, frozen)
        leaves = [np.asarray(g, np.float64).ravel() for g in jax.tree.leaves(gradient)]
        return float(loss), np.concatenate(leaves)

def differ(a, b):
    return float(np.linalg.norm(a - b) / np.linalg.norm(b))

out = {}
runs = {(d, t): loss_and_gradient(d, t) for d in (1, 8) for t in ("float32", "float64")}
for dtype in ("float32", "float64"):
    one, eight = runs[1, dtype], runs[8, dtype]
    out[dtype] = [abs(one[0] - eight[0]) / abs(one[0]), differ(eight[1], one[1])]
one, eight = (loss_and_gradient(d, "float64", "released") for d in (1, 8))
out["released"] = [abs(one[0] - eight[0]) / abs(one[0]), differ(eight[1], one[1])]
out["precision"] = differ(runs[1, "float32"][1], runs[1, "float64"][1])
print(json.dumps(out))
"""


def test_eight_devices_compute_what_one_does():
    flag = "--xla_force_host_platform_device_count=8"
    code, out, err = finish(command(code=DEVICES, XLA_FLAGS=flag))
    assert code == 0, err
    measured = json.loads(out.splitlines()[-1])
    print("relative differences of loss and gradient:", measured)
    assert max(measured["float64"] + measured["released"]) < 1e-9
    assert measured["float32"][0] < 1e-5


def test_a_run_goes_on_with_another_number_of_devices(tmp_path):
    config = narrow(train__steps=2)
    loop.train(config, tmp_path)
    config.train.steps = 3
    environment = {"XLA_FLAGS": "--xla_force_host_platform_device_count=4"}
    run = command("train.py", *flags(config), f"--workdir={tmp_path}", **environment)
    code, _, err = finish(run)
    assert code == 0, err
    assert rows(tmp_path)[-1]["step"] == 3
