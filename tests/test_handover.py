"""Handovers: what they keep and how exactly, what is refused, and runs that restart from them."""

import dataclasses
import gzip
import json
import logging
import shutil
import time
from pathlib import Path

import jax
import numpy as np
import pytest
import safetensors.numpy

from landmarks_jax.configs import faces
from landmarks_jax.evaluation import run_evaluation
from landmarks_jax.system.errors import WorkdirError
from landmarks_jax.tasks import task_of
from landmarks_jax.training import checkpoints, loop, restart, run_transfer, sharding
from landmarks_jax.training import state as states
from tests.running import command, finish, narrow, write_vgg


@pytest.fixture(scope="module", name="trained")
def train_one(tmp_path_factory):
    """A run of three steps with averaged parameters and means of taps; its folder and config."""
    folder = tmp_path_factory.mktemp("handover")
    write_vgg(folder / "vgg.npz", blocks=1)
    config = narrow(
        perceptual__weights=str(folder / "vgg.npz"),
        perceptual__taps=("relu1_2",),
        perceptual__balance=True,
        objective__equivariance_weight=1.0,
        optimizer__ema_decay=0.5,
        train__steps=3,
    )
    assert loop.train(config, folder / "run") == 0
    return folder / "run", config


def write(workdir: Path, out: Path) -> Path:
    restored = run_evaluation.restore(workdir, checkpoints.read_config(workdir))
    run_transfer.write(restored, workdir, out)
    return out


@pytest.fixture(scope="module", name="written")
def write_one(trained) -> Path:
    return write(trained[0], trained[0].parent / "handed")


@pytest.fixture(name="handed")
def copy_one(written, tmp_path) -> Path:
    """The handover of `trained`, a test's own."""
    return shutil.copytree(written, tmp_path / "handed")


def leaves(workdir: Path, config) -> dict[str, np.ndarray]:
    """Everything in the newest checkpoint, by path."""
    with checkpoints.Checkpoints(workdir, read_only=True) as saved:
        networks = task_of(config).build_networks(config)
        like = states.abstract_state(config, networks, sharding.make_mesh())
        state = saved.restore(like).state
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): np.asarray(leaf)
        for path, leaf in jax.tree_util.tree_leaves_with_path(state)
    }


def rows(workdir: Path) -> list[dict]:
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def test_networks_are_kept_with_kernels_in_float16(trained, handed):
    workdir, config = trained
    state = leaves(workdir, config)
    kept = {name for name in state if not name.startswith(("opt_state", "step"))}
    read = run_transfer.read(handed)
    assert read.arrays.keys() == kept
    prefixes = {name.split("/")[0] for name in kept}
    assert prefixes == {"params", "batch_stats", "averaged", "tap_means"}
    rounded = 0
    for name in kept:
        expected = state[name]
        if expected.ndim > 1:
            expected = expected.astype(np.float16)
            rounded += int((expected != state[name]).any())
        assert read.arrays[name].dtype == expected.dtype, name
        np.testing.assert_array_equal(read.arrays[name], expected, err_msg=name)
    assert rounded > 20
    assert float(state["tap_means/relu1_2"]) > 0
    kernel = "detector/block1/conv1/kernel"  # the average is one of its own, and not the last value
    assert (read.arrays[f"averaged/{kernel}"] != read.arrays[f"params/{kernel}"]).any()
    assert read.step == 3
    assert read.seconds == pytest.approx(rows(workdir)[-1]["seconds"], abs=0.5)
    assert read.config == checkpoints.read_config(workdir)
    assert read.metrics == (workdir / "metrics.jsonl").read_text()


def test_what_float16_cannot_hold_stays_float32(trained, tmp_path):
    workdir, config = trained
    restored = run_evaluation.restore(workdir, config)
    kernel = np.array([[1e5, 1 / 3]], np.float32)
    variance = np.array([1e9], np.float32)
    state = restored.state.replace(
        params={"kernel": kernel}, batch_stats={"var": variance}, averaged={}, tap_means={}
    )
    run_transfer.write(restored._replace(state=state), workdir, tmp_path)
    read = run_transfer.read(tmp_path).arrays
    assert read.keys() == {"params/kernel", "batch_stats/var"}
    np.testing.assert_array_equal(read["params/kernel"], kernel)
    np.testing.assert_array_equal(read["batch_stats/var"], variance)
    state = state.replace(params={"kernel": kernel * np.inf})
    with pytest.raises(WorkdirError, match="params/kernel is not finite"):
        run_transfer.write(restored._replace(state=state), workdir, tmp_path / "other")


def test_no_file_is_larger_than_may_be(trained, handed, tmp_path, monkeypatch):
    whole = run_transfer.read(handed).arrays
    assert len(list(handed.glob("networks-*"))) == 1
    monkeypatch.setattr(run_transfer, "MOST_BYTES", 30_000)
    parts = list(write(trained[0], tmp_path / "parts").glob("networks-*"))
    assert len(parts) > 3
    assert max(path.stat().st_size for path in parts) <= 30_000
    again = run_transfer.read(tmp_path / "parts").arrays
    assert again.keys() == whole.keys()
    for name, array in whole.items():
        np.testing.assert_array_equal(again[name], array)
    monkeypatch.setattr(run_transfer, "MOST_BYTES", 500)
    with pytest.raises(WorkdirError, match=r"kernel takes .* a file of a handover holds 500"):
        write(trained[0], tmp_path / "none")


def test_the_papers_widths_take_a_few_files_of_15_mib():
    config = faces.get_config()
    with config.unlocked():
        config.optimizer.ema_decay = 0.999
    networks = task_of(config).build_networks(config)
    like = states.abstract_state(config, networks, sharding.make_mesh())
    arrays = {
        name: run_transfer.stored(np.ones(leaf.shape, leaf.dtype), name)
        for name, leaf in run_transfer.by_name(run_transfer.networks_of(like)).items()
    }
    sizes = [len(safetensors.numpy.save(part)) for part in run_transfer.split(arrays)]
    assert len(sizes) <= 4
    assert 0.97 * 15 * 2**20 < max(sizes) <= 15 * 2**20
    # 15.3 million parameters, twice, two bytes each.
    assert sum(sizes) == pytest.approx(4 * 15.3e6, rel=0.02)


def edit(folder: Path, **fields) -> None:
    path = folder / run_transfer.MANIFEST
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda d: flip(*d.glob("networks-*")), r"networks-\w+\.safetensors: is damaged"),
        (lambda d: flip(*d.glob("metrics-*")), r"metrics-\w+\.jsonl\.gz: is damaged"),
        (lambda d: next(d.glob("networks-*")).unlink(), r"safetensors: a file .* is missing"),
        (lambda d: edit(d, step=4), r"handover\.json: is damaged, its checksum differs"),
        (lambda d: (d / "handover.json").write_text('{"format'), r"handover\.json: cannot be read"),
        (lambda d: edit(d, format="other"), r"handover\.json: is no handover"),
        (lambda d: edit(d, version=2), r"version 2 and this landmarks_jax reads up to 1"),
        (lambda d: (d / "handover.json").unlink(), r"no handover here"),
    ],
)
def test_damage_is_refused_in_one_line_before_anything_is_made(
    damage, message, trained, handed, tmp_path
):
    damage(handed)
    with pytest.raises(WorkdirError, match=message) as refused:
        loop.train(trained[1], tmp_path / "new", handover=handed)
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "new").exists()


def test_another_run_is_refused_by_name(trained, handed, tmp_path):
    config = trained[1].copy_and_resolve_references()
    config.model.beta = 5.0
    with pytest.raises(WorkdirError, match=r"config\.model\.beta = 10\.0, asked for is 5\.0"):
        loop.train(config, tmp_path / "new", handover=handed)
    write_vgg(tmp_path / "vgg.npz", blocks=1, scale=2.0)
    config = trained[1].copy_and_resolve_references()
    config.perceptual.weights = str(tmp_path / "vgg.npz")
    with pytest.raises(WorkdirError, match=r"other weights than config\.perceptual\.weights"):
        loop.train(config, tmp_path / "new", handover=handed)
    assert not (tmp_path / "new").exists()

    config = trained[1]
    networks = task_of(config).build_networks(config)
    read = run_transfer.read(handed)
    digest = read.run["weights_digest"]
    restart.check(read, config, networks, digest)
    name = "batch_stats/detector/block1/norm1/mean"
    without = dataclasses.replace(read, arrays={k: a for k, a in read.arrays.items() if k != name})
    with pytest.raises(WorkdirError, match=f"{name} is missing"):
        restart.check(without, config, networks, digest)
    longer = dataclasses.replace(read, arrays={**read.arrays, name: np.zeros(99, np.float32)})
    with pytest.raises(WorkdirError, match=rf"{name} has the shape \(99,\), wanted is"):
        restart.check(longer, config, networks, digest)


def test_writing_again_replaces_and_a_cut_leaves_the_one_before(
    trained, handed, tmp_path, monkeypatch
):
    workdir, config = trained
    restored = run_evaluation.restore(workdir, config)
    before = {path.name for path in handed.iterdir()}
    doubled = restored.state.replace(params=jax.tree.map(lambda a: 2 * a, restored.state.params))
    other = restored._replace(state=doubled, step=7)

    real = run_transfer.files.write_file

    def killed(path, data, error):
        if path.name == run_transfer.MANIFEST:
            raise KeyboardInterrupt
        real(path, data, error)

    monkeypatch.setattr(run_transfer.files, "write_file", killed)
    with pytest.raises(KeyboardInterrupt):
        run_transfer.write(other, workdir, handed)
    assert run_transfer.read(handed).step == 3
    monkeypatch.setattr(run_transfer.files, "write_file", real)
    written = run_transfer.write(other, workdir, handed)
    assert run_transfer.read(handed).step == 7
    assert {path.name for path in handed.iterdir()} == {path.name for path in written}
    assert len(before & {path.name for path in written}) == 2  # handover.json and the metrics


def test_a_restart_keeps_the_networks_and_the_counts_and_forgets_the_optimiser(
    trained, handed, tmp_path, caplog
):
    workdir, config = trained
    new = tmp_path / "new"
    with caplog.at_level(logging.INFO, "landmarks_jax"):
        assert loop.train(config, new, handover=handed) == 0  # its three steps are done already
    assert "restarted, not resumed, at step 3" in caplog.text
    before, after = leaves(workdir, config), leaves(new, config)
    assert before.keys() == after.keys()
    moments = [name for name in after if name.startswith("opt_state")]
    assert len(moments) > 200
    for name, array in after.items():
        expected = before[name]
        if name in moments:
            expected = np.zeros_like(expected)
        elif expected.ndim > 1:
            expected = expected.astype(np.float16).astype(np.float32)
        np.testing.assert_array_equal(array, expected, err_msg=name)
        assert array.dtype == before[name].dtype
    assert int(after["step"]) == 3
    assert rows(new)[:3] == rows(workdir)
    event = rows(new)[3]
    assert event["step"] == 3
    assert event["restart"]["warmup_steps"] == 1_000  # of beta2 = 0.999
    assert not event["restart"]["other_photos"]

    # On with it, by its own checkpoint; the handover is named again and, as is said, not used.
    longer = config.copy_and_resolve_references()
    longer.train.steps, longer.train.checkpoint_every = 5, 1
    caplog.clear()
    with caplog.at_level(logging.INFO, "landmarks_jax"):
        assert loop.train(longer, new, handover=handed) == 0
    assert f"the checkpoint of step 3 in {new}; the handover {handed} is not used" in caplog.text
    assert [row["step"] for row in rows(new)] == [1, 2, 3, 3, 4, 5]
    seconds = [row["seconds"] for row in rows(new)]
    assert seconds == sorted(seconds)
    rates = [row["learning_rate"] for row in rows(new) if "loss" in row]
    assert rates == pytest.approx([1e-3] * 3 + [1e-6, 2e-6], rel=1e-4)
    # Adam's first step after a start moves each parameter by the rate, its second by at most about
    # as much: moments that had been kept would move them otherwise.
    moved = np.concatenate(
        [
            np.abs(array.astype(float) - after[name]).ravel()
            for name, array in leaves(new, longer).items()
            if name.startswith("params")
        ]
    )
    assert 2.5e-6 < moved.max() < 3.1e-6
    assert np.median(moved) > 1e-6

    # It is among the notes of every table, and in what is handed over next.
    vgg, note = checkpoints.read_notes(new)
    assert vgg.startswith("perceptual loss")
    assert note.startswith("restarted, not resumed, at step 3 after")
    run = run_transfer.read(write(new, tmp_path / "next")).run
    assert [entry["step"] for entry in run["restarts"]] == [3]


def test_other_photos_are_said(trained, handed):
    _, config = trained
    read = run_transfer.read(handed)
    same, other = (
        restart.restarts(read, config, digest)[-1].note()
        for digest in (read.run["data_digest"], "another")
    )
    assert "photos" not in same
    assert other.endswith("the photos have other names since, or are others")
    assert "fresh optimiser, the learning rate rising again over 1,000 steps" in same


def test_photos_decoded_there_may_be_prepared_here(trained, handed):
    _, config = trained
    prepared = config.copy_and_resolve_references()
    prepared.data.source = "prepared"
    read = run_transfer.read(handed)
    networks = task_of(config).build_networks(config)
    restart.check(read, prepared, networks, read.run["weights_digest"])


def test_a_restart_cut_before_its_first_checkpoint_asks_for_the_handover(
    trained, handed, tmp_path, monkeypatch
):
    _, config = trained

    def killed(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(restart, "begin", killed)
        with pytest.raises(KeyboardInterrupt):
            loop.train(config, tmp_path / "new", handover=handed)
    with pytest.raises(WorkdirError, match="name it again with --handover"):
        loop.train(config, tmp_path / "new")
    assert loop.train(config, tmp_path / "new", handover=handed) == 0
    assert checkpoints.newest(tmp_path / "new") == 3
    assert len(checkpoints.read_restarts(tmp_path / "new")) == 1


@pytest.mark.parametrize(("beta2", "steps"), [(0.0, 1), (0.9, 10), (0.999, 1_000)])
def test_the_warm_up_after_a_restart(beta2, steps):
    config = narrow(optimizer__beta2=beta2, optimizer__drop_steps=(5_000,))
    rate = states.learning_rate(config, restart=4_000)
    plain = states.learning_rate(config)
    for step in (4_000, 4_001, 4_000 + steps // 2, 4_000 + steps - 1, 4_000 + steps, 9_000):
        share = min((step - 4_000 + 1) / steps, 1.0)
        assert float(rate(step)) == pytest.approx(float(plain(step)) * share, rel=1e-5)
    assert float(plain(5_000)) == pytest.approx(1e-4)


def test_a_deadline_shortens_a_sitting(trained, tmp_path):
    config = narrow(train__minutes=10.0)
    assert loop.shortened(config, 120.0, 60.0).train.minutes == pytest.approx(3.0)
    assert loop.shortened(config, 120.0, 6000.0).train.minutes == 10.0
    assert loop.shortened(narrow(), 120.0, 6000.0).train.minutes == pytest.approx(102.0)
    assert 2.0 < loop.shortened(narrow(), 120.0, -5.0).train.minutes < 2.001
    long = trained[1].copy_and_resolve_references()
    long.train.steps = 10**6
    assert loop.train(long, tmp_path, deadline=time.monotonic()) == 0
    assert rows(tmp_path)[-1]["step"] == checkpoints.newest(tmp_path) == 1
    assert checkpoints.read_config(tmp_path).train.minutes == 0.0


def test_the_command_writes_a_handover(trained, tmp_path):
    workdir, _ = trained
    out = tmp_path / "out"
    code, printed, err = finish(command("transfer", f"--workdir={workdir}", f"--out={out}"))
    assert code == 0, err
    assert run_transfer.read(out).step == 3
    assert {line.split(":")[0] for line in printed.splitlines()} == set(map(str, out.iterdir()))
    lines = gzip.decompress(next(out.glob("metrics-*")).read_bytes()).decode().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [1, 2, 3]
    code, _, err = finish(command("train.py", f"--workdir={tmp_path}", f"--transfer={tmp_path}"))
    assert code == 2
    assert err == f"error: {tmp_path}: no handover here (handover.json is missing)\n"
