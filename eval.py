"""Scores a trained run and writes tables, curves and pictures into its folder.

python eval.py --workdir DIR [--protocol NAME ...]
python eval.py --workdir DIR --fit FACES --score FACES [--crop center --crop box]

Without arguments it scores the quickstart.
"""

import sys
from pathlib import Path

from absl import flags

from landmarks_jax import cli
from landmarks_jax.data.framing import CROPS

_WORKDIR = flags.DEFINE_string("workdir", "runs/quickstart", "The run's folder.")
_PROTOCOL = flags.DEFINE_multi_string(
    "protocol", None, "synthetic | aflw-995 | aflw-dev; default: the run's config.eval.protocols."
)
_AFLW = flags.DEFINE_string(
    "aflw", None, "Folder of AFLW's lists, if not the run's config.eval.aflw."
)
_FIT = flags.DEFINE_string("fit", None, "Labelled faces that fit: .csv, .txt or prepared folder.")
_SCORE = flags.DEFINE_string("score", None, "Labelled faces that are scored, likewise.")
_CROP = flags.DEFINE_multi_enum(
    "crop", [], CROPS, "With --fit and --score; default: the crop of the run's training."
)


def main() -> None:
    """Evaluates."""
    # Only now, so that --help and a wrong flag answer at once.
    from landmarks_jax import evaluate  # noqa: PLC0415

    table = evaluate.evaluate_run(
        Path(_WORKDIR.value),
        protocol_names=_PROTOCOL.value,
        aflw=_AFLW.value,
        fit=_FIT.value,
        score=_SCORE.value,
        crops=_CROP.value,
        command=sys.argv,
    )
    print(table)


if __name__ == "__main__":
    cli.run(main)
