"""Writes a trained detector as one file: packed for this package, or a graph for other programs.

python export.py --workdir DIR --out FILE [--format packed|stablehlo|onnx]
python export.py --detector FILE --out FILE --format onnx [--precision float16]

A run is packed with a regressor to the labelled faces of its config.eval.protocols, or of those
named as for eval.py; --noregressor needs none.
"""

import sys
from pathlib import Path

from absl import flags

from landmarks_jax.cli import entry

_WORKDIR = flags.DEFINE_string("workdir", None, "The run to pack: its folder.")
_DETECTOR = flags.DEFINE_string("detector", None, "Or a packed file, or a shipped one's name.")
_OUT = flags.DEFINE_string("out", None, "The file to write.", required=True)
_FORMAT = flags.DEFINE_enum("format", "packed", ("packed", "stablehlo", "onnx"), "Of the file.")
_PRECISION = flags.DEFINE_enum(
    "precision", "float32", ("float32", "float16"), "Of the kernels in the file."
)
_CARD = flags.DEFINE_string("card", None, "Write the detector's card, Markdown, to this file.")
_PHOTOS = flags.DEFINE_string(
    "photos", None, "A sentence on the photos of training and their terms, for the card."
)
_REGRESSOR = flags.DEFINE_bool("regressor", True, "Pack a regressor to labelled points.")
_FACES = entry.define_faces()


def main() -> None:
    """Exports."""
    # Only now, so that --help and a wrong flag answer at once.
    from landmarks_jax.cli import exporting  # noqa: PLC0415

    written = exporting.export(
        Path(_OUT.value),
        workdir=_WORKDIR.value,
        detector=_DETECTOR.value,
        form=_FORMAT.value,
        precision=_PRECISION.value,
        card_file=_CARD.value,
        photos=_PHOTOS.value,
        regressor=_REGRESSOR.value,
        faces=_FACES(),
        command=sys.argv,
    )
    print(written)


if __name__ == "__main__":
    entry.run(main)
