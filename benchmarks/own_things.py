"""Trains on folders as they lie, by `landmarks-jax train PHOTOS`, and scores what was found.

python -m benchmarks.own_things --work runs/own_things \
    --out docs/results/benchmarks/own_things_cpu.json

Drawn wings and figures have exact points (`benchmarks.drawn_things`). LFW's photos have no points:
the five that a supervised network finds (YuNet, of the extra `faces`) take their place. Training
sees no points. The linear map is fitted on labelled photos, all or 20 of them, and scored on
others; its penalty is chosen by leave-one-out. Drawn photos to fit on are those of training, to
score on new ones; of LFW training sees some of both. Finished runs are not trained again; a rerun
with other flags or photos is refused.
"""

import hashlib
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks import drawn_things, harness
from landmarks_jax.data import photo_files
from landmarks_jax.data.decoding import decode
from landmarks_jax.data.formats import deeplabcut
from landmarks_jax.evaluation import labelled_faces, metrics, regression, run_report
from landmarks_jax.evaluation.regression import Split
from landmarks_jax.inference import face_finder
from landmarks_jax.inference.detector import ViewDetector
from landmarks_jax.system import files, parallel
from landmarks_jax.system.errors import UserError
from landmarks_jax.system.tables import Table
from landmarks_jax.training import checkpoints, run_folder
from landmarks_jax.training.state import trained_variables

LFW = "lfw"
KINDS = ("wings", "figures", LFW)
FEATURES = {"chosen": (), "hog": ("--config.targets.network=hog",)}
_FACE = ("left_eye", "right_eye", "nose", "left_mouth", "right_mouth")
_TRAIN, _TEST = 2_000, 500  # drawn images
LABELS, DRAWS = 20, 20
_TIME = "time.json"  # in a run's folder: what training took, and of what


class Things(NamedTuple):
    """Photos to train on, and labelled ones.

    Attributes:
      photos: the argument of `landmarks-jax train`.
      fit: file of labels to fit the map on.
      score: file of labels of other photos.
    """

    photos: Path
    fit: Path
    score: Path


def things_of(kind: str, work: Path, lfw: Path) -> Things:
    """Draws the images of a kind, or finds the points of LFW's photos, unless they are there."""
    if kind == LFW:
        # Of another folder the points are others.
        digest = hashlib.sha256(str(lfw.resolve()).encode()).hexdigest()[:12]
        lists = work / f"lfw_fit-{digest}.csv", work / f"lfw_score-{digest}.csv"
        if not lists[1].exists():
            for path, text in zip(lists, _faces(lfw), strict=True):
                files.write_file(path, text)
        return Things(lfw, *lists)
    folders = work / kind, work / f"{kind}_test"
    for seed, (folder, count) in enumerate(zip(folders, (_TRAIN, _TEST), strict=True), 1):
        if not folder.exists():
            drawn_things.write(kind, seed, count, folder)
    return Things(folders[0] / drawn_things.PHOTOS, *(f / drawn_things.POINTS for f in folders))


def _faces(folder: Path) -> tuple[str, str]:
    """Labels of photos with one face: of four fifths of them, and of the others."""

    def find(path: str) -> face_finder.FoundFaces:
        return face_finder.find_faces(decode(path)[0])

    paths = [str(Path(file.path).resolve()) for file in photo_files.usable_files([str(folder)])[0]]
    found = parallel.ordered_map(find, paths, "finding faces")
    points = {
        path: one.points[0] for path, one in zip(paths, found, strict=True) if len(one[0]) == 1
    }
    parts: tuple[dict[str, np.ndarray], dict[str, np.ndarray]] = {}, {}
    for number, (path, of_face) in enumerate(points.items()):
        parts[number % 5 == 4][path] = of_face
    fit, score = (deeplabcut.write_labels(part, _FACE) for part in parts)
    return fit, score


def train(photos: Path, run: Path, flags: tuple[str, ...]) -> None:
    """Runs the command, unless it ran to its end before; keeps what it took.

    Raises:
      UserError: it failed, or ran to its end on other photos or with other flags.
    """
    made_of = {"photos": str(photos.resolve()), "flags": list(flags)}
    path = run / _TIME
    if path.exists():
        kept = harness.read_json(path, f"delete {run} to train again")
        for name, value in made_of.items():
            if kept.get(name) != value:
                raise UserError(
                    f"{path}: the run has {name} {kept.get(name)!r}, not {value!r}; use another "
                    f"--work, or delete {run} to train again"
                )
        return
    command = [sys.executable, "-m", "landmarks_jax", "train", str(photos), "--workdir", str(run)]
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    code = subprocess.run([*command, *flags], check=False).returncode
    if code:
        raise UserError(f"{run}: training ended with exit code {code}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cores = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    took = {"seconds": time.monotonic() - started, "core_seconds": cores}
    harness.write_json(path, {**took, **made_of})


def measure(run: Path, things: Things) -> dict[str, Any]:
    """The errors of a run, and its report's verdict."""
    config = run_folder.read_config(run)
    detect = ViewDetector(config, trained_variables(checkpoints.restore(run, config).state))
    crops = (config.data.crop,)
    faces = labelled_faces.open_lists(str(things.fit), str(things.score), crops, config)[0]
    landmarks = Split(*(detect(part.views) for part in (faces.fit, faces.score)))
    unit = metrics.inter_ocular(faces.score.points, faces.eyes)

    def error(rows: np.ndarray, *, control: bool = False) -> float:
        x, y = landmarks.fit[rows], faces.fit.points[rows]
        linear = regression.fit_mean(x, y) if control else regression.fit_leave_one_out(x, y).map
        predicted = linear(landmarks.score)
        return float(metrics.point_errors(predicted, faces.score.points, unit).mean())

    few, every = regression.subsets(len(landmarks.fit), (LABELS,), DRAWS, 0)
    report = harness.read_json(run / run_report.RESULT, "rerun landmarks-jax report")
    took = harness.read_json(run / _TIME, f"delete {run} to train again")
    return {
        "features": config.targets.network,
        "num_landmarks": config.model.num_landmarks,
        "steps": config.train.steps,
        "photos": report["photos"]["all"],
        "labelled": [len(landmarks.fit), len(landmarks.score)],
        "mean_shape": error(every[0], control=True),
        "all_labels": error(every[0]),
        "few_labels": [error(rows) for rows in few],
        "verdict": report["verdict"],
        "believed": len(report["reliable"]),
        **{name: took[name] for name in ("seconds", "core_seconds")},
    }


def to_markdown(result: dict[str, Any]) -> str:
    """The table of a result."""
    rows = []
    for one in result["runs"]:
        few, mean = np.array(one["few_labels"]), one["mean_shape"]
        rows.append(
            [
                one["kind"],
                one["features"],
                f"{one['num_landmarks']}, {one['believed']} reliable",
                one["verdict"],
                f"{one['seconds'] / 60:.1f}",
                f"{one['core_seconds'] / 60:.1f}",
                f"{mean:.2f}",
                f"{one['all_labels']:.2f} ({100 * one['all_labels'] / mean:.0f})",
                f"{few.mean():.2f} ± {few.std():.2f} ({100 * few.mean() / mean:.0f})",
            ]
        )
    header = ["Photos", "Features", "Landmarks", "Verdict", "Minutes", "Core-minutes"]
    header += ["Mean shape, %", "All labels, %", f"{LABELS} labels, %"]
    counts = "; ".join(
        f"{one['kind']}: {one['photos']:,} photos of training, fitted on {one['labelled'][0]:,}, "
        f"scored on {one['labelled'][1]:,}"
        for one in {one["kind"]: one for one in result["runs"]}.values()
    )
    notes = [
        harness.provenance(result),
        "`landmarks-jax train PHOTOS`, ours and not in the paper; hog: histograms of gradients. "
        "Minutes: of the whole command, with start-up, features and the report. Forward error in "
        "per cent of the distance of the first two points (root and tip, neck and pelvis, the "
        f"eyes), in brackets in per cent of the mean shape's; with {LABELS} labels the mean ± "
        f"standard deviation over {DRAWS} "
        "draws. The penalty of the map is chosen by leave-one-out. LFW's points are those of a "
        "supervised network, not annotation; training saw some of the photos that are scored, "
        f"without labels. {counts}.",
    ]
    return Table(header, rows, "Training on a folder", notes).to_markdown(1)


def main() -> None:
    """Trains and measures, and writes the JSON with its table beside it."""
    parser = harness.argument_parser(__doc__)
    kinds = harness.comma_separated(harness.one_of(KINDS))
    features = harness.comma_separated(harness.one_of(FEATURES))
    parser.add_argument("--work", type=harness.out_folder, required=True, help="photos and runs")
    parser.add_argument("--kinds", type=kinds, default=",".join(KINDS), help=",".join(KINDS))
    parser.add_argument("--features", type=features, default=",".join(FEATURES))
    parser.add_argument("--lfw", type=Path, default="data/lfw", help="folder of LFW's photos")
    parser.add_argument("--flags", default="", help="of landmarks-jax train, between spaces")
    args = parser.parse_args()
    runs = []
    for name in args.features:
        for kind in args.kinds:
            things = things_of(kind, args.work, args.lfw)
            run = args.work / "runs" / f"{kind}-{name}"
            train(things.photos, run, (*FEATURES[name], *args.flags.split()))
            runs.append({"kind": kind, **measure(run, things)})
            harness.log(runs[-1])
    packages = ("jax", "jaxlib", "flax", "optax", "numpy")
    result = {**harness.environment(packages), "runs": runs}
    harness.write_result(args.out, result, to_markdown(result))


if __name__ == "__main__":
    harness.run_command(main)
