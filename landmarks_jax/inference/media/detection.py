"""Detection in images and videos: cut views, detect in batches, draw, write the results."""

import collections
import dataclasses
import io
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from landmarks_jax.data import decoding, photo_files
from landmarks_jax.data.framing import Rectangle
from landmarks_jax.inference.api import Landmarks
from landmarks_jax.inference.media import video_frames, video_writer, videos, view_batches
from landmarks_jax.inference.media.drawing import Marks, draw
from landmarks_jax.inference.media.face_tracks import FaceTracker
from landmarks_jax.inference.media.inputs import Input, is_jpeg
from landmarks_jax.inference.media.job import Job, Options, side
from landmarks_jax.inference.media.result_files import Row
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
NO_FACE = "no face found"
_NOT_DRAWN = "landmarks detected but not drawn"


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
    located = view_batches.locate(
        job.detector, cuts, view_batches.batch_size(), mirror=job.options.mirror
    )
    finished = parallel.in_order(finish, located)
    for cut, landmarks in parallel.with_progress(finished, len(items), "images", "image"):
        path = cut.source.path
        if landmarks is not None:
            for row in job.rows(path, cut, landmarks):
                job.results.add(row)
        if cut.problem:
            job.results.fail(path, cut.problem)
        elif landmarks is None:
            job.results.skip(path, NO_FACE)
        job.results.complete += 1
        if job.stop():
            break


def _load_image(job: Job, item: Input) -> Cut[Input]:
    try:
        stamp = photo_files.stamp(item.path)
        pixels, _ = decoding.decode(item.path)
        keep = job.options.draw and pixels.nbytes <= _KEPT_BYTES
        cut = view_batches.cut(job.detector, item, pixels, job.parts(item.path, pixels), keep)
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
        marks = [job.marks(row) for row in job.rows(item.path, cut, landmarks)]
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
            count = detect_video(job, reader, path, drawn)
        problem = reader.problem
    except DataError as error:
        problem = _problem(error, absolute)
    if problem:
        job.results.fail(path, problem)
    job.results.complete += 1
    return count


def detect_video(job: Job, reader: videos.Reader, name: str, drawn: Path) -> int:
    """Detects landmarks in every frame, writes them, and draws them if requested.

    Args:
      job: the run.
      reader: the open video or camera.
      name: its name in the results.
      drawn: the annotated video, of the same size, with the same times, without sound.

    Returns:
      The number of frames written.

    Raises:
      DataError: no box fits the frames.
      UnwritableError: the results cannot be written any more.
    """

    def load(frame: Frame) -> Cut[Frame]:
        pixels = video_frames.upright(frame.image)
        source = frame._replace(image=None)
        return view_batches.cut(
            job.detector, source, pixels, job.parts(name, pixels), job.options.draw
        )

    def finish(
        tracked: tuple[Cut[Frame], list[Row], list[Marks]],
    ) -> tuple[Cut[Frame], list[Row], Image.Image | None]:
        cut, rows, marks = tracked
        if cut.pixels is None:
            return cut, rows, None
        return cut, rows, draw(cut.pixels, marks, numbers=job.options.numbers)

    held = max(1, _FRAME_BYTES // max(1, reader.frame_bytes))
    window = min(held, 4 * parallel.num_threads())
    views = len(job.boxes.of(name)) if job.boxes is not None else 1
    batch = 1 if reader.live else min(held * views, view_batches.batch_size())
    cuts = parallel.in_order(load, reader.frames(job.stop), window)
    located = view_batches.locate(job.detector, cuts, batch, mirror=job.options.mirror)
    finished = parallel.in_order(finish, _track(job, name, located), window)
    count, before = 0, job.results.rows
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
    if job.faces and count and job.results.rows == before:
        job.results.skip(name, NO_FACE)
    return count


def _track(
    job: Job, name: str, pairs: Iterable[tuple[Cut[Frame], Landmarks | None]]
) -> Iterator[tuple[Cut[Frame], list[Row], list[Marks]]]:
    """The rows and marks of each frame, smoothed and with trails."""
    histories: dict[int, _History] = {}
    tracker = FaceTracker()
    for found, landmarks in pairs:
        cut = found
        if found.scores is not None:
            ids = tracker.update(np.reshape(found.rectangles, (-1, 4)))
            cut = dataclasses.replace(found, boxes=ids)
            histories = {i: histories[i] for i in tracker.ids & histories.keys()}
        rows, marks = [], []
        if landmarks is not None:
            rows = job.rows(name, cut, landmarks, cut.source.number, cut.source.time)
        for i, (number, row) in enumerate(zip(cut.boxes, rows, strict=True)):
            history = histories.setdefault(number, _History(row.view, job.options))
            rows[i] = history.smooth(row)
            marks.append(history.add_trail(job.marks(rows[i])))
        yield cut, rows, marks


class _History:
    """The previous landmarks of one box or face of a video."""

    def __init__(self, view: Rectangle, options: Options) -> None:
        self._filter = OneEuro(side(view)) if options.smooth else None
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
