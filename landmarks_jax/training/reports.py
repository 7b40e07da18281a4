"""What a run tells: metrics as lines, JSONL and TensorBoard, and pictures.

The one place that reads from the device while training: `fetch`.
"""

import contextlib
import io
import json
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TextIO

import jax
import numpy as np
from matplotlib.figure import Figure
from tensorboardX import SummaryWriter
from tqdm import tqdm

from landmarks_jax import losses
from landmarks_jax.system import figures
from landmarks_jax.system.errors import UserError
from landmarks_jax.system.palette import crowding, landmark_colors
from landmarks_jax.tasks.task import Panel
from landmarks_jax.training import memory
from landmarks_jax.training.step import Totals

METRICS_FILE = "metrics.jsonl"


class NotFiniteError(UserError):
    """The loss became infinite or not a number."""


def fetch(tree: Any) -> Any:
    """Reads a tree from the device: the only place of the loop that does."""
    return jax.device_get(tree)


class Interval(NamedTuple):
    """Some steps that are done, to be told of later.

    Attributes:
      step: steps done at its end.
      totals: sums over it, on the device.
      seconds: time trained at its end.
      waited: seconds of it spent in getting photos.
    """

    step: int
    totals: Totals
    seconds: float
    waited: float


class Reporter:
    """Writes a run's metrics and pictures; a context that closes what it opened."""

    def __init__(
        self,
        workdir: Path,
        *,
        start: int,
        steps: int,
        minutes: float,
        batch_size: int,
        seconds: float,
        writes: bool = True,
    ) -> None:
        """Opens the files.

        Args:
          workdir: the run's folder.
          start: the step that the run goes on from.
          steps: where it is to stop; 0 where minutes alone decide.
          minutes: training time at which it is to stop; 0 where steps alone decide.
          batch_size: photos a step.
          seconds: time trained in earlier sittings.
          writes: whether anything is written and printed; one of several processes does.
        """
        self._pictures = workdir / "pictures"
        self._writes = writes
        self._metrics = _reopen(workdir / METRICS_FILE, start) if writes else io.StringIO()
        self._board = SummaryWriter(
            str(workdir / "tensorboard"), purge_step=start + 1, write_to_disk=writes
        )
        self._steps = steps
        self._minutes = minutes
        self._batch_size = batch_size
        self._seconds_before = seconds
        self._started = time.monotonic()
        self._last = (start, seconds)
        self._waited = 0.0
        self._bar = tqdm(
            total=steps or None,
            initial=start,
            unit="step",
            disable=not (writes and sys.stderr.isatty()),
            dynamic_ncols=True,
        )

    def __enter__(self) -> "Reporter":
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()
        self._metrics.close()
        self._board.close()

    def seconds(self) -> float:
        """Time trained, over all sittings."""
        return self._seconds_before + time.monotonic() - self._started

    def step_done(self) -> None:
        """Moves the progress bar."""
        self._bar.update()

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """Counts the time that the loop spends in getting photos."""
        started = time.monotonic()
        yield
        self._waited += time.monotonic() - started

    def interval(self, step: int, totals: Totals) -> Interval:
        """Ends an interval; nothing is read yet."""
        waited, self._waited = self._waited, 0.0
        return Interval(step, totals, self.seconds(), waited)

    def say(self, line: str) -> None:
        """Prints a line beside the progress bar."""
        if not self._writes:
            return
        self._bar.write(line, file=sys.stdout)
        sys.stdout.flush()

    def metrics(self, interval: Interval, last_good: str) -> None:
        """Reads and writes the means of an interval.

        Args:
          interval: its sums are on the device.
          last_good: where the newest checkpoint is, for the message.

        Raises:
          NotFiniteError: the loss of a step of the interval is not finite.
        """
        step, totals, seconds, waited = interval
        read: Totals = fetch(totals)
        if read.bad_step >= 0:
            raise NotFiniteError(
                f"step {int(read.bad_step) + 1}: the loss or a gradient is not finite; "
                f"{last_good}; in another --workdir try a lower config.optimizer.learning_rate or "
                "config.optimizer.clip_norm = 1"
            )
        if not self._writes:
            return
        count = int(read.steps)
        means = {name: float(value) / count for name, value in read.sums.items()}
        steps, spent = step - self._last[0], seconds - self._last[1]
        self._last = (step, seconds)
        rate = steps * self._batch_size / max(spent, 1e-9)
        told = {"images_per_second": rate, "wait_ms": 1e3 * waited / count, **_peaks()}
        row = {"step": step, "seconds": round(seconds, 3)}
        row |= {name: round(value, 2) for name, value in told.items()}
        row |= {name: float(f"{value:.9g}") for name, value in means.items()}
        self._metrics.write(json.dumps(row) + "\n")
        self._metrics.flush()
        for name, value in (means | told).items():
            self._board.add_scalar(name, value, step)
        self._show(step, means | told, seconds)

    def _show(self, step: int, means: Mapping[str, float], seconds: float) -> None:
        rate, wait = means["images_per_second"], means["wait_ms"]
        terms = {name: means[name] for name in ("loss", *losses.TERMS, "pckh") if name in means}
        left = [60 * self._minutes - seconds] if self._minutes else []
        if self._steps:
            left.append((self._steps - step) * self._batch_size / max(rate, 1e-9))
        minutes_left = f"{max(min(left), 0) / 60:.1f} min left"
        if self._bar.disable:
            shown = "  ".join(f"{name} {value:.4f}" for name, value in terms.items())
            speed = f"{rate:.0f} images/s  wait {wait:.1f} ms  {seconds:.0f} s"
            self.say(f"step {step}  {shown}  {speed}  {minutes_left}")
        else:
            shown_terms = {name: f"{value:.4f}" for name, value in terms.items()}
            speeds = {"img/s": f"{rate:.0f}", "wait": f"{wait:.1f} ms"}
            self._bar.set_postfix({**shown_terms, **speeds, "": minutes_left})

    def picture(self, step: int, panels: Sequence[Panel]) -> None:
        """Reads and writes a picture of a few photos' way through the model.

        Args:
          step: steps done.
          panels: on the device.
        """
        if not self._writes:
            return
        figure = preview_figure(fetch(panels), title=f"step {step}")
        self._pictures.mkdir(exist_ok=True)
        figures.save(figure, self._pictures / f"step-{step:06d}.png")
        self._board.add_image("preview", figures.to_array(figure), step, dataformats="HWC")


def _peaks() -> dict[str, float]:
    """The most memory used so far, on the host and on one device, in MiB, where that is known."""
    peaks = {"host_peak_mib": memory.host_peak(), "device_peak_mib": memory.device_peak()}
    return {name: peak / memory.MIB for name, peak in peaks.items() if peak is not None}


def lines_until(path: Path, step: int) -> list[str]:
    """The lines of a file of metrics up to a step; none where there is no file."""
    if not path.exists():
        return []
    # A line that a kill cut short is not JSON, and of a step after the checkpoint.
    lines = [line for line in path.read_text().splitlines(keepends=True) if line.endswith("}\n")]
    return [line for line in lines if json.loads(line)["step"] <= step]


def _reopen(path: Path, step: int) -> TextIO:
    """Opens the metrics to go on after `step`; later lines are of steps that will be done again."""
    kept = lines_until(path, step)
    part = path.with_suffix(".part")
    part.write_text("".join(kept))
    part.replace(path)
    return path.open("a")


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
