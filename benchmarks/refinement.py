"""Refines points of AFLW's faces by deep features: the forward error of each variant, and controls.

python -m benchmarks.refinement --cache runs/features \
    --out docs/results/benchmarks/refinement_cpu.json

Points start at a grid or at those of a detector and move as `landmarks_jax.refinement` says.
What is fitted without labels is fitted on the 2,000 faces of `training.txt`, and applied to the 995
of `testing.txt`. Labels are used in the linear map of the evaluation alone. Feature maps are kept
in --cache, so that a rerun continues.
"""

import argparse
import functools
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from benchmarks import harness
from benchmarks.faces import Faces, whole_views
from benchmarks.features import FeatureFiles, Features, Maps
from benchmarks.refinement_rows import DRAWN, DRAWS, EXTENT, GROUPS, ROWS, Row
from landmarks_jax import refinement
from landmarks_jax.data.sources.folder import FolderPhotos
from landmarks_jax.evaluation import regression
from landmarks_jax.inference import api
from landmarks_jax.refinement import Moments, Stage
from landmarks_jax.system.tables import DASH, Table
from landmarks_jax.training import start_points

_BATCH = 250  # photos refined at a time


class FitOn(NamedTuple):
    """What discriminants are fitted on.

    Attributes:
      maps: `[n, h, w, D]` of photos.
      points: `[n, K, 2]` where their points start.
      sums: the moments of all cells; None for those of `maps`.
    """

    maps: np.ndarray
    points: np.ndarray
    sums: Moments | None = None


class RowScorer:
    """Measures rows on faces; what several rows need is kept."""

    def __init__(
        self,
        faces: Faces,
        files: FeatureFiles,
        detector: str = "faces",
        *,
        pool: Sequence[Path] = (),
        pool_photos: int = 0,
    ) -> None:
        """Names the inputs.

        Args:
          faces: to refine and score.
          files: computes or reads feature maps.
          detector: a packed file or a shipped name, whose points some rows start at.
          pool: folders of photos whose statistics the row `pooled` adds.
          pool_photos: of each of them, spaced evenly.
        """
        self._faces, self._files, self._name = faces, files, detector
        self._pool, self._pool_photos = pool, pool_photos

    def measure(self, name: str) -> dict[str, Any]:
        """One row of `ROWS`; errors are lists, of several draws in the row `drawn`."""
        row, faces = ROWS[name], self._faces
        measured: dict[str, Any] = {"row": name, "group": row.group, "label": row.label}
        if row.change == "mean":
            errors = [faces.errors(faces.labels, regression.fit_mean)]
            return measured | _columns(errors, None)
        start = self._start(row)
        points = start
        if row.schedule:
            maps = self._maps(row.features)
            fit_on = self._fit_on(maps, start, row)
            started = time.perf_counter()
            stages = refinement.fit(fit_on.maps, fit_on.points, row.schedule, fit_on.sums)
            points = refine(maps.maps, start, stages)
            seconds = time.perf_counter() - started
            measured["ms_per_photo"] = round(maps.milliseconds, 1)
            measured["seconds"] = round(seconds, 1)
        if row.change == "others":
            points = faces.of_others(points)
        drawn = [np.arange(points.shape[1])]
        if row.change == "drawn":
            rng = np.random.default_rng(0)
            drawn = [rng.permutation(points.shape[1])[:DRAWN] for _ in range(DRAWS)]
        errors = [faces.errors(points[:, kept]) for kept in drawn]
        return measured | _columns(errors, len(drawn[0]))

    def _start(self, row: Row) -> np.ndarray:
        """Where the points of all photos start, `[N, K, 2]`."""
        if not row.grid:
            return self._detected
        grid = start_points.grid(row.grid, row.extent)
        return np.broadcast_to(grid, (len(self._faces), *grid.shape))

    @functools.cached_property
    def _detected(self) -> np.ndarray:
        detector = api.load_detector(self._name)
        return start_points.detected(detector, self._faces.views(detector.view_size))

    def _maps(self, features: Features) -> Maps:
        default = Features()
        if features._replace(components=default.components) == default:
            stored = features._replace(components=max(features.components, default.components))
        else:
            stored = features
        views = self._faces.views(features.size)
        maps = self._files.maps("aflw", views, stored, num_fit=self._faces.num_training)
        if stored != features:
            maps = maps.first_components(features.components)
        return maps

    def _fit_on(self, maps: Maps, start: np.ndarray, row: Row) -> FitOn:
        """What the discriminants of a row are fitted on."""
        count = self._faces.num_training
        fit_on = FitOn(maps.maps[:count], start[:count])
        if row.change == "isotropic":
            return fit_on._replace(sums=isotropic(refinement.moments_of(fit_on.maps)))
        if row.change == "pooled":
            others = [self._pooled(folder, row, maps) for folder in self._pool]
            joined = np.concatenate([fit_on.maps, *others])
            return FitOn(joined, np.broadcast_to(start[:1], (len(joined), *start.shape[1:])))
        return fit_on

    def _pooled(self, folder: Path, row: Row, maps: Maps) -> np.ndarray:
        """The maps of a folder's photos, on the components of AFLW's."""
        source = FolderPhotos([str(folder)])
        count = min(self._pool_photos, len(source))
        places = np.linspace(0, len(source) - 1, count).astype(int).tolist()
        views = whole_views(source, row.features.size, places)[0]
        name, projections = folder.name.replace(".", "-"), maps.projections
        return self._files.maps(name, views, row.features, projections=projections).maps


def refine(maps: np.ndarray, start: np.ndarray, stages: Stage) -> np.ndarray:
    """The refined points `[N, K, 2]` of photos."""
    batches = [slice(first, first + _BATCH) for first in range(0, len(maps), _BATCH)]
    return np.concatenate(
        [np.asarray(refinement.refine(maps[rows], start[rows], stages)[0]) for rows in batches]
    )


def isotropic(sums: Moments) -> Moments:
    """Moments with the same mean and total variance, which varies alike in all directions."""
    mean, covariance = sums.mean_and_covariance()
    variance = jnp.trace(covariance) / len(mean)
    products = sums.number * (jnp.outer(mean, mean) + variance * jnp.eye(len(mean)))
    return sums._replace(products=products)


def _columns(errors: Iterable[Any], points: int | None) -> dict[str, Any]:
    dev, test = zip(*errors, strict=True)
    return {"points": points, "dev": list(dev), "test": list(test)}


def measure(names: Iterable[str], scorer: RowScorer) -> list[dict[str, Any]]:
    """Rows of `ROWS` by name."""
    rows = []
    for name in names:
        rows.append(scorer.measure(name))
        harness.log(rows[-1])
    return rows


def to_markdown(result: dict[str, Any]) -> str:
    """The tables of a result, one for each group."""
    header = ["Start", "K", "AFLW-dev, %", "AFLW-995, %", "Features, ms a photo", "Rest, s"]
    notes = [
        harness.provenance(result),
        "Ours, not in the paper; VGG is trained on ImageNet's labels. Forward error, center crop "
        "(the whole photo), by a linear map fitted on all labelled faces: AFLW-dev's 1,600 or "
        f"AFLW-995's 2,000. The detector is {result['detector']}. Unless a row says otherwise: "
        "VGG-19's relu3_4 and relu4_4 of photos of "
        f"128 pixels, 128 components a tap, a grid over +-{EXTENT}, s = 0.15 and t = 0.1 six "
        "times, then s = 0.1 and t = 0.2 four times (from the detector three times and twice). "
        "Features: without compiling. Rest: fitting and moving the points of all photos, with "
        "compiling.",
    ]
    if result["photos"] is not None:
        notes.append(f"A trial on the first {result['photos']} photos of each list.")
    if result["pool"]:
        notes.append(
            f"Pooled: discriminants fitted on AFLW's photos and up to {result['pool_photos']:,} of "
            f"each of {', '.join(result['pool'])}; principal components of AFLW's."
        )
    pages: list[str] = []
    for group, title in GROUPS.items():
        rows = [_cells(row) for row in result["rows"] if row["group"] == group]
        if rows:
            table = Table(header, rows, title, [] if pages else notes)
            pages.append(table.to_markdown(2 if pages else 1))
    return "\n".join(pages)


def _cells(row: dict[str, Any]) -> list[str]:
    cells = [row["label"], DASH if row["points"] is None else str(row["points"])]
    for errors in (row["dev"], row["test"]):
        ends = [f"{min(errors):.2f}", f"{max(errors):.2f}"]
        cells.append(" to ".join(ends if len(errors) > 1 else ends[:1]))
    timed = "seconds" in row
    cells.append(f"{row['ms_per_photo']:.0f}" if timed else DASH)
    return [*cells, f"{row['seconds']:.1f}" if timed else DASH]


def names_of(text: str) -> str:
    """Reads the name of a row, or of a group."""
    return harness.one_of((*GROUPS, *ROWS))(text)


def chosen(names: Iterable[str], *, pooled: bool) -> list[str]:
    """The rows of names of rows and groups, in order; `pooled` only where it can be measured."""
    wanted = set(names)
    found = [name for name, row in ROWS.items() if {name, row.group} & wanted]
    return [name for name in found if pooled or name != "pooled"]


def main() -> None:
    """Measures, and writes the JSON with its tables beside it."""
    parser = harness.argument_parser(__doc__)
    read, at_least = harness.comma_separated, harness.at_least
    groups = ",".join(GROUPS)
    parser.add_argument(
        "--rows", type=read(names_of), default=groups, help=f"by commas: {groups}, or single rows"
    )
    parser.add_argument("--cache", type=harness.out_folder, default="runs/features", help="folder")
    parser.add_argument("--aflw", type=Path, default=Path("data/aflw"), help="AFLW's lists")
    parser.add_argument("--weights", type=Path, default=Path("data/weights"), help="VGG's folder")
    parser.add_argument("--detector", default="faces", help="a packed file or a shipped name")
    parser.add_argument("--photos", type=at_least(2), help="only the first of each list")
    parser.add_argument("--pool", type=read(Path), default=(), help="folders of photos, by commas")
    parser.add_argument("--pool_photos", type=at_least(1), default=2_000, help="of each folder")
    args = parser.parse_args()
    result = {
        **harness.environment(("jax", "jaxlib", "numpy")),
        "detector": args.detector,
        "photos": args.photos,
        "pool": [folder.name for folder in args.pool],
        "pool_photos": args.pool_photos,
        "rows": run(args),
    }
    harness.write_result(args.out, result, to_markdown(result))


def run(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Measures the rows of a command line."""
    faces = Faces(args.aflw, 10**9 if args.photos is None else args.photos)
    files = FeatureFiles(args.cache, args.weights)
    scorer = RowScorer(faces, files, args.detector, pool=args.pool, pool_photos=args.pool_photos)
    return measure(chosen(args.rows, pooled=bool(args.pool)), scorer)


if __name__ == "__main__":
    harness.run_command(main)
