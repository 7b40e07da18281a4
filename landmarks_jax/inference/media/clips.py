"""One video or camera: every frame's landmarks in order, smoothed and drawn."""

import collections
import contextlib
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from landmarks_jax.data.framing import Rectangle
from landmarks_jax.inference.api import Landmarks
from landmarks_jax.inference.media import videos, view_batches
from landmarks_jax.inference.media.drawing import Marks, draw
from landmarks_jax.inference.media.job import Job, Options, side
from landmarks_jax.inference.media.result_files import Row
from landmarks_jax.inference.media.smoothing import OneEuro
from landmarks_jax.inference.media.videos import Frame
from landmarks_jax.inference.media.view_batches import Cut
from landmarks_jax.system import parallel
from landmarks_jax.system.errors import DataError

# Frames on the way, in bytes: a second of small video, a few frames of a large one.
_HELD_BYTES = 1 << 27


def detect_video(
    job: Job, reader: videos.Reader, name: str, drawn: Path, boxes: np.ndarray | None
) -> int:
    """Finds the landmarks of a video's frames, writes them, and draws them where that is wanted.

    Args:
      job: what is wanted.
      reader: the open video or camera.
      name: what results call it.
      drawn: the annotated video, of the same size and frame rate, without sound.
      boxes: `[n, 4]` in pixel edges, the same in every frame; or None.

    Returns:
      The number of frames written.

    Raises:
      DataError: a box does not fit the frames, or a file cannot be written.
    """

    def load(frame: Frame) -> Cut[Frame]:
        pixels = videos.upright(frame.image)
        slim = frame._replace(image=None)
        return view_batches.cut(job.detector, slim, pixels, boxes, job.options.draw)

    def finish(
        marked: tuple[Cut[Frame], list[Row], list[Marks]],
    ) -> tuple[Cut[Frame], list[Row], Image.Image | None]:
        cut, rows, marks = marked
        if cut.pixels is None:
            return cut, rows, None
        return cut, rows, draw(cut.pixels, marks, numbers=job.options.numbers)

    held = max(1, _HELD_BYTES // max(1, reader.frame_bytes))
    window = min(held, 4 * parallel.num_threads())
    views = 1 if boxes is None else len(boxes)
    batch = 1 if reader.live else min(held * views, view_batches.batch_size())
    cuts = parallel.in_order(load, reader.frames(job.stop), window)
    found = view_batches.locate(job.detector, cuts, batch)
    finished = parallel.in_order(finish, _followed(job, name, found), window)
    count = 0
    with contextlib.ExitStack() as opened:
        writer = opened.enter_context(videos.Writer(drawn, reader.rate))
        for cut, rows, image in parallel.with_progress(finished, reader.total, name, "frame"):
            for row in rows:
                job.results.add(row)
            if image is not None:
                writer.write(np.asarray(image), cut.source.time)
            count += 1
    return count


def _followed(
    job: Job, name: str, pairs: Iterable[tuple[Cut[Frame], Landmarks | None]]
) -> Iterator[tuple[Cut[Frame], list[Row], list[Marks]]]:
    """Rows and marks of each frame, with what the frames before have to say."""
    tracks: list[_Track] = []
    for cut, found in pairs:
        if found is None:
            continue
        rows = job.rows(name, found, cut.source.number, cut.source.time)
        tracks = tracks or [_Track(part, job.options) for part in cut.shown]
        rows = [track.smoothed(row) for track, row in zip(tracks, rows, strict=True)]
        marks = [
            track.trailed(job.marks(row, part))
            for track, row, part in zip(tracks, rows, cut.shown, strict=True)
        ]
        yield cut, rows, marks


class _Track:
    """The past of one view of a video."""

    def __init__(self, shown: Rectangle, options: Options) -> None:
        self._filter = OneEuro(side(shown)) if options.smooth else None
        self._trail: collections.deque[np.ndarray] = collections.deque(maxlen=options.trails + 1)

    def smoothed(self, row: Row) -> Row:
        if self._filter is None or row.time is None:
            return row
        labelled = np.zeros((0, 2)) if row.labelled is None else row.labelled
        points = np.concatenate([row.landmarks, labelled])
        return row._replace(smooth=self._filter(points, row.time))

    def trailed(self, marks: Marks) -> Marks:
        self._trail.append(marks.landmarks)
        return Marks(marks.landmarks, marks.side, marks.labelled, np.stack(self._trail))


def open_and_detect(job: Job, path: str, drawn: Path) -> int:
    """`detect_video` of a file; what is wrong with it is noted among the results.

    Returns:
      The number of frames written.
    """
    count = 0
    try:
        boxes = None if job.boxes is None else job.boxes.of(path)
        # Whole, or what stands before a colon in its name would be taken for a protocol.
        with videos.Reader(os.path.abspath(path)) as reader:
            count = detect_video(job, reader, path, drawn, boxes)
        problem = reader.problem
    except DataError as error:
        problem = str(error).removeprefix(f"{os.path.abspath(path)}: ")
    if problem:
        job.results.fail(path, problem)
    return count
