"""Packs a run: its newest checkpoint, a regressor to labelled points, and its scores.

Or fits a new regressor for a packed detector.
"""

import dataclasses
import datetime
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from landmarks_jax.evaluation import (
    labelled_faces,
    leave_one_out,
    metrics,
    packed_evaluation,
    regression,
    run_evaluation,
    score_tables,
)
from landmarks_jax.evaluation.breakdown import breakdown
from landmarks_jax.evaluation.protocols import Protocol
from landmarks_jax.inference import kept_landmarks, packed_file
from landmarks_jax.inference.detector import ViewDetector
from landmarks_jax.inference.linear_map import LinearMap
from landmarks_jax.models.detectors import check_numbers, keep_landmarks, kept_note
from landmarks_jax.system.errors import UserError
from landmarks_jax.training import checkpoints, run_folder

_CONFIDENCE_BINS = 5
_REFITTED = "the linear map is fitted anew"


def pack_run(
    workdir: Path,
    protocols: Sequence[Protocol],
    command: Sequence[str] = (),
    *,
    kept: Sequence[int] | None = None,
    names: Sequence[str] = (),
) -> packed_file.PackedDetector:
    """Packs the newest checkpoint of a run.

    Args:
      workdir: the run folder.
      protocols: labelled faces, from `open_faces`. The regressor is fitted under the first
        protocol; the summary holds the scores under all of them. Without any there is no regressor.
      command: the command line, recorded in the summary.
      kept: the landmarks to keep; None keeps all.
      names: of the landmarks kept; empty for none.

    Raises:
      UserError: the run or the labelled faces cannot be used.
    """
    config = run_folder.read_config(workdir)
    run_evaluation.need_landmarks(workdir, config, "packed")
    restored = checkpoints.restore(workdir, config)
    variables = run_evaluation.trained_variables(restored.state)
    notes = run_folder.read_record(workdir).all_notes()
    notes += [note for protocol in protocols for note in protocol.notes]
    if kept is not None:
        notes.append(kept_note(config, kept))
        config, variables = keep_landmarks(config, variables, kept)
    regressor, measured = _fit(ViewDetector(config, variables), protocols)
    summary = {
        "trained_on": {"source": config.data.source, "crop": config.data.crop},
        "notes": notes,
        "provenance": run_evaluation.provenance(restored, command),
        **measured,
        **({"landmark_names": list(names)} if names else {}),
    }
    return packed_file.PackedDetector(
        packed_file.inference_config(config), variables, regressor, summary
    )


def refit(
    packed: packed_file.PackedDetector, faces: Mapping[str, Any], command: Sequence[str] = ()
) -> packed_file.PackedDetector:
    """Fits a new regressor for a packed detector, whose scores are then those of `faces` alone.

    Args:
      packed: the detector, which stays as it is.
      faces: keyword arguments of `run_evaluation.open_faces`.
      command: the command line, recorded in the summary.

    Raises:
      UserError: the labelled faces cannot be used.
    """
    config = packed_evaluation.config_of(packed)
    protocols = open_sorted(config, faces)
    regressor, measured = _fit(ViewDetector(packed.config, packed.variables), protocols)
    first = protocols[0]
    earlier = (_REFITTED, *labelled_faces.NOTES)
    notes = [note for note in packed.summary.get("notes", []) if not note.startswith(earlier)]
    notes += [
        f"{_REFITTED} on {len(first.fit.views):,} faces of {first.fit.name}, {first.crop} crop"
    ]
    notes += [note for protocol in protocols for note in protocol.notes]
    summary = {**packed.summary, "notes": notes, **measured}
    if "provenance" in summary:
        environment = run_evaluation.environment(command)
        summary["provenance"] = {**summary["provenance"], **environment}
    return dataclasses.replace(packed, regressor=regressor, summary=summary)


def check_landmarks(workdir: Path, kept: Sequence[int] | None, names: Sequence[str]) -> None:
    """Checks the landmarks to keep of a run, and their names, before anything slow starts.

    Raises:
      UserError: the run cannot be read, or has no such landmarks; or not each has a name.
    """
    config = run_folder.read_config(workdir)
    if kept is not None:
        check_numbers(config, kept)
    kept_landmarks.check_names(names, len(kept or range(config.model.num_landmarks)))


def open_faces(workdir: Path, faces: Mapping[str, Any]) -> list[Protocol]:
    """Opens the labelled faces for `pack_run`.

    Args:
      workdir: the run folder.
      faces: keyword arguments of `run_evaluation.open_faces`.

    Raises:
      UserError: the run or the labelled faces cannot be used.
    """
    config = run_folder.read_config(workdir)
    run_evaluation.need_landmarks(workdir, config, "packed")
    try:
        return open_sorted(config, faces)
    except UserError as error:
        raise type(error)(f"{error}; --noregressor packs without labelled faces") from error


def open_sorted(config: ConfigDict, faces: Mapping[str, Any]) -> list[Protocol]:
    """Opens labelled faces, protocols with the crop of the training first.

    A regressor in a packed file has to fit the views of its detector.

    Args:
      config: the detector's configuration.
      faces: keyword arguments of `run_evaluation.open_faces`.

    Raises:
      UserError: the labelled faces cannot be used.
    """
    protocols = run_evaluation.open_faces(config, **faces, fit_alone=True)
    return sorted(protocols, key=lambda protocol: protocol.crop != config.data.crop)


def _fit(
    detector: ViewDetector, protocols: Sequence[Protocol]
) -> tuple[LinearMap | None, dict[str, Any]]:
    """The regressor fitted under the first protocol, and the fields of the summary on all."""
    regressors, scores, left_out = [], [], []
    for protocol in protocols:
        landmarks = detector(protocol.fit.views)
        if protocol.score is protocol.fit:
            regressor, measured = leave_one_out.measure(protocol, landmarks)
            left_out.append(measured)
        else:
            regressor = regression.fit(landmarks, protocol.fit.points)
            scores.append(_score(protocol, detector, regressor))
        regressors.append(regressor)
    return regressors[0] if regressors else None, {
        "packed_on": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "scores": scores,
        "leave_one_out": left_out,
        "point_names": list(protocols[0].point_names) if protocols else [],
    }


def _score(protocol: Protocol, detector: ViewDetector, regressor: LinearMap) -> dict[str, Any]:
    """The scores of a regressor under its protocol."""
    fit, score = protocol.fit, protocol.score
    eye_distance = metrics.inter_ocular(score.points, protocol.eyes, score.names)
    output = detector.find(score.views, ("landmarks", "confidence"))

    def errors(points: np.ndarray) -> np.ndarray:
        return metrics.point_errors(points, score.points, eye_distance)

    forward = errors(regressor(output["landmarks"])).mean(1)
    mean_shape = errors(regression.fit_mean(fit.points, fit.points)(score.points)).mean(1)
    rows = {"forward": forward, "mean_shape": mean_shape}
    return {
        "protocol": protocol.name,
        "crop": protocol.crop,
        "fit": {"name": fit.name, "faces": len(fit.views)},
        "score": {"name": score.name, "faces": len(score.views)},
        "forward": round(float(forward.mean()), 3),
        "mean_shape": round(float(mean_shape.mean()), 3),
        "groups": [
            {
                "faces": group["faces"],
                "name": f"{grouping['by']}: {group['name']}",
                "limits": score_tables.limits_text(group, grouping["unit"]),
                **group["forward"],
            }
            for grouping in breakdown(score.points, eye_distance, protocol.point_names, rows)
            for group in grouping["groups"]
            if group["faces"]
        ],
        "confidence": _errors_by_confidence(output["confidence"].mean(1), forward),
    }


def _errors_by_confidence(confidence: np.ndarray, errors: np.ndarray) -> list[dict[str, float]]:
    """Mean error of equal parts of the faces, least confident first."""
    order = np.argsort(confidence, kind="stable")
    return [
        {
            "faces": len(faces),
            "lowest": round(float(confidence[faces].min()), 4),
            "highest": round(float(confidence[faces].max()), 4),
            "forward": round(float(errors[faces].mean()), 3),
        }
        for faces in np.array_split(order, min(_CONFIDENCE_BINS, len(errors)))
    ]
