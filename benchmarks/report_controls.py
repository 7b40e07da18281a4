"""Measures runs of known quality and controls as `landmarks-jax report` does.

python -m benchmarks.report_controls --aflw data/aflw --lfw data/lfw --out report_cpu.json
python -m benchmarks.report_controls ... --run settled:runs/quickstart --run failed:runs/noise

The shipped detectors and their controls on photos of faces: an untrained detector, points that stay
at one place, points of another photo, and images of noise; and any runs, each after the verdict
that it should get. The table says which verdicts are right. The tests judge the stored numbers.
"""

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import harness
from landmarks_jax.data import loader, sampling
from landmarks_jax.data.framing import Framing
from landmarks_jax.data.sources.folder import FolderPhotos
from landmarks_jax.evaluation import (
    packed_evaluation,
    report_measures,
    report_verdict,
    run_report,
)
from landmarks_jax.evaluation.report_measures import Find
from landmarks_jax.evaluation.report_verdict import Progress
from landmarks_jax.inference import api, packed_file
from landmarks_jax.inference.detector import ViewDetector
from landmarks_jax.system.errors import UserError
from landmarks_jax.system.tables import DASH, Table

_PHOTOS = 256
_COMPLETE = Progress(step=0, stopped="", fall=0.0, decays=True)
_SHOWN = ("follows", "missed", "agreement", "confidence", "border")


def case(name: str, expected: str, measured: Any, progress: Progress) -> dict[str, Any]:
    """The line of a detector, as plain JSON.

    Args:
      name: of the detector and its photos.
      expected: the verdict that it should get.
      measured: of its points.
      progress: of its training.
    """
    verdicts = report_verdict.of_points(measured)
    return {
        "name": name,
        "expected": expected,
        "verdict": report_verdict.of_run(verdicts, progress).verdict,
        "believed": report_verdict.reliable(verdicts),
        "progress": progress._asdict(),
        "measures": {
            field: [None if np.isnan(value) else round(float(value), 4) for value in values]
            for field, values in dataclasses.asdict(measured).items()
            if field != "between"
        },
    }


def controls(detector: ViewDetector, untrained: ViewDetector) -> dict[str, Find]:
    """Detectors whose points are unreliable, by name."""
    trained, num = run_report.finder(detector), detector.num_landmarks
    places = np.random.default_rng(1).uniform(-0.7, 0.7, (num, 2))

    def constant(views: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return np.broadcast_to(places, (len(views), num, 2)), np.ones((len(views), num))

    def shuffled(views: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        points, confidence = trained(views)
        return np.roll(points, 1, 0), confidence

    return {
        "untrained": run_report.finder(untrained),
        "points that stay": constant,
        "points of another photo": shuffled,
    }


def shipped(name: str, folders: dict[str, tuple[str, str]]) -> Iterator[dict[str, Any]]:
    """The lines of a shipped detector and, for `faces`, of its controls.

    Args:
      name: of the detector.
      folders: by name of the photos, their folder and crop.
    """
    packed = packed_file.read(api.find_packed(name))
    config = packed_evaluation.config_of(packed)
    detector = ViewDetector(config, packed.variables)
    fresh = packed_evaluation.untrained(config)
    untrained = ViewDetector(config, fresh, use_running_average=False)
    find = run_report.finder(detector)
    framings = {
        photos: Framing(config.data.canvas_size, config.views.size, crop)
        for photos, (_, crop) in folders.items()
    }
    for photos, framing in framings.items():
        canvases = _canvases(folders[photos][0], framing)
        measured, _ = report_measures.measure(find, canvases, framing)
        yield case(f"{name}, {photos}", report_verdict.SETTLED, measured, _COMPLETE)
        if name != "faces":
            continue
        for control, other in controls(detector, untrained).items():
            measured, _ = report_measures.measure(other, canvases, framing)
            yield case(f"{control}, {photos}", report_verdict.FAILED, measured, _COMPLETE)
    if name == "faces":
        shape = _PHOTOS, config.data.canvas_size, config.data.canvas_size, 3
        noise = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
        measured, _ = report_measures.measure(find, noise, framings["LFW"])
        yield case("faces, noise", report_verdict.FAILED, measured, _COMPLETE)


def _canvases(root: str, framing: Framing) -> np.ndarray:
    photos = loader.PhotoLoader(FolderPhotos([root]), framing)
    return photos.canvases(sampling.evenly(photos.num_different, _PHOTOS))


def of_run(argument: str) -> dict[str, Any]:
    """The line of a run, from `VERDICT:FOLDER`.

    Raises:
      UserError: the verdict is none, or the run cannot be used.
    """
    expected, _, folder = argument.partition(":")
    known = (report_verdict.SETTLED, report_verdict.MOVING, report_verdict.FAILED)
    if expected not in known:
        raise UserError(f"--run {argument}: must be VERDICT:FOLDER, the verdict one of {known}")
    workdir = Path(folder)
    measured = run_report.measure_run(workdir)
    name = f"{workdir.name}, step {measured.progress.step}"
    return case(name, expected, measured.measures, measured.progress)


def to_markdown(result: dict[str, Any]) -> str:
    """The table of a result: medians over the points, in per cent."""
    rows = [
        [
            line["name"],
            line["expected"],
            line["verdict"],
            f"{len(line['believed'])} of {len(line['measures']['error'])}",
            *(_median(line["measures"][name]) for name in _SHOWN),
        ]
        for line in result["cases"]
    ]
    wrong = sum(line["verdict"] != line["expected"] for line in result["cases"])
    header = ["detector, photos", "should be", "is", "believed", *_SHOWN]
    medians = f"Medians over the points, in per cent. {wrong} verdicts are wrong."
    notes = [medians, harness.provenance(result)]
    return Table(header, rows, "Verdicts on runs of known quality", notes, 4).to_markdown(1)


def _median(values: list[float | None]) -> str:
    known = [value for value in values if value is not None]
    return f"{100 * np.median(known):.0f}" if known else DASH


def main() -> None:
    """Measures, and writes the JSON with its table beside it."""
    parser = harness.argument_parser(__doc__)
    parser.add_argument("--aflw", default="data/aflw", help="folder of AFLW's photos")
    parser.add_argument("--lfw", default="data/lfw", help="folder of LFW's photos")
    parser.add_argument("--run", action="append", default=[], help="VERDICT:FOLDER of a run")
    args = parser.parse_args()
    folders = {"AFLW": (args.aflw, "tight"), "LFW": (args.lfw, "center")}
    lines = [of_run(argument) for argument in args.run]
    lines += [line for name in ("faces", "faces40") for line in shipped(name, folders)]
    result = {
        **harness.environment(("jax", "numpy")),
        "cases": lines,
    }
    harness.write_result(args.out, result, to_markdown(result))


if __name__ == "__main__":
    harness.run_command(main)
