"""Cells of the tables: what they change, as fields and as flags, and how far their runs are."""

import importlib
import json
import re

import pytest
from absl import flags
from ml_collections import config_flags

from landmarks_jax import config as configuration
from landmarks_jax.configs import mpii_pretrain, paper
from landmarks_jax.evaluation import labelled_faces
from landmarks_jax.studies import paper_cells, runner
from landmarks_jax.studies.paper_cells import (
    CELLS,
    TABLES,
    Base,
    as_flags,
    cells_of,
    changes,
    config_of,
    folder_of,
)
from landmarks_jax.system.errors import ConfigError, WorkdirError
from landmarks_jax.training import limits
from tests.cell_runs import base_of, result_of, write_run
from tests.running import ROOT

KEYS = [("aflw-995", "center"), ("aflw-995", "box")]


@pytest.mark.parametrize(
    ("cell", "given"),
    [
        ("baseline-k10", ["objective.composition=baseline"]),
        ("inter-k10", ["objective.composition=inter"]),
        ("cycle-k10", ["objective.composition=cycle"]),
        ("all-k10", []),
        ("all-k30", ["model.num_landmarks=30"]),
        ("all-k50", ["model.num_landmarks=50"]),
        ("pixel-only-k10", ["perceptual.weights="]),
        ("perceptual-only-k10", ["objective.pixel_weight=0.0"]),
        (
            "vgg19-k10",
            [
                "perceptual.network=vgg19",
                "perceptual.taps=('relu1_2', 'relu2_2', 'relu3_4', 'relu4_4')",
                "perceptual.weights=data/weights/vgg19.npz",
            ],
        ),
    ],
)
def test_cells_are_the_papers_and_their_flags_make_their_configuration(cell, given):
    base = base_of()
    fields = changes(CELLS[cell], base, 3)
    assert as_flags(fields) == [f"--config.{text}" for text in (*given, "seed=3")]
    values = flags.FlagValues()
    argv = ["train.py", *as_flags(fields)]
    config = paper.get_config()
    config_flags.DEFINE_config_dict("config", config, flag_values=values, sys_argv=argv)
    values(argv)
    expected = config_of(CELLS[cell], base, 3)
    assert configuration.to_json(values.config) == configuration.to_json(expected)
    assert base.config.seed == 0  # the base stays as it is


def test_every_cell_is_in_a_table_and_every_preset_has_all_of_them():
    assert {name for table in ("1", "2", "3") for name in TABLES[table]} == set(CELLS)
    assert set(TABLES["ablation"]) <= set(CELLS)
    for name in ("paper", "released", "best", "best_cpu", "faces", "faces_cpu"):
        base = base_of(importlib.import_module(f"landmarks_jax.configs.{name}").get_config())
        actual = [configuration.to_json(config_of(cell, base, 0)) for cell in CELLS.values()]
        assert len(set(actual)) == len(CELLS)


def test_a_base_of_fewer_taps_and_another_loss():
    config = paper.get_config()
    # What the file of a base says of the cells' own fields is no override, and changes nothing.
    config.objective.composition, config.objective.gradient_weight = "baseline", 20.0
    config.perceptual.taps = ("relu1_2", "relu3_3")
    base = Base("configs/paper.py", config, {}, "elsewhere/vgg19.npz")
    vgg19 = config_of(CELLS["vgg19-k10"], base, 0)
    assert vgg19.perceptual.taps == ("relu1_2", "relu3_4")
    assert vgg19.perceptual.weights == "elsewhere/vgg19.npz"
    assert vgg19.objective.composition == "all"
    alone = config_of(CELLS["perceptual-only-k10"], base, 0).objective
    assert (alone.pixel_weight, alone.gradient_weight) == (0, 0)


def test_what_cannot_work_is_refused():
    for field in ("seed", "model__num_landmarks", "objective__composition"):
        value = 5 if field != "objective__composition" else "cycle"
        with pytest.raises(
            ConfigError, match=rf"--config\.{field.replace('__', '.')}: set by the cells"
        ):
            base_of(**{field: value})
    with pytest.raises(ConfigError, match="must be 'vgg16' in a base"):
        base_of(perceptual__network="vgg19")
    bare = base_of(perceptual__weights="")
    for cell in ("vgg19-k10", "pixel-only-k10", "perceptual-only-k10"):
        with pytest.raises(ConfigError, match=f"perceptual.weights = '': the cell {cell} needs"):
            changes(CELLS[cell], bare, 0)
    config_of(CELLS["inter-k10"], bare, 0)
    with pytest.raises(ConfigError, match=r"all-k10: config\.train\.batch_size = 0"):
        config_of(CELLS["all-k10"], base_of(train__batch_size=0), 0)
    with pytest.raises(ConfigError, match="--table 4: must be one of 1, 2, 3, ablation"):
        cells_of(("4",), ())
    with pytest.raises(ConfigError, match="--cells all: must be some of baseline-k10, "):
        cells_of((), ("all",))
    both = cells_of(("2", "3"), ("baseline-k10", "all-k10"))
    assert [cell.name for cell in both] == [*("all-k10", "vgg19-k10", "pixel-only-k10"),
                                            *("perceptual-only-k10", "baseline-k10")]  # fmt: skip


def test_protocols_have_their_crops():
    assert paper_cells.keys_of(("mafl", "synthetic")) == [
        ("mafl", "center"), ("mafl", "box"), ("synthetic", "center")]  # fmt: skip
    config = base_of(eval__num_fit=2, eval__num_score=2).config
    opened = labelled_faces.open_protocols("synthetic", config)
    assert tuple(part.crop for part in opened) == labelled_faces.crops_of("synthetic")
    with pytest.raises(ConfigError, match="--protocol 'lfw'"):
        paper_cells.keys_of(("lfw",))


def test_folders_of_plain_trainings_are_recognised(tmp_path):
    base = base_of(train__steps=4)
    assert folder_of(CELLS["all-k10"], 1, "runs/x").as_posix() == "runs/x/all-k10-seed1"
    config = config_of(CELLS["all-k10"], base, 0)
    assert paper_cells.open_run(tmp_path / "all-k10-seed0", config) is None
    write_run(tmp_path, "all-k10", base)
    # Another length and another place of the same weights are the same run.
    other = base_of(train__steps=9, perceptual__weights="elsewhere.npz")
    for again in (base, other):
        run = paper_cells.open_run(
            tmp_path / "all-k10-seed0", config_of(CELLS["all-k10"], again, 0)
        )
        assert run is not None
    changed = base_of(optimizer__learning_rate=1e-4)
    with pytest.raises(
        WorkdirError,
        match=r"all-k10-seed0/config.json: the run has config.optimizer.learning_rate = 0.001, "
        "the cell needs 0.0001",
    ):
        paper_cells.open_run(tmp_path / "all-k10-seed0", config_of(CELLS["all-k10"], changed, 0))


def test_a_run_without_perceptual_loss_is_no_run_with_one(tmp_path):
    base = base_of()
    pixel = write_run(tmp_path, "pixel-only-k10", base)
    whole = write_run(tmp_path, "all-k10", base)
    configs = [config_of(CELLS[name], base, 0) for name in ("all-k10", "pixel-only-k10")]
    for folder, config in zip((pixel, whole), configs, strict=True):
        # The field is a path, which may differ otherwise.
        assert not list(configuration.differences(configs[0], configs[1]))
        with pytest.raises(WorkdirError, match=re.escape("config.perceptual.weights = ")):
            paper_cells.open_run(folder, config)


def test_a_run_is_trained_once_its_last_checkpoint_is_there(tmp_path):
    base = base_of(train__steps=400)
    config = config_of(CELLS["all-k10"], base, 0)

    def state(seed, **written):
        folder = write_run(tmp_path, "all-k10", base, seed=seed, **written)
        own = config_of(CELLS["all-k10"], base, seed)
        return paper_cells.is_trained(paper_cells.open_run(folder, own), folder, own)

    assert state(0)
    assert not state(1, steps=399)
    assert not state(2, saved=200)  # killed between the log's last line and the checkpoint
    for steps, minutes in ((400, 0.0), (0, 5.0), (9, 5.0), (400, 99.0)):
        config.train.steps, config.train.minutes = steps, minutes
        for step, seconds in ((399, 299.0), (400, 300.0), (8, 300.0), (10, 1.0)):
            result = {"provenance": {"steps": step, "training_minutes": round(seconds / 60, 2)}}
            run = paper_cells.Run("", config, ("", ""), step, 0.0, {KEYS[0]: result})
            done = limits.is_done(config, step, seconds)
            assert paper_cells.is_scored(run, KEYS[0], config) == done, (
                steps,
                minutes,
                step,
                seconds,
            )


def test_what_a_run_lacks_is_said(tmp_path):
    base = base_of(train__steps=400)
    config = config_of(CELLS["all-k10"], base, 0)
    assert paper_cells.why_missing(None, KEYS, config) == "not trained"
    center, box = (result_of(key, (30, 20, 10), steps=400) for key in KEYS)
    older = result_of(KEYS[1], (30, 20, 10), steps=300)
    for seed, (written, steps, why) in enumerate(
        (
            ((center, box), 400, ""),
            ((center,), 400, "not scored under aflw-995 (box)"),
            ((center, older), 400, "not scored under aflw-995 (box)"),
            ((), 40, "trained for 40 steps (0.4 minutes) of 400 steps"),
        )
    ):
        folder = write_run(tmp_path, "all-k10", base, *written, seed=seed, steps=steps)
        own = config_of(CELLS["all-k10"], base, seed)
        assert paper_cells.why_missing(paper_cells.open_run(folder, own), KEYS, own) == why


def test_a_plan_names_the_commands_that_are_left(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    base = base_of(train__steps=400)
    runs = str(tmp_path / "my runs")
    center, box = (result_of(key, (30, 20, 10), steps=400) for key in KEYS)
    write_run(runs, "inter-k10", base, center, box)
    write_run(runs, "cycle-k10", base, center)
    shorter = [result_of(key, (30, 20, 10), steps=100) for key in KEYS]
    write_run(runs, "all-k30", base, *shorter, steps=100)
    names = ("inter-k10", "cycle-k10", "all-k30", "pixel-only-k10")
    jobs = runner.jobs_of(cells_of((), names), base, runs, seeds=(0, 1), protocols=("aflw-995",))
    assert [job.folder.name for job in jobs[:5]] == [f"{n}-seed0" for n in names] + [
        "inter-k10-seed1"]  # fmt: skip
    lines = runner.plan(jobs[:4]).splitlines()
    start = "  landmarks-jax train --config configs/paper.py --workdir"
    score = "  landmarks-jax eval --workdir"
    assert lines == [
        f"{runs}/inter-k10-seed0: finished",
        f"{runs}/cycle-k10-seed0: to do",
        f"{score} '{runs}/cycle-k10-seed0' --protocol aflw-995",
        f"{runs}/all-k30-seed0: to do",
        f"{start} '{runs}/all-k30-seed0' --config.train.steps=400"
        " --config.model.num_landmarks=30 --config.seed=0",
        f"{score} '{runs}/all-k30-seed0' --protocol aflw-995",
        f"{runs}/pixel-only-k10-seed0: to do",
        f"{start} '{runs}/pixel-only-k10-seed0' --config.train.steps=400"
        " --config.perceptual.weights= --config.seed=0",
        f"{score} '{runs}/pixel-only-k10-seed0' --protocol aflw-995",
        "3 of 4 runs to do",
    ]
    changed = base_of(train__steps=400, model__beta=5.0)
    jobs = runner.jobs_of(cells_of((), names), changed, runs, seeds=(0,), protocols=("aflw-995",))
    with pytest.raises(WorkdirError, match=r"config\.model\.beta = 10\.0, the cell needs 5\.0"):
        runner.plan(jobs)
    with pytest.raises(ConfigError, match="name a --protocol"):
        runner.jobs_of(cells_of((), names), base, runs, seeds=(0,), protocols=())
    (tmp_path / "my runs" / "inter-k10-seed0" / "run.json").write_text("{")
    with pytest.raises(WorkdirError, match=r"run\.json: cannot be read"):
        runner.plan(jobs)
    assert json.loads((tmp_path / "my runs" / "cycle-k10-seed0" / "run.json").read_text())


def test_bases_that_no_cell_can_be_made_of():
    with pytest.raises(ConfigError, match=r"config\.objective\.task = 'pose': the tables' cells"):
        base_of(mpii_pretrain.get_config())
    # What train.py would refuse is refused before the first training, and by the dry run.
    with pytest.raises(ConfigError, match=r"all-k10: config\.views\.scale_std = 0\.05: must be"):
        config_of(CELLS["all-k10"], base_of(data__crop="box"), 0)
