"""Reports on a run: whether its points are reliable, measured on its own photos.

Writes `report.html` and `report.json` into the run's folder.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from ml_collections import ConfigDict

from landmarks_jax.data import framing, photo_groups, sampling, survey
from landmarks_jax.evaluation import (
    report_measures,
    report_page,
    report_verdict,
    run_evaluation,
    symmetry,
)
from landmarks_jax.evaluation.report_measures import Find, Measures
from landmarks_jax.evaluation.report_verdict import Progress
from landmarks_jax.inference.detector import ViewDetector
from landmarks_jax.system import files
from landmarks_jax.system.errors import WorkdirError
from landmarks_jax.training import checkpoints, run_folder
from landmarks_jax.training.state import Restored, trained_variables

PAGE, RESULT = "report.html", "report.json"
_PHOTOS = 256  # measured
_LOOKED_AT = 1_000  # for noise and several kinds; of 256 such photos the groups are not seen
_SHOWN = 12  # on the page


class MeasuredRun(NamedTuple):
    """A run whose points are measured.

    Attributes:
      config: its configuration.
      restored: its newest checkpoint.
      rows: its log until then.
      progress: of its training.
      measures: of its points.
      landmarks: `[N, K, 2]` in the undistorted views of N photos, normalised.
      views: uint8 `[N, S, S, 3]`.
      names: of these photos.
      num_photos: how many the run has.
    """

    config: ConfigDict
    restored: Restored
    rows: Sequence[Mapping[str, Any]]
    progress: Progress
    measures: Measures
    landmarks: np.ndarray
    views: np.ndarray
    names: Sequence[str]
    num_photos: int


def report(workdir: Path, *, command: Sequence[str] = ()) -> str:
    """Measures the points of a run's newest checkpoint on its own photos, and writes the report.

    Args:
      workdir: the run's folder.
      command: the command line, recorded in the result.

    Returns:
      The verdict and the points, as Markdown.

    Raises:
      UserError: the run is on joints or has no checkpoint, its photos cannot be read, or the files
        cannot be written.
    """
    files.check_writable(workdir, WorkdirError, folder=True)
    run = measure_run(workdir)
    shown = sampling.evenly(len(run.views), _SHOWN)
    data = run.config.data
    result = {
        "workdir": str(workdir),
        "roots": list(data.roots) if data.source == "folder" else [],
        "photos": {"used": len(run.views), "all": run.num_photos},
        **document(run.measures, run.progress),
        "provenance": run_evaluation.provenance(run.restored, command),
    }
    names = [run.names[k] for k in shown]
    page = report_page.render(result, run.rows, run.views[shown], run.landmarks[shown], names)
    # Names of photos need not be UTF-8.
    files.write_file(workdir / PAGE, page.encode("utf-8", "backslashreplace"), WorkdirError)
    text = json.dumps(result, allow_nan=False) + "\n"
    files.write_file(workdir / RESULT, text, WorkdirError)
    return f"{report_page.to_markdown(result)}\n{workdir / PAGE}"


def measure_run(workdir: Path) -> MeasuredRun:
    """Measures the points of a run's newest checkpoint on its own photos.

    Raises:
      UserError: see `report`.
    """
    config = run_folder.read_config(workdir)
    run_evaluation.need_landmarks(workdir, config, "reported on")
    restored = checkpoints.restore(workdir, config)
    photos = symmetry.photos_of_run(config)
    frame = framing.of_config(config)
    places = sampling.evenly(photos.num_different, _LOOKED_AT)
    canvases = photos.canvases(places)
    wrong = _wrong_with(frame.central_view(canvases))
    some = sampling.evenly(len(places), _PHOTOS)
    places, canvases = places[some], canvases[some]
    detector = ViewDetector(config, trained_variables(restored.state))
    measures, landmarks = report_measures.measure(finder(detector), canvases, frame)
    rows = run_folder.read_log(workdir, restored.step)
    progress = report_verdict.progress_of(
        config, rows, restored.step, restored.seconds, photos=wrong
    )
    names = photos.names()
    return MeasuredRun(
        config=config,
        restored=restored,
        rows=rows,
        progress=progress,
        measures=measures,
        landmarks=landmarks,
        views=frame.central_view(canvases),
        names=[names[place] for place in places],
        num_photos=photos.num_different,
    )


def _wrong_with(views: np.ndarray) -> str:
    """What `data.survey` finds wrong with photos `[N, S, S, 3]`: "mixed", "noise" or ""."""
    if np.median(survey.noise_ratio(views.mean(-1))) >= survey.NOISE:
        return "noise"
    side, whole = photo_groups.SIDE, (0, 0, *views.shape[1:3])
    small = np.stack([framing.stretch(view, whole, side) for view in views]).mean(-1)
    order = np.random.default_rng(0).permutation(len(small))
    return "" if photo_groups.find(small[order]) is None else "mixed"


def finder(detector: ViewDetector) -> Find:
    """What `report_measures.measure` calls of a detector."""

    def find(views: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        found = detector.find(views, ("landmarks", "confidence"))
        return found["landmarks"], found["confidence"]

    return find


def document(measured: Measures, progress: Progress) -> dict[str, Any]:
    """Verdicts, their reasons and what was measured, as plain JSON."""
    verdicts = report_verdict.of_points(measured)
    run = report_verdict.of_run(verdicts, progress)
    points = []
    for k, point in enumerate(verdicts):
        numbers = {name: float(getattr(measured, name)[k]) for name in report_page.COLUMNS}
        points.append(
            {
                **point._asdict(),
                **{name: _rounded(value) for name, value in numbers.items()},
                "nearest": int(measured.nearest[k]),
            }
        )
    return {
        **run._asdict(),
        "progress": progress._asdict(),
        "reliable": report_verdict.reliable(verdicts),
        "points": points,
    }


def _rounded(value: float) -> float | None:
    return round(value, 4) if np.isfinite(value) else None
