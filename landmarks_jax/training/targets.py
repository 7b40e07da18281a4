"""The targets of self-training, kept in the run's folder so that a resumed run has the same.

They are made at the steps of `config.targets.steps`: points of all photos, refined by deep
features, which start from a grid or another detector at step 0 and from the run's own points later.
Where the run continued from transfer files without targets of its photos, they are made there too.

Their file holds the seconds they took. A checkpoint of the step at which they were made is older
than they are, so a run that continues from it adds these seconds to those it has trained.
"""

import logging
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from ml_collections import ConfigDict

from landmarks_jax.data import loader, sampling
from landmarks_jax.system import figures, npz
from landmarks_jax.system.errors import WorkdirError, reason
from landmarks_jax.system.signals import Interrupt
from landmarks_jax.training import run_folder, start_points
from landmarks_jax.training.merging import merging
from landmarks_jax.training.record import Transfer
from landmarks_jax.training.refiner import Refiner, Targets

FOLDER = "targets"
_LOGGER = logging.getLogger(__name__)
_SHOWN = 40


class Kept(NamedTuple):
    """Targets as their file holds them.

    Attributes:
      points: `[U, G, 2]` refined points of the photos.
      merging: the weights of `merging_of`.
      seconds: how long it took to make them.
    """

    points: np.ndarray
    merging: np.ndarray
    seconds: float


class StoppedError(Exception):
    """Training ends before the round that targets are for.

    Attributes:
      exit_code: 128 plus the number of a signal, or 0 where time was up.
    """

    def __init__(self, exit_code: int) -> None:
        super().__init__(exit_code)
        self.exit_code = exit_code


def load_or_make(
    config: ConfigDict,
    refiner: Refiner,
    photos: loader.Loader,
    workdir: Path,
    *,
    step: int,
    variables: Any,
    deadline: float | None,
) -> tuple[np.ndarray, int, float]:
    """The targets of a step: read from the run's folder, or made and written there.

    Args:
      config: the configuration.
      refiner: of its photos.
      photos: the photos as training reads them.
      workdir: the run's folder.
      step: steps done.
      variables: the detector's `{"params", "batch_stats"}` at this step.
      deadline: on the clock of `time.monotonic()`.

    Returns:
      The result of `for_training`; 0, or 128 plus the number of a signal that came while they were
      written; and the seconds of an earlier call that no checkpoint up to this step has counted.

    Raises:
      WorkdirError: the file is damaged, of other photos or cannot be written, or is missing after
        its step.
      StoppedError: a signal came or the deadline passed while they were made.
    """
    path = _path_of(config, workdir, step)
    if path.exists():
        kept = read(path, refiner.names)
        uncounted = kept.seconds if path == path_at(workdir, step) else 0.0
        return for_training(kept.points, kept.merging), 0, uncounted
    started = time.monotonic()
    later = step > 0
    start = start_points.own(config, photos, variables) if later else start_points.first(config)

    def check() -> None:
        late = deadline is not None and time.monotonic() >= deadline
        if late or interrupt.signal is not None:
            seconds = time.monotonic() - started
            _LOGGER.warning("%s: stopped after %.0f s, which do not count", path, seconds)
            raise StoppedError(interrupt.exit_code)

    with Interrupt() as interrupt:
        keep = 0 if later else config.targets.keep
        targets = refiner.run(start, schedule(config, later=later), check, keep=keep)
        weights = merging_of(config, targets.points, start.mirrored, check, later=later)
        write(path, refiner, targets, weights, started)
        seconds = time.monotonic() - started
        _LOGGER.info("%s: targets of %d photos in %.0f s", path, len(targets.points), seconds)
    return for_training(targets.points, weights), interrupt.exit_code, 0.0


def made_at(config: ConfigDict, transfers: Sequence[Transfer], step: int) -> int:
    """The step at which the targets of a step are made, in a run with these transfers."""
    again = (transfer.step for transfer in transfers if transfer.new_targets)
    return max(at for at in (*config.targets.steps, *again) if at <= step)


def path_at(workdir: Path, made: int) -> Path:
    """The file of the targets that are made at a step."""
    return workdir / FOLDER / f"{made}.npz"


def _path_of(config: ConfigDict, workdir: Path, step: int) -> Path:
    """The file of the targets of a step, which may be made only at the steps for that.

    Raises:
      WorkdirError: the file is missing, and not to be made at this step.
    """
    made = made_at(config, run_folder.read_record(workdir).transfers, step)
    path = path_at(workdir, made)
    if made != step and not path.exists():
        raise WorkdirError(f"{path}: missing; copy it there from the folder that the run began in")
    return path


def merging_of(
    config: ConfigDict,
    points: np.ndarray,
    mirrored: np.ndarray | None,
    check: Callable[[], None] = lambda: None,
    *,
    later: bool,
) -> np.ndarray:
    """The weights that make landmarks of refined points.

    Args:
      config: the configuration.
      points: `[U, G, 2]`.
      mirrored: `[G]` their numbers in mirror images; see `refiner.Start`.
      check: called now and then; may raise.
      later: the points are the detector's own, so that they are merged already.

    Returns:
      `[K, G]`; with `mirrored` `[2 K, G]`, those of the photos and then of their mirror images.
    """
    num = points.shape[1]
    if later:
        weights = np.eye(config.model.num_landmarks, num)
    elif config.targets.merge:
        weights = np.concatenate([merging(points, count, check) for count in config.targets.merge])
    else:
        weights = np.eye(num)
    if mirrored is None:
        return weights
    swapped = np.zeros_like(weights)
    swapped[:, mirrored] = weights
    return np.concatenate([weights, swapped])


def for_training(points: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Landmarks `[U, K or 2 K, 2]` float32 from points `[U, G, 2]` by `merging_of`'s weights."""
    landmarks: np.ndarray = (weights @ points).astype(np.float32)
    return landmarks


def schedule(config: ConfigDict, *, later: bool) -> list[tuple[float, float]]:
    """Spread and temperature of each iteration; only the last for own points, which are near."""
    pairs = list(zip(config.targets.spreads, config.targets.temperatures, strict=True))
    return pairs[-1:] if later else pairs


def next_step(config: ConfigDict, step: int) -> int | None:
    """The next step at which targets are made, or None."""
    return next((at for at in config.targets.steps if at > step), None)


def read(path: Path, names: Sequence[str] | None = None) -> Kept:
    """Reads the targets of the photos with these names.

    Args:
      path: the file.
      names: of the photos; None takes those of any.

    Raises:
      WorkdirError: the file is damaged, or of other photos.
    """
    try:
        arrays = npz.read_npz(path)
        points, weights, own = arrays["points"], arrays["merging"], list(arrays["names"])
        seconds = float(arrays["seconds"])
    except (ValueError, KeyError, TypeError) as error:
        raise WorkdirError(f"{path}: damaged ({reason(error)}); use another --workdir") from error
    if names is None:
        return Kept(points, weights, seconds)
    if own != list(names) or points.shape != (len(own), weights.shape[-1], 2):
        raise WorkdirError(f"{path}: is of other photos than this run; use another --workdir")
    return Kept(points, weights, seconds)


def write(
    path: Path, refiner: Refiner, targets: Targets, weights: np.ndarray, started: float
) -> None:
    """Writes targets to an `.npz` file, and a page of faces with them beside it.

    Args:
      path: the file.
      refiner: that made them.
      targets: the targets.
      weights: the result of `merging_of`.
      started: when their making began, on the clock of `time.monotonic()`.
    """
    count = len(targets.points)
    shown = sampling.evenly(count, _SHOWN)
    points = refiner.frame.points_in_view(targets.points[shown])
    captions = [f"{confidence:.2f}" for confidence in targets.confidence[shown].mean(1)]
    title = f"refined points of {len(shown)} of {count:,} photos, and their mean confidence"
    page = figures.landmark_page(refiner.views(shown), points, captions=captions, title=title)
    figures.save(page, path.with_suffix(".png"))
    seconds = time.monotonic() - started
    write_arrays(path, refiner.names, merging=weights, seconds=seconds, **targets._asdict())


def write_arrays(path: Path, names: Sequence[str], **arrays: Any) -> None:
    """Writes an `.npz` file for `read`: `points`, `merging`, `seconds` and any others."""
    npz.write_npz(path, WorkdirError, names=np.array(names), **arrays)
