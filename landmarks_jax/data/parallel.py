"""Threads over many photos, in order, with a note of progress."""

import collections
import concurrent.futures
import importlib.util
import logging
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")

_LOGGER = logging.getLogger(__name__)
_NOTE_SECONDS = 10.0


def num_threads() -> int:
    """Threads for decoding: one a core this process may use (Pillow frees the interpreter lock)."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def with_progress(items: Iterable[T], total: int, what: str) -> Iterator[T]:
    """Passes the items on, with a bar on a terminal and now and then a line elsewhere."""
    if sys.stderr.isatty() and importlib.util.find_spec("tqdm"):
        import tqdm  # noqa: PLC0415  (of the train extra; the detector does without)

        yield from tqdm.tqdm(items, total=total, desc=what, unit="photo", leave=False)
        return
    start = noted = time.monotonic()
    for done, item in enumerate(items, 1):
        yield item
        now = time.monotonic()
        if now - noted > _NOTE_SECONDS:
            noted = now
            _LOGGER.info("%s: %d of %d, %.0f a second", what, done, total, done / (now - start))


def ordered_map(function: Callable[[T], R], items: Sequence[T], what: str) -> Iterator[R]:
    """Calls `function` on every item in a few threads and yields the results in order.

    Only a window of calls is under way, so that results do not pile up. The first exception is
    raised at its item's turn; what was not begun then is not begun.
    """
    workers = num_threads()

    def results() -> Iterator[R]:
        pending: collections.deque[concurrent.futures.Future[R]] = collections.deque()
        with concurrent.futures.ThreadPoolExecutor(workers) as pool:
            try:
                for item in items:
                    pending.append(pool.submit(function, item))
                    if len(pending) > 16 * workers:
                        yield pending.popleft().result()
                while pending:
                    yield pending.popleft().result()
            finally:
                for future in pending:
                    future.cancel()

    return with_progress(results(), len(items), what)
