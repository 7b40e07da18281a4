"""`landmarks-jax detect`: from arguments to result files."""

import contextlib
import logging
import signal
import time
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePath

from landmarks_jax.data import photo_files
from landmarks_jax.inference import face_finder, mirroring
from landmarks_jax.inference.api import LandmarkDetector, load_detector
from landmarks_jax.inference.media import videos
from landmarks_jax.inference.media.detection import (
    detect_images,
    detect_video,
    detect_video_file,
)
from landmarks_jax.inference.media.inputs import Boxes, Input, find_inputs
from landmarks_jax.inference.media.job import Job, Options
from landmarks_jax.inference.media.result_files import (
    SKIPPED,
    TABLE,
    Results,
    UnwritableError,
)
from landmarks_jax.system.errors import ConfigError, DataError
from landmarks_jax.system.signals import Interrupt

DRAWN = "drawn"
FIND, WHOLE = "find", "whole"  # values of --boxes besides a file
_LOGGER = logging.getLogger(__name__)


def detect_files(
    name: str, arguments: Sequence[str], out: Path, options: Options, boxes: str | None = None
) -> int:
    """Detects landmarks in files and writes the results to a folder.

    Args:
      name: a packed file, or the name of a shipped detector.
      arguments: images, videos, folders and globs.
      out: the folder of results.
      options: options of drawing and smoothing.
      boxes: a CSV file of boxes, and files without a box are skipped; FIND views the faces that are
        found, WHOLE what training would have viewed. None finds faces if the detector is of faces
        and the extra `faces` is installed.

    Returns:
      The exit code: 0, 1 if a file failed, or 128 plus the signal that ended the run.

    Raises:
      UserError: the run cannot start.
    """
    inputs, skipped = find_inputs(arguments, out / DRAWN)
    table, unused = None, ""
    unboxed: list[Input] = []
    if boxes not in (None, FIND, WHOLE):
        table = Boxes(boxes)
        inputs, unboxed, unused = table.split(inputs)
    if all(item.is_video for item in inputs) and videos.is_missing():
        raise DataError(f"{inputs[0].path}: {videos.INSTALL}")
    detector = _load(name, options)
    faces = _finds_faces(detector, name, boxes)
    for note in filter(None, (skipped, unused)):
        _LOGGER.info("%s", note)
    with _open_job(detector, out, options, table, faces) as (job, interrupt):
        for item in unboxed:
            job.results.skip(item.path, "no box")
        if unboxed:
            _LOGGER.info("skipped: %d files without a box, listed in %s", len(unboxed), SKIPPED)
        return _detect(job, inputs, interrupt)


def detect_photos(detector: LandmarkDetector, paths: Sequence[str], out: Path) -> int:
    """Detects landmarks in image files, in the part that training would have viewed; draws nothing.

    Args:
      detector: the detector.
      paths: the files.
      out: the folder of results.

    Returns:
      The exit code, as of `detect_files`.
    """
    inputs = [Input(path, False, PurePath(path)) for path in paths]
    with _open_job(detector, out, Options(draw=False), None, False) as (job, interrupt):
        return _detect(job, inputs, interrupt)


def detect_camera(
    name: str,
    camera: str,
    out: Path,
    options: Options,
    *,
    boxes: str | None = None,
    device: str | None = None,
    seconds: float | None = None,
) -> int:
    """Detects landmarks in a camera's frames until Ctrl-C or for some seconds.

    Args:
      name: a packed file, or the name of a shipped detector.
      camera: a number, or anything that PyAV opens.
      out: the folder of results.
      options: options of drawing and smoothing.
      boxes: None, FIND or WHOLE, as for `detect_files`.
      device: PyAV's name of the camera's format.
      seconds: duration by the camera's clock.

    Returns:
      The exit code: 0, 1 if the camera failed, or 128 plus the signal that ended the run.

    Raises:
      UserError: the run cannot start.
    """
    with videos.open_camera(camera, device, seconds) as reader:
        detector = _load(name, options)
        faces = _finds_faces(detector, name, boxes)
        with _open_job(detector, out, options, None, faces) as (job, interrupt):
            count = detect_video(job, reader, f"camera {camera}", job.drawn / "camera.mp4")
            if reader.problem:
                job.results.fail(f"camera {camera}", reader.problem)
            _report(job, f"{count:,} frames")
            if interrupt.signal not in (None, signal.SIGINT):
                return interrupt.exit_code
            return int(bool(job.results.failed))


def _load(name: str, options: Options) -> LandmarkDetector:
    detector = load_detector(name)
    if options.labelled and detector.regressor is None:
        raise DataError(f"--labelled: {name} has no regressor to labelled points")
    if options.mirror:
        mirroring.need_pairs(detector.mirror_pairs, name)
    return detector


def _finds_faces(detector: LandmarkDetector, name: str, boxes: str | None) -> bool:
    """Whether to find faces, for a value of --boxes."""
    if boxes == FIND and detector.face_frame is None:
        raise DataError(f"--boxes find: {name} {face_finder.NO_FRAME}")
    missing = face_finder.is_missing()
    if boxes == FIND and missing:
        raise ConfigError(f"--boxes find: {face_finder.INSTALL}")
    if boxes == FIND or (boxes is None and detector.face_frame is not None and not missing):
        return True
    if boxes in (None, WHOLE) and detector.frame.crop == "box":
        ways = "--boxes FILE, with files instead of a camera"
        if detector.face_frame is not None:
            ways = f"--boxes find{f' ({face_finder.INSTALL})' if missing else ''}, or {ways}"
        raise DataError(
            f"{name}: was trained on views cut around annotated points; it needs {ways}"
        )
    if boxes is None and detector.face_frame is not None:
        _LOGGER.warning("warning: one face must fill each image; %s", face_finder.INSTALL)
    return False


@contextlib.contextmanager
def _open_job(
    detector: LandmarkDetector, out: Path, options: Options, boxes: Boxes | None, faces: bool
) -> Iterator[tuple[Job, Interrupt]]:
    """Opens the result files and defers signals."""
    with (
        warnings.catch_warnings(),
        Interrupt() as interrupt,
        Results(
            out,
            detector.num_landmarks,
            _labelled_names(detector),
            names=detector.landmark_names,
            faces=faces,
            smooth=options.smooth,
        ) as results,
    ):
        # Pillow warns about large images, which work (it refuses those of twice that size), and
        # about damaged metadata, which does not count.
        warnings.filterwarnings("ignore", module="PIL")

        def stop() -> bool:
            return interrupt.signal is not None

        yield Job(detector, results, boxes, faces, out / DRAWN, options, stop), interrupt


def _labelled_names(detector: LandmarkDetector) -> tuple[str, ...]:
    if detector.regressor is None:
        return ()
    count = detector.regressor.num_points
    return detector.point_names or tuple(f"point {i}" for i in range(1, count + 1))


def _detect(job: Job, items: Sequence[Input], interrupt: Interrupt) -> int:
    """Runs on all images, then on all videos. Returns the exit code."""
    start = time.monotonic()
    items = sorted(items, key=lambda item: item.is_video)
    images = [item for item in items if not item.is_video]
    frames = 0
    try:
        if images:
            detect_images(job, images)
        for item in items[len(images) :]:
            if job.stop():
                break
            frames += detect_video_file(job, item.path, job.drawn / item.drawn)
    except UnwritableError as error:
        missing = photo_files.some([item.path for item in items[job.results.complete :]])
        raise UnwritableError(f"{error}; missing: {missing}") from error
    seconds, done = time.monotonic() - start, job.results.complete
    count = f"{done:,} of {len(items):,} files" if job.stop() else f"{done:,} files"
    rate = (len(images) + frames) / max(seconds, 1e-9)
    _report(job, f"{count}, {frames:,} video frames, {seconds:.1f} s, {rate:.0f} per second")
    return interrupt.exit_code or int(bool(job.results.failed))


def _report(job: Job, summary: str) -> None:
    folder = job.drawn.parent
    print(f"{folder / TABLE}: {job.results.rows:,} rows ({summary})")
    if failed := job.results.failed:
        names = photo_files.some(failed)
        _LOGGER.warning("%d files failed, see %s: %s", len(failed), folder / SKIPPED, names)
