"""Tables, made from the JSON of `protocols.evaluate` alone."""

import csv
import io
from collections.abc import Iterable, Sequence
from typing import Any

from landmarks_jax.evaluation.breakdown import FIVE_POINTS

Result = dict[str, Any]

ROW_NAMES = {
    "running": "this detector (running statistics)",
    "batch": "this detector (batch statistics)",
    "untrained": "untrained detector",
    "mean_shape": "mean shape",
    "one_photo": "one photo",
}
_EYES = "% of eye distance"
_CSV_FIELDS = (
    *("protocol", "crop", "num_landmarks", "row", "quantity"),
    *("n", "draws", "point", "mean", "std", "unit"),
    *("faces", "low", "high"),
)
DASH = "-"
CROPS_NOTE = (
    "The crops center and box are not comparable: box takes the view from the annotated points, "
    "so that even the mean shape scores well."
)
CONSISTENCY_NOTE = (
    "how far a point strays from its mean place in the frame of the face's labelled points, root "
    "mean square over the faces, per cent of the mean shape's eye distance. Points that collapse "
    "score well here, too: see the spread."
)
POSES_NOTE = (
    "Turn of the head, estimated from the labelled points: the nose's offset, along the eyes' "
    "axis, from the line between the middles of the eyes and of the mouth; 0.1 and 0.25 eye "
    "distances are about 9 and 23 degrees."
)


def to_csv(result: Result) -> str:
    """Every number of a result but the single photos', one a line.

    Columns: protocol, crop, num_landmarks, row, quantity, n (labelled photos), draws, point (empty
    for the mean over the points), mean, std, unit; faces, low and high for groups of faces, whose
    quantity is `forward_by_turn`, for instance, and whose name is in `point`.
    """
    text = io.StringIO()
    writer = csv.DictWriter(text, _CSV_FIELDS, restval="", lineterminator="\n")
    writer.writeheader()
    common = {key: result[key] for key in ("protocol", "crop", "num_landmarks")}
    for row, scores in result["results"].items():
        for line in (*_csv_lines(scores, result), *_csv_groups(row, result)):
            writer.writerow({**common, "row": row, **line})
    return text.getvalue()


def _csv_lines(scores: dict[str, Any], result: Result) -> Iterable[dict[str, Any]]:
    """The lines of one row of the results, without what they have in common."""
    numbers = range(result["num_landmarks"])
    for quantity, points in (("forward", result["point_names"]), ("backward", numbers)):
        for entry in scores.get(quantity, ()):
            line = {key: entry[key] for key in ("n", "draws")} | {"quantity": quantity}
            line["unit"] = _EYES
            yield line | {"mean": entry["mean"], "std": entry["std"]}
            for point, mean in zip(points, entry["per_point"], strict=True):
                yield line | {"point": point, "mean": mean}
    yield from _csv_consistency(scores, result)
    for quantity in ("forward_without_intercept", "spread"):
        if quantity in scores:
            yield {"quantity": quantity, "mean": scores[quantity], "unit": _EYES}
    if scores.get("equivariance"):
        measured, name = scores["equivariance"], "equivariance"
        yield {"quantity": name, "mean": measured["error"], "unit": "pixels of a 128 view"}
        for count in ("compared", "left_out"):
            yield {"quantity": f"{name}_{count}", "mean": measured[count], "unit": "points"}


def _csv_consistency(scores: dict[str, Any], result: Result) -> Iterable[dict[str, Any]]:
    """A row's consistency; none of a result from before it was measured."""
    measured = scores.get("consistency", {})
    points = range(result["num_landmarks"]) if "backward" in scores else result["point_names"]
    for key, name in (("rms", ""), ("median", "_median"), ("still", "_standing_still")):
        if key in measured:
            line = {"quantity": f"consistency{name}", "unit": _EYES}
            yield line | {"mean": measured[key]}
            for point, numbers in zip(points, measured["per_point"], strict=True):
                yield line | {"point": point, "mean": numbers[key]}


def _csv_groups(row: str, result: Result) -> Iterable[dict[str, Any]]:
    """The errors of one row by groups of faces; none of a result from before there were any."""
    for grouping in result.get("groups", ()):
        for group in grouping["groups"]:
            if row in group["forward"]:
                line = {key: group[key] for key in ("faces", "low", "high")}
                line |= {"quantity": f"forward_by_{grouping['by']}", "point": group["name"]}
                yield line | {"mean": group["forward"][row], "unit": _EYES}


def to_markdown(results: Sequence[Result]) -> str:
    """The headline table of all results; then the other tables of each."""
    sections = [_headline(results)]
    for result in results:
        sections += [_counts_table(result), _points_table(result)]
        if "frame" in result:
            sections.append(_consistency_table(result))
        if result.get("groups"):
            sections.append(_groups_table(result))
    return "\n".join(sections)


def _headline(results: Sequence[Result]) -> str:
    """One line for each row of each result, with all labels."""
    rows, known = [], any("frame" in result for result in results)
    for result in results:
        start = [result["protocol"], result["crop"], str(result["num_landmarks"])]
        for name, scores in result["results"].items():
            # What looks at no photo has no number of landmarks.
            first = start if "backward" in scores else [*start[:2], DASH]
            rows.append([*first, _row_name(name), *_headline_cells(scores, known)])
    header = ["Protocol", "Crop", "K", "", "Forward", "Backward"]
    header += [*(["Consistency"] if known else []), "Spread", "Equivariance"]
    angles = sorted({f"{angle:g}" for result in results for angle in result["angles"]}, key=float)
    faces = "; ".join(f"{describe(result)}: {_faces(result)}" for result in results)
    notes = [
        "Forward, backward and spread: per cent of the distance between the eyes; the regressor "
        "is fitted on all labelled faces, that of one photo on one (mean and standard deviation "
        "over draws). Spread: mean distance between the points of a photo; points that collapse "
        "score well backward.",
        f"Consistency: {CONSISTENCY_NOTE}" * known,
        f"Equivariance: pixels of a 128 view, rotations of {', '.join(angles)} degrees; points "
        "that leave the view are left out." * bool(angles),
        f"Faces: {faces}.",
        *_notes(results),
    ]
    return section("Errors with all labels", header, rows, notes)


def _headline_cells(scores: dict[str, Any], consistency: bool) -> list[str]:
    """Forward, backward, consistency, spread and equivariance; a dash where there is none."""
    cells = [
        _with_std(scores[key][-1]) if key in scores else DASH for key in ("forward", "backward")
    ]
    if consistency:
        cells.append(f"{scores['consistency']['rms']:.2f}" if "consistency" in scores else DASH)
    cells.append(f"{scores['spread']:.2f}" if "spread" in scores else DASH)
    measured = scores.get("equivariance")
    if not measured:
        return [*cells, DASH]
    error = DASH if measured["error"] is None else f"{measured['error']:.2f}"
    return [*cells, f"{error} ({measured['left_out']} left out)"]


def _counts_table(result: Result) -> str:
    """Forward errors over the number N of labelled faces."""
    columns = {
        name: scores["forward"] for name, scores in result["results"].items() if name != "one_photo"
    }
    rows = []
    for index, entry in enumerate(columns["mean_shape"]):
        last = index == len(columns["mean_shape"]) - 1
        count = f"all ({entry['n']})" if last else str(entry["n"])
        rows.append([count, *(_with_std(entries[index]) for entries in columns.values())])
    notes = [
        f"Forward error, per cent of the eye distance; for N below all, mean ± standard deviation "
        f"(n - 1) over {result['draws']} draws, the same faces in every column. With one face the "
        "centred regression is a constant, whatever the detector.",
        *_notes([result]),
    ]
    title = f"Over the number of labelled faces: {describe(result)}"
    return section(title, ["N", *map(_row_name, columns)], rows, notes)


def _points_table(result: Result) -> str:
    """Forward errors of the labelled points, backward errors of the discovered ones."""
    header, rows = ["Point"], []
    columns = {name: row for name, row in result["results"].items() if name != "one_photo"}
    header += map(_row_name, columns)
    numbers = [f"discovered {index}" for index in range(result["num_landmarks"])]
    for quantity, points in (("forward", result["point_names"]), ("backward", numbers)):
        errors = [
            row[quantity][-1]["per_point"] if quantity in row else None for row in columns.values()
        ]
        for index, point in enumerate(points):
            cells = [DASH if column is None else f"{column[index]:.2f}" for column in errors]
            rows.append([f"{point}, {quantity}", *cells])
    older = "groups" not in result and result["point_names"] == list(FIVE_POINTS)
    notes = [
        "All labels; per cent of the eye distance. Backward, a discovered point alone: how far it "
        "lies from where the labelled points of the same face put it, so how consistent it is. A "
        "point that hardly moves scores well, too.",
        "Errors by pose and size are not in this result, which is older than they are; eval.py "
        "makes it anew." * older,
        *_notes([result]),
    ]
    return section(f"Point by point: {describe(result)}", header, rows, notes)


def _consistency_table(result: Result) -> str:
    """How far every discovered point strays from its place on the face."""
    columns = {name: row for name, row in result["results"].items() if "backward" in row}
    measured = [row["consistency"] for row in columns.values()]
    rows = [
        [f"discovered {index}", *(consistency_text(one["per_point"][index]) for one in measured)]
        for index in range(result["num_landmarks"])
    ]
    rows.append(["mean", *map(consistency_text, measured)])
    rows.append(["spread between the points", *(f"{r['spread']:.2f}" for r in columns.values())])
    labelled, still = result["frame"]["labelled"], result["results"]["mean_shape"]["consistency"]
    notes = [
        f"Consistency: {CONSISTENCY_NOTE} In brackets the median distance, and what the point "
        "would have if it stood still at its mean place in the view.",
        f"The labelled points themselves have {labelled['rms']:.2f}, for faces differ in shape "
        f"and turn; the mean shape, standing still in the view, {still['rms']:.2f}.",
        *_notes([result]),
    ]
    header = ["Point", *map(_row_name, columns)]
    return section(f"Consistency: {describe(result)}", header, rows, notes)


def consistency_text(measured: dict[str, Any]) -> str:
    """`9.31 (median 5.10, still 24.02)`: of one point, or the means of all."""
    return "{rms:.2f} (median {median:.2f}, still {still:.2f})".format(**measured)


def _groups_table(result: Result) -> str:
    """Forward errors by groups of faces."""
    columns = list(result["groups"][0]["groups"][0]["forward"])
    rows = []
    for grouping in result["groups"]:
        for group in grouping["groups"]:
            start = [f"{grouping['by']}: {group['name']}", limits_text(group, grouping["unit"])]
            errors = [group["forward"][column] for column in columns]
            cells = [DASH if error is None else f"{error:.2f}" for error in errors]
            rows.append([*start, str(group["faces"]), *cells])
    posed = any(grouping["by"] == "turn" for grouping in result["groups"])
    notes = [
        "Forward error with all labels, per cent of the eye distance. Size: the distance between "
        "the eyes, in thirds of the faces. The smaller it is, in the picture or because the head "
        "is turned, the larger is an error in per cent of it: compare with the mean shape.",
        f"{POSES_NOTE} Tilt: the angle of the line through the eyes." * posed,
        *_notes([result]),
    ]
    header = ["Faces", "Limits", "Number", *map(_row_name, columns)]
    return section(f"By pose and size: {describe(result)}", header, rows, notes)


def limits_text(group: dict[str, Any], unit: str) -> str:
    """The limits of a group: `below 0.1 eye distances`, `0.1 to 0.25 ...`, `0.25 ... and more`."""
    low, high = group["low"], group["high"]
    if low is None:
        return f"below {high:g} {unit}"
    return f"{low:g} {unit} and more" if high is None else f"{low:g} to {high:g} {unit}"


def _with_std(entry: dict[str, Any]) -> str:
    """`6.20`, or `7.50 ± 0.41` where there were several draws."""
    mean = f"{entry['mean']:.2f}"
    return mean if entry["std"] is None else f"{mean} ± {entry['std']:.2f}"


def _row_name(name: str) -> str:
    return ROW_NAMES.get(name, name)


def describe(result: Result) -> str:
    """The protocol, its crop and K: what a table or curve is of."""
    return f"{result['protocol']}, {result['crop']} crop, K = {result['num_landmarks']}"


def _faces(result: Result) -> str:
    """What was fitted and scored."""
    fit, score = result["fit"], result["score"]
    return f"fitted on {fit['faces']} ({fit['name']}), scored on {score['faces']} ({score['name']})"


def _notes(results: Sequence[Result]) -> list[str]:
    """What belongs under every table: the crops, and the results' own notes, each once."""
    own = dict.fromkeys(note for result in results for note in result["notes"])
    return [CROPS_NOTE, *(f"Note: {note}" for note in own)]


def section(
    title: str, header: Sequence[str], rows: Sequence[Sequence[str]], notes: Sequence[str]
) -> str:
    """A heading, a Markdown table and what is to be known about it."""
    lines = [header, ["---"] * len(header), *rows]
    table = [f"| {' | '.join(cell.replace('|', '/') for cell in line)} |" for line in lines]
    under = [text for note in notes if note for text in (note, "")]
    return "\n".join([f"### {title}", "", *table, "", *under])
