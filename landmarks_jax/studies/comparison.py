"""Compares runs: rows of runs, means over seeds and controls under one protocol and crop.

A comparison is plain JSON, the source of its table and CSV:

    format          1
    runs            [{"name", "seed", "num_landmarks", "steps", "minutes"}]
    tables          one for each protocol and crop that any run was scored under:
      protocol, crop
      quantities    names of the measured quantities, as in the rows' "values"
      rows          [{"kind": "run" | "seeds" | "control", "name", "runs": names,
                    "num_landmarks" (None: looks at no photo), "seeds", "hardware": texts,
                    "values": quantity -> one number a run; missing where a run has none,
                    "command": that scores the run, "" where it is scored}]
      remarks       sentences
      notes         sentences
    differences     of `runs.differences`

Numbers are of each run's headline detector, with all labels.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from landmarks_jax.evaluation.breakdown import BY_YAW
from landmarks_jax.evaluation.score_tables import Result
from landmarks_jax.evaluation.scores import METRICS
from landmarks_jax.studies import remarks
from landmarks_jax.studies.runs import Key, Run, differences, scoring_command, seed_groups

Row = dict[str, Any]

# Mean shapes that differ by less, in per cent of the eye distance, are of the same faces.
_SAME_FACES = 0.05


def compare(runs: Sequence[Run]) -> dict[str, Any]:
    """Compares runs; the module's docstring has the structure."""
    keys = {key for run in runs for key in run.results}
    return {
        "format": 1,
        "runs": [
            {
                "name": run.name,
                "seed": run.config.seed,
                "num_landmarks": run.config.model.num_landmarks,
                "steps": run.steps,
                "minutes": run.minutes,
            }
            for run in runs
        ],
        "tables": [
            # The center crop first, as in every table.
            _table(key, runs)
            for key in sorted(keys, key=lambda k: (k[0], k[1] != "center", k[1]))
        ],
        "differences": differences(runs),
    }


def _table(key: Key, runs: Sequence[Run]) -> dict[str, Any]:
    rows: list[Row] = []
    untrained: list[Row] = []
    for group in seed_groups(runs):
        scored = [run for run in group if key in run.results]
        rows += [_run_row(run, key, runs) for run in group]
        if len({run.config.seed for run in scored}) > 1:
            values = [_measured(run.results[key]) for run in scored]
            name = f"mean of {', '.join(run.name for run in scored)}"
            rows.append(_row("seeds", name, scored, key, values))
        with_control = [run for run in scored if "untrained" in run.results[key]["results"]]
        if with_control:
            values = [scores_of(run.results[key], "untrained") for run in with_control]
            name = f"untrained detector: {', '.join(run.name for run in with_control)}"
            untrained.append(_row("control", name, with_control, key, values))
    results = {run.name: run.results[key] for run in runs if key in run.results}
    shapes = _mean_shapes(results)
    names = (*METRICS, *BY_YAW.names)
    quantities = [name for name in names if any(name in row["values"] for row in rows)]
    return {
        "protocol": key[0],
        "crop": key[1],
        "quantities": [*quantities, "steps", "minutes"],
        "rows": [*rows, *untrained, *shapes],
        "remarks": remarks.remarks(rows, untrained, shapes, runs, results),
        "notes": _notes(results),
    }


def _run_row(run: Run, key: Key, runs: Sequence[Run]) -> Row:
    """A run's row; for a run not scored under the protocol, with the command that scores it."""
    if key in run.results:
        return _row("run", run.name, [run], key, [_measured(run.results[key])])
    lengths = _known({"steps": run.steps, "minutes": run.minutes})
    scored = [other.results[key] for other in runs if key in other.results]
    command = scoring_command(run, key, scored)
    return _row("run", run.name, [run], key, [lengths]) | {"command": command}


def _row(
    kind: str,
    name: str,
    runs: Sequence[Run],
    key: Key,
    values: Sequence[Mapping[str, float]],
) -> Row:
    # A mean over only some of the runs would be misleading.
    quantities = [q for q in values[0] if all(q in run for run in values)]
    hardware = [trained_on(run.results[key]) for run in runs if key in run.results]
    return {
        "kind": kind,
        "name": name,
        "runs": [run.name for run in runs],
        "num_landmarks": runs[0].config.model.num_landmarks,
        "seeds": [run.config.seed for run in runs],
        "hardware": [] if kind == "control" else list(dict.fromkeys(filter(None, hardware))),
        "values": {q: [run[q] for run in values] for q in quantities},
        "command": "",
    }


def _measured(result: Result) -> dict[str, float]:
    """The headline detector's numbers, and how long it was trained."""
    provenance = result["provenance"]
    lengths = {"steps": provenance["steps"], "minutes": provenance["training_minutes"]}
    return scores_of(result, next(iter(result["results"]))) | lengths


def scores_of(result: Result, row: str) -> dict[str, float]:
    """The numbers of one row of a result: of every metric that tables show, and by yaw."""
    scores = result["results"][row]
    numbers = {name: metric.of(scores) for name, metric in METRICS.items() if metric.column}
    for grouping in result["breakdown"]:
        if grouping["by"] == BY_YAW.by:
            numbers |= {group["name"]: group["forward"].get(row) for group in grouping["groups"]}
    return _known(numbers)


def _known(values: Mapping[str, float | None]) -> dict[str, float]:
    return {name: value for name, value in values.items() if value is not None}


def _mean_shapes(results: Mapping[str, Result]) -> list[Row]:
    """The mean shape's row; one for each set of faces, if runs were scored on different ones."""
    rows: list[Row] = []
    for name, result in results.items():
        numbers = scores_of(result, "mean_shape")
        for row in rows:
            if abs(row["values"]["forward"][0] - numbers["forward"]) < _SAME_FACES:
                row["runs"].append(name)
                break
        else:
            rows.append(
                {
                    "kind": "control",
                    "name": "mean shape",
                    "runs": [name],
                    "num_landmarks": None,
                    "seeds": [],
                    "hardware": [],
                    "values": {quantity: [value] for quantity, value in numbers.items()},
                    "command": "",
                }
            )
    if len(rows) > 1:
        for row in rows:
            row["name"] = f"mean shape: {', '.join(row['runs'])}"
    return rows


def trained_on(result: Result) -> str:
    """The hardware that the detector of a result was trained on."""
    return ", then ".join(result["provenance"]["trained_on"])


def _notes(results: Mapping[str, Result]) -> list[str]:
    """The results' own notes, each once, with the names of its runs."""
    runs: dict[str, list[str]] = {}
    for name, result in results.items():
        for note in result["notes"]:
            runs.setdefault(note, []).append(name)
    return [f"{', '.join(names)}: {note}" for note, names in runs.items()]
