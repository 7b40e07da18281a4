"""The endless order of training: the photos of a step are a function of (seed, step).

The rows of a run concatenate one permutation of the photos for each epoch, without end. Batch `t`
is rows `t B` to `(t + 1) B`, so it may straddle two epochs, no photo is ever dropped, and a run
resumes where it stopped without saved state.
"""

import functools

import numpy as np

_WORD = 2**64


@functools.lru_cache(maxsize=2)  # a batch straddles at most two epochs, except of tiny sets
def permutation(seed: int, count: int, epoch: int) -> np.ndarray:
    """The order of the photos in one epoch.

    Sorts raw bits of the counter-based Philox4x64-10, which NumPy guarantees across versions and
    machines; it does not guarantee `Generator.permutation`.

    Args:
      seed: any integer; its lowest 64 bits are used.
      count: number of photos, at least 1.
      epoch: number of the pass over the photos, from 0.

    Returns:
      `[count]` int64 photo indices, read-only.
    """
    key = np.array([seed % _WORD, epoch % _WORD], np.uint64)
    bits = np.random.Philox(key=key).random_raw(count)
    order = np.argsort(bits, kind="stable").astype(np.int64)
    order.setflags(write=False)
    return order


def rows(seed: int, count: int, start: int, stop: int) -> np.ndarray:
    """Rows `start` to `stop` of the endless order: `[stop - start]` int64 photo indices."""
    pieces = [np.zeros(0, np.int64)]
    while start < stop:
        epoch, offset = divmod(start, count)
        pieces.append(permutation(seed, count, epoch)[offset : offset + stop - start])
        start += len(pieces[-1])
    return np.concatenate(pieces)


def batch_rows(
    seed: int,
    count: int,
    batch_size: int,
    step: int,
    *,
    process_index: int = 0,
    process_count: int = 1,
) -> np.ndarray:
    """The photos that a process reads for one step.

    Args:
      seed: seed of the order.
      count: number of photos.
      batch_size: rows of the global batch, a multiple of `process_count`.
      step: absolute number of the step, from 0.
      process_index: this process; it reads the `process_index`-th contiguous share.
      process_count: number of processes.

    Returns:
      `[batch_size / process_count]` int64 photo indices.
    """
    share = batch_size // process_count
    start = step * batch_size + process_index * share
    return rows(seed, count, start, start + share)


def evenly(count: int, most: int) -> np.ndarray:
    """At most `most` of the numbers below `count`, evenly spaced, the first and last among them."""
    return np.unique(np.linspace(0, count - 1, min(count, most)).astype(int))
