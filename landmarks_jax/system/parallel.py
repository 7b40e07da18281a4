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


def with_progress(
    items: Iterable[T], total: int | None, what: str, unit: str = "photo", before: int = 0
) -> Iterator[T]:
    """Passes the items on, with a bar on a terminal and now and then a line elsewhere.

    Args:
      items: what is passed on.
      total: how many there are with those before, None where nobody knows.
      what: is done with them.
      unit: what one is called.
      before: how many were done earlier.
    """
    if sys.stderr.isatty() and importlib.util.find_spec("tqdm"):
        import tqdm  # noqa: PLC0415  (of the train extra; the detector does without)

        yield from tqdm.tqdm(items, total=total, desc=what, unit=unit, leave=False, initial=before)
        return
    start = noted = time.monotonic()
    for done, item in enumerate(items, 1):
        yield item
        now = time.monotonic()
        if now - noted > _NOTE_SECONDS:
            noted = now
            of = "" if total is None else f" of {total}"
            _LOGGER.info("%s: %d%s, %.0f a second", what, before + done, of, done / (now - start))


def in_order(
    function: Callable[[T], R], items: Iterable[T], window: int | None = None
) -> Iterator[R]:
    """Calls `function` on every item in a few threads and yields the results in order.

    Only a window of calls is under way, so that results do not pile up. The first exception is
    raised at its item's turn; what was not begun then is not begun.

    Args:
      function: called in a thread.
      items: taken in the caller's thread, as the window moves on.
      window: items taken ahead of the result that is waited for; 16 a thread by default.
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
    """`in_order` over items of a known number, with a note of progress; `before` were done."""
    return with_progress(in_order(function, items), before + len(items), what, before=before)
