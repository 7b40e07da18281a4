"""The runner of the tables' trainings: kills, failures, signals, locks."""

import contextlib
import json
import os
import re
import signal
import subprocess
import threading
import time
from pathlib import Path

import pytest

from landmarks_jax.data import prepared
from landmarks_jax.data.framing import Framing
from landmarks_jax.data.sources.synthetic import SyntheticFaces
from landmarks_jax.studies import paper_tables, runner
from landmarks_jax.studies.paper_cells import CELLS, OWN_FIELDS, Base, cells_of, config_of
from landmarks_jax.system import files
from landmarks_jax.system.errors import DataError
from tests.cell_runs import base_of, result_of, write_run
from tests.running import ROOT, call, finish, flags, narrow, write_vgg
from tests.running import command as start

KEY = ("synthetic", "center")


def wait_for(condition, seconds=240):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def children_of(pid):
    """The processes that a process started."""
    path = Path(f"/proc/{pid}/task/{pid}/children")
    if path.exists():
        return [int(text) for text in path.read_text().split()]
    words = ["ps", "-A", "-o", "ppid=,pid="]
    listed = subprocess.run(words, capture_output=True, text=True, check=True).stdout
    pairs = [map(int, line.split()) for line in listed.splitlines()]
    return [child for parent, child in pairs if parent == pid]


def numbers(saved):
    """The steps of the checkpoints that are whole."""
    return [int(path.name) for path in saved.glob("*") if path.name.isdigit()]


@pytest.fixture
def words(tmp_path):
    """A command line that trains two narrow cells, of which the second lacks its weights."""
    write_vgg(tmp_path / "vgg.npz", blocks=1)
    prepared.prepare(SyntheticFaces(1, 64, 20), Framing(20, 16, "center"), tmp_path / "faces")
    config = narrow(
        data__source="prepared",  # TensorFlow is not loaded then
        data__roots=(str(tmp_path / "faces"),),
        perceptual__weights=str(tmp_path / "vgg.npz"),
        perceptual__taps=("relu1_2",),
        train__steps=40,
        train__log_every=5,
        train__checkpoint_every=5,
    )
    own = tuple(f"--config.{field}=" for field in OWN_FIELDS)
    inputs = [flag for flag in flags(config) if not flag.startswith(own)]
    return config, [
        "reproduce",
        "train",
        "--config=configs/synthetic.py",
        "--cells=baseline-k10,vgg19-k10",
        f"--vgg19={tmp_path / 'none.npz'}",
        f"--runs={tmp_path / 'runs'}",
        *inputs,
    ]


@pytest.mark.slow
def test_a_killed_runner_continues_and_a_failing_cell_does_not_stop_it(
    words, tmp_path, monkeypatch
):
    monkeypatch.chdir(ROOT)
    config, arguments = words
    runs = tmp_path / "runs"
    run = runs / "baseline-k10-seed0"
    saved = run / "checkpoints"
    first = start(*arguments)
    try:
        wait_for(lambda: first.poll() is not None or numbers(saved))
        # Both at once; a kill of the runner alone is tested below.
        children = children_of(first.pid)
    finally:
        for pid in (first.pid, *children_of(first.pid)):
            os.kill(pid, signal.SIGKILL)
    out, err = first.communicate()
    assert "2 of 2 runs to do" in out, err
    assert len(children) == 1
    assert numbers(saved)
    assert not (run / "evaluation").exists()

    code, out, err = finish(start(*arguments))
    assert code == 1, out + err
    assert "none.npz: no such file" in err
    failed = f"failed: {runs}/vgg19-k10-seed0: exit code 2 of landmarks-jax train --config"
    assert out.splitlines()[-1].startswith(failed)
    assert out.splitlines()[-2] == "1 of 2 runs finished"
    log = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in log] == list(range(5, 41, 5))
    result = json.loads((run / "evaluation" / "synthetic-center.json").read_text())
    assert result["provenance"]["steps"] == 40
    assert result["num_landmarks"] == 10

    base = Base("configs/synthetic.py", config, {})
    jobs = runner.jobs_of(
        cells_of((), ("baseline-k10",)), base, str(runs), seeds=(0,), protocols=("synthetic",)
    )
    assert runner.plan(jobs).splitlines() == [f"{run}: finished", "0 of 1 runs to do"]
    assert runner.run_all(jobs) == 0
    markdown = paper_tables.write_tables(
        base, str(runs), tables=(), protocols=("synthetic",), cells=("baseline-k10", "vgg19-k10")
    )
    forward = result["results"]["running"]["forward"][-1]["mean"]
    assert re.search(rf"baseline-k10 \| 10 \| measured, .*\| - \| - \| {forward:.2f} \|", markdown)
    assert "baseline-k10: perceptual loss of Caffe VGG-16, 1 taps (relu1_2)." in markdown


def job_of(folder, code):
    """A job whose training is a line of Python."""
    return runner.Job(folder, narrow(), ["-c", code], ["-c", ""], ("synthetic",))


def test_a_folder_in_use_is_waited_for(tmp_path, capsys):
    folder = tmp_path / "cell-seed0"
    folder.mkdir()
    with contextlib.ExitStack() as other:
        other.enter_context(files.lock(folder / runner._LOCK))
        threading.Timer(0.6, other.close).start()
        assert runner.run_all([job_of(folder, "print('trains', flush=True)")]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[1] == f"{folder}: waiting for another process that works in it"
    assert lines[2].startswith("python -c")


def test_a_process_that_outlives_the_runner_keeps_the_folder_locked(tmp_path):
    end = tmp_path / "end"
    waits = f"import os, time\nwhile not os.path.exists({str(end)!r}): time.sleep(0.02)"
    code = f"import subprocess, sys\nsubprocess.Popen([sys.executable, '-c', {waits!r}]"
    folder = tmp_path / "cell-seed0"
    runner.run_all([job_of(folder, code + ", close_fds=False)")])
    with pytest.raises(DataError, match="is working on it"), files.lock(folder / runner._LOCK):
        pass
    end.touch()
    with files.lock(folder / runner._LOCK, wait=lambda: time.sleep(0.05) or True):
        pass


def test_a_failing_cell_does_not_stop_the_others(tmp_path, capsys):
    base = base_of(train__steps=4)
    finished = write_run(tmp_path, "all-k10", base, result_of(KEY, (30, 20, 10), steps=4))
    config = config_of(CELLS["all-k10"], base, 0)
    jobs = [
        job_of(tmp_path / "cell-seed0", "raise SystemExit(2)"),
        runner.Job(finished, config, ["-c", "1 / 0"], ["-c", "1 / 0"], KEY[:1]),
    ]
    assert runner.run_all(jobs) == 1
    lines = capsys.readouterr().out.splitlines()
    assert f"run 2 of 2: {finished}" in lines
    assert lines[-2] == "1 of 2 runs finished"
    failed = f"failed: {tmp_path}/cell-seed0: exit code 2 of python -c 'raise SystemExit(2)'"
    assert lines[-1] == failed


def test_a_signal_reaches_the_process_and_ends_the_rest(tmp_path, capfd):
    code = (
        "import signal, sys, time\n"
        "signal.signal(signal.SIGTERM, lambda *_: (print('saved'), sys.exit(143)))\n"
        f"open({str(tmp_path / 'ready')!r}, 'w').close()\n"
        "time.sleep(60)"
    )
    jobs = [job_of(tmp_path / f"cell-seed{seed}", code) for seed in range(2)]

    def stop():
        wait_for((tmp_path / "ready").exists)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=stop).start()
    assert runner.run_all(jobs) == 128 + signal.SIGTERM
    out = capfd.readouterr().out
    assert "saved" in out
    assert "run 2 of 2" not in out
    assert out.splitlines()[-1] == "stopped; rerun the command to continue"


def test_commands_that_succeed_and_leave_nothing_are_a_failure(tmp_path, capsys):
    assert runner.run_all([job_of(tmp_path / "cell-seed0", "")]) == 1
    assert "its commands succeeded, but it is not finished" in capsys.readouterr().out


def test_a_process_that_cannot_be_started_says_why(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(runner.sys, "executable", str(tmp_path / "python"))
    assert runner.run_all([job_of(tmp_path / "cell-seed0", "")]) == 1
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.endswith("cell-seed0: No such file or directory")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "error: say what to do, one of train, table, check"),
        (("train",), "error: name a --table (1, 2, 3, ablation) or --cells to train"),
        (("train", "--table=2", "--seeds=0,x"), "error: --seeds 0,x: must be whole numbers"),
        (("train", "--table=2", "--seeds=²"), "error: --seeds ²: must be whole numbers"),
        (("table", "--table=2", f"--runs={__file__}"), f"error: --runs {__file__}: not a folder"),
        (("check", "--config.seed=1"), "error: --config.seed: set by the cells"),
    ],
)
def test_commands_fail_with_one_line(words, message):
    code, out, err = call("reproduce", *words)
    assert (code, out) == (2, "")
    assert err.startswith(message)
    assert len(err.splitlines()) == 1


def test_a_reader_that_has_enough_leaves_no_trace():
    process = start("reproduce", "table", "--table=1", "--runs=/nowhere")
    process.stdout.close()  # as `head` does
    err = process.stderr.read()
    process.stderr.close()
    assert (process.wait(timeout=240), err) == (141, "")
