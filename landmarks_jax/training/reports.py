"""The output of a training run: log, TensorBoard curves, previews.

Only `fetch` reads from the device while training. What cannot be written ends no training.
"""

import contextlib
import json
import logging
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from matplotlib.figure import Figure
from ml_collections import ConfigDict
from tqdm import tqdm

from landmarks_jax import losses
from landmarks_jax.system import figures
from landmarks_jax.system.errors import UserError
from landmarks_jax.system.palette import crowding, landmark_colors
from landmarks_jax.tasks.task import Panel
from landmarks_jax.training import distributed, memory, run_folder
from landmarks_jax.training.curves import Curves
from landmarks_jax.training.step import Totals

_LOGGER = logging.getLogger(__name__)


class NotFiniteError(UserError):
    """The loss became infinite or not a number."""


def fetch(tree: Any) -> Any:
    """Reads a tree from the device."""
    return jax.device_get(tree)


class Interval(NamedTuple):
    """Steps that are done but not yet reported.

    Attributes:
      step: the last one.
      totals: sums over them, on the device.
      seconds: time trained until their end.
      waited: seconds spent waiting for photos.
    """

    step: int
    totals: Totals
    seconds: float
    waited: float


class Reporter:
    """Writes a run's log and previews; a context manager that closes its files."""

    def __init__(
        self,
        workdir: Path,
        limits: ConfigDict,
        *,
        start: int,
        seconds: float,
        deadline: float | None,
    ) -> None:
        """Opens the files; drops what they have of steps after `start`, which will be repeated.

        Of several processes only the first writes and prints.

        Args:
          workdir: the run's folder.
          limits: `config.train`, of the whole run.
          start: the step that the run continues from.
          seconds: time trained before.
          deadline: when training stops, on the clock of `time.monotonic()`.
        """
        self._pictures = workdir / run_folder.PICTURES
        self._writes = distributed.is_first()
        self._picture_failed = False
        if self._writes:
            self._log = run_folder.continue_log(workdir, start)
            self._curves = Curves(workdir / run_folder.TENSORBOARD, start)
        self._limits = limits
        self._seconds_before = seconds
        self._started = time.monotonic()
        self._last = (start, seconds)
        self._ends = [60 * limits.minutes] if limits.minutes else []  # in seconds trained
        if deadline is not None:
            self._ends.append(seconds + deadline - self._started)
        self._waited = 0.0
        self._bar = tqdm(
            total=limits.steps or None,
            initial=start,
            unit="step",
            disable=not (self._writes and sys.stderr.isatty()),
            dynamic_ncols=True,
        )

    def __enter__(self) -> "Reporter":
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()
        if self._writes:
            self._log.close()
            self._curves.close()

    def seconds(self) -> float:
        """Time trained, over all sessions."""
        return self._seconds_before + time.monotonic() - self._started

    def time_is_up(self) -> bool:
        """Whether the minutes are over or the deadline has passed, in the process that writes."""
        return self._writes and any(self.seconds() >= end for end in self._ends)

    def step_done(self) -> None:
        """Advances the progress bar."""
        self._bar.update()

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """Measures how long the loop waits for photos."""
        started = time.monotonic()
        yield
        self._waited += time.monotonic() - started

    def interval(self, step: int, totals: Totals) -> Interval:
        """Ends an interval; reads nothing from the device."""
        waited, self._waited = self._waited, 0.0
        return Interval(step, totals, self.seconds(), waited)

    def metrics(self, interval: Interval, checkpoint: Path | None) -> None:
        """Reads and writes the means over an interval.

        Args:
          interval: its sums are on the device.
          checkpoint: the newest one, for the error.

        Raises:
          NotFiniteError: the loss or a gradient of one of its steps is not finite.
        """
        totals: Totals = fetch(interval.totals)
        if totals.bad_step >= 0:
            last = "no checkpoint was saved yet"
            if checkpoint is not None:
                last = f"the last good checkpoint is {checkpoint}"
            raise NotFiniteError(
                f"step {int(totals.bad_step) + 1}: the loss or a gradient is not finite; {last}; "
                "in another --workdir try a lower config.optimizer.learning_rate or "
                "config.optimizer.clip_norm = 1"
            )
        if not self._writes:
            return
        count, step = int(totals.steps), interval.step
        means = {name: float(value) / count for name, value in totals.sums.items()}
        steps, spent = step - self._last[0], interval.seconds - self._last[1]
        self._last = (step, interval.seconds)
        speed = {
            "images_per_second": steps * self._limits.batch_size / max(spent, 1e-9),
            "wait_ms": 1e3 * interval.waited / count,
            **_peaks(),
        }
        row = {"step": step, "seconds": round(interval.seconds, 3)}
        row |= {name: round(value, 2) for name, value in speed.items()}
        row |= {name: float(f"{value:.9g}") for name, value in means.items()}
        self._log.write(f"{json.dumps(row)}\n".encode())
        self._curves.scalars(means | speed, step)
        self._print(step, means, speed, interval.seconds)

    def _print(
        self, step: int, means: Mapping[str, float], speed: Mapping[str, float], seconds: float
    ) -> None:
        """Prints a line for the interval, or updates the progress bar on a terminal."""
        rate, wait = speed["images_per_second"], speed["wait_ms"]
        terms = {name: f"{means[name]:.4f}" for name in _shown(means)}
        left = [end - seconds for end in self._ends]
        if self._limits.steps:
            left.append((self._limits.steps - step) * self._limits.batch_size / max(rate, 1e-9))
        minutes_left = f"{max(min(left), 0) / 60:.1f} min left"
        if self._bar.disable:
            shown = "  ".join(f"{name} {value}" for name, value in terms.items())
            pace = f"{rate:.0f} images/s  wait {wait:.1f} ms  {seconds:.0f} s"
            print(f"step {step}  {shown}  {pace}  {minutes_left}", flush=True)
        else:
            speeds = {"img/s": f"{rate:.0f}", "wait": f"{wait:.1f} ms"}
            self._bar.set_postfix({**terms, **speeds, "": minutes_left})

    def picture(self, step: int, panels: Sequence[Panel]) -> None:
        """Writes a preview from panels on the device."""
        if not self._writes:
            return
        figure = preview_figure(fetch(panels), title=f"step {step}")
        self._curves.image("preview", figures.to_array(figure), step)
        try:
            figures.save(figure, self._pictures / f"step-{step:06d}.png")
        except UserError as error:
            if not self._picture_failed:
                self._picture_failed = True
                _LOGGER.warning("%s", error)


def _shown(metrics: Iterable[str]) -> list[str]:
    """The metrics to print: the loss, its terms, then the task's own by name.

    Left to the log are the norms of gradients, the learning rate and the taps of the
    perceptual loss.
    """
    order = ("loss", *losses.TERMS)
    own = [name for name in metrics if not name.startswith(("norm_", "relu", "learning_rate"))]
    return sorted(own, key=lambda name: (order.index(name) if name in order else len(order), name))


def _peaks() -> dict[str, float]:
    """Peak memory in MiB, of the host and of one device, as far as known."""
    peaks = {"host_peak_mib": memory.host_peak(), "device_peak_mib": memory.device_peak()}
    return {name: peak / memory.MIB for name, peak in peaks.items() if peak is not None}


def preview_figure(panels: Sequence[Panel], title: str) -> Figure:
    """A row for each photo, a column for each panel; the first has points."""
    rows, tile = len(panels[0].images), 1.3
    figure = Figure(figsize=(tile * len(panels), tile * rows + 0.35), dpi=100)
    axes = figure.subplots(rows, len(panels), squeeze=False)
    assert panels[0].points is not None
    colors = landmark_colors(panels[0].points.shape[1])
    for c, panel in enumerate(panels):
        images, points = np.asarray(panel.images), panel.points
        for r in range(rows):
            axis = axes[r][c]
            axis.imshow(np.clip(images[r], 0, 1), extent=(-1, 1, 1, -1), interpolation="bilinear")
            if points is not None:
                axis.scatter(
                    points[r, :, 0],
                    points[r, :, 1],
                    s=14 * crowding(len(colors)) ** 2,
                    c=colors,
                    edgecolors="black",
                    linewidths=0.4,
                )
            axis.set(xlim=(-1, 1), ylim=(1, -1), xticks=[], yticks=[])
            if r == 0:
                axis.set_title(panel.title, fontsize=8)
    figure.suptitle(title, fontsize=9, y=1 - 0.08 / figure.get_figheight())
    figure.tight_layout(pad=0.3, rect=(0, 0, 1, 1 - 0.2 / figure.get_figheight()))
    return figure
