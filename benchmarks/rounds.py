"""Rounds of contenders in turn, whatever becomes of one of them."""

import time
from collections.abc import Callable, Iterator
from typing import Any

from benchmarks import harness
from landmarks_jax.system.errors import reason


def time_in_turn(
    runs: dict[str, Callable[[], Any]],
    *,
    seconds: float = 12.0,
    at_least: int = 3,
    at_most: int = 50,
    warm_up: int = 2,
) -> Iterator[tuple[dict[str, list[float]], dict[str, str]]]:
    """Times contenders in turn; yields the seconds of every round so far, and why some stopped.

    Each runs once a round, one after the other, so that other load on the machine meets all alike.
    A contender that fails is not run again; where ours does, the error is raised.

    Args:
      runs: by name; a call returns when its work is done. Those that fail are removed.
      seconds: rounds are repeated for this long.
      at_least: rounds.
      at_most: rounds.
      warm_up: calls of each before the first round.
    """
    times: dict[str, list[float]] = {name: [] for name in runs}
    stopped: dict[str, str] = {}
    for name in tuple(runs):
        for _ in range(warm_up if name in runs else 0):
            _run(runs, name, stopped)
    start, rounds = time.perf_counter(), 0
    while runs and (
        rounds < at_least or (time.perf_counter() - start < seconds and rounds < at_most)
    ):
        for name in tuple(runs):
            spent = _run(runs, name, stopped)
            if name in runs:
                times[name].append(spent)
        rounds += 1
        yield times, stopped


def _run(runs: dict[str, Callable[[], Any]], name: str, stopped: dict[str, str]) -> float:
    """The seconds of a contender's round; removes it if it fails."""
    try:
        return harness.seconds_of(runs[name])
    except Exception as error:
        if name == harness.OURS:
            raise
        del runs[name]
        stopped[name] = failure(error)
        return 0.0


def failure(error: Exception) -> str:
    """The kind and the first words of an error, such as a contender's lack of memory."""
    return f"{type(error).__name__}: {reason(error)}"
