"""Many pictures: decoded and drawn in threads, detected together."""

from collections.abc import Sequence

from landmarks_jax.data import decoding
from landmarks_jax.inference.api import Landmarks
from landmarks_jax.inference.media import view_batches
from landmarks_jax.inference.media.drawing import draw
from landmarks_jax.inference.media.inputs import Input, is_jpeg
from landmarks_jax.inference.media.job import Job
from landmarks_jax.inference.media.view_batches import Cut
from landmarks_jax.system import parallel
from landmarks_jax.system.errors import DataError

# Smaller pictures wait for their landmarks to be drawn; larger ones are read again, so that memory
# stays flat whatever their size.
_KEPT_BYTES = 1 << 20


def detect_pictures(job: Job, items: Sequence[Input]) -> int:
    """Finds the landmarks of pictures, writes them, and draws them where that is wanted.

    Memory does not grow with the number of pictures: a window of them is under way.

    Returns:
      How many were done, unreadable ones included, before `job.stop`.
    """

    def finish(pair: tuple[Cut[Input], Landmarks | None]) -> tuple[Cut[Input], Landmarks | None]:
        cut, found = pair
        if found is None or not job.options.draw:
            return pair
        return _drawn(job, cut, found), found

    cuts = parallel.in_order(lambda item: _load(job, item), items)
    found = view_batches.locate(job.detector, cuts, view_batches.batch_size())
    finished = parallel.in_order(finish, found)
    done = 0
    for cut, landmarks in parallel.with_progress(finished, len(items), "pictures", "picture"):
        path = cut.source.path
        if landmarks is not None:
            for row in job.rows(path, landmarks):
                job.results.add(row)
        if cut.problem:
            job.results.fail(path, cut.problem)
        done += 1
        if job.stop():
            break
    return done


def _load(job: Job, item: Input) -> Cut[Input]:
    """Decodes a picture and cuts it to views."""
    try:
        pixels, _ = decoding.decode(item.path)
        boxes = None if job.boxes is None else job.boxes.of(item.path)
        keep = job.options.draw and pixels.nbytes <= _KEPT_BYTES
        return view_batches.cut(job.detector, item, pixels, boxes, keep)
    except (DataError, MemoryError) as error:
        return view_batches.uncut(job.detector, item, _reason(error, item))


def _drawn(job: Job, cut: Cut[Input], found: Landmarks) -> Cut[Input]:
    """Draws a picture's landmarks; returns it with what went wrong, if anything did."""
    item = cut.source
    try:
        pixels = decoding.decode(item.path)[0] if cut.pixels is None else cut.pixels
        rows = job.rows(item.path, found)
        marks = [job.marks(row, part) for row, part in zip(rows, cut.shown, strict=True)]
        image = draw(pixels, marks, numbers=job.options.numbers)
        place = job.drawn / item.drawn
        place.parent.mkdir(parents=True, exist_ok=True)
        if is_jpeg(place):
            image.save(place, format="JPEG", quality=90, subsampling=0)  # colours stay sharp
        else:
            image.save(place, format="PNG", compress_level=3)
    except (DataError, MemoryError, OSError) as error:
        reason = f"its points were found, but not drawn: {_reason(error, item)}"
        return view_batches.uncut(job.detector, item, reason)
    return cut


def _reason(error: Exception, item: Input) -> str:
    text = str(error) or type(error).__name__
    return " ".join(text.removeprefix(f"{item.path}: ").split())
