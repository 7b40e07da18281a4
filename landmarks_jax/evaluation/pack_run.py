"""Makes a packed detector of a run: its newest checkpoint, a regressor, and how it scores."""

import datetime
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from landmarks_jax.evaluation import metrics, regression, run_evaluation
from landmarks_jax.evaluation.protocols import Protocol
from landmarks_jax.inference import packed_file
from landmarks_jax.inference.detector import ViewDetector
from landmarks_jax.inference.linear_map import LinearMap
from landmarks_jax.system.errors import UserError
from landmarks_jax.training import checkpoints

# Of the table that says what confidence is worth: equal parts of the scored faces.
_NUM_PARTS = 5


def pack_run(
    workdir: Path, protocols: Sequence[Protocol], command: Sequence[str] = ()
) -> packed_file.Packed:
    """Packs the newest checkpoint of a run.

    Args:
      workdir: the run's folder.
      protocols: labelled faces, as `evaluate.open_faces` gives them. The regressor is fitted under
        the first one; the scores under all of them stand in the summary. None are needed.
      command: the command line that asked for this, for the record.

    Raises:
      UserError: the run or the labelled faces cannot be used.
    """
    config = checkpoints.read_config(workdir)
    run_evaluation.need_landmarks(workdir, config, "packed")
    restored = run_evaluation.restore(workdir, config)
    variables = run_evaluation.trained_variables(restored.state)
    detector = ViewDetector(config, variables)
    scored = [_score(protocol, detector) for protocol in protocols]
    summary = {
        "trained_on": {"source": config.data.source, "crop": config.data.crop},
        "notes": checkpoints.read_notes(workdir),
        "provenance": run_evaluation.provenance(restored, command),
        "packed_on": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "scores": [scores for _, scores in scored],
        "point_names": list(protocols[0].point_names) if protocols else [],
    }
    regressor = scored[0][0] if scored else None
    return packed_file.Packed(packed_file.needed_fields(config), variables, regressor, summary)


def open_faces(workdir: Path, faces: Mapping[str, Any]) -> list[Protocol]:
    """Reads the labelled faces for `pack_run`, as `evaluate.evaluate_run` would.

    Those under the crop of the run's training come first: the regressor that is packed is for the
    views that the packed detector takes.

    Args:
      workdir: the run's folder.
      faces: keywords of `evaluate.open_faces`.

    Raises:
      UserError: the run or the labelled faces cannot be used; the line says how to do without.
    """
    config = checkpoints.read_config(workdir)
    run_evaluation.need_landmarks(workdir, config, "packed")
    try:
        opened = run_evaluation.open_faces(config, **faces)
    except UserError as error:
        raise type(error)(
            f"{error}; or pack without labelled faces, and so without a regressor: --noregressor"
        ) from error
    return sorted(opened, key=lambda protocol: protocol.crop != config.data.crop)


def _score(protocol: Protocol, detector: ViewDetector) -> tuple[LinearMap, dict[str, Any]]:
    """The regressor of a protocol, and the forward error of what it predicts."""
    to_labels = regression.fit(detector(protocol.fit.views), protocol.fit.points)
    found = detector.find(protocol.score.views, ("landmarks", "confidence"))
    eye_distance = metrics.inter_ocular(protocol.score.points, protocol.eyes)
    predicted = to_labels(found["landmarks"])
    errors = metrics.point_errors(predicted, protocol.score.points, eye_distance).mean(1)
    mean_shape = regression.fit_mean(protocol.fit.points, protocol.fit.points)
    guessed = mean_shape(protocol.score.points)
    control = metrics.point_errors(guessed, protocol.score.points, eye_distance).mean()
    return to_labels, {
        "protocol": protocol.name,
        "crop": protocol.crop,
        "fit": {"name": protocol.fit.name, "faces": len(protocol.fit.views)},
        "score": {"name": protocol.score.name, "faces": len(protocol.score.views)},
        "forward": round(float(errors.mean()), 3),
        "mean_shape": round(float(control), 3),
        "confidence": _confidence(found["confidence"].mean(1), errors),
    }


def _confidence(confidence: np.ndarray, errors: np.ndarray) -> list[dict[str, float]]:
    """What mean confidence says of the error: faces in equal parts, the least confident first."""
    parts = np.array_split(np.argsort(confidence, kind="stable"), min(_NUM_PARTS, len(errors)))
    return [
        {
            "faces": len(part),
            "lowest": round(float(confidence[part].min()), 4),
            "highest": round(float(confidence[part].max()), 4),
            "forward": round(float(errors[part].mean()), 3),
        }
        for part in parts
    ]
