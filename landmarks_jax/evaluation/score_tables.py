"""Tables of evaluations, made from the JSON of `protocols.evaluate` alone."""

from collections.abc import Iterable, Sequence
from typing import Any

from landmarks_jax.evaluation import scores
from landmarks_jax.evaluation.scores import consistency_text, decimals, with_std
from landmarks_jax.system.tables import DASH, Table
from landmarks_jax.system.tables import to_csv as csv_of

Result = dict[str, Any]

ROW_NAMES = {
    "running": "this detector (running statistics)",
    "batch": "this detector (batch statistics)",
    "untrained": "untrained detector",
    "mean_shape": "mean shape",
    "one_photo": "one photo",
    "mean_pose": "mean pose",
}
_CSV_FIELDS = (
    *("protocol", "crop", "num_landmarks", "row", "quantity"),
    *("n", "draws", "point", "mean", "std", "unit"),
    *("faces", "low", "high"),
)
CROPS_NOTE = (
    "The crops center and box are not comparable: box takes the view from the annotated points, "
    "so that even the mean shape scores well."
)
POSES_NOTE = (
    "Yaw of the head, estimated from the labelled points: the nose's offset, along the eyes' "
    "axis, from the line between the middles of the eyes and of the mouth; 0.1 and 0.25 eye "
    "distances are about 9 and 23 degrees."
)
STILL_NOTE = (
    "In brackets the median distance, and the consistency of a landmark that stands still at its "
    "mean place in the view."
)


def to_csv(result: Result) -> str:
    """Every number of a result except those of single photos, one a line.

    Columns: protocol, crop, num_landmarks, row, quantity, n (labelled photos), draws, point (empty
    for the mean over points), mean, std, unit; and faces, low and high for groups of faces, whose
    quantity is `forward_by_yaw`, for instance, with the group's name in `point`.
    """
    common = {key: result[key] for key in ("protocol", "crop", "num_landmarks")}
    discovered = [str(index) for index in range(result["num_landmarks"])]
    lines = [
        {**common, "row": name, **line}
        for name, row in result["results"].items()
        for line in (
            *(
                line
                for metric in scores.METRICS.values()
                for line in metric.to_csv(row, result["point_names"], discovered)
            ),
            *_breakdown_lines(name, result),
        )
    ]
    return csv_of(_CSV_FIELDS, lines)


def _breakdown_lines(row: str, result: Result) -> Iterable[dict[str, Any]]:
    unit = scores.METRICS["forward"].unit
    for grouping in result["breakdown"]:
        for group in grouping["groups"]:
            if row in group["forward"]:
                line = {key: group[key] for key in ("faces", "low", "high")}
                line |= {"quantity": f"forward_by_{grouping['by']}", "point": group["name"]}
                yield line | {"mean": group["forward"][row], "unit": unit}


def to_markdown(results: Sequence[Result]) -> str:
    """The headline table of all results, then the other tables of each."""
    tables = [_headline(results)]
    for result in results:
        tables += [_counts_table(result), _points_table(result)]
        if any("consistency" in row for row in _detectors(result).values()):
            tables.append(_consistency_table(result))
        tables.append(_breakdown_table(result))
    return "\n".join(table.to_markdown() for table in tables)


def _detectors(result: Result) -> dict[str, Any]:
    """The rows that look at photos."""
    return {name: row for name, row in result["results"].items() if "backward" in row}


def _headline(results: Sequence[Result]) -> Table:
    """One line for each row of each result, with all labels."""
    columns = scores.columns(row for result in results for row in result["results"].values())
    rows = []
    for result in results:
        for name, row in result["results"].items():
            count = str(result["num_landmarks"]) if name in _detectors(result) else DASH
            start = [result["protocol"], result["crop"], count, row_name(name)]
            rows.append([*start, *(metric.cell(row) for metric in columns)])
    header = ["Protocol", "Crop", "K", "", *(metric.name.capitalize() for metric in columns)]
    angles = sorted({f"{angle:g}" for result in results for angle in result["angles"]}, key=float)
    notes = [
        scores.notes(columns),
        "One photo: the map is fitted on one labelled face, mean ± standard deviation over draws."
        + (f" Views are rotated by {', '.join(angles)} degrees." if angles else ""),
        f"Faces: {'; '.join(f'{describe(result)}: {_faces(result)}' for result in results)}.",
        *_notes(results),
    ]
    return Table(header, rows, "Errors with all labels", notes)


def _counts_table(result: Result) -> Table:
    """Forward errors over the number N of labelled faces."""
    columns = {
        name: row["forward"] for name, row in result["results"].items() if name != "one_photo"
    }
    rows = []
    for index, entry in enumerate(columns["mean_shape"]):
        last = index == len(columns["mean_shape"]) - 1
        count = f"all ({entry['n']})" if last else str(entry["n"])
        rows.append([count, *(with_std(entries[index]) for entries in columns.values())])
    notes = [
        "Forward error, % of eye distance; for N below all, mean ± standard deviation (n - 1) over "
        f"{result['draws']} draws, the same faces in every column. With one face the centred "
        "regression is a constant for every detector.",
        *_notes([result]),
    ]
    title = f"Over the number of labelled faces: {describe(result)}"
    return Table(["N", *map(row_name, columns)], rows, title, notes)


def _points_table(result: Result) -> Table:
    """Forward errors of the labelled points, backward errors of the discovered ones."""
    columns = {name: row for name, row in result["results"].items() if name != "one_photo"}
    discovered = [f"discovered {index}" for index in range(result["num_landmarks"])]
    rows = []
    for quantity, points in (("forward", result["point_names"]), ("backward", discovered)):
        for index, point in enumerate(points):
            errors = [
                row[quantity][-1]["per_point"][index] if quantity in row else None
                for row in columns.values()
            ]
            rows.append([f"{point}, {quantity}", *map(decimals, errors)])
    notes = [
        "All labels; % of eye distance. The backward error of a single landmark is its distance "
        "from where the labelled points of the face predict it. A landmark that hardly moves "
        "scores well, too.",
        *_notes([result]),
    ]
    title = f"Point by point: {describe(result)}"
    return Table(["Point", *map(row_name, columns)], rows, title, notes)


def _consistency_table(result: Result) -> Table:
    """The consistency of every landmark."""
    columns = {name: row for name, row in _detectors(result).items() if "consistency" in row}
    measured = [row["consistency"] for row in columns.values()]
    rows = [
        [f"discovered {index}", *(consistency_text(one["per_point"][index]) for one in measured)]
        for index in range(result["num_landmarks"])
    ]
    rows.append(["mean", *map(consistency_text, measured)])
    rows.append(["spread", *(decimals(row["spread"]) for row in columns.values())])
    labelled, still = result["frame"]["labelled"], result["results"]["mean_shape"]["consistency"]
    notes = [
        f"{scores.notes([scores.METRICS['consistency']])} {STILL_NOTE}",
        f"The labelled points themselves have {labelled['rms']:.2f}, since faces differ in shape "
        f"and yaw; the mean shape, standing still in the view, {still['rms']:.2f}.",
        *_notes([result]),
    ]
    title = f"Consistency: {describe(result)}"
    return Table(["Point", *map(row_name, columns)], rows, title, notes)


def _breakdown_table(result: Result) -> Table:
    """Forward errors by groups of faces."""
    columns = list(result["breakdown"][0]["groups"][0]["forward"])
    rows = []
    for grouping in result["breakdown"]:
        for group in grouping["groups"]:
            start = [f"{grouping['by']}: {group['name']}", limits_text(group, grouping["unit"])]
            errors = [decimals(group["forward"][column]) for column in columns]
            rows.append([*start, str(group["faces"]), *errors])
    title, why, poses = "By size", "in the image", []
    if any(grouping["by"] == "yaw" for grouping in result["breakdown"]):
        title, why = "By pose and size", "in the image or because of yaw"
        poses = [f"{POSES_NOTE} Roll: the angle of the line through the eyes."]
    notes = [
        "Forward error with all labels, % of eye distance. Size: the distance between the eyes, in "
        f"thirds of the faces. The smaller it is, {why}, the larger is an error in per cent of it: "
        "compare with the mean shape.",
        *poses,
        *_notes([result]),
    ]
    header = ["Faces", "Limits", "Number", *map(row_name, columns)]
    return Table(header, rows, f"{title}: {describe(result)}", notes)


def limits_text(group: dict[str, Any], unit: str) -> str:
    """The limits of a group: `below 0.1 eye distances`, `0.1 to 0.25 ...`, `0.25 ... and more`."""
    low, high = group["low"], group["high"]
    if low is None:
        return f"below {high:g} {unit}"
    return f"{low:g} {unit} and more" if high is None else f"{low:g} to {high:g} {unit}"


def row_name(name: str) -> str:
    """A row of a result, as tables call it."""
    return ROW_NAMES.get(name, name)


def describe(result: Result) -> str:
    """Protocol, crop and K, for titles."""
    return f"{result['protocol']}, {result['crop']} crop, K = {result['num_landmarks']}"


def _faces(result: Result) -> str:
    fit, score = result["fit"], result["score"]
    return f"fitted on {fit['faces']} ({fit['name']}), scored on {score['faces']} ({score['name']})"


def _notes(results: Sequence[Result]) -> list[str]:
    """The notes under every table: on crops, and the results' own, each once."""
    own = dict.fromkeys(note for result in results for note in result["notes"])
    return [CROPS_NOTE, *(f"Note: {note}" for note in own)]
