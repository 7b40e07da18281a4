"""What `landmarks-jax detect` does: wiring only."""

import contextlib
import logging
import signal
import time
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

from PIL import Image

from landmarks_jax.data import photo_files
from landmarks_jax.inference.api import LandmarkDetector, load_detector
from landmarks_jax.inference.media import clips, still_images, videos
from landmarks_jax.inference.media.box_table import Boxes
from landmarks_jax.inference.media.inputs import Input, Inputs, find_inputs
from landmarks_jax.inference.media.job import Job, Options
from landmarks_jax.inference.media.result_files import SKIPPED, TABLE, Results
from landmarks_jax.system.errors import DataError
from landmarks_jax.system.signals import Interrupt

DRAWN = "drawn"
_LOGGER = logging.getLogger(__name__)


def detect_files(
    name: str, arguments: Sequence[str], out: Path, options: Options, boxes: str | None = None
) -> int:
    """Finds the landmarks of files and writes them below a folder.

    Args:
      name: a packed detector's file, or the name of one that comes with this package.
      arguments: pictures, videos, folders and globs.
      out: the folder of results.
      options: what is wanted besides the points.
      boxes: a table of boxes; only files with a box in it are looked at.

    Returns:
      0, 1 where a file was left out or broke off, or 128 plus the signal that ended it.

    Raises:
      UserError: nothing can be started.
    """
    inputs = find_inputs(arguments, out / DRAWN)
    table = None if boxes is None else Boxes(boxes)
    unused = "" if table is None else table.check_inputs(item.path for item in inputs.items)
    if all(item.is_video for item in inputs.items) and videos.is_missing():
        raise DataError(f"{inputs.items[0].path}: {videos.INSTALL}")
    detector = _load(name, options, table is not None)
    for note in filter(None, (inputs.note, unused)):
        _LOGGER.info("%s", note)
    with _job(detector, out, options, table) as (job, interrupt):
        return _detect(job, _wanted(job, inputs), interrupt)


def detect_camera(
    name: str,
    camera: str,
    out: Path,
    options: Options,
    *,
    device: str | None = None,
    seconds: float | None = None,
) -> int:
    """Finds the landmarks of what a camera sees, until Ctrl-C or for some seconds.

    Args:
      name: a packed detector's file, or the name of one that comes with this package.
      camera: a number, or anything that PyAV opens.
      out: the folder of results.
      options: what is wanted besides the points.
      device: PyAV's name of the camera's format.
      seconds: of the camera's own clock.

    Returns:
      0, or 1 where the camera failed on the way.

    Raises:
      UserError: nothing can be started.
    """
    with videos.open_camera(camera, device, seconds) as reader:
        detector = _load(name, options, boxed=False)
        with _job(detector, out, options, None) as (job, interrupt):
            drawn = job.drawn / "camera.mp4"
            count = clips.detect_video(job, reader, f"camera {camera}", drawn, None)
            if reader.problem:
                job.results.fail(f"camera {camera}", reader.problem)
            _tell(job, f"{count:,} frames")
            stopped = interrupt.signal not in (None, signal.SIGINT)
            return 128 + (interrupt.signal or 0) if stopped else int(bool(job.results.failed))


def _load(name: str, options: Options, boxed: bool) -> LandmarkDetector:
    """Loads the detector, and checks that it can do what is asked."""
    detector = load_detector(name)
    if options.labelled and detector.regressor is None:
        raise DataError(f"--labelled: {name} predicts no labelled points")
    if detector.frame.crop == "box" and not boxed:
        raise DataError(
            f"{name}: was trained on views cut around annotated points; it needs --boxes, and "
            "files, not a camera"
        )
    return detector


@contextlib.contextmanager
def _job(
    detector: LandmarkDetector, out: Path, options: Options, boxes: Boxes | None
) -> Iterator[tuple[Job, Interrupt]]:
    """The job, with its results open and signals held back."""
    labelled = _labelled_names(detector)
    with (
        warnings.catch_warnings(),
        Interrupt() as interrupt,
        Results(out, detector.num_landmarks, labelled, smooth=options.smooth) as results,
    ):
        # Pillow warns of large pictures, which are done, and refuses those of twice that size.
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)

        def stop() -> bool:
            return interrupt.signal is not None

        yield Job(detector, results, boxes, out / DRAWN, options, stop), interrupt


def _labelled_names(detector: LandmarkDetector) -> tuple[str, ...]:
    """What the regressor's points are called, by number where the file does not say."""
    if detector.regressor is None:
        return ()
    count = len(detector.regressor.y_origin) // 2
    names = detector.point_names
    return names if len(names) == count else tuple(f"point {i}" for i in range(1, count + 1))


def _wanted(job: Job, inputs: Inputs) -> list[Input]:
    """The inputs to look at: with boxes, those that have one; the others are noted."""
    if job.boxes is None:
        return inputs.items
    wanted = [item for item in inputs.items if len(job.boxes.of(item.path))]
    for item in inputs.items:
        if not len(job.boxes.of(item.path)):
            job.results.leave_out(item.path, "no box")
    if left := len(inputs.items) - len(wanted):
        _LOGGER.info("%d files without a box are left out, listed in %s", left, SKIPPED)
    return wanted


def _detect(job: Job, items: Sequence[Input], interrupt: Interrupt) -> int:
    """Does the pictures, then the videos."""
    start = time.monotonic()
    photos = [item for item in items if not item.is_video]
    done = still_images.detect_pictures(job, photos) if photos else 0
    frames = 0
    for item in (item for item in items if item.is_video):
        if job.stop():
            break
        if videos.is_missing():
            job.results.fail(item.path, videos.INSTALL)
        else:
            frames += clips.open_and_detect(job, item.path, job.drawn / item.drawn)
        done += 1
    seconds = time.monotonic() - start
    of = f"{done:,} of {len(items):,} files" if job.stop() else f"{done:,} files"
    rate = (len(photos) + frames) / max(seconds, 1e-9)
    _tell(job, f"{of}, {frames:,} video frames, {seconds:.1f} s, {rate:.0f} a second")
    if interrupt.signal is not None:
        return 128 + interrupt.signal
    return int(bool(job.results.failed))


def _tell(job: Job, what: str) -> None:
    """The summary: what was done on standard output, what was left out on standard error."""
    folder = job.drawn.parent
    print(f"{folder / TABLE}: {job.results.rows:,} rows ({what})")
    if failed := job.results.failed:
        listed = f"listed in {folder / SKIPPED}"
        _LOGGER.warning(
            "%d left out or broken, %s: %s", len(failed), listed, photo_files.some(failed)
        )
