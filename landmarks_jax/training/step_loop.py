"""The loop of steps: metrics are reported an interval late, states saved once all are finite."""

import dataclasses
from collections import deque
from collections.abc import Iterator, Mapping
from typing import Any

import jax
from ml_collections import ConfigDict

from landmarks_jax.system.errors import DataError
from landmarks_jax.system.signals import Interrupt
from landmarks_jax.tasks.task import Frozen
from landmarks_jax.training import coordination, distributed, limits
from landmarks_jax.training.batches import Batch, Resident
from landmarks_jax.training.checkpoints import Checkpoints
from landmarks_jax.training.program import Program
from landmarks_jax.training.reports import Interval, Reporter
from landmarks_jax.training.state import Restored, TrainState
from landmarks_jax.training.step import Totals

# Steps that the host may be ahead of the device.
IN_FLIGHT = 2

# A request to stop because time is up; other requests are the exit codes of signals, which are
# larger.
_TIME_IS_UP = 1


def run_steps(
    config: ConfigDict,
    program: Program,
    restored: Restored,
    frozen: Frozen,
    *,
    end: int | None,
    photos: Iterator[Batch | Resident],
    saved: Checkpoints,
    reporter: Reporter,
    interrupt: Interrupt,
    stopping: coordination.Stopping,
) -> tuple[Restored, int]:
    """Steps until the step `end`, or the run is over or interrupted; always saves the last state.

    Returns:
      The last state; 128 plus the number of the signal that ended it in any process, or 0.

    Raises:
      DataError: a photo cannot be read any more; a single process has saved the last state.
    """
    state, step = dataclasses.replace(restored.state, core={}), restored.step
    totals = program.fresh_totals()
    intervals = Intervals(step, frozen.core, saved, reporter)
    in_flight: deque[jax.Array] = deque()
    done = False
    while not done:
        try:
            with reporter.waiting():
                batch = next(photos)
        except DataError as error:  # such as a photo that has vanished
            if not distributed.is_one_of_several():  # others would wait for this process
                intervals.rescue(step, state, totals)
            advice = f"then rerun the command to continue from step {intervals.kept}"
            raise DataError(f"{error}; fix it, {advice}") from error
        state, totals = program.step(state, totals, batch, frozen)
        step += 1
        reporter.step_done()
        in_flight.append(totals.steps)
        if len(in_flight) > IN_FLIGHT:
            in_flight.popleft().block_until_ready()

        time_is_up = _TIME_IS_UP if reporter.time_is_up() else 0
        stop = stopping.decide(interrupt.exit_code or time_is_up)
        done = step == end or limits.out_of_steps(config, step) or stop != 0

        logged = step % config.train.log_every == 0
        due = step % config.train.checkpoint_every == 0 or (logged and saved.is_due())
        if done or due or logged:
            intervals.end(step, totals)
            totals = program.fresh_totals()
        if done or due:
            seconds = intervals.save(step, state)
        # At the end too, however short the training was; but not while a signal waits.
        at_end = done and stop in (0, _TIME_IS_UP)
        if config.train.picture_every and (at_end or step % config.train.picture_every == 0):
            reporter.picture(step, program.preview(state, batch, frozen))
    saved.wait()  # while signals are still held back
    state = dataclasses.replace(state, core=frozen.core)
    return Restored(state, step, seconds), 0 if stop == _TIME_IS_UP else stop


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

    def save(self, step: int, state: TrainState) -> float:
        """Saves a state at the end of an interval, once all losses that led to it are finite.

        Returns:
          The time trained until then, in seconds.
        """
        self._report()
        self._pending = None
        seconds = self._reporter.seconds()
        self._saved.save(step, dataclasses.replace(state, core=self._core), seconds)
        self.kept = step
        return seconds

    def rescue(self, step: int, state: TrainState, totals: Totals) -> None:
        """Saves a state where training cannot continue, if it is newer than the last one saved."""
        if step > self._ended:
            self.end(step, totals)
        if step > self.kept:
            self.save(step, state)

    def _report(self) -> None:
        self._saved.check()
        if self._pending is not None:
            last = self._saved.last_step()
            self._reporter.metrics(self._pending, None if last is None else self._saved.path(last))
