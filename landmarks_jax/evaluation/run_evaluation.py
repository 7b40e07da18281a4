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
from landmarks_jax import config as configuration
from landmarks_jax import keypoints
from landmarks_jax.evaluation import (
    labelled_faces,
    leave_one_out,
    pckh,
    protocols,
    score_files,
)
from landmarks_jax.evaluation.protocols import Protocol
from landmarks_jax.inference.detector import STATISTICS_BATCH, ViewDetector
from landmarks_jax.models.detectors import (
    check_numbers,
    keep_landmarks,
    kept_note,
    numbers_text,
    split_frozen,
)
from landmarks_jax.system import figures
from landmarks_jax.system.errors import ConfigError, WorkdirError
from landmarks_jax.tasks import task_of
from landmarks_jax.training import checkpoints, run_folder, sharding
from landmarks_jax.training import state as states
from landmarks_jax.training.state import Restored, TrainState, trained_variables

# Arguments of `open_faces` that do not go with a run on joints.
_OWN_FACES = ("fit", "score", "crops", "allow_duplicates")


def evaluate_run(
    workdir: Path,
    *,
    kept: Sequence[int] | None = None,
    command: Sequence[str] = (),
    **faces: Any,
) -> str:
    """Scores a run and writes `evaluation/` in its folder.

    For each protocol `NAME-CROP.json`, `.csv`, `-curve.png`, `-faces.png` and `-worst.png` (the
    faces with the largest errors), and `table.md` for all. For a run on joints `mpii.json`,
    `mpii.csv`, `mpii-people.png` and `table.md`.

    Args:
      workdir: the run's folder.
      kept: the landmarks to score, written to a folder with their numbers in its name, such as
        `evaluation-0_3_5-9/` for 0, 3 and 5 to 8; None scores all.
      command: the command line, recorded in the results.
      **faces: arguments of `open_faces`.

    Returns:
      The tables, as Markdown.

    Raises:
      UserError: the run or the labelled faces cannot be used.
    """
    config = run_folder.read_config(workdir)
    if task_of(config).ON_JOINTS:
        own_faces = [faces.pop(name, None) for name in _OWN_FACES]
        if kept is not None or any(own_faces):
            raise ConfigError(f"{workdir}: a run on joints is scored by --protocol mpii alone")
        names = faces.pop("protocol_names", None)
        return _evaluate_pose(workdir, _at(config, faces), names, command)
    if kept is not None:
        check_numbers(config, kept)
    opened = open_faces(config, **faces)
    return _evaluate_landmarks(workdir, config, opened, kept, command)


def _evaluate_landmarks(
    workdir: Path,
    config: ConfigDict,
    opened: Sequence[Protocol],
    kept: Sequence[int] | None,
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
    return score_files.write(folder_of(workdir, kept), opened, results)


def folder_of(workdir: Path, kept: Sequence[int] | None) -> Path:
    """The folder of a run's evaluation, of all landmarks or of those that are kept."""
    out = workdir / run_folder.EVALUATION
    if kept is None:
        return out
    numbers = numbers_text(kept).replace(",", "_").replace(":", "-")
    return out.with_name(f"{out.name}-{numbers}")


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
    score_files.remove(out, [name])
    score_files.write_text(out / f"{name}.csv", pckh.to_csv(result))
    score_files.write_text(out / "table.md", markdown)
    figures.save(page, out / f"{name}-people.png")
    score_files.write_text(out / f"{name}.json", json.dumps(result, allow_nan=False) + "\n")
    return markdown


def detectors_of(
    config: ConfigDict, state: TrainState, kept: Sequence[int] | None = None
) -> dict[str, ViewDetector]:
    """The detectors of a run's tables, see `detector_rows`; `kept` are the landmarks to find."""
    mesh = sharding.make_mesh(jax.local_devices()[:1])
    # Without the core that the run may have started from, but with its VGG: see `detector_rows`.
    start = states.start_state(config, task_of(config).build_networks(config), mesh)
    trained, untrained = trained_variables(state), trained_variables(start)
    if kept is not None:
        _, untrained = keep_landmarks(config, untrained, kept)
        config, trained = keep_landmarks(config, trained, kept)
    return detector_rows(config, trained, untrained)


def detector_rows(
    config: ConfigDict, trained: Mapping[str, Any], untrained: Mapping[str, Any]
) -> dict[str, ViewDetector]:
    """A detector under both kinds of batch norm, and an untrained one of its shape.

    Args:
      config: its configuration.
      trained: its `{"params", "batch_stats"}`.
      untrained: the same of a detector just initialised; it gets VGG's weights from `trained`.
    """
    _, frozen = split_frozen(config, trained["params"])
    untrained = {**untrained, "params": {**untrained["params"], **frozen}}
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
    given = {f"eval.{name}": value for name, value in places.items() if value is not None}
    return configuration.with_fields(config, given)


def open_faces(
    config: ConfigDict,
    protocol_names: Sequence[str] | None = None,
    *,
    fit: str | None = None,
    score: str | None = None,
    crops: Sequence[str] = (),
    allow_duplicates: bool | None = None,
    fit_alone: bool = False,
    **places: Any,
) -> list[Protocol]:
    """Reads labelled faces.

    Args:
      config: the detector's configuration.
      protocol_names: some of `labelled_faces.PROTOCOLS`; None takes config.eval.protocols.
      fit: labelled faces that fit the regressor, instead of a named protocol.
      score: labelled faces that are scored; goes with `fit`.
      crops: crops for `fit` and `score`; empty takes the crop that the detector was trained with.
      allow_duplicates: whether faces may be in both, or several times in one.
      fit_alone: whether `fit` may be without `score`, for `leave_one_out`; both sets of a protocol
        are then the same.
      **places: fields of `config.eval`, such as the folder `aflw`; None takes the configuration's.

    Raises:
      ConfigError: no faces are named, or the arguments do not go together.
      DataError: faces are missing, malformed or duplicates.
    """
    alone = fit_alone and fit is not None and score is None
    if ((fit is None) != (score is None) and not alone) or (fit is not None and protocol_names):
        raise ConfigError("--fit and --score go together, and without --protocol")
    if crops and fit is None:
        raise ConfigError("--crop goes with --fit; a named protocol has its own crops")
    config = _at(config, places)
    names = protocol_names or config.eval.protocols
    if fit is not None:
        opened = labelled_faces.open_lists(fit, score, crops or (config.data.crop,), config)
    elif names:
        labelled_faces.check_names(names)
        opened = [p for name in names for p in labelled_faces.open_protocols(name, config)]
    else:
        raise ConfigError(
            "no labelled faces are named: give a --protocol, or your own faces by --fit and --score"
        )
    opened = [labelled_faces.check_sizes(protocol) for protocol in opened]
    for protocol in opened if alone else ():
        leave_one_out.check(protocol)
    return [labelled_faces.check_duplicates(p, allowed=bool(allow_duplicates)) for p in opened]


def _provenance_of(workdir: Path, restored: Restored, command: Sequence[str]) -> dict[str, Any]:
    return {
        **provenance(restored, command),
        "trained_on": list(run_folder.read_record(workdir).hardware),
        "training_crop": run_folder.read_config(workdir).data.crop,
    }


def provenance(restored: Restored, command: Sequence[str]) -> dict[str, Any]:
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
