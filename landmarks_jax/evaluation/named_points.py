"""A few labels: the error of the labelled points by leave-one-out, and these in every photo (ours).

For each crop a folder `NAME-CROP/` with `table.md` and `leave_one_out.json`. Of a run it also holds
the points of its photos: `landmarks.csv` and `landmarks.jsonl` as of `landmarks-jax detect`, and
`points.csv`, which can be read like a file of labels.
"""

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from landmarks_jax import config as configuration
from landmarks_jax.data.sources import registry
from landmarks_jax.evaluation import leave_one_out, pack_run, run_evaluation, score_files
from landmarks_jax.inference import kept_landmarks
from landmarks_jax.inference.api import LandmarkDetector
from landmarks_jax.inference.media import result_conversion, result_files, run_detection
from landmarks_jax.inference.packed_file import PackedDetector
from landmarks_jax.system.errors import UserError
from landmarks_jax.training import run_folder

POINTS = "points.csv"
_LOGGER = logging.getLogger(__name__)


def fit_run(
    workdir: Path,
    *,
    kept: Sequence[int] | None = None,
    command: Sequence[str] = (),
    **faces: Any,
) -> tuple[str, int]:
    """Fits the linear map to labels, measures it, and finds their points in the run's photos.

    Args:
      workdir: the run's folder; files are written to its evaluation's.
      kept: the landmarks to fit on; None takes all.
      command: the command line, recorded in the results.
      **faces: arguments of `run_evaluation.open_faces`, `fit` without `score`.

    Returns:
      The tables, as Markdown, and the exit code: 1 if a photo failed, 128 plus the signal that
      ended the detection.

    Raises:
      UserError: the run or the labels cannot be used, or a file cannot be written.
    """
    config = run_folder.read_config(workdir)
    pack_run.check_landmarks(workdir, kept, ())
    run_evaluation.need_landmarks(workdir, config, "fitted to labels of points")
    protocols = pack_run.open_sorted(config, faces)
    photos = _photos_of(config, protocols[0].crop)
    packed = pack_run.pack_run(workdir, protocols, command, kept=kept)
    out = run_evaluation.folder_of(workdir, kept)
    markdown, folders = _write(packed, out)
    if not photos:
        return markdown, 0
    found = folders[0]
    (found / POINTS).unlink(missing_ok=True)  # it would be of an earlier call, were this one ended
    code = run_detection.detect_photos(LandmarkDetector(packed), photos, found)
    if code < 128:
        lines = found / result_files.LINES
        print(result_conversion.convert(lines, found / POINTS, "labelled"))
    return markdown, code


def fit_packed(
    packed: PackedDetector,
    out: Path,
    *,
    kept: Sequence[int] | None = None,
    command: Sequence[str] = (),
    **faces: Any,
) -> str:
    """Fits the linear map of a packed detector to labels, and measures it.

    Args:
      packed: the detector.
      out: the folder to write to.
      kept: the landmarks to fit on; None takes all.
      command: the command line, recorded in the results.
      **faces: arguments of `run_evaluation.open_faces`, `fit` without `score`.

    Returns:
      The tables, as Markdown.

    Raises:
      UserError: the labels cannot be used, or a file cannot be written.
    """
    if kept is not None:
        packed = kept_landmarks.keep(packed, kept)
    return _write(pack_run.refit(packed, faces, command), out)[0]


def _photos_of(config: ConfigDict, crop: str) -> list[str]:
    """The files of a run's photos, with those that config.data.max_photos left out.

    Empty, with a warning, if the map cannot be used on them.
    """
    instead = (
        "`landmarks-jax export --fit` and `landmarks-jax detect` find the labelled points in photos"
    )
    why = f"source {config.data.source!r} has no files of photos"
    if crop != config.data.crop or crop == "box":
        why = f"their views are not known to be of the {crop} crop"
    elif config.data.source not in ("prepared", "synthetic"):
        try:
            uncut = configuration.with_fields(config, {"data.max_photos": 0})
            source = registry.open_source(uncut.data)
            # A photo with several labelled objects is one view here.
            every = dict.fromkeys(source.path(index) for index in range(len(source)))
            if paths := [path for path in every if path]:
                return paths
        except UserError as error:
            why = str(error)
    _LOGGER.warning("warning: the run's photos get no points (%s); %s", why, instead)
    return []


def _write(packed: PackedDetector, out: Path) -> tuple[str, list[Path]]:
    """Writes the tables; returns them and the folders, that of the map in the file first."""
    tables, folders = [], []
    summary: Mapping[str, Any] = packed.summary
    for result in summary["leave_one_out"]:
        folder = out / score_files.base_name(result["protocol"], result["crop"])
        table = leave_one_out.to_markdown(result, summary["notes"])
        stated = {key: summary[key] for key in ("notes", "provenance") if key in summary}
        text = json.dumps({**result, **stated}, allow_nan=False)
        score_files.write_text(folder / "table.md", table)
        score_files.write_text(folder / "leave_one_out.json", text + "\n")
        tables.append(table)
        folders.append(folder)
    return "\n".join(tables), folders
