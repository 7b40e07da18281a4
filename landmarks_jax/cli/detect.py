"""Find landmarks in images, folders, globs, videos or a camera; write and draw them.

landmarks-jax detect DETECTOR INPUT... --out DIR [--boxes find|whole|FILE.csv]
landmarks-jax detect faces photos/ 'clips/*.mp4' --out found
landmarks-jax detect faces --camera 0 --out found --seconds 10

DETECTOR is a file of `landmarks-jax export`, or the name of a detector that comes with the package.
A detector of faces finds the faces of each image if the extra `faces` is installed. Any other
expects one object in an image, filling it as in training; --boxes can say where it is.

DIR/landmarks.csv and DIR/landmarks.jsonl get a row per image or video frame, or per face or box of
it, DIR/drawn the annotated images and videos, DIR/skipped.csv the files left out and why, and those
without a face. Of a found face left, top, right, bottom are the part of the image viewed, score is
the finder's, box its number, the same in all frames of a video. The tables of an earlier call in
DIR are replaced, and drawings of the same name; other drawings stay. Points are in pixels of the
upright image, rotated and mirrored as its EXIF orientation or the video says; the centre of the
first pixel is 0, 0. Landmarks count from 1, frames and boxes from 0. c1, c2, ... are confidences in
[0, 1].

An annotated video has the frames of the original at the same times, and pixels of the same shape.
Frames that are too damaged to be decoded have no row; DIR/skipped.csv says how many are damaged.

`landmarks-jax convert landmarks` writes DIR/landmarks.jsonl as TPS, COCO keypoints or DeepLabCut's
CSV.

Rows are written whole, as they are made. Named pipes and the like are skipped, folders entered once
whatever links lead to them. The exit code is 1 if a file could not be read, is damaged or broke
off, or results can no longer be written, such as on a full disk; 2 if nothing could be started.
"""

from pathlib import Path

from landmarks_jax.cli.command import Call, Command, Flag
from landmarks_jax.system.errors import UserError

_FLAGS = (
    Flag("out", "Folder for the results.", required=True),
    Flag(
        "boxes",
        "find looks for faces, whole views the part that training would have viewed, or a file: "
        "CSV file,x0,y0,x1,y1: the part to look at, in pixel edges (0, 0, W, H is the whole "
        "upright image); files relative to the CSV's folder. Several boxes of a file give several "
        "rows, files without one are left out, and a video's boxes hold for all its frames.",
    ),
    Flag("camera", "Number of a camera, or whatever PyAV opens; stops on Ctrl-C."),
    Flag("camera_format", "PyAV's format of the camera, if not the system's own."),
    Flag("seconds", "Stop the camera after this long.", kind=float, low=0),
    Flag("draw", "Write annotated images and videos.", True, kind=bool),
    Flag(
        "numbers",
        "Draw each landmark's number, from 1; --landmarks of other commands counts from 0.",
        False,
        kind=bool,
    ),
    Flag("labelled", "Draw the labelled points that the linear map predicts.", False, kind=bool),
    Flag(
        "trails",
        "In videos, draw the landmarks of this many previous frames too.",
        0,
        kind=int,
        low=0,
        high=1_000,
    ),
    Flag(
        "mirror",
        "Take the mean over each view and its mirror image, of the landmarks that are known to "
        "mirror each other; takes twice the time.",
        False,
        kind=bool,
    ),
    Flag(
        "smooth",
        "Smooth videos (one euro filter): adds columns, and draws the smoothed points.",
        False,
        kind=bool,
    ),
)


def _run(call: Call) -> int:
    values, arguments = call.flags, call.arguments
    if not arguments or (len(arguments) == 1) != (values.camera is not None):
        raise UserError("give DETECTOR and INPUT..., or DETECTOR and --camera; --help says more")
    if values.camera is None and (values.seconds is not None or values.camera_format is not None):
        raise UserError("--seconds and --camera_format go with --camera")
    from landmarks_jax.inference.media import run_detection  # noqa: PLC0415
    from landmarks_jax.inference.media.job import Options  # noqa: PLC0415

    ways = (None, run_detection.FIND, run_detection.WHOLE)
    if values.camera is not None and values.boxes not in ways:
        raise UserError("--boxes FILE goes with files, not with --camera")
    drawing = values.draw, values.numbers, values.labelled, values.trails
    options = Options(*drawing, values.smooth, values.mirror)
    detector, *inputs = arguments
    out = Path(values.out)
    if values.camera is None:
        return run_detection.detect_files(detector, inputs, out, options, values.boxes)
    return run_detection.detect_camera(
        detector,
        values.camera,
        out,
        options,
        boxes=values.boxes,
        device=values.camera_format,
        seconds=values.seconds,
    )


COMMAND = Command(_run, _FLAGS, arguments="DETECTOR INPUT...")
