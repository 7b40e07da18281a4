"""Checkpoints: odd folders, flipped bits, other configurations, writes that fail."""

import contextlib
import dataclasses
import errno
import logging
import re
import resource
import shlex
import subprocess
import time

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

from landmarks_jax.system.errors import WorkdirError
from landmarks_jax.training import checkpoints, loop, run_folder, sharding
from landmarks_jax.training.checkpoints import Checkpoints
from landmarks_jax.training.state import TrainState
from tests import running
from tests.running import TINY, call, finished_run, flags, leaves_of, shared_compilation

CONFIG = ConfigDict({"seed": 0, "model": {"beta": 10.0}})


def narrow(**fields):
    return running.narrow(**{**TINY, **fields})


def state_of(step, size=1_000):
    """A small state, with moments of its optimiser."""
    rng = np.random.default_rng(step)
    arrays = {"detector": {"kernel": rng.standard_normal(size).astype(np.float32)}}
    state = TrainState(np.int32(step), arrays, {}, (arrays,), {}, {})
    return sharding.put_replicated(sharding.make_mesh(), state)


def like(state):
    def abstract(leaf):
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding)

    return jax.tree.map(abstract, state)


def save(workdir, *steps):
    with Checkpoints(workdir, CONFIG) as saved:
        for step in steps:
            saved.save(step, state_of(step), 0.5 * step)
    return workdir


def restored_step(workdir, step):
    """Restores, and requires the state of a step."""
    with Checkpoints(workdir, CONFIG, read_only=True) as saved:
        restored = saved.restore(like(state_of(step)))
    expected = jax.tree.leaves(state_of(step))
    for leaf, other in zip(jax.tree.leaves(restored.state), expected, strict=True):
        np.testing.assert_array_equal(leaf, other)
    assert (restored.step, restored.seconds) == (step, 0.5 * step)
    return restored


def data_files(workdir, step):
    """The files of a checkpoint, the largest first: the values of its arrays."""
    files = [path for path in folder_of(workdir, step).rglob("*") if path.is_file()]
    return sorted(files, key=lambda path: -path.stat().st_size)


def folder_of(workdir, step):
    return workdir / "checkpoints" / str(step)


@pytest.mark.parametrize("name", ["run[0]", "a*", "a?", "a\\b", "gs:", "in[0]/run", "a\udcff"])
def test_folders_that_checkpoints_cannot_be_restored_from_are_refused_before_anything(
    name, tmp_path
):
    with pytest.raises(WorkdirError, match="checkpoints cannot be kept in a folder with"):
        loop.train(narrow(), tmp_path / name)
    with pytest.raises(WorkdirError, match="checkpoints cannot be kept in a folder with"):
        checkpoints.restore(tmp_path / name, narrow())
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["{a,b} %41 #", "ünï 日本\n.", "~-x'\"$&;|", " 12 "])
def test_other_odd_folders_keep_checkpoints(name, tmp_path):
    run_folder.check_name(tmp_path / name)
    restored_step(save(tmp_path / name, 3), 3)


def test_the_first_save_is_read_back(tmp_path):
    # Such a folder is refused earlier; here it stands for whatever loses what was written.
    with pytest.raises(WorkdirError, match=r"3: the run's first checkpoint cannot be read back"):
        save(tmp_path / "run[0]", 3)


def test_a_flipped_bit_is_found_and_the_checkpoint_before_is_offered(tmp_path):
    workdir = save(tmp_path / "a run", 2, 4)
    file, refused = data_files(workdir, 4)[0], 0
    whole = file.read_bytes()
    for place in np.linspace(0, 8 * len(whole) - 1, 12, dtype=int):
        data = bytearray(whole)
        data[place // 8] ^= 1 << place % 8
        file.write_bytes(data)
        try:
            restored_step(workdir, 4)  # with the right values, if at all
        except WorkdirError as error:
            refused += 1
            message = str(error)
            assert f"{folder_of(workdir, 4)}: the checkpoint cannot be read (" in message
    assert refused >= 3
    file.unlink()
    with pytest.raises(WorkdirError, match="move it away to use that of step 2: mv") as error:
        restored_step(workdir, 4)
    command = str(error.value).rpartition(": ")[2]
    assert shlex.split(command)[0] == "mv"
    subprocess.run(command, shell=True, check=True)
    restored_step(workdir, 2)
    data_files(workdir, 2)[0].write_bytes(b"")
    with pytest.raises(WorkdirError, match="there is none before it: copy it again"):
        restored_step(workdir, 2)
    assert (workdir / "unreadable-4" / "state").is_dir()


@pytest.mark.parametrize("part", ["params", "opt_state"])
def test_one_other_value_is_found(part, tmp_path, monkeypatch):
    digest = checkpoints._digest

    def of_another(state):
        arrays = jax.tree.map(lambda a: np.nextafter(a, 9, dtype=a.dtype), getattr(state, part))
        return digest(dataclasses.replace(state, **{part: arrays}))

    save(tmp_path, 1)
    with monkeypatch.context() as patched:
        patched.setattr(checkpoints, "_digest", of_another)
        save(tmp_path, 2)
    with pytest.raises(WorkdirError, match=r"2: .* \(damaged: the SHA-256 of its arrays differs\)"):
        restored_step(tmp_path, 2)


@pytest.mark.parametrize(
    ("old", "new"), [('"seconds": 1.0', '"seconds": 9.0'), ('"seed": 0', '"seed": 1')]
)
def test_what_stands_beside_the_state_is_checked_too(old, new, tmp_path):
    file = folder_of(save(tmp_path, 2), 2) / "progress" / "metadata"
    text = file.read_text()
    file.write_text(text.replace(old, new))
    assert file.read_text() != text
    with pytest.raises(WorkdirError, match="damaged: the SHA-256 of its fields differs"):
        restored_step(tmp_path, 2)


def test_a_checkpoint_under_another_name_or_shape_is_refused(tmp_path):
    folder = folder_of(save(tmp_path, 2), 2)
    with (
        pytest.raises(WorkdirError, match=r"kernel has shape \(1000,\), expected \(7,\)"),
        Checkpoints(tmp_path, CONFIG) as saved,
    ):
        saved.restore(like(state_of(2, size=7)))
    folder.rename(folder.with_name("3"))
    with pytest.raises(WorkdirError, match="damaged: it is of step 2"):
        restored_step(tmp_path, 3)


def test_another_configuration_than_the_checkpoints_is_refused(tmp_path):
    finished_run(tmp_path, narrow())
    path = tmp_path / "config.json"
    text = path.read_text()
    path.write_text(text.replace('"beta": 10.0', '"beta": 11.0'))
    message = r"config\.json: has config\.model\.beta = 11\.0, but .*4 was trained with 10\.0"
    code, _, err = call("transfer", f"--workdir={tmp_path}", f"--out={tmp_path / 'out'}")
    assert code == 2
    with pytest.raises(WorkdirError, match=message):
        raise WorkdirError(err)
    path.write_text(text.replace('"num_fit": 12', '"num_fit": 11'))  # not what it was trained with
    assert leaves_of(tmp_path, run_folder.read_config(tmp_path))["step"] == 4


def test_checkpoints_without_a_configuration_are_refused(tmp_path):
    finished_run(tmp_path, narrow())
    (tmp_path / "config.json").unlink()
    for seed in (0, 1):
        with pytest.raises(WorkdirError, match=r"config\.json: missing, but there are checkpoints"):
            loop.train(narrow(seed=seed), tmp_path)
    assert not (tmp_path / "config.json").exists()


@contextlib.contextmanager
def no_space_for(size):
    """Writes fail where files would become larger, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def save_and_check(saved):
    """Saves once, and asks again and again whether it failed, as the loop does."""
    saved.save(4, state_of(4, size=100_000), 2.0)
    while True:
        saved.check()
        time.sleep(0.01)


def test_a_failed_save_leaves_the_last_good_checkpoint(tmp_path):
    save(tmp_path, 2)
    message = (
        rf"{tmp_path / 'checkpoints'}: a checkpoint cannot be written \(File too large\); once it "
        "can, rerun the command to continue from the checkpoint of step 2"
    )
    with (
        pytest.raises(WorkdirError, match=message),
        no_space_for(100_000),
        Checkpoints(tmp_path, CONFIG) as saved,
    ):
        save_and_check(saved)
    assert run_folder.newest_step(tmp_path) == 2
    assert list((tmp_path / "checkpoints").glob("4.*"))
    restored_step(tmp_path, 2)
    restored_step(save(tmp_path, 6), 6)
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["2", "6"]


def test_a_disk_that_is_full_at_the_end_hides_no_error(tmp_path):
    def close():
        raise OSError(errno.ENOSPC, "No space left on device")

    message = "a checkpoint cannot be written (No space left on device); once it can, rerun"
    for error, said in ((WorkdirError("the first error"), "the first error"), (None, message)):
        saved = Checkpoints(tmp_path, CONFIG)
        saved._manager.close = close
        with pytest.raises(WorkdirError, match=re.escape(said)), saved:
            _raise(error)


def _raise(error):
    if error is not None:
        raise error


@pytest.mark.slow
def test_training_ends_in_one_line_where_it_cannot_save_and_continues_later(
    tmp_path, monkeypatch, caplog
):
    config = narrow(train__steps=8)
    start = [f"--workdir={tmp_path}", "--config=base", *flags(config)]
    saving = Checkpoints.save

    def save_on_a_full_disk(self, step, state, seconds):
        with no_space_for(2_000) if step == 4 else contextlib.nullcontext():
            saving(self, step, state, seconds)
            if step == 4:
                self.wait()

    with shared_compilation():
        with monkeypatch.context() as patched:
            patched.setattr(Checkpoints, "save", save_on_a_full_disk)
            code, _, err = call("train", *start)
        assert code == 2
        assert "Traceback" not in err
        assert err.splitlines()[-1].endswith("to continue from the checkpoint of step 2")
        assert not [record for record in caplog.records if record.levelno >= logging.ERROR]
        # Threads of the failed save, which end with a process, may still write into its folder.
        assert 0 in (call("train", *start)[0] for _ in range(3))
    assert run_folder.newest_step(tmp_path) == 8
