"""A run that is trained in pieces, timed and scored after each; see `benchmarks.time_to_error`."""

import json
import time
from pathlib import Path
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from benchmarks import harness, roofline
from benchmarks.faces import forward_error
from landmarks_jax import config as configuration
from landmarks_jax.data import loader
from landmarks_jax.evaluation.protocols import Protocol
from landmarks_jax.evaluation.regression import Split
from landmarks_jax.inference.detector import ViewDetector
from landmarks_jax.system.errors import ConfigError, WorkdirError, reason
from landmarks_jax.tasks import task_of
from landmarks_jax.training import checkpoints, loop, run_folder
from landmarks_jax.training.state import trained_variables

LOG = "time_to_error.jsonl"  # in the run's folder, a line for each piece


class Spent(NamedTuple):
    """What a call of `loop.train` took.

    Attributes:
      seconds: on the clock.
      core_seconds: of all cores together, used by this process.
      code: its exit code.
    """

    seconds: float
    core_seconds: float
    code: int = 0

    def without(self, restart: "Spent", steps: int) -> "Spent":
        """Less what a piece of one step took; `steps` are those of this piece."""
        scale = steps / (steps - 1) if steps > 1 else 1.0
        pairs = zip(self[:2], restart[:2], strict=True)
        seconds, core_seconds = (scale * max(0.0, spent - less) for spent, less in pairs)
        return self._replace(seconds=seconds, core_seconds=core_seconds)


class TimedRun:
    """A run that is trained in pieces, timed and scored.

    Attributes:
      lines: those of the run's `LOG`: steps done, and all that it took until then.
    """

    def __init__(self, config: ConfigDict, workdir: Path) -> None:
        """Reads what was done before.

        Raises:
          ConfigError: the configuration cannot be timed.
          WorkdirError: the folder has a run whose time is not known.
        """
        configuration.validate(config)
        task = task_of(config)
        if task.ON_JOINTS:
            raise ConfigError("config.objective.task = 'pose': has no error to time")
        if not config.train.steps:
            raise ConfigError("config.train.steps = 0: must be above 0, as steps are counted")
        self._config, self._workdir = config, workdir
        self.lines = read_lines(workdir)
        done, known = run_folder.newest_step(workdir) or 0, self._last("steps")
        if done != known:
            raise WorkdirError(
                f"{workdir}: trained for {done} steps, of which {known} were timed; use another "
                "--workdir"
            )
        self._photos = loader.open_loader(config).num_different if task.MAKES_TARGETS else 0

    def run(self, faces: Protocol, *, every: int, until: float) -> int:
        """Trains until an error is reached or the steps are over.

        Args:
          faces: to score on.
          every: steps between two scores.
          until: the error to stop at, %.

        Returns:
          0, or the exit code of a training that was interrupted.
        """
        done, end = self._last("steps"), self._config.train.steps
        if done >= end or self._reached(until):
            return 0
        # Targets that are made now count, also where this process has only started again.
        first = self._train(done + 1)
        self._add(first if done in self._config.targets.steps else Spent(0, 0), None)
        if first.code or done + 1 >= end:
            return first.code
        restart = self._train(done + 2)
        self._add(Spent(0, 0), None)
        code = restart.code
        while not code and self._last("steps") < end and not self._reached(until):
            before = self._last("steps")
            spent = self._train(min(end, (before // every + 1) * every))
            after, code = run_folder.newest_step(self._workdir) or 0, spent.code
            self._add(spent.without(restart, after - before), self._error(faces))
        return code

    def _train(self, steps: int) -> Spent:
        """Trains until `steps` steps are done."""
        config = self._config.copy_and_resolve_references()
        with config.unlocked():
            config.train.steps, config.train.minutes = steps, 0.0
            # Checkpoints are at the ends of pieces, where the time is known.
            config.train.checkpoint_every, config.train.picture_every = 2**31 - 1, 0
        seconds, core_seconds = time.perf_counter(), time.process_time()
        code = loop.train(config, self._workdir)
        return Spent(time.perf_counter() - seconds, time.process_time() - core_seconds, code)

    def _add(self, spent: Spent, error: float | None) -> None:
        """Appends a line."""
        peak = harness.matmul_peak("float32")
        steps = run_folder.newest_step(self._workdir) or 0
        line = {
            "steps": steps,
            "seconds": round(self._last("seconds") + spent.seconds, 2),
            "core_seconds": round(self._last("core_seconds") + spent.core_seconds, 2),
            "trained_seconds": round(run_folder.read_log(self._workdir)[-1]["seconds"], 2),
            "matmul_tflop": round(self._last("matmul_tflop") + 1e-12 * peak * spent.seconds, 4),
            "matmul_gflops": round(peak / 1e9, 1),
            "macs": self._macs(steps),
            "error": error,
        }
        self.lines.append(line)
        with (self._workdir / LOG).open("a") as file:
            file.write(json.dumps(line) + "\n")
        harness.log(line)

    def _last(self, field: str) -> Any:
        return self.lines[-1][field] if self.lines else 0

    def _reached(self, until: float) -> bool:
        return any(line["error"] is not None and line["error"] <= until for line in self.lines)

    def _macs(self, steps: int) -> int | None:
        """Multiply-adds of so many steps; None for a detector that is not counted."""
        config = self._config
        if config.model.detector not in roofline.DETECTORS:
            return None
        macs = steps * config.train.batch_size * roofline.macs_per_photo(config)
        for made in config.targets.steps if self._photos else ():
            if made < steps:
                macs += roofline.macs_of_targets(config, self._photos, later=made > 0)
        return macs

    def _error(self, faces: Protocol) -> float:
        """The forward error of the newest checkpoint, %."""
        state = checkpoints.restore(self._workdir, self._config).state
        detector = ViewDetector(self._config, trained_variables(state))
        source = Split(*(detector(part.views) for part in (faces.fit, faces.score)))
        return forward_error(source, Split(faces.fit.points, faces.score.points))


def read_lines(workdir: Path) -> list[dict[str, Any]]:
    """The lines of a run; a last one that a kill cut short is left out.

    Raises:
      WorkdirError: they are damaged.
    """
    path = workdir / LOG
    try:
        text = path.read_text() if path.is_file() else ""
        return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]
    except (OSError, ValueError) as error:
        raise WorkdirError(f"{path}: damaged ({reason(error)}); use another --workdir") from error
