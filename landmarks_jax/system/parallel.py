"""Calls a function on many items in threads, in order, with progress reports."""

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
_LOG_SECONDS = 10.0


def num_threads() -> int:
    """One thread for each core this process may use (Pillow releases the interpreter lock)."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def with_progress(
    items: Iterable[T], total: int | None, what: str, unit: str = "photo", before: int = 0
) -> Iterator[T]:
    """Yields the items, with a progress bar on a terminal and log lines elsewhere.

    Args:
      items: the items.
      total: their number, including those done before, or None if unknown.
      what: the task, for the report.
      unit: the name of an item.
      before: how many were done before.
    """
    if sys.stderr.isatty() and importlib.util.find_spec("tqdm"):
        import tqdm  # noqa: PLC0415  (an extra)

        yield from tqdm.tqdm(items, total=total, desc=what, unit=unit, leave=False, initial=before)
        return
    start = logged = time.monotonic()
    for done, item in enumerate(items, 1):
        yield item
        now = time.monotonic()
        if now - logged > _LOG_SECONDS:
            logged = now
            of = "" if total is None else f" of {total}"
            _LOGGER.info("%s: %d%s, %.3g a second", what, before + done, of, done / (now - start))


def in_order(
    function: Callable[[T], R], items: Iterable[T], window: int | None = None
) -> Iterator[R]:
    """Calls `function` on every item in threads and yields the results in order.

    Only a window of items is in progress, so that results do not pile up. An exception is raised in
    its item's place; calls that have not started then are cancelled.

    Args:
      function: called in a thread.
      items: iterated in the caller's thread, as the window advances.
      window: items ahead of the next result; 16 a thread by default.
    """
    workers = num_threads()
    ahead = 16 * workers if window is None else window
    pending: collections.deque[concurrent.futures.Future[R]] = collections.deque()
    with concurrent.futures.ThreadPoolExecutor(workers) as pool:
        try:
            for item in items:
                pending.append(pool.submit(function, item))
                if len(pending) > ahead:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            for future in pending:
                future.cancel()


def ordered_map(
    function: Callable[[T], R], items: Sequence[T], what: str, before: int = 0
) -> Iterator[R]:
    """`in_order` with a progress report; `before` items were done before."""
    return with_progress(in_order(function, items), before + len(items), what, before=before)
