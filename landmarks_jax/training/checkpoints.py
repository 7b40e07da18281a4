"""Checkpoints: the states of a run on disk. The one importer of Orbax."""

from pathlib import Path
from typing import NamedTuple

import jax
import orbax.checkpoint as ocp
from ml_collections import ConfigDict

from landmarks_jax.system.errors import LostError, WorkdirError, reason
from landmarks_jax.tasks import task_of
from landmarks_jax.training import run_folder, sharding
from landmarks_jax.training import state as states
from landmarks_jax.training.state import TrainState


class Restored(NamedTuple):
    """A checkpoint in memory.

    Attributes:
      state: the state.
      step: its step.
      seconds: how long the run had trained, over all sessions.
    """

    state: TrainState
    step: int
    seconds: float


class Checkpoints:
    """Saves and restores the states of one run; a context manager that waits for the last save.

    Several processes of a run open it together, and save and restore at the same steps, in a folder
    that they share.
    """

    def __init__(self, workdir: Path, *, read_only: bool = False) -> None:
        """Opens the checkpoints; `read_only` is for a single process, and creates no folder."""
        self._folder = (workdir / run_folder.CHECKPOINTS).absolute()
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
            return  # a save in progress would wait for the process that is gone
        self.wait()
        self._manager.close()

    def last_step(self) -> int | None:
        """The step of the newest checkpoint, None without one."""
        return self._manager.latest_step()

    def path(self, step: int) -> Path:
        """The folder of the checkpoint of a step."""
        return self._folder / str(step)

    def wait(self) -> None:
        """Blocks until all saves are on disk."""
        self._manager.wait_until_finished()

    def save(self, step: int, state: TrainState, seconds: float) -> None:
        """Starts to write a state; returns as soon as the state may change."""
        items = ocp.args.Composite(
            state=ocp.args.StandardSave(dict(vars(state))),
            progress=ocp.args.JsonSave({"seconds": seconds}),
        )
        self._manager.save(step, args=items)

    def restore(self, like: TrainState) -> Restored | None:
        """Reads the newest checkpoint, None without one.

        Args:
          like: the state with a `jax.ShapeDtypeStruct` and its sharding for each leaf.

        Raises:
          WorkdirError: the checkpoint cannot be read, or belongs to another model.
        """
        step = self.last_step()
        if step is None:
            return None
        items = ocp.args.Composite(
            state=ocp.args.StandardRestore(dict(vars(like))), progress=ocp.args.JsonRestore()
        )
        try:
            read = self._manager.restore(step, args=items)
            return Restored(TrainState(**read.state), step, float(read.progress["seconds"]))
        except Exception as error:  # Orbax and its storage have no common class
            raise WorkdirError(
                f"{self.path(step)}: the checkpoint is damaged ({reason(error)}); "
                "remove that folder to continue from the previous checkpoint"
            ) from error


def restore(workdir: Path, config: ConfigDict) -> Restored:
    """Reads a run's newest checkpoint onto one device.

    Raises:
      WorkdirError: there is no checkpoint, or it is damaged.
    """
    if run_folder.newest_step(workdir) is None:
        raise WorkdirError(f"{workdir}: has no checkpoint yet; train it first")
    mesh = sharding.make_mesh(jax.local_devices()[:1])
    with Checkpoints(workdir, read_only=True) as saved:
        networks = task_of(config).build_networks(config)
        restored = saved.restore(states.abstract_state(config, networks, mesh))
    assert restored is not None
    return restored
