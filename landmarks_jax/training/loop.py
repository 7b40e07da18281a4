"""The training loop: wiring only. `step` computes, `reports` prints and writes."""

import contextlib
import dataclasses
import logging
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path

import jax
from ml_collections import ConfigDict

from landmarks_jax import config as configuration
from landmarks_jax.system.errors import DataError
from landmarks_jax.system.signals import Interrupt
from landmarks_jax.tasks.task import Frozen
from landmarks_jax.training import (
    batches,
    checkpoints,
    coordination,
    distributed,
    init_from,
    limits,
    run_folder,
    sharding,
    targets,
    transfer_start,
    transfer_writer,
)
from landmarks_jax.training import state as states
from landmarks_jax.training.batches import Batch, Resident
from landmarks_jax.training.intervals import Intervals
from landmarks_jax.training.program import Program, compile_program
from landmarks_jax.training.reports import Reporter
from landmarks_jax.training.run_inputs import Inputs, read_inputs, record_of

_LOGGER = logging.getLogger(__name__)

# Steps that the host may be ahead of the device.
IN_FLIGHT = 2

# A request to stop because time is up; other requests are the exit codes of signals, which are
# larger.
_TIME_IS_UP = 1


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
        return _train_locked(config, workdir, transfer_from, transfer_to, deadline)


def _train_locked(
    config: ConfigDict,
    workdir: Path,
    transfer_from: Path | None,
    transfer_to: Path | None,
    deadline: float | None,
) -> int:
    with coordination.together():
        inputs = read_inputs(config, workdir, transfer_from)
    _agree(config, inputs)
    with coordination.together():
        if distributed.is_first():
            run_folder.claim(workdir, config, record_of(config, inputs))
    coordination.check_shared(workdir / run_folder.RECORD_FILE)

    with (
        transfer_writer.open_checkpoints(workdir, config, transfer_to) as saved,
        distributed.watched(lambda: _advice(workdir)),
    ):
        if inputs.bundle is not None:
            transfer_start.begin(
                inputs.bundle,
                config,
                inputs.networks,
                names=inputs.photos.names(),
                workdir=workdir,
                saved=saved,
            )
        like = states.abstract_state(config, inputs.networks, inputs.mesh)
        restored = saved.restore(like)
        if restored is None:
            drawn = states.start_state(config, inputs.networks, inputs.mesh)
            first = init_from.begin(inputs.start, config, drawn, inputs.mesh)
            del drawn  # what was replaced would stay on the devices
            restored = checkpoints.Restored(first, 0, 0.0)
        if limits.is_done(config, restored.step, restored.seconds):
            if distributed.is_first():
                print(f"{workdir}: already trained for {restored.step} steps")
            saved.transfer(restored)
            saved.wait()
            return 0
        return _train_rounds(config, workdir, inputs, restored, saved, deadline=deadline)


def _train_rounds(
    config: ConfigDict,
    workdir: Path,
    inputs: Inputs,
    restored: checkpoints.Restored,
    saved: checkpoints.Checkpoints,
    *,
    deadline: float | None,
) -> int:
    """Trains to the end, making targets whenever the task needs new ones; returns as `train`."""
    if inputs.refiner is None:
        return _train(config, workdir, inputs, restored, saved, deadline=deadline)
    like = states.abstract_state(config, inputs.networks, inputs.mesh)
    while True:
        started = time.monotonic()
        try:
            inputs.photos.targets, stopped_by, uncounted = targets.load_or_make(
                config,
                inputs.refiner,
                inputs.photos,
                workdir,
                step=restored.step,
                variables=states.trained_variables(restored.state),
                deadline=deadline,
            )
        except targets.StoppedError as stopped:
            return stopped.exit_code
        saved.transfer(restored)  # the targets' own seconds go with them
        seconds = restored.seconds + uncounted + time.monotonic() - started
        restored = restored._replace(seconds=seconds)
        if stopped_by:
            saved.wait()
            return stopped_by
        end = targets.next_step(config, restored.step)
        stopped_by = _train(config, workdir, inputs, restored, saved, deadline=deadline, end=end)
        restored = saved.restore(like) or restored
        over = deadline is not None and time.monotonic() >= deadline
        if stopped_by or over or limits.is_done(config, restored.step, restored.seconds):
            return stopped_by


def _agree(config: ConfigDict, inputs: Inputs) -> None:
    """Rejects processes that would train different runs."""
    coordination.check_same(
        {
            "the configuration": configuration.to_json(config),
            f"the photos ({inputs.photos.summary})": inputs.photos.digest,
            f"config.perceptual.weights = {config.perceptual.weights!r}": inputs.weights_digest,
            "how the run starts": repr((inputs.start.record, inputs.bundle and inputs.bundle.step)),
        }
    )


def _train(
    config: ConfigDict,
    workdir: Path,
    inputs: Inputs,
    restored: checkpoints.Restored,
    saved: checkpoints.Checkpoints,
    *,
    deadline: float | None,
    end: int | None = None,
) -> int:
    """Compiles the step and runs the loop until the run or the step `end`; returns as `train`."""
    networks, mesh = inputs.networks, inputs.mesh
    frozen = sharding.put_replicated(mesh, inputs.frozen)._replace(core=restored.state.core)
    restored = restored._replace(state=dataclasses.replace(restored.state, core={}))
    transfers = run_folder.read_record(workdir).transfers
    program = compile_program(
        config,
        networks,
        restored.state,
        frozen,
        mesh,
        photos=inputs.shapes,
        optimizer_start=transfers[-1].step if transfers else 0,
    )
    _LOGGER.info("%s", program.compilation.summary())
    photos = batches.batches(config, inputs.photos, mesh, restored.step)
    if deadline is not None:
        config = limits.shortened(config, restored.seconds, deadline - time.monotonic())
    with (
        Interrupt() as interrupt,
        Reporter(
            workdir,
            config.train,
            start=restored.step,
            seconds=restored.seconds,
            writes=distributed.is_first(),
        ) as reporter,
        # Whatever the loop sends to a device is sent explicitly.
        jax.transfer_guard_host_to_device("disallow"),
    ):
        stopped_by = run_steps(
            limits.until(config, end),
            program,
            restored,
            frozen,
            photos=photos,
            saved=saved,
            reporter=reporter,
            interrupt=interrupt,
            stopping=coordination.Stopping(mesh, IN_FLIGHT),
        )
        return stopped_by or interrupt.exit_code


def run_steps(
    config: ConfigDict,
    program: Program,
    restored: checkpoints.Restored,
    frozen: Frozen,
    *,
    photos: Iterator[Batch | Resident],
    saved: checkpoints.Checkpoints,
    reporter: Reporter,
    interrupt: Interrupt,
    stopping: coordination.Stopping,
) -> int:
    """Steps until the run is done or interrupted; always saves the last state.

    Returns:
      128 plus the number of the signal that ended it, in any of the processes; 0 without one.

    Raises:
      DataError: a photo cannot be read any more; a single process has saved the last state.
    """
    state, step = restored.state, restored.step
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
            raise DataError(f"{error}; put it right, {advice}") from error
        state, totals = program.step(state, totals, batch, frozen)
        step += 1
        reporter.step_done()
        in_flight.append(totals.steps)
        if len(in_flight) > IN_FLIGHT:
            in_flight.popleft().block_until_ready()

        # The clock is that of the process that writes the log.
        time_is_up = distributed.is_first() and limits.out_of_time(config, reporter.seconds())
        stop = stopping.decide(interrupt.exit_code or (_TIME_IS_UP if time_is_up else 0))
        done = limits.out_of_steps(config, step) or stop != 0

        logged = step % config.train.log_every == 0
        due = logged and saved.is_due()
        checkpoint = done or due or step % config.train.checkpoint_every == 0
        if checkpoint or logged:
            intervals.end(step, totals)
            totals = program.fresh_totals()
        if checkpoint:
            intervals.save(step, state)
        # At the end too, however short the training was; but not while a signal waits.
        at_end = done and stop in (0, _TIME_IS_UP)
        if config.train.picture_every and (at_end or step % config.train.picture_every == 0):
            reporter.picture(step, program.preview(state, batch, frozen))
    saved.wait()  # while signals are still held back
    return 0 if stop == _TIME_IS_UP else stop


def _advice(workdir: Path) -> str:
    """Advice for a run that ended too early."""
    step = run_folder.newest_step(workdir)
    if step is None:
        return "no checkpoint was saved yet; rerun the command for every process to start again"
    folder = (workdir / run_folder.CHECKPOINTS / str(step)).absolute()
    then = "rerun the command for every process to continue from it"
    return f"the last good checkpoint is {folder}; {then}"
