"""How far a cell's run is, told by its folder alone."""

from collections.abc import Sequence
from pathlib import Path

from ml_collections import ConfigDict

from landmarks_jax import config as configuration
from landmarks_jax.evaluation import labelled_faces
from landmarks_jax.studies.runs import Key, Run, read_run
from landmarks_jax.system.errors import WorkdirError
from landmarks_jax.training import run_folder
from landmarks_jax.training.run_folder import CONFIG_FILE

# Minutes that results and logs may round away.
_ROUNDED = 0.005


def keys_of(protocols: Sequence[str]) -> list[Key]:
    """The protocols with each of their crops."""
    labelled_faces.check_names(protocols)
    return [(name, crop) for name in protocols for crop in labelled_faces.crops_of(name)]


def open_run(folder: Path, config: ConfigDict) -> Run | None:
    """Reads what a folder holds of a run; None where it was not begun.

    Args:
      folder: of the run.
      config: that it must have.

    Raises:
      WorkdirError: it holds a run of another configuration, or a damaged one.
    """
    if not run_folder.is_run(folder):
        return None
    run = read_run(str(folder))
    for field, before, now in configuration.differences(run.config, config):
        raise _refusal(folder, field, before, now)
    # Where its file lies may differ, and whether there is one may not.
    weights = config.perceptual.weights
    if bool(run.digests[1]) != bool(weights):
        raise _refusal(folder, "perceptual.weights", run.config.perceptual.weights, weights)
    return run


def _refusal(folder: Path, field: str, before: object, now: object) -> WorkdirError:
    return WorkdirError(
        f"{folder / CONFIG_FILE}: the run has config.{field} = {before!r}, the cell wants "
        f"{now!r}; name another --runs, or the --config and fields that made it"
    )


def is_trained(run: Run, folder: Path, config: ConfigDict) -> bool:
    """Whether a run's newest checkpoint is its last one.

    The log alone would not do: its last line is written before the checkpoint is.
    """
    trained = run_folder.newest_step(folder) == run.steps is not None
    return trained and _is_done(config, run.steps, run.minutes)


def is_scored(run: Run, key: Key, config: ConfigDict) -> bool:
    """Whether the end of a run was scored under a protocol and crop."""
    provenance = run.results.get(key, {}).get("provenance", {})
    return _is_done(config, provenance.get("steps"), provenance.get("training_minutes"))


def _is_done(config: ConfigDict, steps: int | None, minutes: float | None) -> bool:
    """Whether that many steps or minutes are what the configuration asks for."""
    train = config.train
    by_steps = bool(train.steps) and steps is not None and steps >= train.steps
    return by_steps or (
        bool(train.minutes) and minutes is not None and minutes >= train.minutes - _ROUNDED
    )


def why_missing(run: Run | None, keys: Sequence[Key], config: ConfigDict) -> str:
    """What a run lacks of being in a table, in words; "" where it lacks nothing."""
    if run is None:
        return "not trained"
    lacking = [key for key in keys if not is_scored(run, key, config)]
    if not lacking:
        return ""
    if not _is_done(config, run.steps, run.minutes):
        train = config.train
        limits = [f"{train.steps:,} steps"] * bool(train.steps)
        limits += [f"{train.minutes:g} minutes"] * bool(train.minutes)
        done = f"{run.steps or 0:,} steps ({run.minutes or 0:.1f} minutes)"
        return f"trained for {done} of {' or '.join(limits)}"
    return f"not scored under {', '.join(f'{name} ({crop})' for name, crop in lacking)}"
