"""The card of a detector, Markdown made from its packed file alone."""

import textwrap
from collections.abc import Iterable, Mapping
from typing import Any

import jax
import numpy as np

from landmarks_jax.inference.packed_file import Packed

_LIMITS = (
    "It looks for no face or other thing: it answers for any picture. Confidence says how sharp a "
    "map is, not that the thing is there or that the point is right.",
    "Discovered points have no names, and left and right can swap on symmetric things.",
    "It expects pictures like those of its training: the thing in the place and of the size that "
    "views show. Turned, cut off or hidden things were not scored apart.",
    "Errors are means over all scored pictures. Photo collections are uneven over age, skin, sex "
    "and country; how the error differs between people was not measured here.",
)
_NOT_FOR = (
    "Do not use it to identify people, to watch them, or to judge them by their looks: not for "
    "recognition, not for guessing emotion, health, sex, age, origin or character, and not for any "
    "decision about a person. Landmarks of a person's face are personal data in many countries."
)
_TERMS = (
    "The code is under the Apache License 2.0. The weights were made from the photos named under "
    "*Training*, which are not part of landmarks_jax: their owners' terms hold, and may limit what "
    "the weights can be used for, such as to research. The same holds for the labelled faces that "
    "the linear map was fitted on."
)


def markdown(content: Packed, name: str) -> str:
    """The card of a detector.

    Args:
      content: the detector.
      name: what it is called, such as the name of its file without the ending.
    """
    parts = [
        f"# The detector {name}",
        *_what(content),
        "## Training",
        _training(content.summary),
        "## Scores",
        *_scores(content.summary.get("scores", []), fitted=content.regressor is not None),
        "## Limits",
        _bullets(_LIMITS),
        "## Not to be used for",
        _wrapped(_NOT_FOR),
        "## Licence",
        _wrapped(_TERMS),
    ]
    return "\n\n".join(parts) + "\n"


def _what(content: Packed) -> list[str]:
    """What goes in, what comes out, and how large it is."""
    config = content.config
    size, count = config.views.size, config.model.num_landmarks
    shown = {
        "center": f"the middle {config.views.size / config.data.canvas_size:.0%} of its width and "
        "height",
        "tight": "the whole picture",
        "box": "none: it needs a box, cut around the thing as in training",
    }[config.data.crop]
    points = ", ".join(content.summary.get("point_names", []))
    rows = {
        "Finds": f"{count} points that were discovered without labels"
        + " of their own, in views cut around labelled points" * (config.data.crop == "box")
        + (f"; through a linear map also {points or 'labelled points'}" * bool(content.regressor)),
        "Takes": f"views of {size} x {size} pixels; any picture is resampled to that",
        "Part of a picture, without a box": shown,
        "Network": f"{config.model.detector_channels} channels, "
        f"hourglass depth {config.model.hourglass_depth}, {_num_weights(content):,} weights",
        "Arithmetic of training": config.compute_dtype,
    }
    return [
        _table(("", ""), rows.items()),
        _wrapped("docs/detector.md of landmarks_jax describes the file, its inputs and outputs."),
    ]


def _num_weights(content: Packed) -> int:
    return sum(np.asarray(leaf).size for leaf in jax.tree.leaves(dict(content.variables)))


def _training(summary: Mapping[str, Any]) -> str:
    """What it was trained on and for how long, as a list."""
    made, trained = summary.get("provenance", {}), summary.get("trained_on", {})
    lines = [summary.get("photos", "The photos are not named in the file.")]
    if trained:
        lines.append(f"Source `{trained['source']}`, crop `{trained['crop']}`.")
    if made:
        lines.append(
            f"{made['steps']:,} steps in {made['training_minutes']:g} minutes. Packed on "
            f"{summary['packed_on']} with landmarks_jax {made['landmarks_jax']}, jax "
            f"{made['jax']} and flax {made['flax']}, on {made['device']} ({made['machine']})."
        )
    return _bullets(
        [*lines, *(f"{note[:1].upper()}{note[1:]}." for note in summary.get("notes", []))]
    )


def _scores(scores: list[Mapping[str, Any]], *, fitted: bool) -> list[str]:
    """The error under each protocol, beside the mean shape, and what confidence says of it."""
    if not scores:
        return ["Not scored: it was packed without labelled faces."]
    return [
        _wrapped(
            "Forward error, in per cent of the distance between the first two labelled points "
            "(for faces: the eyes). The detector is frozen, a linear map from its points to the "
            "labelled ones is fitted, and other faces are scored. The mean shape answers the same "
            "points for every face: an error near it is worth nothing. The crop box is cut around "
            "the labelled points, center and tight use no label; the two are not comparable."
        ),
        _table(
            ("Protocol", "Crop", "Fitted on", "Scored on", "Forward error", "Mean shape"),
            [
                (
                    score["protocol"],
                    score["crop"],
                    f"{score['fit']['faces']:,}",
                    f"{score['score']['faces']:,}",
                    f"{score['forward']:.1f}",
                    f"{score['mean_shape']:.1f}",
                )
                for score in scores
            ],
        ),
        _wrapped(
            "The linear map in the file is that of the first line. " * fitted
            + "Scores are of the weights before any rounding to float16."
        ),
        "### Confidence against error",
        _wrapped(
            "The confidence of a point is the weight of its map within 1.5 cells of it. The scored "
            "faces in equal parts by their mean confidence, the least confident first:"
        ),
        _table(
            ("Protocol", "Crop", "Faces", "Mean confidence", "Forward error"),
            [
                (
                    score["protocol"],
                    score["crop"],
                    f"{part['faces']:,}",
                    f"{part['lowest']:.3f} to {part['highest']:.3f}",
                    f"{part['forward']:.1f}",
                )
                for score in scores
                for part in score["confidence"]
            ],
        ),
    ]


def _table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    head = list(head)
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _bullets(texts: Iterable[str]) -> str:
    return "\n".join(_wrapped(text, "- ", "  ") for text in texts)


def _wrapped(text: str, first: str = "", rest: str = "") -> str:
    return textwrap.fill(
        text,
        100,
        initial_indent=first,
        subsequent_indent=rest,
        break_long_words=False,
        break_on_hyphens=False,
    )
