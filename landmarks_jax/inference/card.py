"""The model card of a detector: Markdown made from its packed file alone."""

import textwrap
from collections.abc import Iterable, Mapping
from typing import Any

from landmarks_jax.inference.mirroring import LIMIT
from landmarks_jax.inference.packed_file import PackedDetector
from landmarks_jax.models import adaptation, detectors
from landmarks_jax.system.tables import Table

_LIMITS = (
    "It does not search for an object: it returns points for whatever part of an image it views. "
    "Confidence says how sharp a heatmap is, not that the object is there or that the point is "
    "right.",
    "Discovered points have no names but those that users give them, and left and right can swap "
    "on symmetric objects.",
    "It expects images like those of its training, with the object where and as large as views "
    "show it. Truncated and occluded objects were not scored separately.",
    "Errors are means over all scored images. Photo collections are uneven in age, skin, sex and "
    "country; how the error differs between people was not measured.",
)
_MISUSE = (
    "Do not use it to identify, track or judge people: not for recognition, not to guess emotion, "
    "health, sex, age, origin or character, and not for any decision about a person. Landmarks of "
    "a person's face are personal data in many countries."
)
_LICENCE = (
    "The code is under the Apache License 2.0. The weights were made from the photos named under "
    "*Training*, which are not part of landmarks_jax: their owners' terms apply and may limit the "
    "use of the weights, for example to research. The same holds for the labelled faces that the "
    "linear map was fitted on."
)
_CROPS = {
    "tight": "the whole image",
    "box": "none: it needs a box, cut around the object as in training",
}


def to_markdown(packed: PackedDetector, name: str) -> str:
    """The card of a detector; `name` is usually its file's name without the extension."""
    sections = [
        f"# The detector {name}",
        *_properties(packed),
        "## Training",
        _training(packed.summary),
        "## Scores",
        *_scores(packed.summary, fitted=packed.regressor is not None),
        *_mirror(packed.summary),
        "## Limits",
        _bullets(_LIMITS),
        "## Misuse",
        _paragraph(_MISUSE),
        "## Licence",
        _paragraph(_LICENCE),
    ]
    return "\n\n".join(sections) + "\n"


def _properties(packed: PackedDetector) -> list[str]:
    config, size = packed.config, packed.config.views.size
    view = _CROPS.get(
        config.data.crop,
        f"the central {size / config.data.canvas_size:.0%} of its width and height",
    )
    points = f"{config.model.num_landmarks} points discovered without labels"
    if landmark_names := packed.summary.get("landmark_names"):
        points += f": {', '.join(landmark_names)}"
    if config.data.crop == "box":
        points += ", in views cut around labelled points"
    if packed.regressor is not None:
        names = packed.summary.get("point_names") or ["labelled points"]
        points += f"; through a linear map also {', '.join(names)}"
    sizes = [
        f"{field.replace('_', ' ')} {config.model[field]}"
        for field in detectors.module_of(config).SIZES
    ]
    num_weights = adaptation.num_weights(packed.variables)
    rows = (
        ("Output", points),
        ("Input", f"views of {size} x {size} pixels; images of any size are resampled"),
        ("Part of an image viewed without a box", view),
        *_face_frame(packed.summary),
        (
            "Network",
            ", ".join([config.model.detector, *sizes, f"{num_weights:,} weights"]),
        ),
        ("Precision of training", config.compute_dtype),
    )
    about = "docs/detector.md of landmarks_jax describes the file, its inputs and outputs."
    return [_table(("", ""), rows), about]


def _face_frame(summary: Mapping[str, Any]) -> list[tuple[str, str]]:
    if "face_frame" not in summary:
        return []
    frame = summary["face_frame"]
    text = (
        f"a square of {frame['side']:.2f} times the square root of the area of its box "
        f"(by {frame['finder']}), the median of {frame['photos']:,} photos"
    )
    return [("Part viewed of a found face", text)]


def _training(summary: Mapping[str, Any]) -> str:
    lines = [summary.get("photos", "The file does not name the photos.")]
    if trained_on := summary.get("trained_on"):
        lines.append(f"Source `{trained_on['source']}`, crop `{trained_on['crop']}`.")
    if provenance := summary.get("provenance"):
        lines.append(
            f"{provenance['steps']:,} steps in {provenance['training_minutes']:g} minutes. Packed "
            f"on {summary['packed_on']} with landmarks_jax {provenance['landmarks_jax']}, jax "
            f"{provenance['jax']} and flax {provenance['flax']}, on {provenance['device']} "
            f"({provenance['machine']})."
        )
    lines += [f"{note[:1].upper()}{note[1:]}." for note in summary.get("notes", [])]
    return _bullets(lines)


def _scores(summary: Mapping[str, Any], *, fitted: bool) -> list[str]:
    """Errors by protocol beside those of the mean shape, by pose and by confidence."""
    scores = summary.get("scores", [])
    if left_out := summary.get("leave_one_out"):
        return _leave_one_out(left_out)
    if not scores:
        return ["Not scored: it was packed without labelled faces to score."]
    errors = [
        (
            score["protocol"],
            score["crop"],
            f"{score['fit']['faces']:,}",
            f"{score['score']['faces']:,}",
            f"{score['forward']:.1f}",
            f"{score['mean_shape']:.1f}",
        )
        for score in scores
    ]
    which = "The linear map in the file is that of the first row. " if fitted else ""
    return [
        _paragraph(
            "Forward error, in per cent of the distance between the first two labelled points (the "
            "eyes of a face). The detector is frozen, a linear map from its points to the labelled "
            "ones is fitted, and other faces are scored. The mean shape predicts the same points "
            "for every face: an error close to it is worthless. The crop box is cut around the "
            "labelled points, center and tight use no labels; their errors cannot be compared."
        ),
        _table(
            ("Protocol", "Crop", "Fitted on", "Scored on", "Forward error", "Mean shape"), errors
        ),
        _paragraph(f"{which}Scores are of the weights before any rounding to float16."),
        *_scores_by_group(scores),
        *_scores_by_confidence(scores),
    ]


def _leave_one_out(measured: list[Mapping[str, Any]]) -> list[str]:
    rows = [
        (
            one["protocol"],
            one["crop"],
            f"{one['photos']:,}",
            f"{one['error']:.1f}",
            f"{one['mean_shape']:.1f}",
        )
        for one in measured
    ]
    about = (
        f"Leave-one-out error, in {measured[0]['unit']}: the labelled points of each photo are "
        "predicted by a linear map from the detector's points that is fitted on all other labelled "
        "photos. The mean shape predicts the same points for every photo: an error close to it is "
        "worthless. The linear map in the file is that of the first row."
    )
    header = ("Labels", "Crop", "Photos", "Leave-one-out error", "Mean shape")
    return [_paragraph(about), _table(header, rows)]


def _scores_by_group(scores: list[Mapping[str, Any]]) -> list[str]:
    groups = [
        (
            score["protocol"],
            score["crop"],
            group["name"],
            group["limits"],
            f"{group['faces']:,}",
            f"{group['forward']:.1f}",
            f"{group['mean_shape']:.1f}",
        )
        for score in scores
        for group in score["groups"]
    ]
    title = "By size"
    about = (
        "Size is the distance that errors are in per cent of. The smaller it is in the image, the "
        "larger is an error in per cent of it: compare with the mean shape."
    )
    if any(name.startswith("yaw:") for _, _, name, *_ in groups):
        title = "By pose and size"
        about = (
            "Yaw of the head is the nose's offset from the line between the middles of the eyes "
            "and of the mouth, roll the angle of the line through the eyes, size the distance "
            "between the eyes. The smaller that distance, in the image or because of yaw, the "
            "larger is an error in per cent of it: compare with the mean shape."
        )
    return [
        f"### {title}",
        _paragraph(about),
        _table(
            ("Protocol", "Crop", "Faces", "Limits", "Number", "Forward error", "Mean shape"), groups
        ),
    ]


def _scores_by_confidence(scores: list[Mapping[str, Any]]) -> list[str]:
    by_confidence = [
        (
            score["protocol"],
            score["crop"],
            f"{part['faces']:,}",
            f"{part['lowest']:.3f} to {part['highest']:.3f}",
            f"{part['forward']:.1f}",
        )
        for score in scores
        for part in score["confidence"]
    ]
    return [
        "### Confidence against error",
        _paragraph(
            "The confidence of a point is the weight of its heatmap within 1.5 cells of it. The "
            "scored faces are split into equal parts by their mean confidence, least confident "
            "first:"
        ),
        _table(("Protocol", "Crop", "Faces", "Mean confidence", "Forward error"), by_confidence),
    ]


def _mirror(summary: Mapping[str, Any]) -> list[str]:
    """The landmarks that mirror each other, by name or number from 1, if they were looked for."""
    if "mirror" not in summary:
        return []
    photos, pairs = summary["mirror"]["photos"], summary["mirror"]["pairs"]
    about = (
        f"Looked for in {photos:,} photos and their mirror images, without labels. The distance "
        "is that between a landmark and its partner's place in the mirror image, in per cent of "
        "the landmarks' spread (root mean square distance from their mean); pairs above "
        f"{LIMIT:.0%} do not count."
    )
    sections = ["## Landmarks that mirror each other", _paragraph(about)]
    if not pairs:
        return [*sections, "No symmetry: none do."]
    names = summary.get("landmark_names") or {}
    rows = []
    for pair in pairs:
        first, second = pair["first"], pair["second"]
        both = [names[number] if names else str(number + 1) for number in (first, second)]
        swapped = "-" if first == second else f"{pair['swapped']:.1%}"
        rows.append((" and ".join(dict.fromkeys(both)), f"{pair['distance']:.1%}", swapped))
    use = (
        "`landmarks-jax detect --mirror` takes the mean over each view and its mirror image. "
        "Swapped: the share of photos in which both disagree on which of the two lies on which "
        "side."
    )
    return [*sections, _table(("Landmarks", "Distance", "Swapped"), rows), _paragraph(use)]


def _table(header: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    return Table(header, list(rows)).to_markdown().rstrip("\n")


def _bullets(texts: Iterable[str]) -> str:
    return "\n".join(_paragraph(text, "- ", "  ") for text in texts)


def _paragraph(text: str, first: str = "", rest: str = "") -> str:
    return textwrap.fill(
        text,
        100,
        initial_indent=first,
        subsequent_indent=rest,
        break_long_words=False,
        break_on_hyphens=False,
    )
