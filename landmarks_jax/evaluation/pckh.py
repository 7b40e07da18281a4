"""PCKh@0.5 of human pose, counted as MPII's own tool does.

A joint is found if it lies within half the head's size of its annotation; the head's size is 0.6
times the diagonal of the head's box. All annotated joints count, hidden ones and those outside the
view too. The mean is over the annotated joints of all kinds but pelvis and thorax, which the tool
leaves out; both joints of a pair are pooled.

The result of `evaluate` is plain JSON, the only source of the tables:

    format      "pose 1"
    protocol    "mpii"
    people      {"name", "all", "apart"}: how many there are, and how many of them stand apart
    view_size   S, the side of the views in pixels
    coordinates how maps became joints
    notes       sentences to print under every table
    results     row -> {"all", "apart"} -> {"mean", "groups": {name: PCKh}, "joints": [16 PCKh],
                "annotated": [16]}; per cent, None where nothing is annotated. Rows: the names of
                the detectors, then "mean_pose", which looks at no photo
    examples    of the first detector: {"rows": [E], "found": [E, 16, 2], "joints": [E, 16, 2] with
                None where not annotated}, normalised to the view
"""

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from landmarks_jax.data import cutting
from landmarks_jax.data.framing import Framing
from landmarks_jax.data.sources import mpii
from landmarks_jax.evaluation import score_tables
from landmarks_jax.evaluation.metrics import Detect
from landmarks_jax.system.errors import DataError

PROTOCOL = "mpii"
FORMAT = "pose 1"
COORDINATES = "the highest cell of each map, moved a quarter of a cell to its higher neighbour"
JOINTS = (
    *("right ankle", "right knee", "right hip", "left hip", "left knee", "left ankle"),
    *("pelvis", "thorax", "upper neck", "head top"),
    *("right wrist", "right elbow", "right shoulder"),
    *("left shoulder", "left elbow", "left wrist"),
)
GROUPS = {
    "head": (9,),
    "shoulder": (12, 13),
    "elbow": (11, 14),
    "wrist": (10, 15),
    "hip": (2, 3),
    "knee": (1, 4),
    "ankle": (0, 5),
}
_NOT_IN_MEAN = (6, 7)
_NUM_EXAMPLES = 24


@dataclass(frozen=True)
class LabelledPeople:
    """People with joints, normalised to their views.

    Attributes:
      views: uint8 `[N, S, S, 3]`.
      joints: `[N, 16, 2]`, NaN where not annotated.
      head_sizes: `[N]`, the unit of PCKh.
      apart: `[N]`, whether nobody else stands near.
      mean_pose: `[16, 2]` the mean joints of the people who train.
      name: as tables call them.
    """

    views: np.ndarray
    joints: np.ndarray
    head_sizes: np.ndarray
    apart: np.ndarray
    mean_pose: np.ndarray
    name: str


def open_people(config: ConfigDict) -> LabelledPeople:
    """Reads the people that are held out for validation, and the mean pose of the others.

    Raises:
      DataError: the data is missing or malformed.
    """
    side = config.data.canvas_size
    framing = Framing(side, config.views.size, config.data.crop)
    held_out = mpii.MpiiPeople(config.eval.mpii, "validation")
    views, points = cutting.load_views(held_out, framing)
    head_sizes = mpii.HEAD_SHARE * np.linalg.norm(points[:, -1] - points[:, -2], axis=-1)
    return LabelledPeople(
        views,
        points[:, : mpii.NUM_JOINTS].astype(np.float64),
        head_sizes.astype(np.float64),
        np.array([person.apart for person in held_out.people]),
        framing.points_in_view(_mean_pose(config.eval.mpii)),
        "MPII validation",
    )


def _mean_pose(root: str) -> np.ndarray:
    """The mean joints `[16, 2]` of the people who train, normalised to their squares."""
    people = [p for p in mpii.people_of(root) if p.split == "train"]
    if not people:
        raise DataError(f"{root}: nobody is in the split 'train'")
    sides = np.array([person.square[2] for person in people])
    joints = np.stack([person.points for person in people])[:, : mpii.NUM_JOINTS]
    placed = np.ma.masked_invalid(2.0 * (joints + 0.5) / sides[:, None, None] - 1.0)
    return placed.mean(0).filled(0.0)


def found_joints(joints: np.ndarray, found: np.ndarray, head_sizes: np.ndarray) -> np.ndarray:
    """Which joints were found: `[N, J]`; never one without annotation.

    Args:
      joints: `[N, J, 2]`, NaN where not annotated.
      found: `[N, J, 2]`, in the same unit.
      head_sizes: `[N]`, likewise.
    """
    distances = np.linalg.norm(np.asarray(found, np.float64) - joints, axis=-1)
    return distances <= mpii.FOUND_WITHIN * head_sizes[:, None]  # false for NaN


def scores(annotated: np.ndarray, found: np.ndarray) -> dict[str, Any]:
    """PCKh of some people, %.

    Args:
      annotated: `[N, 16]`.
      found: `[N, 16]`, as `found_joints` gives it.
    """

    def share(kinds: Sequence[int]) -> float | None:
        count = int(annotated[:, kinds].sum())
        return round(100.0 * int(found[:, kinds].sum()) / count, 4) if count else None

    return {
        "mean": share([j for j in range(len(JOINTS)) if j not in _NOT_IN_MEAN]),
        "groups": {name: share(list(kinds)) for name, kinds in GROUPS.items()},
        "joints": [share([j]) for j in range(len(JOINTS))],
        "annotated": annotated.sum(0).tolist(),
    }


def evaluate(
    people: LabelledPeople, detectors: Mapping[str, Detect], notes: Sequence[str] = ()
) -> dict[str, Any]:
    """Scores detectors and the mean pose; the module's docstring has the structure.

    Args:
      people: who is looked at.
      detectors: name -> views to joints `[N, 16, 2]`, the headline first.
      notes: sentences that belong under every table.

    Raises:
      DataError: a detector's joints are not finite.
    """
    found = {name: np.asarray(detect(people.views)) for name, detect in detectors.items()}
    for name, joints in found.items():
        if not np.isfinite(joints).all():
            raise DataError(f"detector {name!r}: joints are not finite; did the training diverge?")
    headline = next(iter(found.values()))
    found["mean_pose"] = np.broadcast_to(people.mean_pose, people.joints.shape)
    annotated = np.isfinite(people.joints).all(-1)
    kinds = {"all": np.ones_like(people.apart), "apart": people.apart}
    results = {}
    for name, joints in found.items():
        right = found_joints(people.joints, joints, people.head_sizes)
        results[name] = {
            which: scores(annotated[rows], right[rows]) for which, rows in kinds.items()
        }
    count = len(people.views)
    shown = np.unique(np.linspace(0, count - 1, _NUM_EXAMPLES).round().astype(int))
    labels = np.round(people.joints[shown], 4).astype(object)
    labels[~annotated[shown]] = None
    return {
        "format": FORMAT,
        "protocol": PROTOCOL,
        "people": {"name": people.name, "all": count, "apart": int(people.apart.sum())},
        "view_size": people.views.shape[1],
        "coordinates": COORDINATES,
        "notes": list(notes),
        "results": results,
        "examples": {
            "rows": shown.tolist(),
            "found": np.round(headline[shown].astype(float), 4).tolist(),
            "joints": labels.tolist(),
        },
    }


def to_markdown(result: Mapping[str, Any]) -> str:
    """The tables of a result: by kinds of joints, then joint by joint."""
    groups = [*GROUPS, "mean"]
    rows, joints = [], []
    for name, row in result["results"].items():
        for which, scored in row.items():
            cells = [*scored["groups"].values(), scored["mean"]]
            start = [_row_name(name), f"{which} ({result['people'][which]:,})"]
            rows.append([*start, *map(_cell, cells)])
    columns = {name: row["all"] for name, row in result["results"].items()}
    counts = next(iter(columns.values()))["annotated"]
    for j, (joint, count) in enumerate(zip(JOINTS, counts, strict=True)):
        cells = [_cell(scored["joints"][j]) for scored in columns.values()]
        joints.append([joint, f"{count:,}", *cells])
    notes = [
        "PCKh@0.5, per cent: the share of the annotated joints within half the head's size, 0.6 "
        "of the diagonal of its box. The mean leaves out pelvis and thorax. Joints are "
        f"{result['coordinates']}. Apart: people with nobody near. The mean pose, of the people "
        "who train, looks at no photo.",
        f"People: {result['people']['name']}, views of {result['view_size']} pixels. The part is "
        "this project's own (docs/datasets.md), not that of other publications.",
        *(f"Note: {note}" for note in result["notes"]),
    ]
    header = ["", "People", *(name.capitalize() for name in groups)]
    by_joint = ["Joint", "Annotated", *map(_row_name, columns)]
    return "\n".join(
        [
            score_tables.section("PCKh@0.5", header, rows, notes),
            score_tables.section("Joint by joint, all people", by_joint, joints, notes[2:]),
        ]
    )


def to_csv(result: Mapping[str, Any]) -> str:
    """Every number of a result, one a line: row, people, kind, annotated, pckh."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["row", "people", "kind", "annotated", "pckh"])
    for name, row in result["results"].items():
        for which, scored in row.items():
            writer.writerow([name, which, "mean", "", scored["mean"]])
            for kind, value in scored["groups"].items():
                writer.writerow([name, which, kind, "", value])
            for joint, count, value in zip(
                JOINTS, scored["annotated"], scored["joints"], strict=True
            ):
                writer.writerow([name, which, joint, count, value])
    return text.getvalue()


def _row_name(name: str) -> str:
    return {**score_tables.ROW_NAMES, "mean_pose": "mean pose"}.get(name, name)


def _cell(value: float | None) -> str:
    return score_tables.DASH if value is None else f"{value:.1f}"
