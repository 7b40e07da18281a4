"""How many labels are needed: the forward error over the number of labelled faces, on AFLW-dev.

python -m benchmarks.label_count --out docs/results/benchmarks/label_count_cpu.json

The linear map of a frozen detector is fitted on N faces drawn from those of the protocol's fit
list, with a ridge penalty chosen by leave-one-out among these N faces, or with the paper's fixed
one, and scored on the faces of the score list. Beside it the error that leave-one-out states from
the N faces alone, as `landmarks-jax eval --fit` without --score does.
"""

import argparse
from collections.abc import Sequence
from typing import Any

import numpy as np

from benchmarks import harness
from landmarks_jax.evaluation import labelled_faces, metrics, packed_evaluation, regression
from landmarks_jax.evaluation.protocols import Protocol
from landmarks_jax.evaluation.regression import LeaveOneOut, Split
from landmarks_jax.evaluation.scores import with_std
from landmarks_jax.inference import api, packed_file
from landmarks_jax.inference.detector import ViewDetector
from landmarks_jax.inference.linear_map import LinearMap
from landmarks_jax.system.tables import DASH, Table

PROTOCOL, CROP = "aflw-dev", "center"
COUNTS = (5, 10, 20, 50, 100)
ENOUGH = 0.9  # of what all labels bring over the mean shape


def curve(
    landmarks: Split, protocol: Protocol, counts: Sequence[int], draws: int, seed: int
) -> list[dict[str, Any]]:
    """The errors for each number of labelled faces.

    Args:
      landmarks: a detector's, of the faces of the protocol.
      protocol: the labelled faces.
      counts: numbers of faces to fit on; all of them are added.
      draws: of each number below all.
      seed: of the draws.

    Returns:
      For each number `n` and `draws`; `chosen`, `fixed` and `mean_shape`: `metrics.summary` of the
      errors with a penalty chosen by leave-one-out, with the paper's, and of the mean shape;
      `stated`: the mean of the errors by leave-one-out, and their standard deviation over draws;
      `penalties`: the quartiles of those chosen, None for infinite ones.
    """
    labels = Split(protocol.fit.points, protocol.score.points)
    eyes, fit_eyes = (metrics.inter_ocular(p, protocol.eyes) for p in (labels.score, labels.fit))
    rows = []
    for drawn in regression.subsets(len(labels.fit), counts, draws, seed):
        chosen: list[LeaveOneOut] = []

        def choose(X: np.ndarray, Y: np.ndarray, chosen: list[LeaveOneOut] = chosen) -> LinearMap:
            chosen.append(regression.fit_leave_one_out(X, Y))
            return chosen[-1].map

        def of(fitter: regression.Fitter, drawn: np.ndarray = drawn) -> dict[str, Any]:
            (scored,) = regression.scores_by_count(fitter, landmarks, labels, eyes, [drawn])
            return scored

        row = {
            "chosen": of(choose),
            "fixed": of(regression.fit),
            "mean_shape": of(regression.fit_mean),
        }
        stated = [
            metrics.point_errors(one.predicted, labels.fit[faces], fit_eyes[faces])
            for one, faces in zip(chosen, drawn, strict=True)
        ]
        penalties = np.percentile([one.penalty for one in chosen], (25, 50, 75), method="nearest")
        rows.append(
            {
                "n": drawn.shape[1],
                "draws": len(drawn),
                **{
                    name: {k: v[k] for k in ("mean", "std", "per_point")} for name, v in row.items()
                },
                "stated": {k: metrics.summary(stated)[k] for k in ("mean", "std")},
                "penalties": [p if np.isfinite(p) else None for p in penalties.tolist()],
            }
        )
        harness.log({key: rows[-1][key] for key in ("n", "chosen", "fixed", "stated")})
    return rows


def needed(rows: Sequence[dict[str, Any]], name: str) -> int:
    """The least number of labels that bring `ENOUGH` of what all bring over the mean shape."""
    best, control = rows[-1][name]["mean"], rows[-1]["mean_shape"]["mean"]
    limit = control - ENOUGH * (control - best)
    return next(row["n"] for row in rows if row[name]["mean"] <= limit)


def run(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Measures all detectors."""
    results = []
    for name in args.detectors:
        packed = packed_file.read(api.find_packed(name))
        config = packed_evaluation.config_of(packed)
        config.eval.aflw = args.aflw
        opened = labelled_faces.open_protocols(PROTOCOL, config)
        protocol = next(one for one in opened if one.crop == CROP)
        detect = ViewDetector(packed.config, packed.variables)
        landmarks = Split(*(detect(faces.views) for faces in (protocol.fit, protocol.score)))
        rows = curve(landmarks, protocol, COUNTS, args.draws, args.seed)
        count = config.model.num_landmarks
        results.append({"detector": name, "num_landmarks": count, "rows": rows})
    return results


def to_markdown(result: dict[str, Any]) -> str:
    """The table of a result."""
    rows, enough = [], []
    for one in result["detectors"]:
        for row in one["rows"]:
            penalty = row["penalties"][1]
            last = "all, " if row is one["rows"][-1] else ""
            rows.append(
                [
                    one["detector"],
                    f"{last}{row['n']:,}",
                    *(with_std(row[name]) for name in ("chosen", "fixed", "mean_shape", "stated")),
                    DASH if penalty is None else f"{penalty:.1g}",
                ]
            )
        counts = [needed(one["rows"], name) for name in ("chosen", "fixed")]
        enough.append(
            "{} ({} landmarks) {:,}, with the paper's penalty {:,}".format(
                one["detector"], one["num_landmarks"], *counts
            )
        )
    header = ["Detector", "Labelled faces", "Penalty by leave-one-out, %", "the paper's, %"]
    header += ["Mean shape, %", "Stated by leave-one-out, %", "Penalty"]
    draws = result["detectors"][0]["rows"][0]["draws"]
    notes = [
        harness.provenance(result),
        f"{PROTOCOL}, {CROP} crop: forward error on 400 other faces, five points, % of the eye "
        f"distance; mean ± standard deviation over {draws} draws of the labelled faces, the same "
        "in every column. The paper's penalty is 1e-4 of the largest entry of X^T X; by "
        f"leave-one-out (ours) one of {len(regression.PENALTIES)} is chosen in each draw, whose "
        "median is in the last column (-: infinite, the mean shape). Stated: the error that "
        "leave-one-out finds from the labelled faces alone, with the penalty that it chose.",
        f"The least of these numbers that brings {100 * ENOUGH:.0f} % of what all labels bring "
        f"over the mean shape: {'; '.join(enough)}.",
    ]
    return Table(header, rows, "How many labels are needed", notes).to_markdown(1)


def main() -> None:
    """Measures, and writes the JSON with its table beside it."""
    parser = harness.argument_parser(str(__doc__))
    names = harness.comma_separated(str)
    parser.add_argument("--detectors", type=names, default="faces,faces40", help="files or names")
    parser.add_argument("--aflw", default="data/aflw", help="folder of AFLW's lists")
    parser.add_argument("--draws", type=harness.at_least(10), default=50, help="of each number")
    parser.add_argument("--seed", type=harness.at_least(0), default=0, help="of the draws")
    args = parser.parse_args()
    result = {
        **harness.environment("benchmarks.label_count", ("jax", "numpy")),
        "seed": args.seed,
        "detectors": run(args),
    }
    harness.write_result(args.out, result, to_markdown(result))


if __name__ == "__main__":
    harness.run_command(main)
