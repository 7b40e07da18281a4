"""Find landmarks in images, folders, globs, videos or a camera; write and draw them.

landmarks-jax detect DETECTOR INPUT... --out DIR [--boxes FILE.csv]
landmarks-jax detect faces photos/ 'clips/*.mp4' --out found
landmarks-jax detect faces --camera 0 --out found --seconds 10

DETECTOR is a file of `landmarks-jax export`, or the name of a detector that comes with the package.

DIR/landmarks.csv and DIR/landmarks.jsonl get a row per image or video frame, DIR/drawn the
annotated images and videos, DIR/skipped.csv the files left out and why. Results of an earlier call
in DIR are replaced. Points are in pixels of the upright image, rotated as its EXIF orientation or
the video says; the centre of the first pixel is 0, 0. Landmarks count from 1, frames and boxes
from 0. c1, c2, ... are confidences in [0, 1].

The exit code is 1 if a file could not be read or broke off, 2 if nothing could be started.
"""

from pathlib import Path

from absl import flags

from landmarks_jax.cli.command import Call, Command
from landmarks_jax.system.errors import UserError


def _add_flags(values: flags.FlagValues) -> None:
    flags.DEFINE_string("out", None, "Folder for the results.", flag_values=values, required=True)
    flags.DEFINE_string(
        "boxes",
        None,
        "CSV file,x0,y0,x1,y1: the part to look at, in pixel edges (0, 0, W, H is the whole "
        "upright image); files relative to the CSV's folder. Several boxes of a file give several "
        "rows, files without one are left out, and a video's boxes hold for all its frames.",
        flag_values=values,
    )
    flags.DEFINE_string(
        "camera",
        None,
        "Number of a camera, or whatever PyAV opens; stops on Ctrl-C.",
        flag_values=values,
    )
    flags.DEFINE_string(
        "camera_format",
        None,
        "PyAV's format of the camera, if not the system's own.",
        flag_values=values,
    )
    flags.DEFINE_float(
        "seconds", None, "Stop the camera after this long.", lower_bound=0, flag_values=values
    )
    flags.DEFINE_boolean("draw", True, "Write annotated images and videos.", flag_values=values)
    flags.DEFINE_boolean("numbers", False, "Draw each landmark's number.", flag_values=values)
    flags.DEFINE_boolean(
        "labelled", False, "Draw the labelled points, regressed.", flag_values=values
    )
    flags.DEFINE_integer(
        "trails",
        0,
        "In videos, draw where landmarks were in this many frames before.",
        lower_bound=0,
        upper_bound=1_000,
        flag_values=values,
    )
    flags.DEFINE_boolean(
        "smooth",
        False,
        "Smooth videos (one euro filter): adds columns, and draws the smoothed points.",
        flag_values=values,
    )


def _run(call: Call) -> int:
    values, arguments = call.flags, call.arguments
    if not arguments or (len(arguments) == 1) != (values.camera is not None):
        raise UserError("give DETECTOR and INPUT..., or DETECTOR and --camera; --help says more")
    if values.camera is None and (values.seconds is not None or values.camera_format is not None):
        raise UserError("--seconds and --camera_format go with --camera")
    if values.camera is not None and values.boxes is not None:
        raise UserError("--boxes goes with files, not with --camera")
    from landmarks_jax.inference.media import run_detection  # noqa: PLC0415
    from landmarks_jax.inference.media.detection import Options  # noqa: PLC0415

    options = Options(values.draw, values.numbers, values.labelled, values.trails, values.smooth)
    detector, *inputs = arguments
    out = Path(values.out)
    if values.camera is None:
        return run_detection.detect_files(detector, inputs, out, options, values.boxes)
    return run_detection.detect_camera(
        detector,
        values.camera,
        out,
        options,
        device=values.camera_format,
        seconds=values.seconds,
    )


COMMAND = Command(_run, _add_flags, arguments="DETECTOR INPUT...")
