"""Checkpoints: the states of a run on disk. The one importer of Orbax.

A checkpoint holds the state and, beside it, `progress`: the step, the seconds trained, the run's
configuration, the SHA-256 of all arrays of the state, and the SHA-256 of these fields. Orbax
renames its folder once all is written, and every restore checks both digests.
"""

import contextlib
import json
import os
import re
import shlex
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from ml_collections import ConfigDict

from landmarks_jax import config as configuration
from landmarks_jax.system.errors import LostError, WorkdirError, reason
from landmarks_jax.system.files import sha256_of_arrays
from landmarks_jax.system.sealed_json import sealed, unsealed
from landmarks_jax.tasks import task_of
from landmarks_jax.training import run_folder, sharding, transfer_writer
from landmarks_jax.training import state as states
from landmarks_jax.training.state import Restored, TrainState
from landmarks_jax.training.transfer_writer import TransferWriter


class Checkpoints:
    """Saves and restores the states of one run; a context manager that waits for the last save.

    Several processes of a run open it together, and save and restore at the same steps, in a folder
    that they share.
    """

    def __init__(
        self,
        workdir: Path,
        config: ConfigDict,
        *,
        transfer_to: Path | None = None,
        read_only: bool = False,
    ) -> None:
        """Opens the checkpoints; removes what a killed process left of an unfinished one.

        Args:
          workdir: the run's folder.
          config: its configuration.
          transfer_to: a folder to write each state to as transfer files too; of a single process.
          read_only: for a single process; creates and removes nothing.

        Raises:
          WorkdirError: the folder cannot be opened.
        """
        self._workdir, self._config = workdir, config
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
            cleanup_tmp_directories=not read_only,
            read_only=read_only,
            enable_async_checkpointing=not read_only,
            multiprocessing_options=processes,
        )
        self._folder = (workdir / run_folder.CHECKPOINTS).absolute()
        try:
            self._manager = ocp.CheckpointManager(self._folder, options=options)
        except OSError as error:
            raise WorkdirError(f"{self._folder}: cannot be opened ({reason(error)})") from error
        self._transfers = None if transfer_to is None else TransferWriter(workdir, transfer_to)
        self._last_saved = time.monotonic()

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        if self._transfers is not None:
            self._transfers.close()
        if isinstance(error, LostError):
            return  # a save in progress would wait for the process that is gone
        try:
            with self._writing():
                self._manager.wait_until_finished()
                self._manager.close()
        except WorkdirError:
            if error is None:  # else it has said why
                raise

    def last_step(self) -> int | None:
        """The step of the newest checkpoint, None without one."""
        return self._manager.latest_step()

    def path(self, step: int) -> Path:
        """The folder of the checkpoint of a step."""
        return self._folder / str(step)

    def wait(self) -> None:
        """Blocks until all saves are on disk, and the last one's transfer files.

        Raises:
          WorkdirError: one could not be written.
        """
        with self._writing():
            self._manager.wait_until_finished()
        if self._transfers is not None:
            self._transfers.wait()

    def check(self) -> None:
        """Raises if the last save has failed already; does not block."""
        if not self._manager.is_saving_in_progress():
            with self._writing():
                self._manager.wait_until_finished()

    def is_due(self) -> bool:
        """Whether to save at the end of this interval, whatever its step, for transfer files."""
        seconds = time.monotonic() - self._last_saved
        return self._transfers is not None and seconds >= transfer_writer.SECONDS

    def transfer(self, restored: Restored) -> None:
        """Starts to write transfer files, if the run writes any; the state may change then."""
        if self._transfers is not None:
            self._transfers.add(restored)

    def save(self, step: int, state: TrainState, seconds: float) -> None:
        """Starts to write a state; returns as soon as the state may change.

        The first one of a run is awaited and read back, so that a run that could not be continued
        ends here.

        Raises:
          WorkdirError: this state, or the one before, could not be written or read back.
        """
        self.transfer(Restored(state, step, seconds))  # before the checkpoint, which is larger
        first = self.last_step() is None
        fields = {
            "step": step,
            "seconds": seconds,
            "config": self._config.to_dict(),
            "state": _digest(state),
        }
        items = ocp.args.Composite(
            state=ocp.args.StandardSave(dict(vars(state))),
            progress=ocp.args.JsonSave(sealed(fields)),
        )
        with self._writing():
            self._manager.save(step, args=items)
        if first:
            self.wait()
            try:
                self._read_state(step, state, self._read_progress(step))
            except Exception as error:  # Orbax and its storage have no common class
                raise WorkdirError(
                    f"{self.path(step)}: the run's first checkpoint cannot be read back "
                    f"({reason(error)}); train on another disk or in another --workdir"
                ) from error
        self._last_saved = time.monotonic()

    def restore(self, like: TrainState) -> Restored | None:
        """Reads the newest checkpoint, None without one.

        Args:
          like: the state with a `jax.ShapeDtypeStruct` for each leaf, replicated over a mesh.

        Raises:
          WorkdirError: the checkpoint cannot be read, or belongs to another configuration.
        """
        step = self.last_step()
        if step is None:
            return None
        try:
            progress = self._read_progress(step)
            self._check_config(step, progress["config"])
            state = self._read_state(step, like, progress)
        except WorkdirError:
            raise
        except Exception as error:  # Orbax and its storage have no common class
            raise WorkdirError(
                f"{self.path(step)}: the checkpoint cannot be read ({reason(error)}); "
                f"{self._way_out(step)}"
            ) from error
        mesh = jax.tree.leaves(like)[0].sharding.mesh
        return Restored(sharding.put_replicated(mesh, state), step, float(progress["seconds"]))

    def _read_progress(self, step: int) -> dict[str, Any]:
        """Reads what is beside the state; ValueError if it is damaged."""
        items = ocp.args.Composite(progress=ocp.args.JsonRestore())
        fields = unsealed(self._manager.restore(step, args=items).progress)
        if fields["step"] != step:
            raise ValueError(f"damaged: it is of step {fields['step']}")
        return fields

    def _read_state(self, step: int, like: TrainState, progress: dict[str, Any]) -> TrainState:
        """Reads a state as NumPy arrays; ValueError if it is damaged or not `like` that."""
        blank = jax.tree.map(lambda a: np.broadcast_to(np.zeros((), a.dtype), a.shape), like)
        items = ocp.args.Composite(state=ocp.args.StandardRestore(dict(vars(blank))))
        state = TrainState(**self._manager.restore(step, args=items).state)
        if _digest(state) != progress["state"]:
            raise ValueError("damaged: the SHA-256 of its arrays differs")
        arrays = states.by_name(state)
        for name, leaf in states.by_name(like).items():
            if arrays[name].shape != leaf.shape:
                raise ValueError(f"{name} has shape {arrays[name].shape}, expected {leaf.shape}")
        return state

    def _check_config(self, step: int, saved: dict[str, Any]) -> None:
        before = configuration.from_json(json.dumps(saved))
        for field, trained, now in configuration.differences(before, self._config):
            raise WorkdirError(
                f"{self._workdir / run_folder.CONFIG_FILE}: has config.{field} = {now!r}, but the "
                f"checkpoint {self.path(step)} was trained with {trained!r}; correct it"
            )

    def _way_out(self, step: int) -> str:
        """What to do without the checkpoint of a step; destroys nothing."""
        earlier = [before for before in run_folder.steps_saved(self._workdir) if before < step]
        if not earlier:
            return "there is none before it: copy it again if you can, or use another --workdir"
        aside = (self._workdir / f"unreadable-{step}").absolute()
        move = shlex.join(["mv", str(self.path(step)), str(aside)])
        return (
            f"copy it again if you can, or move it away to use that of step {earlier[-1]}: {move}"
        )

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """Turns what Orbax raises where it cannot write into a message."""
        try:
            yield
        except (OSError, ValueError) as error:
            step = run_folder.newest_step(self._workdir)
            then = "start again" if step is None else f"continue from the checkpoint of step {step}"
            raise WorkdirError(
                f"{self._folder}: a checkpoint cannot be written "
                f"({_cause(error)}); once it can, rerun the command to {then}"
            ) from error


def _digest(state: TrainState) -> str:
    return sha256_of_arrays(states.by_name(jax.device_get(state)))


def _cause(error: Exception) -> str:
    """Why Orbax could not write: the system's error, which TensorStore gives as a number."""
    number = re.search(r"os_error_code='(\d+)'", str(error))
    return os.strerror(int(number.group(1))) if number else reason(error)


def restore(workdir: Path, config: ConfigDict) -> Restored:
    """Reads a run's newest checkpoint onto one device.

    Raises:
      WorkdirError: there is no checkpoint, or it cannot be read or belongs to another
        configuration.
    """
    run_folder.check_name(workdir)
    if run_folder.newest_step(workdir) is None:
        raise WorkdirError(f"{workdir}: has no checkpoint yet; train it first")
    mesh = sharding.make_mesh(jax.local_devices()[:1])
    with Checkpoints(workdir, config, read_only=True) as saved:
        networks = task_of(config).build_networks(config)
        restored = saved.restore(states.abstract_state(config, networks, mesh))
    assert restored is not None
    return restored
