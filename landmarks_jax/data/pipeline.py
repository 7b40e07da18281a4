"""Endless batches of canvases through tf.data: decoded in parallel, in a fixed order.

The only module that imports TensorFlow; import it only where training from photos begins.
TensorFlow moves bytes here and computes nothing.
"""

import atexit
import contextlib
import os
import weakref
from collections.abc import Callable, Generator, Iterator

# TensorFlow reads these when it is first imported; without them it logs to standard error.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")

import numpy as np
import tensorflow as tf

from landmarks_jax.data import cutting
from landmarks_jax.data.box_canvas import Frame
from landmarks_jax.data.sources.photos import Source
from landmarks_jax.system import parallel
from landmarks_jax.system.errors import DataError

for _kind in ("GPU", "TPU"):  # JAX's; TensorFlow would take all of a GPU's memory
    tf.config.set_visible_devices([], _kind)

_OPEN: weakref.WeakSet[Generator] = weakref.WeakSet()
_LAST_STEP = 2**62
_PREFETCH = 2  # batches ready ahead of the consumer
# The functions given to `map` have no control flow to convert; trying is slow, and warns on some
# Pythons.
_without_autograph = tf.autograph.experimental.do_not_convert


def batches(
    source: Source,
    frame: Frame,
    rows_of: Callable[[int], np.ndarray],
    size: int,
    start_step: int = 0,
) -> Iterator[dict[str, np.ndarray]]:
    """Batches of canvases from `start_step` on, without end.

    Args:
      source: the photos.
      frame: how photos become canvases.
      rows_of: the indices `[size]` of a step's photos.
      size: photos of a batch.
      start_step: absolute number of the first step.

    Yields:
      `{"canvas": [size, C, C, 3] uint8, "points": [size, P, 2] float32}`, points normalised to the
      canvas.

    Raises:
      DataError: a photo can no longer be read; the message names it.
    """
    failures: list[DataError] = []

    def indices(step: tf.Tensor) -> tf.Tensor:
        return tf.numpy_function(lambda value: rows_of(int(value)), [step], tf.int64)

    photos = tf.data.Dataset.range(start_step, _LAST_STEP).map(_without_autograph(indices))
    photos = photos.unbatch().map(
        _without_autograph(_cutter(source, frame, failures)),
        num_parallel_calls=parallel.num_threads(),
        deterministic=True,
    )
    dataset = photos.batch(size, drop_remainder=True).prefetch(_PREFETCH)
    iterator = _iterate(dataset.with_options(_options()), failures)
    _OPEN.add(iterator)
    return iterator


def _cutter(
    source: Source, frame: Frame, failures: list[DataError]
) -> Callable[[tf.Tensor], dict[str, tf.Tensor]]:
    """The graph from a photo's index to its canvas.

    Errors are appended to `failures`, and the canvas is black: of one that is raised, TensorFlow
    would print the trace and keep the text alone.
    """

    def cut(row: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        try:
            return cutting.cut_photo(source, frame, int(row))
        except DataError as error:
            failures.append(error)
            shape = frame.canvas_size, frame.canvas_size, 3
            return np.zeros(shape, np.uint8), np.zeros((source.num_points, 2), np.float32)

    def load(row: tf.Tensor) -> dict[str, tf.Tensor]:
        canvas, points = tf.numpy_function(cut, [row], [tf.uint8, tf.float32])
        canvas.set_shape([frame.canvas_size, frame.canvas_size, 3])
        points.set_shape([source.num_points, 2])
        return {"canvas": canvas, "points": points}

    return load


def _options() -> tf.data.Options:
    """A private thread pool of a fixed size; nothing is tuned while running."""
    options = tf.data.Options()
    options.threading.private_threadpool_size = parallel.num_threads()
    options.threading.max_intra_op_parallelism = 1
    options.autotune.enabled = False
    return options


def _iterate(
    dataset: tf.data.Dataset, failures: list[DataError]
) -> Generator[dict[str, np.ndarray], None, None]:
    """The batches as NumPy arrays; raises the first failure before the batch that it is in."""
    iterator = dataset.as_numpy_iterator()
    try:
        for batch in iterator:
            if failures:
                raise failures[0]
            yield batch
    finally:
        del iterator  # ends its threads


@atexit.register
def _close_all() -> None:
    """Ends the threads that still prefetch: they would block the interpreter's exit."""
    for iterator in list(_OPEN):
        with contextlib.suppress(ValueError):  # in use by a thread that is still running
            iterator.close()
