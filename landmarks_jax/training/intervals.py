"""The intervals of a run's steps: reported one late, and saved once all of them are finite."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from landmarks_jax.training.checkpoints import Checkpoints
from landmarks_jax.training.reports import Interval, Reporter
from landmarks_jax.training.state import TrainState
from landmarks_jax.training.step import Totals


class Intervals:
    """Reports the intervals of a run and saves its states.

    Attributes:
      kept: the step of the last state that was saved, or that the run continued from.
    """

    def __init__(
        self, start: int, core: Mapping[str, Any], saved: Checkpoints, reporter: Reporter
    ) -> None:
        """Begins at the step `start`; `core` are the frozen parameters, which states lack."""
        self._core, self._saved, self._reporter = core, saved, reporter
        self._pending: Interval | None = None
        self._ended = self.kept = start

    def end(self, step: int, totals: Totals) -> None:
        """Ends an interval; reports the one before, so that the device never waits for the host."""
        self._report()
        self._pending = self._reporter.interval(step, totals)
        self._ended = step

    def save(self, step: int, state: TrainState) -> None:
        """Saves a state at the end of an interval, once all losses that led to it are finite."""
        self._report()
        self._pending = None
        whole = dataclasses.replace(state, core=self._core)
        self._saved.save(step, whole, self._reporter.seconds())
        self.kept = step

    def rescue(self, step: int, state: TrainState, totals: Totals) -> None:
        """Saves a state where training cannot go on, if it is newer than the last one saved."""
        if step > self._ended:
            self.end(step, totals)
        if step > self.kept:
            self.save(step, state)

    def _report(self) -> None:
        self._saved.check()
        if self._pending is not None:
            last = self._saved.last_step()
            self._reporter.metrics(self._pending, None if last is None else self._saved.path(last))
