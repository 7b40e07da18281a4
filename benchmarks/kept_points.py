"""Which of a grid's refined points to keep: errors of those that follow known warps best, merged.

python -m benchmarks.kept_points --work runs/own_things \
    --out docs/results/benchmarks/kept_points_cpu.json

The photos and points are those of `benchmarks.own_things`. Points are refined, not taught to a
detector. Half of the photos fit the linear map, all of them or 20, and the others are scored.
"""

from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import harness, own_things
from landmarks_jax import config as configuration
from landmarks_jax import geometry
from landmarks_jax.cli import presets
from landmarks_jax.data.sources import registry
from landmarks_jax.evaluation import metrics, regression
from landmarks_jax.evaluation.regression import Split
from landmarks_jax.system.tables import Table
from landmarks_jax.training import start_points, targets
from landmarks_jax.training.merging import merging
from landmarks_jax.training.refiner import Refiner, Targets

KEPT = (40, 28, 20)  # of the grid's 64
_NETWORKS = {
    "vgg19": {"targets.taps": ("relu3_4", "relu4_4"), "targets.components": 128},
    "hog": {},
}


def refined(things: own_things.Things, fields: dict[str, Any]) -> tuple[Targets, np.ndarray]:
    """The refined points of labelled photos, in the order of what they follow, and the labels.

    Args:
      things: whose `fit` is used.
      fields: of the configuration, beside those of the preset `folder`.

    Returns:
      The points of all photos, and `[N, P, 2]` labels, normalised to the whole photo.
    """
    config = configuration.with_fields(
        presets.load("folder"), {"data.landmarks": str(things.fit), **fields}
    )
    config = configuration.with_fields(config, {"targets.keep": config.targets.grid**2})
    start = start_points.first(config)
    schedule = targets.schedule(config, later=False)
    made = Refiner(config).run(start, schedule, keep=config.targets.keep)
    source = registry.open_source(config.data)
    sizes = [source.photo(i).shape[1::-1] for i in range(len(source))]
    labels = [geometry.to_normalized(source.points(i), size) for i, size in enumerate(sizes)]
    return made, np.stack(labels)


def errors(points: np.ndarray, labels: np.ndarray) -> dict[str, Any]:
    """Forward errors of points `[N, K, 2]`, in per cent of the distance of the first two labels."""
    half = len(points) // 2
    x, y = Split(points[:half], points[half:]), Split(labels[:half], labels[half:])
    few, every = regression.subsets(half, (own_things.LABELS,), own_things.DRAWS, 0)

    def error(rows: np.ndarray) -> float:
        linear = regression.fit_leave_one_out(x.fit[rows], y.fit[rows]).map
        unit = metrics.inter_ocular(y.score)
        return float(metrics.point_errors(linear(x.score), y.score, unit).mean())

    return {"all": error(every[0]), "few": float(np.mean([error(rows) for rows in few]))}


def rows_of(made: Targets, labels: np.ndarray, groups: int) -> list[dict[str, Any]]:
    """The errors of all points, and of those that follow best, merged."""
    best = np.argsort(-made.followed, kind="stable")
    rows = [{"kept": len(best), "merged": None, **errors(made.points, labels)}]
    for count in (len(best), *KEPT):
        points = made.points[:, np.sort(best[:count])]
        merged = merging(points, groups) @ points
        rows.append({"kept": count, "merged": groups, **errors(merged, labels)})
    return rows


def to_markdown(result: dict[str, Any]) -> str:
    """The table of a result."""
    runs = result["runs"]
    lines = {
        (one["network"], row["kept"], row["merged"]): f"{row['kept']}"
        + (f", merged to {row['merged']}" if row["merged"] else "")
        for one in runs
        for row in one["rows"]
    }
    kinds = list(dict.fromkeys(one["kind"] for one in runs))
    cells = {
        (one["kind"], one["network"], row["kept"], row["merged"]): f"{row['all']:.1f}, "
        f"{row['few']:.1f}"
        for one in runs
        for row in one["rows"]
    }
    rows = [[key[0], text, *(cells[kind, *key] for kind in kinds)] for key, text in lines.items()]
    header = ["Features", "Points kept", *(f"{kind}: all labels, 20" for kind in kinds)]
    notes = [
        harness.provenance(result),
        "Forward error in per cent of the distance of the first two points (the eyes, root and "
        f"tip, neck and pelvis), of points refined from a grid, on {result['photos']:,} photos of "
        f"each kind, half of them fitted on, or {own_things.LABELS} of these (the mean of "
        f"{own_things.DRAWS} draws), the others scored. The points kept are those that follow "
        "known warps best, without labels. LFW's points are those of a supervised network.",
    ]
    return Table(header, rows, "Points that follow the object", notes).to_markdown(1)


def main() -> None:
    """Measures, and writes the JSON with its table beside it."""
    parser = harness.argument_parser(__doc__)
    kinds = harness.comma_separated(harness.one_of(own_things.KINDS))
    networks = harness.comma_separated(harness.one_of(_NETWORKS))
    parser.add_argument("--work", type=harness.out_folder, required=True, help="photos")
    parser.add_argument("--kinds", type=kinds, default=",".join(own_things.KINDS))
    parser.add_argument("--networks", type=networks, default=",".join(_NETWORKS))
    parser.add_argument("--photos", type=harness.at_least(40), default=1000, help="of each kind")
    parser.add_argument("--lfw", type=Path, default="data/lfw", help="folder of LFW's photos")
    parser.add_argument(
        "--vgg19", default="data/weights/vgg19_conv1_1_to_conv4_4.npz", help="weights"
    )
    args = parser.parse_args()
    runs = []
    for network in args.networks:
        fields = {"data.max_photos": args.photos, "targets.network": network, **_NETWORKS[network]}
        fields["targets.weights"] = args.vgg19 if network == "vgg19" else ""
        for kind in args.kinds:
            made, labels = refined(own_things.things_of(kind, args.work, args.lfw), fields)
            groups = presets.load("folder").targets.merge[0]
            runs.append({"kind": kind, "network": network, "rows": rows_of(made, labels, groups)})
            harness.log(runs[-1])
    packages = ("jax", "jaxlib", "numpy")
    result = {
        **harness.environment(packages),
        "photos": args.photos,
        "runs": runs,
    }
    harness.write_result(args.out, result, to_markdown(result))


if __name__ == "__main__":
    harness.run_command(main)
