"""Finds landmarks in pictures, folders, globs, videos or a camera, and writes and draws them.

python detect.py DETECTOR INPUT... --out DIR [--boxes FILE.csv]
python detect.py DETECTOR --camera 0 --out DIR [--seconds 10]

DETECTOR is a file made by export.py, or the name of a detector that comes with this package.

DIR/landmarks.csv and DIR/landmarks.jsonl get a row a picture or video frame, DIR/drawn the
annotated pictures and videos, DIR/skipped.csv what was left out and why. Results of an earlier run
in DIR are replaced. Points are in pixels of the upright picture, turned as its EXIF orientation or
the video's rotation says; the centre of its first pixel is 0, 0. Landmarks count from 1, frames and
boxes from 0. c1, c2, ... are confidences in [0, 1].

The exit code is 1 where a file could not be read or broke off, 2 where nothing could be started.
"""

from pathlib import Path

from absl import flags

from landmarks_jax.cli import entry
from landmarks_jax.system.errors import UserError

_OUT = flags.DEFINE_string("out", None, "The folder of results.", required=True)
_BOXES = flags.DEFINE_string(
    "boxes",
    None,
    "CSV file,x0,y0,x1,y1: the part to look at, in pixel edges (0, 0, W, H is the whole upright "
    "picture); files relative to the CSV's folder. Several boxes of a file give several rows, "
    "files without one are left out, and a video's boxes are the same in all its frames.",
)
_CAMERA = flags.DEFINE_string(
    "camera", None, "Number of a camera, or whatever PyAV opens; stops on Ctrl-C."
)
_CAMERA_FORMAT = flags.DEFINE_string(
    "camera_format", None, "PyAV's format of the camera, if not the system's own."
)
_SECONDS = flags.DEFINE_float("seconds", None, "Stop the camera after this long.", lower_bound=0)
_DRAW = flags.DEFINE_boolean("draw", True, "Write annotated pictures and videos.")
_NUMBERS = flags.DEFINE_boolean("numbers", False, "Draw each landmark's number.")
_LABELLED = flags.DEFINE_boolean("labelled", False, "Draw the labelled points, regressed.")
_TRAILS = flags.DEFINE_integer(
    "trails",
    0,
    "Draw in videos where landmarks were in so many frames before.",
    lower_bound=0,
    upper_bound=1_000,
)
_SMOOTH = flags.DEFINE_boolean(
    "smooth", False, "Smooth videos (one euro filter); more columns, and what is drawn."
)


def main(arguments: list[str]) -> int:
    """Detects."""
    if not arguments or (len(arguments) == 1) != (_CAMERA.value is not None):
        raise UserError("give DETECTOR and INPUT..., or DETECTOR and --camera; --help says more")
    if _CAMERA.value is None and (_SECONDS.value is not None or _CAMERA_FORMAT.value is not None):
        raise UserError("--seconds and --camera_format go with --camera")
    if _CAMERA.value is not None and _BOXES.value is not None:
        raise UserError("--boxes goes with files, not with --camera")
    # Only now, so that --help and a wrong flag answer at once.
    from landmarks_jax.inference.media import run_detection  # noqa: PLC0415
    from landmarks_jax.inference.media.job import Options  # noqa: PLC0415

    options = Options(_DRAW.value, _NUMBERS.value, _LABELLED.value, _TRAILS.value, _SMOOTH.value)
    detector, *inputs = arguments
    out = Path(_OUT.value)
    if _CAMERA.value is None:
        return run_detection.detect_files(detector, inputs, out, options, _BOXES.value)
    return run_detection.detect_camera(
        detector,
        _CAMERA.value,
        out,
        options,
        device=_CAMERA_FORMAT.value,
        seconds=_SECONDS.value,
    )


if __name__ == "__main__":
    entry.run(main, positional=True)
