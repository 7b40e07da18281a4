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
from landmarks_jax.evaluation.regression import Split
from landmarks_jax.evaluation.scores import with_std
from landmarks_jax.inference import api, packed_file
from landmarks_jax.inference.detector import ViewDetector
from landmarks_jax.system.tables import DASH, Table

PROTOCOL, CROP = "aflw-dev", "center"
COUNTS = (5, 10, 20, 50, 100)
_COLUMNS = {
    "chosen": "Penalty by leave-one-out, %",
    "without_worst": "the same without the worst face, %",
    "fixed": "Penalty of the paper, %",
    "mean_shape": "Mean shape, %",
    "stated": "Stated by leave-one-out, %",
}
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
      For each number `n` and `draws`; `metrics.summary` of the errors with a penalty `chosen` by
      leave-one-out, the same `without_worst`, the face of the largest error by leave-one-out, with
      the paper's `fixed` penalty, and of the `mean_shape`; `stated`, that of the errors by
      leave-one-out; `penalties`: the quartiles of those chosen, None for infinite ones.
    """
    labels = Split(protocol.fit.points, protocol.score.points)
    eyes = Split(*(metrics.inter_ocular(p, protocol.eyes) for p in (labels.fit, labels.score)))
    rows = []
    for drawn in regression.subsets(len(labels.fit), counts, draws, seed):
        errors: dict[str, list[np.ndarray]] = {}
        penalties = []
        for faces in drawn:
            x, y = landmarks.fit[faces], labels.fit[faces]
            chosen = regression.fit_leave_one_out(x, y)
            penalties.append(chosen.penalty)
            stated = metrics.point_errors(chosen.predicted, y, eyes.fit[faces])
            errors.setdefault("stated", []).append(stated)
            rest = np.delete(np.arange(len(faces)), stated.mean(1).argmax())
            maps = {
                "chosen": chosen.map,
                "without_worst": regression.fit_leave_one_out(x[rest], y[rest]).map,
                "fixed": regression.fit(x, y),
                "mean_shape": regression.fit_mean(x, y),
            }
            for name, linear in maps.items():
                predicted = linear(landmarks.score)
                scored = metrics.point_errors(predicted, labels.score, eyes.score)
                errors.setdefault(name, []).append(scored)
        middle = np.percentile(penalties, (25, 50, 75), method="nearest").tolist()
        rows.append(
            {
                "n": drawn.shape[1],
                "draws": len(drawn),
                **{name: metrics.summary(values) for name, values in errors.items()},
                "penalties": [p if np.isfinite(p) else None for p in middle],
            }
        )
        harness.log(rows[-1])
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
        head = {"detector": name, "num_landmarks": count, "scored": len(protocol.score.points)}
        results.append({**head, "rows": rows})
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
                    *(with_std(row[name]) for name in _COLUMNS),
                    DASH if penalty is None else f"{penalty:.1g}",
                ]
            )
        counts = [needed(one["rows"], name) for name in ("chosen", "fixed")]
        enough.append(
            "{} ({} landmarks) {:,}, with the paper's penalty {:,}".format(
                one["detector"], one["num_landmarks"], *counts
            )
        )
    header = ["Detector", "Labelled faces", *_COLUMNS.values(), "Penalty"]
    first = result["detectors"][0]
    draws = first["rows"][0]["draws"]
    notes = [
        harness.provenance(result),
        f"{PROTOCOL}, {CROP} crop: forward error on {first['scored']:,} other faces, five points, "
        f"% of the eye distance; mean ± standard deviation over {draws} draws of the labelled "
        "faces, the same in every column. The paper's penalty is 1e-4 of the largest entry of "
        f"X^T X; by leave-one-out (ours) one of {len(regression.PENALTIES)} is chosen in each draw,"
        " whose median is in the last column (-: infinite, the mean shape). Stated: the error that "
        "leave-one-out finds from the labelled faces alone, with the penalty that it chose. The "
        "worst face is the one with the largest such error.",
        f"The least of these numbers that brings {100 * ENOUGH:.0f} % of what all labels bring "
        f"over the mean shape: {'; '.join(enough)}.",
    ]
    return Table(header, rows, "How many labels are needed", notes).to_markdown(1)


def main() -> None:
    """Measures, and writes the JSON with its table beside it."""
    parser = harness.argument_parser(__doc__)
    names = harness.comma_separated(str)
    parser.add_argument("--detectors", type=names, default="faces,faces40", help="files or names")
    parser.add_argument("--aflw", default="data/aflw", help="folder of AFLW's lists")
    parser.add_argument("--draws", type=harness.at_least(10), default=50, help="of each number")
    parser.add_argument("--seed", type=harness.at_least(0), default=0, help="of the draws")
    args = parser.parse_args()
    result = {
        **harness.environment(("jax", "numpy")),
        "seed": args.seed,
        "detectors": run(args),
    }
    harness.write_result(args.out, result, to_markdown(result))


if __name__ == "__main__":
    harness.run_command(main)
