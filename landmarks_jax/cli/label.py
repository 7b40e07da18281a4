"""Label points in photos, on a local web page: a few labels give every photo the named points.

landmarks-jax label photos/ --points left_wing_tip,right_wing_tip --out labels.csv
landmarks-jax label photos/ --points tip,base --count 50 --detector mine.safetensors --out tips.csv
landmarks-jax eval --workdir runs/mine --fit labels.csv

The arguments are folders, searched recursively, image files and globs. Of the photos the --count
that differ most are chosen: by the landmarks that --detector finds in them, or without it by their
look. Photos are shown upright. A point can be marked missing.

Each photo is saved as soon as all its points are set. The file is DeepLabCut's CSV: points in
pixels of the upright photo, the centre of the first pixel at 0, 0, empty cells for a missing point,
photos relative to the file's folder. --fit without --score uses the points that a photo has; all
else that reads labels leaves out photos with missing points. The same command continues a file,
also with a larger --count. The server answers this machine only.
"""

from pathlib import Path

from landmarks_jax.cli.command import Call, Command, Flag
from landmarks_jax.system.errors import UserError

_FLAGS = (
    Flag("points", "Names of the points, separated by commas.", kind=list, required=True),
    Flag("out", "The .csv file for the labels.", required=True),
    Flag("count", "How many photos to label.", 20, kind=int, low=1),
    Flag(
        "detector",
        "A file of `landmarks-jax export`, or the name of a detector that comes with the package.",
    ),
    Flag("port", "Port to serve at; 0 takes any free one.", 8000, kind=int),
)


def _run(call: Call) -> None:
    values = call.flags
    if not call.arguments:
        raise UserError("give the folders of the photos; --help says more")
    if not values.points:
        raise UserError("--points: give the names of the points, separated by commas")
    from landmarks_jax.inference.browser import label_server  # noqa: PLC0415

    label_server.show(
        call.arguments,
        values.points,
        Path(values.out),
        count=values.count,
        detector=values.detector,
        port=values.port,
    )


COMMAND = Command(_run, _FLAGS, arguments="PHOTOS ...")
