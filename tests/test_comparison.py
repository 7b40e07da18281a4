"""Comparisons of runs: folders with evaluations of known detectors, rows and remarks by hand."""

import csv
import io
import json
import re

import numpy as np
import pytest

from landmarks_jax.evaluation.breakdown import FIVE_POINTS
from landmarks_jax.evaluation.protocols import LabelledSet, Protocol
from landmarks_jax.evaluation.protocols import evaluate as score
from landmarks_jax.studies import comparison_tables, runs
from landmarks_jax.system.errors import WorkdirError
from landmarks_jax.training import run_folder
from tests.running import call, narrow

FACE = np.array([[-0.2, -0.2], [0.2, -0.2], [0, 0], [-0.15, 0.2], [0.15, 0.2]])


def faces(seed, count):
    rng = np.random.default_rng(seed)
    points = FACE + rng.normal(0, 0.1, (count, 1, 2)) + rng.normal(0, 0.02, (count, 5, 2))
    points[:, 2, 0] += rng.uniform(-0.2, 0.2, count)
    return LabelledSet(np.zeros((count, 8, 8, 3), np.uint8), points, f"faces-{seed}")


@pytest.fixture(scope="module")
def parts():
    return faces(1, 60), faces(2, 30)


def result_of(parts, noise, *, name="aflw-dev", crop="center", spread=1.0, names=FIVE_POINTS):
    """The result of a detector that finds the labels with some noise."""
    rng = np.random.default_rng(3)
    fit, scored = parts
    actual = {
        len(part.points): spread * (part.points + rng.normal(0, noise, part.points.shape))
        for part in parts
    }
    detectors = {
        "running": lambda views: actual[len(views)],
        "untrained": lambda views: np.tile(FACE, (len(views), 1, 1)),
    }
    protocol = Protocol(name, crop, fit, scored, point_names=names)
    return score(protocol, detectors, angles=(), counts=(1,))


def write_run(folder, *results, equivariance=5.0, steps=4, scored_at=4, photos="d", **fields):
    """A run's folder as training and evaluation leave it, without its checkpoints."""
    record = run_folder.Record(photos * 64, "", init={})
    run_folder.claim(folder, narrow(**fields), record)
    run_folder.write_log(folder, [{"step": step, "seconds": 30.0 * step} for step in (1, steps)])
    (folder / "evaluation").mkdir()
    for result in results:
        result["results"]["running"]["equivariance"] = {
            "error": equivariance, "compared": 9, "left_out": 0}  # fmt: skip
        result["provenance"] = {
            "command": f"landmarks-jax eval --workdir {folder} --fit=a.csv --score b.csv",
            "steps": scored_at,
            "training_minutes": 0.5 * scored_at,
            "trained_on": ["1 x H200", "2 processor cores (x86_64)"],
        }
        name = f"{result['protocol']}-{result['crop']}.json".replace(" ", "-")
        (folder / "evaluation" / name).write_text(json.dumps(result))
    return str(folder)


def compared(tmp_path, *folders):
    """The comparison's JSON and Markdown."""
    markdown = comparison_tables.compare_runs(folders, str(tmp_path / "out"))
    assert (tmp_path / "out" / "compare.md").read_text() == markdown
    return json.loads((tmp_path / "out" / "compare.json").read_text()), markdown


def test_rows_of_runs_seeds_and_controls(parts, tmp_path):
    results = [result_of(parts, noise) for noise in (0.03, 0.02, 0.04)]
    a = write_run(tmp_path / "a", results[0])
    b = write_run(tmp_path / "b", results[1], seed=1, scored_at=6, steps=6)
    c = write_run(tmp_path / "c", results[2], optimizer__ema_decay=0.9)
    comparison, markdown = compared(tmp_path, a, c, b)
    (table,) = comparison["tables"]
    assert (table["protocol"], table["crop"]) == ("aflw-dev", "center")
    kinds = [(row["kind"], row["name"]) for row in table["rows"]]
    assert kinds == [
        ("run", a),
        ("run", b),
        ("seeds", f"mean of {a}, {b}"),
        ("run", c),
        ("control", f"untrained detector: {a}, {b}"),
        ("control", f"untrained detector: {c}"),
        ("control", "mean shape"),
    ]
    rows = {row["name"]: row for row in table["rows"]}
    first, second = (r["results"]["running"] for r in results[:2])
    seeds = rows[f"mean of {a}, {b}"]
    assert seeds["seeds"] == [0, 1]
    forward = [first["forward"][-1]["mean"], second["forward"][-1]["mean"]]
    assert seeds["values"]["forward"] == forward
    assert seeds["values"]["backward"] == [r["backward"][-1]["mean"] for r in (first, second)]
    assert seeds["values"]["consistency"] == [r["consistency"]["rms"] for r in (first, second)]
    assert seeds["values"]["steps"] == [4, 6]
    assert seeds["values"]["minutes"] == [2, 3]
    assert seeds["hardware"] == ["1 x H200, then 2 processor cores (x86_64)"]
    yaw = results[2]["breakdown"][0]
    for group in yaw["groups"]:
        assert rows[c]["values"][group["name"]] == [group["forward"]["running"]]
        assert rows["mean shape"]["values"][group["name"]] == [group["forward"]["mean_shape"]]
    control = results[0]["results"]["mean_shape"]["forward"][-1]["mean"]
    assert rows["mean shape"]["values"]["forward"] == [control]
    still = results[0]["results"]["mean_shape"]["consistency"]["rms"]
    assert rows["mean shape"]["values"]["consistency"] == [still]
    assert "Consistency (% of eye distance): root mean square" in markdown
    assert rows["mean shape"]["runs"] == [a, c, b]

    low, high = sorted(forward)
    line = next(text for text in markdown.splitlines() if text.startswith(f"| {seeds['name']}"))
    assert f"| 3 | 0, 1 | {np.mean(forward):.2f} ({low:.2f} to {high:.2f}) |" in line
    assert "| 5 (4 to 6) | 2.5 (2.0 to 3.0) | 1 x H200, then 2 processor cores (x86_64) |" in line
    assert f"- `config.seed`: `0` ({a}, {c}); `1` ({b})" in markdown
    assert f"- `config.optimizer.ema_decay`: `0.0` ({a}, {b}); `0.9` ({c})" in markdown
    assert [entry["field"] for entry in comparison["differences"]] == [
        "config.optimizer.ema_decay", "config.seed"]  # fmt: skip
    assert table["remarks"] == [f"Of one seed: {c}. A difference needs two seeds at least."]

    text = (tmp_path / "out" / "compare.csv").read_text()
    read = {line["row"]: line for line in csv.DictReader(io.StringIO(text))}
    assert float(read[seeds["name"]]["forward"]) == pytest.approx(np.mean(forward), abs=1e-4)
    assert float(read[seeds["name"]]["forward_low"]) == low
    assert float(read[seeds["name"]]["forward_high"]) == high
    assert read["mean shape"]["num_landmarks"] == ""
    assert len(read) == 7


def test_what_is_not_scored_names_its_command(parts, tmp_path):
    a = write_run(
        tmp_path / "a",
        result_of(parts, 0.03),
        result_of(parts, 0.03, crop="box"),
        result_of(parts, 0.03, name="mine to yours", crop="tight", names=()),
    )
    b = write_run(tmp_path / "b b", result_of(parts, 0.03), seed=1)
    comparison, markdown = compared(tmp_path, a, b)
    assert [(table["protocol"], table["crop"]) for table in comparison["tables"]] == [
        ("aflw-dev", "center"), ("aflw-dev", "box"), ("mine to yours", "tight")]  # fmt: skip
    box, own = ({row["name"]: row for row in t["rows"]} for t in comparison["tables"][1:])
    assert box[b]["command"] == f"landmarks-jax eval --workdir '{b}' --protocol aflw-dev"
    assert own[b]["command"] == f"landmarks-jax eval --workdir '{b}' --fit=a.csv --score b.csv"
    assert box[b]["values"] == {"steps": [4], "minutes": [2.0]}
    assert f"| {b} | 3 | 1 | not scored: `{box[b]['command']}` | - |" in markdown
    assert not [row for row in box if row.startswith("mean of")]
    # Poses are of five named points alone, and nothing is said where they are not.
    assert "frontal" not in comparison["tables"][2]["quantities"]
    assert not any("yaw" in remark for remark in comparison["tables"][2]["remarks"])


def test_remarks_on_points_that_collapse_or_wander(parts, tmp_path):
    usual = [
        write_run(tmp_path / f"usual{i}", result_of(parts, 0.04), equivariance=4.0 + i, seed=i)
        for i in range(2)
    ]
    # Backward errors shrink with the points, forward errors do not.
    small = write_run(tmp_path / "small", result_of(parts, 0.04, spread=0.2), seed=2)
    wanders = result_of(parts, 0.02)
    wanders = write_run(tmp_path / "wanders", wanders, equivariance=6.3, seed=3)
    fine = write_run(tmp_path / "fine", result_of(parts, 0.01), equivariance=6.2, seed=4)
    comparison, _ = compared(tmp_path, *usual, small, wanders, fine)
    remarks = comparison["tables"][0]["remarks"]
    assert len(remarks) == 2
    assert remarks[0].startswith(f"{small}: its landmarks collapse; spread ")
    # Those that they beat have 4, 5 and 5, and 6.3: a quarter above the median is 6.25.
    assert not any(remark.startswith(f"{fine}:") for remark in remarks)
    assert remarks[1].startswith(f"{wanders}: wins forward and loses on equivariance; 6.30")
    assert "(5.00)" in remarks[1]


def test_remarks_on_controls_steps_and_crops(parts, tmp_path):
    other = result_of(parts, 0.03)
    for scores in other["results"].values():
        scores.pop("consistency", None)
    a = write_run(tmp_path / "a", other, steps=9)
    b = write_run(
        tmp_path / "b",
        result_of(parts, 30.0),
        data__crop="box",
        views__scale_std=0.0,
        views__shift_std=0.0,
    )
    c = write_run(tmp_path / "c", result_of(parts, 0.04), seed=1)
    comparison, markdown = compared(tmp_path, a, b, c)
    remarks = "\n".join(comparison["tables"][0]["remarks"])
    assert f"{a}: scored at step 4, its log ends at step 9." in remarks
    assert f"{b}: trained on box crops, which are made from annotations." in remarks
    for control in ("untrained detector", "mean shape"):
        assert re.search(
            f"{b}: forward [0-9.]+ is no better than its control, the {control}", remarks
        )
        assert not re.search(f"{a}: forward .* {control}", remarks)
    (mean,) = [row for row in comparison["tables"][0]["rows"] if row["kind"] == "seeds"]
    assert "forward" in mean["values"]
    assert "consistency" not in mean["values"]  # only one of the two runs has it
    shape = comparison["tables"][0]["rows"][-1]
    assert shape["runs"] == [a, b, c]
    assert "large yaw" in shape["values"]
    assert "not scored on the same faces" not in markdown


def test_runs_scored_on_other_faces_have_their_own_mean_shape(parts, tmp_path):
    a = write_run(tmp_path / "a", result_of(parts, 0.03))
    b = write_run(tmp_path / "b", result_of((parts[0], faces(5, 40)), 0.03))
    comparison, markdown = compared(tmp_path, a, b)
    assert "not scored on the same faces: their errors are not comparable" in markdown
    names = [row["name"] for row in comparison["tables"][0]["rows"]]
    assert names[-2:] == [f"mean shape: {a}", f"mean shape: {b}"]
    # The same seed twice makes no mean over seeds.
    assert not [name for name in names if name.startswith("mean of")]
    assert comparison["differences"] == []
    assert "Only lengths, intervals and paths." in markdown


def test_runs_of_other_lengths_or_photos_have_no_common_mean(parts, tmp_path):
    result = result_of(parts, 0.03)
    a = write_run(tmp_path / "a", result)
    b = write_run(tmp_path / "b", result, seed=1, train__steps=5)
    c = write_run(tmp_path / "c", result, seed=2, photos="e")
    d = write_run(tmp_path / "d", result, seed=3)
    comparison, markdown = compared(tmp_path, a, b, c, d)
    seeds = [row["runs"] for row in comparison["tables"][0]["rows"] if row["kind"] == "seeds"]
    assert seeds == [[a, d]]
    assert f"- `run.json: data_digest`: `dddddddddddd` ({a}, {b}, {d}); `eeeeeeeeeeee` ({c})" in (
        markdown
    )


def test_folders_that_cannot_be_compared_are_named(parts, tmp_path):
    a = write_run(tmp_path / "a", result_of(parts, 0.03))
    bare = write_run(tmp_path / "bare")
    damaged = write_run(tmp_path / "damaged", result_of(parts, 0.03))
    path = tmp_path / "damaged" / "evaluation" / "aflw-dev-center.json"
    (tmp_path / "empty").mkdir()
    refused = [
        ([a, str(tmp_path / "empty")], rf"{tmp_path}/empty: not a run, .* config\.json"),
        ([a, "/nowhere"], "/nowhere: not a run"),
        ([a, f"{a}/"], f"{a}/: named twice"),
        ([bare], rf"{bare}: not scored yet; .*landmarks-jax eval --workdir {bare}"),
    ]
    for folders, message in refused:
        with pytest.raises(WorkdirError, match=message):
            comparison_tables.compare_runs(folders)
    unnamed = json.dumps({"format": 1, "results": {"running": {"forward": [1]}}})
    for text in ("{", "[]", '{"format": 2, "results": {"running": {}}}', "[" * 10**5, unnamed):
        path.write_text(text)
        with pytest.raises(WorkdirError, match=re.escape(str(path))):
            comparison_tables.compare_runs([a, damaged])
    (tmp_path / "damaged" / "run.json").unlink()
    with pytest.raises(WorkdirError, match=r"damaged/run\.json: cannot be read"):
        comparison_tables.compare_runs([damaged])
    (tmp_path / "damaged" / "config.json").write_text('{"seed": 0}')
    with pytest.raises(WorkdirError, match=r"damaged/config\.json: config\..* is missing"):
        comparison_tables.compare_runs([damaged])
    with pytest.raises(WorkdirError, match=r"a/config\.json/compare\.md: cannot be written"):
        comparison_tables.compare_runs([a], f"{a}/config.json")


def test_the_command_prints_tables_and_fails_with_one_line(parts, tmp_path):
    a = write_run(tmp_path / "a", result_of(parts, 0.03))
    code, out, err = call("compare", a, f"--out={tmp_path / 'out'}")
    assert code == 0, err
    assert out.strip() == (tmp_path / "out" / "compare.md").read_text().strip()
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "compare.csv", "compare.json", "compare.md"]  # fmt: skip
    for arguments, part in (
        ([a, "/nowhere"], "error: /nowhere: not a run"),
        ([], "error: give the folders"),
    ):
        code, out, err = call("compare", *arguments)
        assert code == 2
        assert out == ""
        assert err.startswith(part)
        assert len(err.splitlines()) == 1


def test_faces_of_a_result_without_a_command_are_not_known():
    run = runs.Run("runs/a", narrow(), {}, 1, 1.0, {})
    scored = [{"provenance": {"command": ""}}]
    assert runs.scoring_command(run, ("own", "center"), scored) == (
        "landmarks-jax eval --workdir runs/a --fit FACES --score FACES --crop center"
    )
