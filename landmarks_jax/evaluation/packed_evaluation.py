"""Evaluates a packed detector: the tables and figures of a run, in a folder of the user's."""

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from landmarks_jax import config as configuration
from landmarks_jax.configs import base
from landmarks_jax.evaluation import protocols, run_evaluation, score_files
from landmarks_jax.inference import kept_landmarks, mirroring
from landmarks_jax.inference.detector import ViewDetector
from landmarks_jax.inference.packed_file import PackedDetector
from landmarks_jax.models.detectors import build_detector


def evaluate_packed(
    packed: PackedDetector,
    name: str,
    out: Path,
    *,
    kept: Sequence[int] | None = None,
    mirror: bool = False,
    command: Sequence[str] = (),
    **faces: Any,
) -> str:
    """Scores a packed detector and writes the files of `score_files` to a folder.

    Its points are scored by a linear map fitted on the labelled faces, as those of a run; the map
    in the file is not used.

    Args:
      packed: the detector.
      name: its name in the tables.
      out: the folder.
      kept: the landmarks to score; None scores all.
      mirror: score the means over views and their mirror images.
      command: the command line, recorded in the results.
      **faces: arguments of `run_evaluation.open_faces`.

    Returns:
      The tables, as Markdown.

    Raises:
      UserError: the labelled faces cannot be used, a file cannot be written, or with `mirror` no
        landmarks are known to mirror each other.
    """
    if kept is not None:
        packed = kept_landmarks.keep(packed, kept)
    config, variables = config_of(packed), packed.variables
    notes = [f"packed detector {name}", *packed.summary.get("notes", [])]
    pairs = None
    if mirror:
        known = mirroring.MirrorPairs.of(packed.summary, config.model.num_landmarks)
        pairs = mirroring.need_pairs(known, name)
        notes.append("running statistics: means over views and their mirror images")
    opened = run_evaluation.open_faces(config, **faces)
    rows = run_evaluation.detector_rows(config, variables, untrained(config))
    detectors: dict[str, protocols.Detect] = {**rows}
    if pairs is not None:
        detectors["running"] = functools.partial(_mean_landmarks, pairs, rows["running"])
    trained = packed.summary.get("provenance", {})
    provenance = {
        **{field: trained[field] for field in ("steps", "training_minutes") if field in trained},
        **run_evaluation.environment(command),
        "training_crop": config.data.crop,
    }
    results = [
        protocols.evaluate(protocol, detectors, notes=notes) | {"provenance": provenance}
        for protocol in opened
    ]
    return score_files.write(out, opened, results)


def _mean_landmarks(
    pairs: mirroring.MirrorPairs, detector: ViewDetector, views: np.ndarray
) -> np.ndarray:
    """The landmarks `[N, K, 2]`, means over views `[N, S, S, 3]` and their mirror images."""
    return pairs.find(detector, views, ("landmarks",))["landmarks"]


def config_of(packed: PackedDetector) -> ConfigDict:
    """Its configuration, with the base's places of labelled faces and without a protocol."""
    places = base.get_config().eval
    return configuration.with_fields(packed.config, {"eval": places, "eval.protocols": ()})


def untrained(config: ConfigDict) -> dict[str, Any]:
    """The variables of the detector, just initialised."""
    module = build_detector(config)
    size = config.views.size
    view = jnp.zeros((1, size, size, 3))
    init = jax.jit(lambda key: module.init(key, view, use_running_average=True))
    return dict(init(jax.random.key(0)))
