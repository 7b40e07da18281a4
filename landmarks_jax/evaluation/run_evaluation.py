"""Evaluates a run: scores its newest checkpoint under protocols and writes tables and figures.

Tables and curves are made from the JSON files alone.
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
from landmarks_jax.models.detectors import keep_landmarks, kept_note
from landmarks_jax.system import figures, files
from landmarks_jax.system.errors import ConfigError, WorkdirError, reason
from landmarks_jax.tasks import task_of
from landmarks_jax.training import checkpoints, run_folder, sharding
from landmarks_jax.training import state as states
from landmarks_jax.training.state import TrainState, trained_variables

# Arguments of `open_faces` that do not go with a run on joints.
_OWN_FACES = ("fit", "score", "crops", "allow_duplicates")


def evaluate_run(
    workdir: Path,
    *,
    kept: range | None = None,
    command: Sequence[str] = (),
    **faces: Any,
) -> str:
    """Scores a run and writes `evaluation/` in its folder.

    For each protocol `NAME-CROP.json`, `.csv`, `-curve.png`, `-faces.png` and `-worst.png` (the
    faces with the largest errors), and `table.md` for all. For a run on joints `mpii.json`,
    `mpii.csv`, `mpii-people.png` and `table.md`.

    Args:
      workdir: the run's folder.
      kept: the landmarks to score, A to B - 1, written to `evaluation-A-B/`; None scores all.
      command: the command line, recorded in the results.
      **faces: arguments of `open_faces`.

    Returns:
      The tables, as Markdown.

    Raises:
      UserError: the run or the labelled faces cannot be used.
    """
    config = run_folder.read_config(workdir)
    if task_of(config).ON_JOINTS:
        if kept is not None or any(faces.pop(name, None) for name in _OWN_FACES):
            raise ConfigError(f"{workdir}: a run on joints is scored by --protocol mpii alone")
        names = faces.pop("protocol_names", None)
        return _evaluate_pose(workdir, _at(config, faces), names, command)
    opened = open_faces(config, **faces)
    return _evaluate_landmarks(workdir, config, opened, kept, command)


def _evaluate_landmarks(
    workdir: Path,
    config: ConfigDict,
    opened: Sequence[Protocol],
    kept: range | None,
    command: Sequence[str],
) -> str:
    restored = checkpoints.restore(workdir, config)
    detectors = detectors_of(config, restored.state, kept)
    notes = [task_of(config).describe(config), *run_folder.read_record(workdir).all_notes()]
    if kept is not None:
        notes.append(kept_note(config, kept))
    results = []
    for protocol in opened:
        result = protocols.evaluate(protocol, detectors, notes=notes)
        results.append(result | {"provenance": _provenance_of(workdir, restored, command)})
    markdown = score_tables.to_markdown(results)
    out = workdir / run_folder.EVALUATION
    if kept is not None:
        out = out.with_name(f"{out.name}-{kept.start}-{kept.stop}")
    names = [f"{protocol.name}-{protocol.crop}".replace(" ", "-") for protocol in opened]
    _remove_results(out, names)
    for name, protocol, result in zip(names, opened, results, strict=True):
        _write_text(out / f"{name}.csv", score_tables.to_csv(result))
        figures.save(plots.error_curves(result), out / f"{name}-curve.png")
        title = score_tables.describe(result)
        figures.save(_page(protocol, result["examples"], title), out / f"{name}-faces.png")
        figures.save(_worst_page(protocol, result, title), out / f"{name}-worst.png")
    _write_text(out / "table.md", markdown)
    for name, result in zip(names, results, strict=True):
        _write_text(out / f"{name}.json", json.dumps(result, allow_nan=False) + "\n")
    return markdown


def _evaluate_pose(
    workdir: Path, config: ConfigDict, names: Sequence[str] | None, command: Sequence[str]
) -> str:
    people = pckh.open_people(config, names)
    restored = checkpoints.restore(workdir, config)
    detectors = {
        name: functools.partial(_joints, detector)
        for name, detector in detectors_of(config, restored.state).items()
    }
    result = pckh.evaluate(people, detectors, notes=run_folder.read_record(workdir).all_notes())
    result["provenance"] = _provenance_of(workdir, restored, command)
    markdown, out, name = pckh.to_markdown(result), workdir / run_folder.EVALUATION, pckh.PROTOCOL
    shown = result["examples"]
    page = figures.landmark_page(
        people.views[shown["rows"]],
        np.array(shown["found"]),
        labels=np.array(shown["joints"], float),
        title=f"{people.name}: joints found, and labelled",
    )
    _remove_results(out, [name])
    _write_text(out / f"{name}.csv", pckh.to_csv(result))
    _write_text(out / "table.md", markdown)
    figures.save(page, out / f"{name}-people.png")
    _write_text(out / f"{name}.json", json.dumps(result, allow_nan=False) + "\n")
    return markdown


def detectors_of(
    config: ConfigDict, state: TrainState, kept: range | None = None
) -> dict[str, ViewDetector]:
    """The run's detector under both kinds of batch norm, and an untrained one of its shape.

    With `kept` they find these landmarks only.
    """
    trained = trained_variables(state)
    mesh = sharding.make_mesh(jax.local_devices()[:1])
    # Without the core that the run may have started from.
    untrained = trained_variables(
        states.start_state(config, task_of(config).build_networks(config), mesh)
    )
    if kept is not None:
        _, untrained = keep_landmarks(config, untrained, kept)
        config, trained = keep_landmarks(config, trained, kept)
    return {
        "running": ViewDetector(config, trained),
        "batch": ViewDetector(config, trained, use_running_average=False),
        # Its running statistics are empty; those of the batch give it its best chance.
        "untrained": ViewDetector(config, untrained, use_running_average=False),
    }


def need_landmarks(workdir: Path, config: ConfigDict, action: str) -> None:
    """Refuses a run on joints, whose maps are not read by a soft-argmax.

    Args:
      workdir: the run's folder.
      config: its configuration.
      action: what can be done with runs on landmarks only, such as "packed".

    Raises:
      WorkdirError: the run is on joints.
    """
    if task_of(config).ON_JOINTS:
        raise WorkdirError(
            f"{workdir}: a run on joints cannot be {action}; `landmarks-jax eval` scores it, and "
            "config.init.core names it to start runs on landmarks"
        )


def _joints(detector: ViewDetector, views: np.ndarray) -> np.ndarray:
    """The peaks `[N, K, 2]` of the heat maps; the soft-argmax's softmax keeps their places."""
    size = 8 * STATISTICS_BATCH  # whole batches, whose statistics are then those of one call
    joints = []
    for start in range(0, len(views), size):
        maps = detector.find(views[start : start + size], ("heatmaps",))["heatmaps"]
        joints.append(np.asarray(keypoints.peaks(jnp.asarray(maps))))
    return np.concatenate(joints)


def _at(config: ConfigDict, places: Mapping[str, Any]) -> ConfigDict:
    """The configuration with the given places of labelled data."""
    config = config.copy_and_resolve_references()
    config.eval.update({name: value for name, value in places.items() if value is not None})
    return config


def open_faces(
    config: ConfigDict,
    protocol_names: Sequence[str] | None = None,
    *,
    fit: str | None = None,
    score: str | None = None,
    crops: Sequence[str] = (),
    allow_duplicates: bool | None = None,
    **places: Any,
) -> list[Protocol]:
    """Reads labelled faces.

    Args:
      config: the run's configuration.
      protocol_names: some of `labelled_faces.PROTOCOLS`; None takes config.eval.protocols.
      fit: labelled faces that fit the regressor, instead of a named protocol.
      score: labelled faces that are scored; goes with `fit`.
      crops: crops for `fit` and `score`; empty takes the crop that the run was trained with.
      allow_duplicates: whether faces may be in both, or several times in one.
      **places: fields of `config.eval`, such as the folder `aflw`; None takes the run's.

    Raises:
      ConfigError: no faces are named, or the arguments do not go together.
      DataError: faces are missing, malformed or duplicates.
    """
    if (fit is None) != (score is None) or (fit is not None and protocol_names):
        raise ConfigError("--fit and --score go together, and without --protocol")
    if crops and fit is None:
        raise ConfigError("--crop goes with --fit and --score; a named protocol has its own crops")
    config = _at(config, places)
    names = protocol_names or config.eval.protocols
    if fit is not None and score is not None:
        opened = labelled_faces.open_lists(fit, score, crops or (config.data.crop,), config)
    elif names:
        labelled_faces.check_names(names)
        opened = [p for name in names for p in labelled_faces.open_protocols(name, config)]
    else:
        raise ConfigError(
            "config.eval.protocols = (): name a --protocol, or your own --fit and --score faces"
        )
    return [labelled_faces.check_duplicates(p, allowed=bool(allow_duplicates)) for p in opened]


def _remove_results(out: Path, names: Sequence[str]) -> None:
    """Removes the JSON of earlier results; it is written last, so where it is, everything is."""
    for name in names:
        try:
            (out / f"{name}.json").unlink(missing_ok=True)
        except OSError as error:
            raise WorkdirError(
                f"{out / name}.json: cannot be replaced ({reason(error)})"
            ) from error


def _write_text(path: Path, text: str) -> None:
    files.write_file(path, text, WorkdirError)


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


def _worst_page(protocol: Protocol, result: dict[str, Any], title: str) -> figures.Figure:
    worst = result["worst"]
    errors = next(iter(result["results"].values()))["per_photo"]
    title += (
        f": the {len(worst['rows'])} of {len(errors)} faces with the largest forward error, % of "
        "the eye distance"
    )
    return _page(protocol, worst, title, [f"{errors[row]:.1f}" for row in worst["rows"]])


def _provenance_of(
    workdir: Path, restored: checkpoints.Restored, command: Sequence[str]
) -> dict[str, Any]:
    return {
        **provenance(restored, command),
        "trained_on": list(run_folder.read_record(workdir).hardware),
        "training_crop": run_folder.read_config(workdir).data.crop,
    }


def provenance(restored: checkpoints.Restored, command: Sequence[str]) -> dict[str, Any]:
    """Where a result comes from: length of training, command, versions, hardware."""
    minutes = round(restored.seconds / 60, 2)
    return {"steps": restored.step, "training_minutes": minutes, **environment(command)}


def environment(command: Sequence[str]) -> dict[str, Any]:
    """The command, versions and hardware of a result."""
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
