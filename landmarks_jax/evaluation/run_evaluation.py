"""Evaluation of a run: its newest checkpoint, scored under protocols, written as files.

Everything a table or a picture shows is in the JSON files; tables are made from them alone.
"""

import functools
import json
import platform
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import flax
import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

import landmarks_jax
from landmarks_jax import keypoints
from landmarks_jax.evaluation import labelled_faces, pckh, plots, protocols, score_tables
from landmarks_jax.evaluation.protocols import Protocol
from landmarks_jax.inference.detector import STATISTICS_BATCH, ViewDetector
from landmarks_jax.system import figures, files
from landmarks_jax.system.errors import ConfigError, WorkdirError
from landmarks_jax.tasks import task_of
from landmarks_jax.training import checkpoints, run_folder, sharding
from landmarks_jax.training import state as states
from landmarks_jax.training.checkpoints import restore
from landmarks_jax.training.state import TrainState, trained_variables

FOLDER = run_folder.EVALUATION


def detectors_of(config: ConfigDict, state: TrainState) -> dict[str, ViewDetector]:
    """The run's detector under both kinds of batch norm, and one of the same shape as drawn."""
    trained = trained_variables(state)
    mesh = sharding.make_mesh(jax.local_devices()[:1])
    start = states.start_state(config, task_of(config).build_networks(config), mesh)
    # Of a run that started from a core too: without that core.
    untrained = trained_variables(start)
    return {
        "running": ViewDetector(config, trained),
        "batch": ViewDetector(config, trained, use_running_average=False),
        # Its running statistics have seen nothing; the batch's give it its best chance.
        "untrained": ViewDetector(config, untrained, use_running_average=False),
    }


def need_landmarks(workdir: Path, config: ConfigDict, wanted: str) -> None:
    """Refuses a run on joints, whose maps are not read by a soft-argmax.

    Args:
      workdir: the run's folder.
      config: its configuration.
      wanted: what was to be done with it, such as "packed".

    Raises:
      WorkdirError: it is one.
    """
    if config.objective.task != "landmarks":
        raise WorkdirError(
            f"{workdir}: is a run on joints and cannot be {wanted}; `landmarks-jax eval` scores "
            "it, and config.init.core names it to start runs on landmarks"
        )


def evaluate_run(
    workdir: Path,
    *,
    protocol_names: Sequence[str] | None = None,
    fit: str | None = None,
    score: str | None = None,
    crops: Sequence[str] = (),
    command: Sequence[str] = (),
    **places: Any,
) -> str:
    """Scores a run and writes `evaluation/` in its folder.

    For each protocol `NAME-CROP.json`, `.csv`, `-curve.png`, `-faces.png` and `-worst.png`,
    the faces with the largest errors; for all of them `table.md`. Of a run on joints `mpii.json`,
    `mpii.csv`, `mpii-people.png` and `table.md`.

    Args:
      workdir: the run's folder.
      protocol_names: of `labelled.PROTOCOLS`; None takes those of the run's configuration.
      fit: labelled faces that fit the regressor, instead of a named protocol.
      score: labelled faces that are scored; goes with `fit`.
      crops: with `fit` and `score`; none is the crop that the run was trained with.
      command: the command line that asked for this, for the record.
      **places: fields of `config.eval`, such as the folder `aflw`; None takes the run's.

    Returns:
      The tables, as Markdown.

    Raises:
      UserError: the run or the labelled faces cannot be used.
    """
    config = run_folder.read_config(workdir)
    if config.objective.task == "pose":
        if fit or score or crops:
            raise ConfigError(f"{workdir}: is a run on joints, which --protocol mpii alone scores")
        return _evaluate_pose(workdir, _at(config, places), protocol_names, command)
    opened = open_faces(config, protocol_names, fit=fit, score=score, crops=crops, **places)
    restored = restore(workdir, config)
    detectors = detectors_of(config, restored.state)
    notes = [task_of(config).describe(config), *run_folder.read_record(workdir).all_notes()]
    out = workdir / FOLDER
    results = []
    for protocol in opened:
        result = protocols.evaluate(protocol, detectors, notes=notes)
        result["provenance"] = _provenance_of(workdir, restored, command)
        results.append(result)
    markdown = score_tables.to_markdown(results)
    try:
        out.mkdir(exist_ok=True)
        names = [f"{part.name}-{part.crop}".replace(" ", "-") for part in opened]
        for name, protocol, result in zip(names, opened, results, strict=True):
            _write(out, name, protocol, result)
        (out / "table.md").write_text(markdown)
        # Last and in one move each: where the JSON is, all of it is.
        for name, result in zip(names, results, strict=True):
            _write_json(out, name, result)
    except OSError as error:
        raise WorkdirError(f"{out}: cannot be written ({error})") from error
    return markdown


def _evaluate_pose(
    workdir: Path, config: ConfigDict, names: Sequence[str] | None, command: Sequence[str]
) -> str:
    """Scores a run on joints; `mpii.json`, `.csv`, `-people.png` and `table.md`."""
    people = open_people(workdir, config, names)
    restored = restore(workdir, config)
    detectors = {
        name: functools.partial(_joints, detector)
        for name, detector in detectors_of(config, restored.state).items()
    }
    result = pckh.evaluate(people, detectors, notes=run_folder.read_record(workdir).all_notes())
    result["provenance"] = _provenance_of(workdir, restored, command)
    markdown, out = pckh.to_markdown(result), workdir / FOLDER
    shown = result["examples"]
    page = figures.landmark_page(
        people.views[shown["rows"]],
        np.array(shown["found"]),
        labels=np.array(shown["joints"], float),
        title=f"{people.name}: joints found, and labelled",
    )
    try:
        out.mkdir(exist_ok=True)
        (out / f"{pckh.PROTOCOL}.csv").write_text(pckh.to_csv(result))
        (out / "table.md").write_text(markdown)
        figures.save(page, out / f"{pckh.PROTOCOL}-people.png")
        _write_json(out, pckh.PROTOCOL, result)
    except OSError as error:
        raise WorkdirError(f"{out}: cannot be written ({error})") from error
    return markdown


def open_people(
    workdir: Path, config: ConfigDict, names: Sequence[str] | None = None
) -> pckh.LabelledPeople:
    """Reads the people that a run on joints is scored on.

    Raises:
      ConfigError: another protocol was asked for.
      DataError: the data is missing or malformed.
    """
    names = names or config.eval.protocols
    if set(names) != {pckh.PROTOCOL}:
        raise ConfigError(
            f"--protocol {', '.join(names) or '(none)'}: {workdir} is a run on joints, which "
            f"{pckh.PROTOCOL} alone scores"
        )
    return pckh.open_people(config)


def _joints(detector: ViewDetector, views: np.ndarray) -> np.ndarray:
    """The highest places `[N, K, 2]` of the maps; the softmax that they went through keeps them."""
    size = 8 * STATISTICS_BATCH  # whole batches, whose statistics are then those of one call
    parts = []
    for start in range(0, len(views), size):
        maps = detector.find(views[start : start + size], ("heatmaps",))["heatmaps"]
        parts.append(np.asarray(keypoints.peaks(jnp.asarray(maps))))
    return np.concatenate(parts)


def _at(config: ConfigDict, places: Mapping[str, Any]) -> ConfigDict:
    """The configuration with other places of the labelled data, where any are given."""
    config = config.copy_and_resolve_references()  # the caller's stays as it is
    config.eval.update({name: value for name, value in places.items() if value is not None})
    return config


def open_faces(
    config: ConfigDict,
    protocol_names: Sequence[str] | None = None,
    *,
    fit: str | None = None,
    score: str | None = None,
    crops: Sequence[str] = (),
    **places: Any,
) -> list[Protocol]:
    """Reads the labelled faces that were asked for; see `evaluate_run`.

    Raises:
      ConfigError: nothing was asked for, or what does not go together.
      DataError: faces are missing or malformed.
    """
    if (fit is None) != (score is None) or (fit is not None and protocol_names):
        raise ConfigError("--fit and --score go together, and without --protocol")
    if crops and fit is None:
        raise ConfigError("--crop goes with --fit and --score; a named protocol has its own crops")
    config = _at(config, places)
    if fit is not None and score is not None:
        return labelled_faces.open_lists(fit, score, crops or (config.data.crop,), config)
    names = protocol_names or config.eval.protocols
    if not names:
        raise ConfigError(
            "config.eval.protocols = (): name a --protocol, or your own --fit and --score faces"
        )
    labelled_faces.check_names(names)
    return [part for name in names for part in labelled_faces.open_protocols(name, config)]


def _write(out: Path, name: str, protocol: Protocol, result: dict[str, Any]) -> None:
    """The CSV and the pictures of one result."""
    (out / f"{name}.csv").write_text(score_tables.to_csv(result))
    figures.save(plots.error_curves(result), out / f"{name}-curve.png")
    title = score_tables.describe(result)
    figures.save(_page(protocol, result["examples"], title), out / f"{name}-faces.png")
    worst = result["worst"]
    errors = next(iter(result["results"].values()))["per_photo"]
    figures.save(
        _page(
            protocol,
            worst,
            f"{title}: the {len(worst['rows'])} of {len(errors)} faces with the largest forward "
            "error, % of the eye distance",
            [f"{errors[row]:.1f}" for row in worst["rows"]],
        ),
        out / f"{name}-worst.png",
    )


def _write_json(out: Path, name: str, result: dict[str, Any]) -> None:
    text = json.dumps(result, allow_nan=False) + "\n"
    files.write_file(out / f"{name}.json", text.encode(), WorkdirError)


def _page(
    protocol: Protocol, shown: dict[str, Any], title: str, captions: Sequence[str] = ()
) -> figures.Figure:
    return figures.landmark_page(
        protocol.score.views[shown["rows"]],
        np.array(shown["landmarks"]),
        predicted=np.array(shown["predicted"]),
        labels=np.array(shown["labels"]),
        captions=captions,
        title=title,
    )


def _provenance_of(
    workdir: Path, restored: checkpoints.Restored, command: Sequence[str]
) -> dict[str, Any]:
    """`provenance`, what the run was trained on and with which crop."""
    return {
        **provenance(restored, command),
        "trained_on": list(run_folder.read_record(workdir).hardware),
        "training_crop": run_folder.read_config(workdir).data.crop,
    }


def provenance(restored: checkpoints.Restored, command: Sequence[str]) -> dict[str, Any]:
    """Where a result comes from: length of the training, command, versions, hardware."""
    minutes = round(restored.seconds / 60, 2)
    return {"steps": restored.step, "training_minutes": minutes, **environment(command)}


def environment(command: Sequence[str]) -> dict[str, Any]:
    """What a result was made by and on: command, versions, hardware."""
    device = jax.devices()[0]
    return {
        "command": shlex.join(command),
        "landmarks_jax": landmarks_jax.__version__,
        "python": sys.version.split()[0],
        "jax": jax.__version__,
        "flax": flax.__version__,
        "device": f"{jax.local_device_count()} x {device.device_kind}",
        "machine": platform.machine(),
    }
