"""A training run: wiring only. `step_loop` takes the steps, `reports` prints and writes."""

import contextlib
import dataclasses
import logging
import time
from pathlib import Path

import jax
from ml_collections import ConfigDict

from landmarks_jax import config as configuration
from landmarks_jax.system.signals import Interrupt
from landmarks_jax.tasks.task import Frozen
from landmarks_jax.training import (
    batches,
    coordination,
    distributed,
    init_from,
    limits,
    run_folder,
    sharding,
    targets,
    transfer_start,
)
from landmarks_jax.training import state as states
from landmarks_jax.training.checkpoints import Checkpoints
from landmarks_jax.training.program import Program, compile_program
from landmarks_jax.training.reports import Reporter
from landmarks_jax.training.run_inputs import Inputs, read_inputs, record_of
from landmarks_jax.training.state import Restored
from landmarks_jax.training.step_loop import IN_FLIGHT, run_steps

_LOGGER = logging.getLogger(__name__)


def train(
    config: ConfigDict,
    workdir: Path,
    *,
    transfer_from: Path | None = None,
    transfer_to: Path | None = None,
    deadline: float | None = None,
) -> int:
    """Trains a run until its steps or minutes are over; continues from a checkpoint if it has one.

    Args:
      config: the configuration.
      workdir: the run's folder, created if needed.
      transfer_from: a folder of transfer files to begin from if there is no checkpoint.
      transfer_to: a folder to write transfer files to whenever a state is saved; of one process.
      deadline: on the clock of `time.monotonic()`; training stops then, but after at least one
        step, or while it makes the targets of self-training.

    Returns:
      0, or 128 plus the number of the signal that stopped it (after saving).

    Raises:
      UserError: before anything slow starts, or with a message that names the last checkpoint.
    """
    with contextlib.ExitStack() as stack:
        with coordination.together():
            if distributed.is_first():
                stack.enter_context(run_folder.locked(workdir))
        with coordination.together():
            inputs = read_inputs(config, workdir, transfer_from)
        _agree(inputs)
        with coordination.together():
            if distributed.is_first():
                run_folder.claim(workdir, config, record_of(inputs))
        coordination.check_shared(workdir / run_folder.RECORD_FILE)

        saved = stack.enter_context(Checkpoints(workdir, config, transfer_to=transfer_to))
        stack.enter_context(distributed.watched(lambda: _advice(workdir)))
        restored = _restore_or_start(inputs, saved)
        if limits.is_done(config, restored.step, restored.seconds):
            if distributed.is_first():
                print(f"{workdir}: already trained for {restored.step} steps")
            saved.transfer(restored)
            saved.wait()
            return 0
        return _train_rounds(inputs, restored, saved, deadline)


def _agree(inputs: Inputs) -> None:
    """Rejects processes that would train different runs."""
    config = inputs.config
    coordination.check_same(
        {
            "the configuration": configuration.to_json(config),
            f"the photos ({inputs.photos.summary})": inputs.photos.digest,
            f"config.perceptual.weights = {config.perceptual.weights!r}": inputs.weights_digest,
            "how the run starts": repr((inputs.start.record, inputs.bundle and inputs.bundle.step)),
        }
    )


def _restore_or_start(inputs: Inputs, saved: Checkpoints) -> Restored:
    """The newest checkpoint; without one the first state of a run."""
    config = inputs.config
    if inputs.bundle is not None:
        transfer_start.begin(
            inputs.bundle,
            config,
            inputs.networks,
            names=inputs.photos.names(),
            workdir=inputs.workdir,
            saved=saved,
        )
    restored = saved.restore(states.abstract_state(config, inputs.networks, inputs.mesh))
    if restored is not None:
        return restored
    drawn = states.start_state(config, inputs.networks, inputs.mesh)
    return Restored(init_from.begin(inputs.start, config, drawn, inputs.mesh), 0, 0.0)


def _train_rounds(
    inputs: Inputs, restored: Restored, saved: Checkpoints, deadline: float | None
) -> int:
    """Trains to the end: in rounds, if the task makes targets, else in one; returns as `train`."""
    config = inputs.config
    program, end = None, None
    while True:
        if inputs.refiner is not None:
            try:
                restored = _make_targets(inputs, restored, saved, deadline)
            except targets.StoppedError as stopped:
                return stopped.exit_code
            end = targets.next_step(config, restored.step)
        if program is None:  # once, after the first targets, which the deadline may cut off
            program, frozen = _compile(inputs, restored.state)
        photos = batches.batches(config, inputs.photos, inputs.mesh, restored.step)
        with (
            Interrupt() as interrupt,
            Reporter(
                inputs.workdir,
                config.train,
                start=restored.step,
                seconds=restored.seconds,
                deadline=deadline,
            ) as reporter,
            # Whatever the loop sends to a device is sent explicitly.
            jax.transfer_guard_host_to_device("disallow"),
        ):
            restored, stopped_by = run_steps(
                config,
                program,
                restored,
                frozen,
                end=end,
                photos=photos,
                saved=saved,
                reporter=reporter,
                interrupt=interrupt,
                stopping=coordination.Stopping(inputs.mesh, IN_FLIGHT),
            )
        del photos  # resident ones would stay on the devices
        stopped_by = stopped_by or interrupt.exit_code
        over = end is None or limits.is_done(config, restored.step, restored.seconds, deadline)
        if stopped_by or over:
            return stopped_by


def _make_targets(
    inputs: Inputs, restored: Restored, saved: Checkpoints, deadline: float | None
) -> Restored:
    """Gives the photos the targets of a round; adds the seconds that these took.

    Raises:
      targets.StoppedError: a signal came or the deadline passed.
    """
    assert inputs.refiner is not None
    started = time.monotonic()
    inputs.photos.targets, stopped_by, uncounted = targets.load_or_make(
        inputs.config,
        inputs.refiner,
        inputs.photos,
        inputs.workdir,
        step=restored.step,
        variables=states.trained_variables(restored.state),
        deadline=deadline,
    )
    saved.transfer(restored)  # without the targets' seconds, which their file holds
    seconds = restored.seconds + uncounted + time.monotonic() - started
    if stopped_by:
        saved.wait()
        raise targets.StoppedError(stopped_by)
    return restored._replace(seconds=seconds)


def _compile(inputs: Inputs, state: states.TrainState) -> tuple[Program, Frozen]:
    """The compiled functions of a run, and what steps do not change, on the devices."""
    frozen = sharding.put_replicated(inputs.mesh, inputs.frozen)._replace(core=state.core)
    transfers = run_folder.read_record(inputs.workdir).transfers
    program = compile_program(
        inputs.config,
        inputs.networks,
        dataclasses.replace(state, core={}),
        frozen,
        inputs.mesh,
        photos=inputs.shapes,
        optimizer_start=transfers[-1].step if transfers else 0,
    )
    _LOGGER.info("%s", program.compilation.summary())
    return program, frozen


def _advice(workdir: Path) -> str:
    """Advice for a run that ended too early."""
    step = run_folder.newest_step(workdir)
    if step is None:
        return "no checkpoint was saved yet; rerun the command for every process to start again"
    folder = (workdir / run_folder.CHECKPOINTS / str(step)).absolute()
    then = "rerun the command for every process to continue from it"
    return f"the last good checkpoint is {folder}; {then}"
