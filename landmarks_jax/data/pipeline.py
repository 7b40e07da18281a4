"""Endless batches of canvases through tf.data: decoded in parallel, in an order that is fixed.

The only module that imports TensorFlow; import it where training from photos begins and nowhere
else. TensorFlow moves bytes here and computes nothing.
"""

import atexit
import contextlib
import os
import weakref
from collections.abc import Callable, Generator, Iterator

# Read when TensorFlow is first imported; without them it greets the user on standard error.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")

import numpy as np
import tensorflow as tf

from landmarks_jax.data import sampling
from landmarks_jax.data.box_canvas import Frame
from landmarks_jax.data.sources import registry
from landmarks_jax.system import parallel
from landmarks_jax.system.errors import DataError

for _kind in ("GPU", "TPU"):  # JAX's; TensorFlow would take all of a GPU's memory
    tf.config.set_visible_devices([], _kind)

_OPEN: weakref.WeakSet[Generator] = weakref.WeakSet()
_LAST_STEP = 2**62
_PREFETCH = 2  # batches ready ahead of the consumer


def batches(
    source: registry.Source,
    frame: Frame,
    *,
    seed: int,
    batch_size: int,
    start_step: int = 0,
    process_index: int = 0,
    process_count: int = 1,
) -> Iterator[dict[str, np.ndarray]]:
    """This process's share of the batches from `start_step` on, without end.

    Args:
      source: the photos.
      frame: how photos become canvases.
      seed: seed of the order (see `order`).
      batch_size: rows of the global batch, over all processes.
      start_step: absolute number of the first step.
      process_index: this process.
      process_count: number of processes.

    Yields:
      `{"canvas": [b, C, C, 3] uint8, "points": [b, P, 2] float32}`, b = batch_size /
      process_count, points normalised to the canvas.

    Raises:
      DataError: a photo can no longer be read; the message names it.
    """
    frame.check_points(source.num_points, registry.summary(source))
    share = sampling.local_batch_size(batch_size, process_count)
    failures: list[DataError] = []

    def rows_of(step: np.ndarray) -> np.ndarray:
        place = {"process_index": process_index, "process_count": process_count}
        return sampling.batch_rows(seed, len(source), batch_size, int(step), **place)

    photos = tf.data.Dataset.range(start_step, _LAST_STEP)
    photos = photos.map(_plainly(lambda step: tf.numpy_function(rows_of, [step], tf.int64)))
    photos = photos.unbatch()
    photos = photos.map(
        _plainly(_loader(source, frame, failures)),
        num_parallel_calls=parallel.num_threads(),
        deterministic=True,
    )
    dataset = photos.batch(share, drop_remainder=True).prefetch(_PREFETCH)
    iterator = _iterate(dataset.with_options(_options()), failures)
    _OPEN.add(iterator)
    return iterator


# There is no control flow to rewrite in what `map` is given; trying to is slow, and warns on some
# Pythons.
_plainly = tf.autograph.experimental.do_not_convert


def _loader(
    source: registry.Source, frame: Frame, failures: list[DataError]
) -> Callable[[tf.Tensor], dict[str, tf.Tensor]]:
    """The graph from a photo's number to its canvas; `failures` grows by what went wrong."""

    def cut(row: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        try:
            return registry.cut_photo(source, frame, int(row))
        except DataError as error:
            failures.append(error)  # TensorFlow passes on the text of an exception alone
            raise

    def load(row: tf.Tensor) -> dict[str, tf.Tensor]:
        canvas, points = tf.numpy_function(cut, [row], [tf.uint8, tf.float32])
        canvas.set_shape([frame.canvas_size, frame.canvas_size, 3])
        points.set_shape([source.num_points, 2])
        return {"canvas": canvas, "points": points}

    return load


def _options() -> tf.data.Options:
    """Threads of its own, as many as decode; every number is said, none tuned while running."""
    options = tf.data.Options()
    options.threading.private_threadpool_size = parallel.num_threads()
    options.threading.max_intra_op_parallelism = 1
    options.autotune.enabled = False
    return options


def _iterate(
    dataset: tf.data.Dataset, failures: list[DataError]
) -> Generator[dict[str, np.ndarray], None, None]:
    """The batches as NumPy arrays; a worker's own exception in place of TensorFlow's."""
    iterator = dataset.as_numpy_iterator()
    try:
        yield from iterator
    except tf.errors.OpError as error:
        if failures:
            raise failures[0] from error
        raise
    finally:
        del iterator  # ends its threads


@atexit.register
def _close_all() -> None:
    """Ends what still reads ahead: its threads would wait for a dead interpreter for ever."""
    for iterator in list(_OPEN):
        with contextlib.suppress(ValueError):  # in use by a thread that is still running
            iterator.close()
