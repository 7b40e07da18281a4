"""Checkpoints of a run, and the claim of a run on its folder. The one importer of Orbax."""

import contextlib
import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import orbax.checkpoint as ocp
from ml_collections import ConfigDict

from landmarks_jax import config as configuration
from landmarks_jax.system.errors import ConfigError, LostError, WorkdirError
from landmarks_jax.training.state import TrainState

CONFIG_FILE = "config.json"
RUN_FILE = "run.json"
FOLDER = "checkpoints"


class Restored(NamedTuple):
    """A checkpoint as read.

    Attributes:
      state: the state.
      step: its step.
      seconds: how long the run had trained, over all sittings.
    """

    state: TrainState
    step: int
    seconds: float


class Restart(NamedTuple):
    """A place where a run went on without its optimiser, from networks handed over.

    Attributes:
      step: steps done before.
      seconds: time trained before, over all sittings.
      warmup_steps: steps over which the learning rate rose again.
      other_photos: whether the list of photos was another one before.
    """

    step: int
    seconds: float
    warmup_steps: int
    other_photos: bool

    def note(self) -> str:
        """The sentence that belongs under every table of the run."""
        photos = "; the photos have other names since, or are others" * self.other_photos
        return (
            f"restarted, not resumed, at step {self.step:,} after {self.seconds / 60:.1f} minutes: "
            "networks rounded to float16, a fresh optimiser, the learning rate rising again over "
            f"{self.warmup_steps:,} steps{photos}"
        )


class Checkpoints:
    """Saves and restores the states of one run; a context, whose end waits for the last save.

    Of several processes all open, save and restore at the same steps, in a folder that they share.
    """

    def __init__(self, workdir: Path, *, read_only: bool = False) -> None:
        """Opens them, and makes their folder unless `read_only`, for one process on its own."""
        self._folder = (workdir / FOLDER).absolute()
        processes = ocp.options.MultiprocessingOptions()
        if read_only:
            own = jax.process_index()
            processes = ocp.options.MultiprocessingOptions(
                primary_host=own,
                active_processes={own},
                barrier_sync_key_prefix=f"process{own}",
            )
        options = ocp.CheckpointManagerOptions(
            max_to_keep=None if read_only else 2,
            create=not read_only,
            read_only=read_only,
            enable_async_checkpointing=not read_only,
            multiprocessing_options=processes,
        )
        self._manager = ocp.CheckpointManager(self._folder, options=options)

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        if isinstance(error, LostError):
            return  # a save that is under way waits for the process that is gone
        self.wait()
        self._manager.close()

    def last_step(self) -> int | None:
        """The step of the newest checkpoint, None where there is none."""
        return self._manager.latest_step()

    def path(self, step: int) -> Path:
        """The folder of the checkpoint of a step."""
        return self._folder / str(step)

    def wait(self) -> None:
        """Returns once all saves have reached the disk."""
        self._manager.wait_until_finished()

    def save(self, step: int, state: TrainState, seconds: float) -> None:
        """Starts to write a state; returns once the state may change."""
        items = ocp.args.Composite(
            state=ocp.args.StandardSave(_fields(state)),
            progress=ocp.args.JsonSave({"seconds": seconds}),
        )
        self._manager.save(step, args=items)

    def restore(self, like: TrainState) -> Restored | None:
        """Reads the newest checkpoint, None where there is none.

        Args:
          like: the state with `jax.ShapeDtypeStruct` for leaves, with the shardings wanted.

        Raises:
          WorkdirError: the checkpoint cannot be read, or is of another model.
        """
        step = self.last_step()
        if step is None:
            return None
        items = ocp.args.Composite(
            state=ocp.args.StandardRestore(_fields(like)), progress=ocp.args.JsonRestore()
        )
        try:
            read = self._manager.restore(step, args=items)
            return Restored(TrainState(**read.state), step, float(read.progress["seconds"]))
        except Exception as error:  # Orbax and its storage raise whatever they like
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise WorkdirError(
                f"{self.path(step)}: the checkpoint is damaged ({reason[:200]}); "
                "remove that folder to go on from the one before"
            ) from error


def _fields(state: TrainState) -> dict[str, Any]:
    """A state as checkpoints have it: without a core where there is none, as before there were."""
    fields = {field.name: getattr(state, field.name) for field in dataclasses.fields(state)}
    if not state.core:
        del fields["core"]
    return fields


def newest(workdir: Path) -> int | None:
    """The step of a run's newest checkpoint, None where it has none."""
    # A checkpoint has its name once it is whole.
    names = [path.name for path in (workdir / FOLDER).glob("*")]
    return max((int(name) for name in names if name.isdecimal()), default=None)


def check_config(workdir: Path, config: ConfigDict) -> None:
    """Refuses a folder that holds a run of another configuration; a new folder is fine.

    Raises:
      WorkdirError: naming the field and both values.
    """
    if not (workdir / CONFIG_FILE).exists():
        return
    for field, before, now in configuration.differences(read_config(workdir), config):
        raise WorkdirError(
            f"{workdir / CONFIG_FILE}: the run has config.{field} = {before!r}, asked for is "
            f"{now!r}; use another --workdir, or the run's own value"
        )


def claim(
    workdir: Path,
    config: ConfigDict,
    *,
    data_digest: str,
    weights_digest: str,
    start: Mapping[str, str] | None = None,
    notes: Sequence[str],
    hardware: Sequence[str],
    restarts: Sequence[Restart] | None = None,
) -> None:
    """Makes the run's folder, or checks that it is of this run.

    Args:
      workdir: the run's folder.
      config: the configuration.
      data_digest: fingerprint of the list of photos.
      weights_digest: fingerprint of the perceptual network, "" without one.
      start: how the run starts or began, as `starts` says it; None for networks from elsewhere.
      notes: sentences that belong under every table of the run.
      hardware: what the run computed on so far and in this sitting, in words.
      restarts: those of the run; None keeps what the folder says of them.

    Raises:
      WorkdirError: the folder is of another configuration, of other photos or of another
        perceptual network, or it cannot be written.
    """
    check_config(workdir, config)
    restarts = read_restarts(workdir) if restarts is None else restarts
    run: dict[str, Any] = {
        "data_digest": data_digest,
        "weights_digest": weights_digest,
        "start": dict(start or {"mode": "converted"}),
        "notes": list(notes),
        "hardware": list(hardware),
        "restarts": [restart._asdict() for restart in restarts],
    }
    if (workdir / CONFIG_FILE).exists():
        before = read_run(workdir)
        run["hardware"] = list(dict.fromkeys([*before.get("hardware", ()), *hardware]))
        if before.get("data_digest") != data_digest:
            raise WorkdirError(
                f"{workdir / RUN_FILE}: the run saw other photos than there are now (some were "
                "added, lost or renamed); restore them or use another --workdir"
            )
        if before.get("weights_digest") != weights_digest:
            raise WorkdirError(
                f"{workdir / RUN_FILE}: the run used other weights than config.perceptual.weights "
                f"= {config.perceptual.weights!r} gives now; name its own or use another --workdir"
            )
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        _write(workdir / RUN_FILE, json.dumps(run, indent=2) + "\n")
        _write(workdir / CONFIG_FILE, configuration.to_json(config))
    except OSError as error:
        raise WorkdirError(f"--workdir {workdir}: cannot be written ({error})") from error


def read_notes(workdir: Path) -> list[str]:
    """The sentences that belong under every table of a run."""
    restarts = [restart.note() for restart in read_restarts(workdir)]
    return [*read_run(workdir).get("notes", ()), *restarts]


def read_hardware(workdir: Path) -> list[str]:
    """What a run was trained on, each once; nothing is known of runs of earlier versions."""
    return list(read_run(workdir).get("hardware", ()))


def read_restarts(workdir: Path) -> list[Restart]:
    """Where a run went on from networks handed over, in order; none where there is no run."""
    if not (workdir / RUN_FILE).exists():
        return []
    return restarts_of(read_run(workdir), workdir / RUN_FILE)


def restarts_of(run: dict[str, Any], path: Path) -> list[Restart]:
    """The restarts that a run's record, read from `path`, speaks of."""
    try:
        return [Restart(**restart) for restart in run.get("restarts", ())]
    except TypeError as error:
        raise WorkdirError(f"{path}: cannot be read ({error})") from error


def read_config(workdir: Path) -> ConfigDict:
    """The configuration of a run.

    Raises:
      WorkdirError: there is none, it cannot be read, or its values cannot work.
    """
    path = workdir / CONFIG_FILE
    try:
        config = configuration.from_json(path.read_text())
        configuration.validate(config)
        return config
    except ConfigError as error:
        raise WorkdirError(f"{path}: {error}") from error
    except FileNotFoundError:
        raise WorkdirError(f"{path}: no such file; --workdir must be the folder of a run") from None
    except (ValueError, OSError) as error:
        raise WorkdirError(f"{path}: cannot be read as a configuration ({error})") from error


def read_run(workdir: Path) -> dict[str, Any]:
    """What a run's folder says of its photos, its perceptual network and its past.

    Raises:
      WorkdirError: there is no such record, or it cannot be read.
    """
    path = workdir / RUN_FILE
    try:
        run = json.loads(path.read_text())
        if not isinstance(run, dict):
            raise ValueError("not an object of fields")
    except (ValueError, OSError) as error:
        raise WorkdirError(f"{path}: cannot be read ({error})") from error
    return run


def _write(path: Path, text: str) -> None:
    """Replaces a file in one move: a run killed here leaves the old one or the new one."""
    part = path.with_suffix(".part")
    with contextlib.suppress(FileNotFoundError):
        part.unlink()
    part.write_text(text)
    part.replace(path)
