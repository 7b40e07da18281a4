"""Cuts the photos of a source to canvases or views."""

from collections.abc import Callable

import numpy as np

from landmarks_jax.data.box_canvas import BoxCanvas, Frame
from landmarks_jax.data.framing import Framing
from landmarks_jax.data.sources.photos import Source
from landmarks_jax.system import parallel
from landmarks_jax.system.errors import DataError, reason


def check(source: Source, frame: Frame) -> None:
    """Checks that all photos have the points their crop needs, without decoding them.

    Raises:
      ConfigError: the crop needs points and the source has none.
      DataError: points are missing or have no box; the photos are named.
    """
    frame.check_points(source.num_points, source.summary)
    if not isinstance(frame, BoxCanvas):
        return
    count = len(source)
    problems = []
    for index in parallel.with_progress(range(count), count, "checking points"):
        try:
            frame.check_box(source.points(index))
        except DataError as error:
            problems.append(f"{source.name(index)}: {error}")
    if problems:
        more = f" (and {len(problems) - 1:,} more)" if len(problems) > 1 else ""
        raise DataError(
            f"{problems[0]}{more}; leave such photos out by config.data.exclude, or use "
            "config.data.crop = 'center' or 'tight'"
        )


def cut_photo(
    source: Source,
    frame: Frame,
    index: int,
    look: Callable[[int, np.ndarray], None] = lambda index, photo: None,
) -> tuple[np.ndarray, np.ndarray]:
    """One canvas `[C, C, 3]` uint8 and its points `[P, 2]` float32 in the canvas frame.

    `look` is called with the index and the decoded photo.
    """
    try:
        photo = source.photo(index)
        look(index, photo)
        return frame.cut(photo, source.points(index), source.box_points(index))
    except DataError as error:
        name = source.name(index)
        raise error if name in str(error) else DataError(f"{name}: {error}") from error
    except (ValueError, MemoryError) as error:
        raise DataError(f"{source.name(index)}: cannot be cut ({reason(error)})") from error


def load_views(
    source: Source,
    frame: Framing,
    look: Callable[[int, np.ndarray], None] = lambda index, photo: None,
) -> tuple[np.ndarray, np.ndarray]:
    """All photos as undistorted views, in order; `look` is called as in `cut_photo`.

    Returns:
      Views `[N, S, S, 3]` uint8 and points `[N, P, 2]` float32, normalised to the view.
    """
    frame.check_points(source.num_points, source.summary)
    count, size = len(source), frame.view_size
    views = np.empty((count, size, size, 3), np.uint8)
    points = np.empty((count, source.num_points, 2), np.float32)

    def cut(index: int) -> None:
        canvas, points[index] = cut_photo(source, frame, index, look)
        views[index] = frame.central_view(canvas)

    for _ in parallel.ordered_map(cut, range(count), "cutting canvases"):
        pass
    return views, frame.points_in_view(points)
