"""Time to an error: pieces and what they cost, scores, the command, tables, records."""

import json
import subprocess
import sys
from types import SimpleNamespace

import pytest

from benchmarks import harness, records, roofline, time_to_error, timed_run
from benchmarks.timed_run import Spent, TimedRun
from landmarks_jax.configs import base
from landmarks_jax.evaluation import labelled_faces, protocols
from landmarks_jax.inference.detector import ViewDetector
from landmarks_jax.system.errors import ConfigError, UserError, WorkdirError
from landmarks_jax.training import checkpoints, run_folder
from landmarks_jax.training.state import trained_variables
from tests.benchmarking import HEAD
from tests.running import ROOT, TINY, finished_run, narrow, shared_compilation

RECORDS = ROOT / "docs" / "results" / "records.json"


@pytest.fixture(autouse=True)
def steady(monkeypatch):
    monkeypatch.setattr(harness, "matmul_peak", lambda dtype: 2e11)


@pytest.fixture(scope="module")
def faces():
    (opened,) = labelled_faces.open_protocols("synthetic", narrow())
    return opened


@pytest.mark.slow
def test_a_run_is_scored_after_each_piece(tmp_path, faces):
    config = narrow(**TINY, train__steps=7)
    with shared_compilation():
        timed = TimedRun(config, tmp_path / "run")
        assert timed.run(faces, every=3, until=0.0) == 0
        assert [line["steps"] for line in timed.lines] == [1, 2, 3, 6, 7]
        assert [line["error"] is None for line in timed.lines] == [True, True, False, False, False]
        for clock in ("seconds", "core_seconds", "trained_seconds"):
            times = [line[clock] for line in timed.lines]
            assert times == sorted(times)
            assert times[0] > 0
        assert timed.lines[-1]["macs"] is None  # the tiny detector is not counted
        # The same by the evaluation of runs.
        state = checkpoints.restore(tmp_path / "run", config).state
        detector = ViewDetector(config, trained_variables(state))
        result = protocols.evaluate(faces, {"running": detector}, counts=(), angles=())
        expected = result["results"]["running"]["forward"][-1]["mean"]
        assert timed.lines[-1]["error"] == pytest.approx(expected, abs=1e-4)

        again = TimedRun(config, tmp_path / "run")
        assert again.lines == timed.lines
        assert again.run(faces, every=3, until=0.0) == 0
        assert again.lines == timed.lines
        config.train.steps = 10
        longer = TimedRun(config, tmp_path / "run")
        longer.run(faces, every=3, until=1e9)  # reached before
        assert longer.lines == timed.lines
        longer.run(faces, every=3, until=0.0)
        assert [line["steps"] for line in longer.lines[5:]] == [8, 9, 10]
        assert longer.lines[6]["seconds"] == timed.lines[-1]["seconds"]  # starting again is free
        assert timed_run.read_lines(tmp_path / "run") == longer.lines


def test_what_cannot_be_timed_is_refused(tmp_path):
    run = finished_run(tmp_path / "run")
    with pytest.raises(WorkdirError, match="trained for 4 steps, of which 0 were timed"):
        TimedRun(narrow(), run)
    with pytest.raises(ConfigError, match=r"train\.steps = 0"):
        TimedRun(narrow(train__steps=0, train__minutes=1.0), tmp_path / "new")
    (run / timed_run.LOG).write_text('{"steps"}\n')
    with pytest.raises(WorkdirError, match=r"time_to_error\.jsonl: damaged"):
        TimedRun(narrow(), run)
    (run / timed_run.LOG).write_text('{"steps": 4}\n{"ste')
    assert TimedRun(narrow(), run).lines == [{"steps": 4}]


class Scripted(TimedRun):
    """A run whose training only counts: 10 s to start, 3 s to start again, half a second a step.

    Core-seconds are twice that. Its error is 100 over the steps.
    """

    def __init__(self, config, workdir, monkeypatch, stops_at=None):
        self.done, self._stops_at = 0, stops_at
        monkeypatch.setattr(run_folder, "newest_step", lambda _: self.done)
        monkeypatch.setattr(run_folder, "read_log", lambda _: [{"seconds": 0.5 * self.done}])
        workdir.mkdir(exist_ok=True)
        super().__init__(config, workdir)

    def _train(self, steps):
        start = 10.0 if self.done == 0 else 3.0
        stopped = self._stops_at is not None and steps >= self._stops_at
        steps, before = (self._stops_at if stopped else steps), self.done
        self.done = steps
        seconds = start + 0.5 * (steps - before)
        return Spent(seconds, 2 * seconds, 130 if stopped else 0)

    def _error(self, _):
        return 100 / self.done


def test_starting_again_does_not_count(tmp_path, monkeypatch):
    config = narrow(train__steps=1000)
    timed = Scripted(config, tmp_path / "run", monkeypatch)
    assert timed.run(None, every=10, until=2.0) == 0
    steps = [line["steps"] for line in timed.lines]
    assert steps == [1, 2, 10, 20, 30, 40, 50]
    seconds = [line["seconds"] for line in timed.lines]
    # The second step is that of the restart, which is not counted.
    assert seconds == pytest.approx([10.5, 10.5, 14.5, 19.5, 24.5, 29.5, 34.5])
    assert [line["core_seconds"] for line in timed.lines] == pytest.approx([2 * s for s in seconds])
    assert [line["matmul_tflop"] for line in timed.lines] == pytest.approx(
        [0.2 * s for s in seconds]
    )
    macs = roofline.macs_per_photo(config)
    assert [line["macs"] for line in timed.lines] == [8 * macs * step for step in steps]
    assert time_to_error.crossing(timed.lines, 4.0)["steps"] == 30
    assert time_to_error.crossing(timed.lines, 1.0) is None


def test_the_work_of_making_targets_counts(tmp_path, monkeypatch):
    config = narrow(objective__task="self_training", targets__steps=(0, 10), train__steps=20)
    config.targets.grid, config.model.num_landmarks, config.targets.weights = 2, 4, "a.npz"
    timed = Scripted(config, tmp_path / "run", monkeypatch)
    timed.run(None, every=10, until=0.0)
    steps, first, later = (
        8 * roofline.macs_per_photo(config),
        *(roofline.macs_of_targets(config, 64, later=later) for later in (False, True)),
    )
    expected = [steps + first, 2 * steps + first, 10 * steps + first, 20 * steps + first + later]
    assert [line["macs"] for line in timed.lines] == expected


def test_an_interrupted_piece_counts(tmp_path, monkeypatch):
    timed = Scripted(narrow(train__steps=1000), tmp_path / "run", monkeypatch, stops_at=14)
    assert timed.run(None, every=10, until=0.0) == 130
    assert [line["steps"] for line in timed.lines] == [1, 2, 10, 14]
    assert timed.lines[-1]["seconds"] == pytest.approx(10.5 + 4 + 2)


def test_pieces_lose_what_a_restart_takes():
    restart = Spent(3.5, 7.0)
    assert Spent(8.0, 16.0).without(restart, 10) == pytest.approx((5.0, 10.0, 0))
    assert Spent(3.0, 9.0, 130).without(restart, 1) == pytest.approx((0.0, 2.0, 130))


def test_a_step_of_self_training_is_the_detector_on_one_view():
    config = base.get_config()
    config.objective.task = "self_training"
    config.targets.network, config.targets.taps = "vgg16", ("relu2_1",)
    config.targets.view_size, config.targets.num_fit = 32, 300
    detector = sum(conv.macs for conv in roofline.detector_convs(config))
    stem = 49 * 3 * 64 * 64**2
    assert roofline.macs_per_photo(config) == 3 * detector - stem
    vgg = 9 * 32**2 * (3 * 64 + 64 * 64) + 9 * 16**2 * 64 * 128
    count = roofline.macs_of_targets(config, 1000, later=False)
    assert count == (1000 + 256) * vgg
    config.targets.mirror = True
    assert roofline.macs_of_targets(config, 1000, later=False) == (1000 + 150 + 150) * vgg
    later = roofline.macs_of_targets(config, 1000, later=True)
    assert later == (1000 + 150 + 150) * vgg + 8 * 1000 * detector
    assert roofline.macs_of_targets(config, 100, later=False) == 300 * vgg


def test_a_step_with_reconstruction_is_that_of_both_tasks():
    config = base.get_config()
    macs = {}
    for task in ("landmarks", "self_training", "self_training_reconstruction"):
        config.objective.task = task
        macs[task] = roofline.macs_per_photo(config)
    assert macs["self_training_reconstruction"] == macs["landmarks"] + macs["self_training"]


def line(steps, error, **fields):
    times = {"seconds": 6.0 * steps, "core_seconds": 12.0 * steps, "trained_seconds": 5.4 * steps}
    work = {"matmul_tflop": 600.0 * steps, "matmul_gflops": 100.0, "macs": 1e12 * steps}
    return {"steps": steps, "error": error, **times, **work, **fields}


RESULT = {
    **HEAD,
    "config": "best_cpu",
    "num_landmarks": 10,
    "protocol": "aflw-dev",
    "every": 250,
    "until": 0.0,
    "levels": [12.0, 7.0],
    "runs": [
        {"seed": 0, "lines": [line(1, None), line(10, 12.5), line(20, 11.9), line(30, 12.1)]},
        {"seed": 1, "lines": [line(1, None), line(10, 12.0, macs=None)]},
        {"seed": 2, "lines": []},
    ],
}


def test_the_table_has_the_first_crossings():
    lines = time_to_error.to_markdown(RESULT).splitlines()
    assert "| 12 | 0 | 11.90 | 20 | 4.0 | 2.0 | 1.8 | 12,000 | 20.0 |" in lines
    assert "| 12 | 1 | 12.00 | 10 | 2.0 | 1.0 | 0.9 | 6,000 | - |" in lines
    assert "| 7 | 0 | - | - | - | - | - | - | - |" in lines
    assert "| last | 0 | 12.10 | 30 | 6.0 | 3.0 | 2.7 | 18,000 | 30.0 |" in lines
    assert "| last | 2 | - | - | - | - | - | - | - |" in lines


def preset(folder):
    """A configuration file of a tiny run."""
    path = folder / "tiny.py"
    path.write_text(
        "from tests.running import TINY, narrow\n\n\ndef get_config():\n"
        "    return narrow(**TINY, train__steps=4)\n"
    )
    return path


@pytest.mark.slow
def test_the_command_trains_each_seed(tmp_path, monkeypatch, capsys):
    words = ["--config", str(preset(tmp_path)), "--config.model.num_landmarks=4", "--every", "2"]
    words += ["--workdir", str(tmp_path / "runs"), "--protocol", "synthetic", "--seeds", "3,4"]
    out = tmp_path / "out.json"
    monkeypatch.setattr(sys, "argv", ["time_to_error", *words, "--out", str(out)])
    started = []

    def run(command, env, **_):
        """Trains the child here; shared programs, as nothing is measured."""
        started.append((command[-2:], env["JAX_COMPILATION_CACHE_DIR"]))
        with monkeypatch.context() as patch, shared_compilation():
            patch.setattr(sys, "argv", command[2:])
            return SimpleNamespace(returncode=time_to_error.main())

    monkeypatch.setattr(subprocess, "run", run)
    assert time_to_error.main() == 0
    folders = [tmp_path / "runs" / f"tiny-{seed}" for seed in (3, 4)]
    assert started == [
        (["--seeds", seed], str(folder / "compilations"))
        for seed, folder in zip("34", folders, strict=True)
    ]
    for seed, folder in zip((3, 4), folders, strict=True):
        config = run_folder.read_config(folder)
        assert (config.seed, config.model.num_landmarks) == (seed, 4)
    result = json.loads(out.read_text())
    assert [run["seed"] for run in result["runs"]] == [3, 4]
    assert [[row["steps"] for row in run["lines"]] for run in result["runs"]] == [[1, 2, 4]] * 2
    assert out.with_suffix(".md").read_text() == time_to_error.to_markdown(result)
    assert "| last | 4 |" in capsys.readouterr().out

    monkeypatch.setattr(subprocess, "run", lambda *_, **__: SimpleNamespace(returncode=130))
    with pytest.raises(UserError, match=r"tiny-3: stopped \(exit code 130\); rerun to continue"):
        time_to_error.main()


def test_records_take_the_last_score_or_the_first_crossing(tmp_path, monkeypatch, capsys):
    result = RESULT | {"runs": RESULT["runs"][:2]}
    record = records.record_of(result, "a.json", "a change")
    assert record["errors"] == {"aflw-dev": [12.1, 12.0]}
    assert (record["core_minutes"], record["minutes"]) == ([6.0, 2.0], [3.0, 1.0])
    record = records.record_of(result, "a.json", "a change", 12.0)
    assert record["steps"] == [20, 10]
    with pytest.raises(UserError, match=r"a\.json: seed 0 has no score at or under 7"):
        records.record_of(result, "a.json", "a change", 7.0)
    with pytest.raises(UserError, match=r"seed 2 has no score$"):
        records.record_of(RESULT, "a.json", "a change")

    stored, added = tmp_path / "records.json", tmp_path / "a.json"
    stored.write_text(RECORDS.read_text())
    added.write_text(json.dumps(result))
    words = [str(stored), "--add", str(added), "--change", "a change"]
    monkeypatch.setattr(sys, "argv", ["records", *words])
    records.main()
    text = stored.with_suffix(".md").read_text()
    assert len(json.loads(stored.read_text())) == len(json.loads(RECORDS.read_text())) + 1
    cells = "| 12.05 (12.10, 12.00) | - | 4.0 (6.0, 2.0) | 2.0 (3.0, 1.0) | 0, 1 |"
    assert f"| a change | `best_cpu` | 10 {cells} `{added}` |" in text
    assert capsys.readouterr().out == text + "\n"


def test_the_stored_table_is_that_of_its_json():
    stored = json.loads(RECORDS.read_text())
    assert RECORDS.with_suffix(".md").read_text() == records.to_markdown(stored)
    assert stored[0]["core_minutes"] == [pytest.approx(2 * stored[0]["minutes"][0])]
