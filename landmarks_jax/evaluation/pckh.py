"""PCKh@0.5 of human pose, counted as by MPII's own tool.

A joint is correct if it lies within half the head's size of its annotation; the head's size is 0.6
times the diagonal of the head's box. All annotated joints count, including hidden ones and those
outside the view. The mean is over the annotated joints except pelvis and thorax, which the tool
leaves out; both joints of a pair are pooled.

The result of `evaluate` is plain JSON, the only source of the tables:

    format      "pose 1"
    protocol    "mpii"
    people      {"name", "all", "apart"}: how many there are, and how many have nobody near
    view_size   S, the side of the views in pixels
    coordinates how joints are read from heat maps
    notes       sentences to print under every table
    results     row -> {"all", "apart"} -> {"mean", "groups": {name: PCKh}, "joints": [16 PCKh],
                "annotated": [16]}; per cent, None where nothing is annotated. Rows are the names
                of the detectors, then "mean_pose", which looks at no photo
    examples    of the first detector: {"rows": [E], "found": [E, 16, 2], "joints": [E, 16, 2] with
                None where not annotated}, normalised to the view
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from landmarks_jax.data import cutting, framing
from landmarks_jax.data.sources import mpii
from landmarks_jax.evaluation import score_tables
from landmarks_jax.evaluation.metrics import Detect
from landmarks_jax.system.errors import ConfigError, DataError
from landmarks_jax.system.tables import DASH, Table
from landmarks_jax.system.tables import to_csv as csv_of

PROTOCOL = "mpii"
FORMAT = "pose 1"
COORDINATES = "the highest cell of each map, shifted a quarter of a cell to its higher neighbour"
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
      apart: `[N]`, whether nobody else is near.
      mean_pose: `[16, 2]` the mean joints of the people in training.
      name: name in tables.
    """

    views: np.ndarray
    joints: np.ndarray
    head_sizes: np.ndarray
    apart: np.ndarray
    mean_pose: np.ndarray
    name: str


def open_people(config: ConfigDict, names: Sequence[str] | None = None) -> LabelledPeople:
    """Reads the people held out for validation, and the mean pose of the others.

    Args:
      config: the configuration of a run on joints.
      names: the protocol's name; None takes config.eval.protocols.

    Raises:
      ConfigError: another protocol was named.
      DataError: the data is missing or malformed.
    """
    names = names or config.eval.protocols
    if set(names) != {PROTOCOL}:
        raise ConfigError(
            f"--protocol {', '.join(names) or '(none)'}: this is a run on joints, scored by "
            f"{PROTOCOL} alone"
        )
    frame = framing.of_config(config)
    held_out = mpii.MpiiPeople(config.eval.mpii, "validation")
    views, points = cutting.load_views(held_out, frame)
    head_sizes = mpii.HEAD_SHARE * np.linalg.norm(points[:, -1] - points[:, -2], axis=-1)
    return LabelledPeople(
        views,
        points[:, : mpii.NUM_JOINTS].astype(np.float64),
        head_sizes.astype(np.float64),
        np.array([person.apart for person in held_out.people]),
        frame.points_in_view(_mean_pose(config.eval.mpii)),
        "MPII validation",
    )


def _mean_pose(root: str) -> np.ndarray:
    """The mean joints `[16, 2]` of the people in training, normalised to their squares."""
    people = [p for p in mpii.people_of(root) if p.split == "train"]
    if not people:
        raise DataError(f"{root}: no person is in the split 'train'")
    sides = np.array([person.square[2] for person in people])
    joints = np.stack([person.points for person in people])[:, : mpii.NUM_JOINTS]
    placed = np.ma.masked_invalid(2.0 * (joints + 0.5) / sides[:, None, None] - 1.0)
    return placed.mean(0).filled(0.0)


def found_joints(joints: np.ndarray, predicted: np.ndarray, head_sizes: np.ndarray) -> np.ndarray:
    """Which joints were found: bool `[N, J]`, False for joints without annotation.

    Args:
      joints: `[N, J, 2]`, NaN where not annotated.
      predicted: `[N, J, 2]`, in the same unit.
      head_sizes: `[N]`, in the same unit.
    """
    distances = np.linalg.norm(np.asarray(predicted, np.float64) - joints, axis=-1)
    return distances <= mpii.FOUND_WITHIN * head_sizes[:, None]  # false for NaN


def scores(annotated: np.ndarray, found: np.ndarray) -> dict[str, Any]:
    """PCKh of some people, %.

    Args:
      annotated: `[N, 16]`.
      found: `[N, 16]` of `found_joints`.
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
      people: the people to score on.
      detectors: name -> views to joints `[N, 16, 2]`, the headline first.
      notes: sentences to print under every table.

    Raises:
      DataError: a detector's joints are not finite.
    """
    predicted = {name: np.asarray(detect(people.views)) for name, detect in detectors.items()}
    for name, joints in predicted.items():
        if not np.isfinite(joints).all():
            raise DataError(f"detector {name!r}: joints are not finite; did the training diverge?")
    headline = next(iter(predicted.values()))
    predicted["mean_pose"] = np.broadcast_to(people.mean_pose, people.joints.shape)
    annotated = np.isfinite(people.joints).all(-1)
    kinds = {"all": np.ones_like(people.apart), "apart": people.apart}
    results = {}
    for name, joints in predicted.items():
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
    rows, joints = [], []
    for name, row in result["results"].items():
        for which, scored in row.items():
            start = [score_tables.row_name(name), f"{which} ({result['people'][which]:,})"]
            rows.append([*start, *map(_cell, scored["groups"].values()), _cell(scored["mean"])])
    columns = {name: row["all"] for name, row in result["results"].items()}
    counts = next(iter(columns.values()))["annotated"]
    for j, (joint, count) in enumerate(zip(JOINTS, counts, strict=True)):
        cells = [_cell(scored["joints"][j]) for scored in columns.values()]
        joints.append([joint, f"{count:,}", *cells])
    own = [f"Note: {note}" for note in result["notes"]]
    notes = [
        "PCKh@0.5, per cent: the share of the annotated joints within half the head's size, which "
        "is 0.6 of the diagonal of its box. The mean leaves out pelvis and thorax. Joints are "
        f"{result['coordinates']}. Apart: people with nobody near. The mean pose, of the people "
        "in training, looks at no photo.",
        f"People: {result['people']['name']}, views of {result['view_size']} pixels. The split is "
        "this project's own (docs/datasets.md), not that of other publications.",
        *own,
    ]
    header = ["", "People", *(name.capitalize() for name in (*GROUPS, "mean"))]
    by_joint = ["Joint", "Annotated", *map(score_tables.row_name, columns)]
    tables = [
        Table(header, rows, "PCKh@0.5", notes),
        Table(by_joint, joints, "Joint by joint, all people", own),
    ]
    return "\n".join(table.to_markdown() for table in tables)


def to_csv(result: Mapping[str, Any]) -> str:
    """Every number of a result, one a line: row, people, kind, annotated, pckh."""
    lines = []
    for name, row in result["results"].items():
        for which, scored in row.items():
            start = {"row": name, "people": which}
            kinds = {"mean": scored["mean"], **scored["groups"]}
            lines += [{**start, "kind": kind, "pckh": value} for kind, value in kinds.items()]
            joints = zip(JOINTS, scored["annotated"], scored["joints"], strict=True)
            lines += [
                {**start, "kind": joint, "annotated": count, "pckh": value}
                for joint, count, value in joints
            ]
    return csv_of(("row", "people", "kind", "annotated", "pckh"), lines)


def _cell(value: float | None) -> str:
    return DASH if value is None else f"{value:.1f}"
