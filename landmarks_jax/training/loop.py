"""The training loop: wiring only. What a step computes is in `step`, what is told in `reports`."""

import dataclasses
import functools
import logging
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path

import jax
import ml_collections
import numpy as np

from landmarks_jax import config as configuration
from landmarks_jax.data import loader as feeds
from landmarks_jax.objective import Networks
from landmarks_jax.system.errors import ConfigError
from landmarks_jax.system.signals import Interrupt
from landmarks_jax.tasks import task_of
from landmarks_jax.tasks.task import Frozen
from landmarks_jax.training import (
    batches,
    checkpoints,
    coordination,
    distributed,
    init_from,
    restart,
    sharding,
)
from landmarks_jax.training import state as states
from landmarks_jax.training.batches import Batch, Resident
from landmarks_jax.training.program import Program, compile_program
from landmarks_jax.training.reports import Interval, Reporter
from landmarks_jax.weights import vgg_weights

_LOGGER = logging.getLogger(__name__)

# Steps that may be under way on the device while the host goes on.
IN_FLIGHT = 2

# A wish to stop, beside the numbers of the signals remembered, which are larger.
_TIME_IS_UP = 1


def load_frozen(
    config: ml_collections.ConfigDict, networks: Networks
) -> tuple[Frozen, vgg_weights.VggWeights | None]:
    """Reads the perceptual network, if any, and starts the run's random key.

    Returns:
      What steps read, and the weights as their file gave them.
    """
    key = jax.random.key(config.seed)
    if networks.vgg is None:
        return Frozen(key, {}, np.zeros(3, np.float32), np.ones(3, np.float32)), None
    read = vgg_weights.load_vgg(
        config.perceptual.weights,
        networks.vgg.network,
        networks.vgg.taps,
        normalize=config.perceptual.normalize,
    )
    return Frozen(key, read.params, read.mean, read.std), read


def train(
    config: ml_collections.ConfigDict,
    workdir: Path,
    *,
    handover: Path | None = None,
    deadline: float | None = None,
) -> int:
    """Trains a run, or goes on with it, until its steps or minutes are spent.

    Args:
      config: the configuration.
      workdir: the run's folder, made if need be.
      handover: what another run left behind, to start from where the folder has no checkpoint.
      deadline: of `time.monotonic()`; this sitting ends there at the latest, after a step at least.

    Returns:
      0, or 128 plus the number of the signal that stopped it (after saving).

    Raises:
      UserError: something a user can act on; nothing slow has started, or the last checkpoint is
        named.
    """
    with coordination.together():
        configuration.validate(config)
        coordination.check_devices()
        configuration.check_devices(config, jax.device_count())
        task = task_of(config)
        networks = task.build_networks(config)
        checkpoints.check_config(workdir, config)
        handed = restart.find(workdir, handover)
        start = init_from.find(config, workdir, handed)
        frozen, weights = load_frozen(config, networks)
        weights_digest = weights.digest() if weights else ""
        if handed is not None:
            restart.check(handed, config, networks, weights_digest)
        feed = feeds.open_loader(config)
        _LOGGER.info("%s; %s", feed.summary, task.describe(config))
        if len(feed) < config.train.batch_size:
            raise ConfigError(
                f"config.train.batch_size = {config.train.batch_size}: must be at most the number "
                f"of photos; there are {len(feed)} ({feed.summary})"
            )
        task.check_photos(feed.num_points, feed.summary)
        mesh = sharding.make_mesh()
        shapes = batches.shapes(config, feed, mesh)
    coordination.check_same(
        {
            "the configuration": configuration.to_json(config),
            f"the photos ({feed.summary})": feed.digest,
            f"config.perceptual.weights = {config.perceptual.weights!r}": weights_digest,
            "how the run starts": repr((start.record, handed and handed.step)),
        }
    )
    hardware = sharding.hardware()
    with coordination.together():
        if distributed.is_first():
            checkpoints.claim(
                workdir,
                config,
                data_digest=feed.digest,
                weights_digest=weights_digest,
                start=start.record,
                notes=[*(weights.notes() if weights else ()), *start.notes()],
                hardware=[*(handed.run.get("hardware", ()) if handed else ()), hardware],
                restarts=restart.restarts(handed, config, feed.digest) if handed else None,
            )
    coordination.check_shared(workdir / checkpoints.RUN_FILE)
    frozen = sharding.put_replicated(mesh, frozen)
    advice = functools.partial(_advice, workdir)
    with checkpoints.Checkpoints(workdir) as saved, distributed.watched(advice):
        if handed is not None:
            restart.begin(handed, config, networks, workdir=workdir, saved=saved)
        restored = saved.restore(states.abstract_state(config, networks, mesh))
        if restored is None:
            drawn = states.start_state(config, networks, mesh)
            restored = checkpoints.Restored(init_from.begin(start, config, drawn, mesh), 0, 0.0)
        if is_done(config, restored.step, restored.seconds):
            if distributed.is_first():
                print(f"{workdir}: already trained for {restored.step} steps")
            return 0
        past = checkpoints.read_restarts(workdir)
        last = past[-1].step if past else 0
        frozen = frozen._replace(core=restored.state.core)
        restored = restored._replace(state=dataclasses.replace(restored.state, core={}))
        program = compile_program(
            config, networks, restored.state, frozen, mesh, photos=shapes, restart=last
        )
        _LOGGER.info("%s", program.compilation.summary())
        photos = batches.batches(config, feed, mesh, restored.step)
        if deadline is not None:
            config = shortened(config, restored.seconds, deadline - time.monotonic())
        with (
            Interrupt() as interrupt,
            Reporter(
                workdir,
                start=restored.step,
                steps=config.train.steps,
                minutes=config.train.minutes,
                batch_size=config.train.batch_size,
                seconds=restored.seconds,
                writes=distributed.is_first(),
            ) as reporter,
            # Whatever reaches the device in the loop is sent there explicitly.
            jax.transfer_guard_host_to_device("disallow"),
        ):
            stopped_by = (
                run_steps(
                    config,
                    program,
                    restored,
                    frozen,
                    photos=photos,
                    saved=saved,
                    reporter=reporter,
                    interrupt=interrupt,
                    stopping=coordination.Stopping(mesh, IN_FLIGHT),
                )
                or interrupt.signal
            )
    return 128 + stopped_by if stopped_by else 0


def _advice(workdir: Path) -> str:
    """What to do where a run ended too early."""
    again = "the same command, started again for every process"
    step = checkpoints.newest(workdir)
    if step is None:
        return f"no checkpoint was saved yet; {again}, begins anew"
    folder = workdir / checkpoints.FOLDER / str(step)
    return f"the last good checkpoint is {folder.absolute()}; {again}, goes on from it"


def shortened(
    config: ml_collections.ConfigDict, seconds: float, left: float
) -> ml_collections.ConfigDict:
    """The configuration of a sitting that may train `left` seconds, after `seconds` before it."""
    config = config.copy_and_resolve_references()
    minutes = (seconds + max(left, 1e-3)) / 60  # not 0, which would be no limit
    with config.unlocked():
        config.train.minutes = min(minutes, config.train.minutes or minutes)
    return config


def is_done(config: ml_collections.ConfigDict, step: int, seconds: float) -> bool:
    """Whether the steps or the minutes of a run are spent."""
    return out_of_steps(config, step) or out_of_time(config, seconds)


def out_of_steps(config: ml_collections.ConfigDict, step: int) -> bool:
    """Whether the steps of a run are spent."""
    return bool(config.train.steps) and step >= config.train.steps


def out_of_time(config: ml_collections.ConfigDict, seconds: float) -> bool:
    """Whether the minutes of a run are spent."""
    return bool(config.train.minutes) and seconds >= 60 * config.train.minutes


def run_steps(
    config: ml_collections.ConfigDict,
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
    """Steps until the run is done or interrupted; the last state is always saved.

    Returns:
      The number of the signal that ended it, in whichever process it came; 0 where none did.
    """
    state, step = restored.state, restored.step
    totals = program.fresh_totals()
    pending: Interval | None = None
    under_way: deque[jax.Array] = deque()
    done = False

    def report() -> None:
        """Reads the interval before, so that the device never waits for the host."""
        if pending is not None:
            last = saved.last_step()
            place = "no checkpoint was saved yet"
            if last is not None:
                place = f"the last good checkpoint is {saved.path(last)}"
            reporter.metrics(pending, place)

    while not done:
        with reporter.waiting():
            given = next(photos)
        state, totals = program.step(state, totals, given, frozen)
        step += 1
        reporter.step_done()
        under_way.append(totals.steps)
        if len(under_way) > IN_FLIGHT:
            under_way.popleft().block_until_ready()
        # Time is what the process says that writes it down.
        spent = distributed.is_first() and out_of_time(config, reporter.seconds())
        stop = stopping.decide(interrupt.signal or (_TIME_IS_UP if spent else 0))
        done = out_of_steps(config, step) or stop != 0
        checkpoint = done or step % config.train.checkpoint_every == 0
        if checkpoint or step % config.train.log_every == 0:
            report()
            pending = reporter.interval(step, totals)
            totals = program.fresh_totals()
        if checkpoint:
            # A state is saved only once every loss that led to it is known to be finite.
            report()
            pending = None
            saved.save(step, dataclasses.replace(state, core=frozen.core), reporter.seconds())
        if config.train.picture_every and step % config.train.picture_every == 0:
            reporter.picture(step, program.preview(state, given, frozen))
    saved.wait()  # while signals are still held back
    return 0 if stop == _TIME_IS_UP else stop
