"""Draw the same faces under several runs, as the paper's Fig. 2: a baseline and the full method.

landmarks-jax figure RUN RUN ... [--out FILE.png]
landmarks-jax figure runs/baseline runs/all --protocol aflw-995 --faces 32 --out aflw.png

Each run gets its rows of faces, the first one at the top, and each landmark its colour. The table
beside the image, FILE.md, gives the consistency of every landmark; FILE.json holds the numbers.
"""

from pathlib import Path

from landmarks_jax.cli import shared_flags
from landmarks_jax.cli.command import Call, Command, Flag

_FLAGS = (
    Flag("out", "The image; its table is written beside it.", "figure.png"),
    Flag("faces", "Number of faces to show.", 16, kind=int, low=1),
    Flag("tile", "Side of a face in pixels.", 128, kind=int, low=16),
    *shared_flags.LABELLED_FACES,
)


def _run(call: Call) -> None:
    from landmarks_jax.studies import faces_figure  # noqa: PLC0415

    table = faces_figure.write(
        call.arguments,
        Path(call.flags.out),
        shared_flags.labelled_faces(call.flags),
        num_shown=call.flags.faces,
        tile=call.flags.tile,
        command=call.command_line,
    )
    print(table)


COMMAND = Command(_run, _FLAGS, arguments="RUN ...")
