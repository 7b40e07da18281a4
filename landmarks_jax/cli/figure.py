"""The paper's qualitative figure: the same faces under a baseline and under the full method.

    python -m landmarks_jax.cli.figure BASELINE_RUN FULL_RUN --out figure.png
    python -m landmarks_jax.cli.figure BASELINE_RUN FULL_RUN --protocol aflw-995 --faces 32
    python -m landmarks_jax.cli.figure BASELINE_RUN FULL_RUN --score FACES --crop center

Each run has its rows of faces, the first one at the top, and one colour a landmark. Beside the
picture stand its table, `figure.md`, with the consistency of every landmark, and `figure.json`.
More than two runs, such as the four compositions, are compared likewise.
"""

import sys
from pathlib import Path

from absl import flags

from landmarks_jax.cli import entry

_OUT = flags.DEFINE_string("out", "figure.png", "The picture; its table is written beside it.")
_NUM_SHOWN = flags.DEFINE_integer("faces", 16, "How many faces to show.", lower_bound=1)
_TILE = flags.DEFINE_integer("tile", 128, "Side of a face in pixels.", lower_bound=16)
_FACES = entry.define_faces()


def main(folders: list[str]) -> None:
    """Makes the figure."""
    # Only now, so that --help and a wrong flag answer at once.
    from landmarks_jax.studies import faces_figure  # noqa: PLC0415

    command = ["-m", "landmarks_jax.cli.figure", *sys.argv[1:]]
    out = Path(_OUT.value)
    shown = {"num_shown": _NUM_SHOWN.value, "tile": _TILE.value}
    print(faces_figure.write(folders, out, _FACES(), **shown, command=command))


if __name__ == "__main__":
    entry.run(main, positional=True)
