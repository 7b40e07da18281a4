"""Detection in images and videos: cut views, detect in batches, draw, write the results."""

import collections
import dataclasses
import io
import math
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from landmarks_jax.data import decoding, photo_files
from landmarks_jax.data.framing import Rectangle
from landmarks_jax.inference.api import LandmarkDetector, Landmarks
from landmarks_jax.inference.media import video_frames, video_writer, videos, view_batches
from landmarks_jax.inference.media.drawing import Marks, draw
from landmarks_jax.inference.media.inputs import Boxes, Input, is_jpeg
from landmarks_jax.inference.media.result_files import Results, Row
from landmarks_jax.inference.media.smoothing import OneEuro
from landmarks_jax.inference.media.video_frames import Frame
from landmarks_jax.inference.media.view_batches import Cut
from landmarks_jax.system import files, parallel
from landmarks_jax.system.errors import DataError, reason

# Images up to this size wait in memory to be drawn; larger ones are read again, so that memory
# stays flat whatever their size.
_KEPT_BYTES = 1 << 20
# Video frames in flight: a second of a small video, a few frames of a large one.
_FRAME_BYTES = 1 << 27
_NOT_DRAWN = "landmarks detected but not drawn"


@dataclasses.dataclass(frozen=True)
class Options:
    """Drawing and smoothing.

    Attributes:
      draw: write annotated images and videos.
      numbers: draw each landmark's number.
      labelled: draw the labelled points that the regressor predicts.
      trails: in videos, draw the landmarks of this many previous frames.
      smooth: in videos, smooth the points; the smoothed ones are drawn.
    """

    draw: bool = True
    numbers: bool = False
    labelled: bool = False
    trails: int = 0
    smooth: bool = False


@dataclasses.dataclass(frozen=True)
class Job:
    """One run over many files.

    Attributes:
      detector: the detector.
      results: the result files.
      boxes: the parts to view, or None for those that training would have viewed.
      drawn: the folder of drawings.
      options: options of drawing and smoothing.
      stop: whether to stop after the current image.
    """

    detector: LandmarkDetector
    results: Results
    boxes: Boxes | None
    drawn: Path
    options: Options
    stop: Callable[[], bool]

    def boxes_of(self, path: str) -> np.ndarray | None:
        """The boxes `[n, 4]` of a file, or None."""
        return None if self.boxes is None else self.boxes.of(path)

    def rows(
        self,
        file: str,
        landmarks: Landmarks,
        boxes: Sequence[int],
        frame: int | None = None,
        time: float | None = None,
    ) -> list[Row]:
        """The result rows of one image or frame, one per view, whose boxes have these numbers."""
        rows = []
        for index, number in enumerate(boxes):
            points, confidence, labelled, _ = landmarks.select(index)
            box = None if self.boxes is None else number
            rows.append(Row(file, frame, time, box, points, confidence, labelled, None))
        return rows

    def marks(self, row: Row, rectangle: Rectangle) -> Marks:
        """What to draw of a row whose view shows `rectangle`."""
        landmarks, labelled = row.landmarks, row.labelled
        if row.smooth is not None:
            landmarks, labelled = row.smooth[: len(landmarks)], row.smooth[len(landmarks) :]
        return Marks(landmarks, _side(rectangle), labelled if self.options.labelled else None)


def _side(rectangle: Rectangle) -> float:
    """The side of the square with the same area."""
    left, top, right, bottom = rectangle
    return math.sqrt((right - left) * (bottom - top))


def detect_images(job: Job, items: Sequence[Input]) -> None:
    """Detects landmarks in images, writes them, and draws them if requested, until `job.stop`.

    Decoding and drawing run in threads over a window of images, so that memory does not grow with
    their number.

    Raises:
      UnwritableError: the results cannot be written any more.
    """

    def finish(pair: tuple[Cut[Input], Landmarks | None]) -> tuple[Cut[Input], Landmarks | None]:
        cut, landmarks = pair
        if landmarks is None or not job.options.draw:
            return pair
        return _draw_image(job, cut, landmarks), landmarks

    cuts = parallel.in_order(lambda item: _load_image(job, item), items)
    located = view_batches.locate(job.detector, cuts, view_batches.batch_size())
    finished = parallel.in_order(finish, located)
    for cut, landmarks in parallel.with_progress(finished, len(items), "images", "image"):
        path = cut.source.path
        if landmarks is not None:
            for row in job.rows(path, landmarks, cut.boxes):
                job.results.add(row)
        if cut.problem:
            job.results.fail(path, cut.problem)
        job.results.complete += 1
        if job.stop():
            break


def _load_image(job: Job, item: Input) -> Cut[Input]:
    try:
        stamp = photo_files.stamp(item.path)
        pixels, _ = decoding.decode(item.path)
        keep = job.options.draw and pixels.nbytes <= _KEPT_BYTES
        cut = view_batches.cut(job.detector, item, pixels, job.boxes_of(item.path), keep)
        return dataclasses.replace(cut, stamp=stamp)
    except (DataError, MemoryError) as error:
        return view_batches.without_views(job.detector, item, _problem(error, item.path))


def _draw_image(job: Job, cut: Cut[Input], landmarks: Landmarks) -> Cut[Input]:
    """Writes the drawing of an image; returns the cut, with a problem if that failed."""
    item, path = cut.source, job.drawn / cut.source.drawn
    try:
        pixels = decoding.decode(item.path)[0] if cut.pixels is None else cut.pixels
        if cut.pixels is None and photo_files.stamp(item.path) != cut.stamp:
            raise DataError("it has changed meanwhile")
        rows = job.rows(item.path, landmarks, cut.boxes)
        marks = [job.marks(row, part) for row, part in zip(rows, cut.rectangles, strict=True)]
        image = draw(pixels, marks, numbers=job.options.numbers)
        encoded = io.BytesIO()  # into a file Pillow would write less on a full disk, and not say so
        if is_jpeg(path):
            image.save(encoded, format="JPEG", quality=90, subsampling=0)  # keeps colours sharp
        else:
            image.save(encoded, format="PNG", compress_level=3)
        with files.new_file(path, sync=False) as file:
            file.write(encoded.getbuffer())
    except (DataError, MemoryError, OSError) as error:
        problem = f"{_NOT_DRAWN}: {_problem(error, item.path)}"
        return dataclasses.replace(cut, problem="; ".join(filter(None, (cut.problem, problem))))
    return cut


def _problem(error: Exception, path: str) -> str:
    """Why a file failed, without its path, which stands beside it."""
    if isinstance(error, DataError):
        return str(error).removeprefix(f"{path}: ")
    return reason(error)


def detect_video_file(job: Job, path: str, drawn: Path) -> int:
    """Runs `detect_video` on a file; a problem is written to the results.

    Returns:
      The number of frames written.

    Raises:
      UnwritableError: the results cannot be written any more.
    """
    count, absolute = 0, os.path.abspath(path)  # in a relative name a colon would end a protocol
    try:
        if problem := videos.INSTALL if videos.is_missing() else files.not_regular(absolute):
            raise DataError(problem)
        with videos.Reader(absolute) as reader:
            count = detect_video(job, reader, path, drawn, job.boxes_of(path))
        problem = reader.problem
    except DataError as error:
        problem = _problem(error, absolute)
    if problem:
        job.results.fail(path, problem)
    job.results.complete += 1
    return count


def detect_video(
    job: Job, reader: videos.Reader, name: str, drawn: Path, boxes: np.ndarray | None
) -> int:
    """Detects landmarks in every frame, writes them, and draws them if requested.

    Args:
      job: the run.
      reader: the open video or camera.
      name: its name in the results.
      drawn: the annotated video, of the same size, with the same times, without sound.
      boxes: `[n, 4]` in pixel edges, the same in every frame, or None.

    Returns:
      The number of frames written.

    Raises:
      DataError: no box fits the frames.
      UnwritableError: the results cannot be written any more.
    """

    def load(frame: Frame) -> Cut[Frame]:
        pixels = video_frames.upright(frame.image)
        source = frame._replace(image=None)
        return view_batches.cut(job.detector, source, pixels, boxes, job.options.draw)

    def finish(
        tracked: tuple[Cut[Frame], list[Row], list[Marks]],
    ) -> tuple[Cut[Frame], list[Row], Image.Image | None]:
        cut, rows, marks = tracked
        if cut.pixels is None:
            return cut, rows, None
        return cut, rows, draw(cut.pixels, marks, numbers=job.options.numbers)

    held = max(1, _FRAME_BYTES // max(1, reader.frame_bytes))
    window = min(held, 4 * parallel.num_threads())
    num_views = 1 if boxes is None else len(boxes)
    batch = 1 if reader.live else min(held * num_views, view_batches.batch_size())
    cuts = parallel.in_order(load, reader.frames(job.stop), window)
    located = view_batches.locate(job.detector, cuts, batch)
    finished = parallel.in_order(finish, _track(job, name, located), window)
    count = 0
    problems: dict[str, None] = {}
    with video_writer.Writer(drawn, reader.rate) as writer:
        for cut, rows, image in parallel.with_progress(finished, reader.total, name, "frame"):
            for row in rows:
                job.results.add(row)
            if image is not None:
                writer.write(np.asarray(image), cut.source.time, cut.source.aspect)
            count += 1
            problems[cut.problem] = None
        writer.end = reader.end
    if writer.problem:
        problems[f"{_NOT_DRAWN}: {writer.problem}"] = None
    for problem in filter(None, problems):
        job.results.fail(name, problem)
    return count


def _track(
    job: Job, name: str, pairs: Iterable[tuple[Cut[Frame], Landmarks | None]]
) -> Iterator[tuple[Cut[Frame], list[Row], list[Marks]]]:
    """The rows and marks of each frame, smoothed and with trails."""
    tracks: list[_Track] = []
    for cut, landmarks in pairs:
        if landmarks is None:
            continue
        rows = job.rows(name, landmarks, cut.boxes, cut.source.number, cut.source.time)
        tracks = tracks or [_Track(part, job.options) for part in cut.rectangles]
        rows = [track.smooth(row) for track, row in zip(tracks, rows, strict=True)]
        marks = [
            track.add_trail(job.marks(row, part))
            for track, row, part in zip(tracks, rows, cut.rectangles, strict=True)
        ]
        yield cut, rows, marks


class _Track:
    """The previous landmarks of one view of a video."""

    def __init__(self, rectangle: Rectangle, options: Options) -> None:
        self._filter = OneEuro(_side(rectangle)) if options.smooth else None
        self._trail: collections.deque[np.ndarray] = collections.deque(maxlen=options.trails + 1)

    def smooth(self, row: Row) -> Row:
        if self._filter is None or row.time is None:
            return row
        labelled = np.zeros((0, 2)) if row.labelled is None else row.labelled
        points = np.concatenate([row.landmarks, labelled])
        return row._replace(smooth=self._filter(points, row.time))

    def add_trail(self, marks: Marks) -> Marks:
        self._trail.append(marks.landmarks)
        return dataclasses.replace(marks, trail=np.stack(self._trail))
