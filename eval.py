"""Scores a trained run and writes tables, curves and pictures into its folder.

python eval.py --workdir DIR [--protocol NAME ...]
python eval.py --workdir DIR --fit FACES --score FACES [--crop center --crop box]

Without arguments it scores the quickstart.
"""

import sys
from pathlib import Path

from absl import flags

from landmarks_jax.cli import entry

_WORKDIR = flags.DEFINE_string("workdir", "runs/quickstart", "The run's folder.")
_FACES = entry.define_faces()


def main() -> None:
    """Evaluates."""
    # Only now, so that --help and a wrong flag answer at once.
    from landmarks_jax.evaluation import run_evaluation  # noqa: PLC0415

    table = run_evaluation.evaluate_run(
        Path(_WORKDIR.value),
        **_FACES(),
        command=sys.argv,
    )
    print(table)


if __name__ == "__main__":
    entry.run(main)
