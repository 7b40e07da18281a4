"""Reads and checks the inputs of a run: networks, weights, photos, starting point."""

import logging
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from landmarks_jax import config as configuration
from landmarks_jax.data import loader
from landmarks_jax.objective import Networks
from landmarks_jax.system.errors import ConfigError
from landmarks_jax.tasks import task_of
from landmarks_jax.tasks.task import Frozen
from landmarks_jax.training import (
    batches,
    coordination,
    init_from,
    run_folder,
    sharding,
    start_points,
    transfer_files,
    transfer_start,
)
from landmarks_jax.training.batches import Batch, Resident
from landmarks_jax.training.record import Record
from landmarks_jax.training.refiner import Refiner
from landmarks_jax.weights import vgg_weights

_LOGGER = logging.getLogger(__name__)


class Inputs(NamedTuple):
    """Checked inputs of a run.

    Attributes:
      config: the configuration.
      workdir: the run's folder.
      networks: the modules.
      frozen: the arrays that steps do not change, on the host.
      weights: VGG of the perceptual loss as read from its file, None without; refinement's are
        the refiner's.
      photos: the training photos.
      shapes: the shapes of the photos on the devices.
      mesh: the devices.
      start: how the run begins, or began.
      bundle: the transfer files that it begins from, or None.
      refiner: makes the targets of self-training; None for other tasks.
    """

    config: ConfigDict
    workdir: Path
    networks: Networks
    frozen: Frozen
    weights: vgg_weights.VggWeights | None
    photos: loader.Loader
    shapes: Batch | Resident
    mesh: Mesh
    start: init_from.Start
    bundle: transfer_files.Bundle | None
    refiner: Refiner | None

    @property
    def weights_digest(self) -> str:
        """Fingerprint of VGG's weights, "" without any."""
        return _digest_of(self.weights, self.refiner)


def read_inputs(config: ConfigDict, workdir: Path, transfer_from: Path | None) -> Inputs:
    """Reads and checks all inputs, before anything is written or compiled."""
    configuration.validate(config)
    coordination.check_devices()
    configuration.check_devices(config, jax.device_count())
    task = task_of(config)
    networks = task.build_networks(config)
    run_folder.check_config(workdir, config)
    bundle = transfer_start.find(workdir, transfer_from)
    start = init_from.find(config, workdir, bundle)
    frozen, weights = load_frozen(config, networks)
    refiner = None
    if task.MAKES_TARGETS:
        if jax.process_count() > 1:
            raise ConfigError("self-training runs in one process: start it without --multihost")
        start_points.first(config)  # raises what would be raised after the features
        _warn_of_rounds(config)
        refiner = Refiner(config)
    if bundle is not None:
        transfer_start.check(bundle, config, networks, _digest_of(weights, refiner))
    photos = loader.open_loader(config)
    _LOGGER.info("%s; %s", photos.summary, task.describe(config))
    if len(photos) < config.train.batch_size:
        raise ConfigError(
            f"config.train.batch_size = {config.train.batch_size}: must be at most the number "
            f"of photos; there are {len(photos)} ({photos.summary})"
        )
    if task.NUM_POINTS not in (None, photos.num_points):
        raise ConfigError(
            f"config.objective.task = {config.objective.task!r} needs photos with "
            f"{task.NUM_POINTS} points; these have {photos.num_points} ({photos.summary})"
        )
    mesh = sharding.make_mesh()
    shapes = batches.shapes(config, photos, mesh)
    return Inputs(
        config, workdir, networks, frozen, weights, photos, shapes, mesh, start, bundle, refiner
    )


def _warn_of_rounds(config: ConfigDict) -> None:
    steps = config.train.steps
    late = [step for step in config.targets.steps if steps and step >= steps]
    if late:
        _LOGGER.warning(
            "warning: config.targets.steps = %s: no targets are made at step %s, as training ends "
            "at config.train.steps = %d",
            tuple(config.targets.steps),
            ", ".join(map(str, late)),
            steps,
        )


def _digest_of(weights: vgg_weights.VggWeights | None, refiner: Refiner | None) -> str:
    """Fingerprint of the weights of the perceptual loss and of refinement, "" without any."""
    read = (weights, refiner.weights if refiner else None)
    return " ".join(found.digest() for found in read if found)


def record_of(inputs: Inputs) -> Record:
    """The record of a run with these inputs."""
    config, bundle, digest = inputs.config, inputs.bundle, inputs.photos.digest
    weights_notes = inputs.weights.notes() if inputs.weights else ()
    muon = config.optimizer.muon_rate
    optimizer_notes = [f"trained by Muon at a rate of {muon:g} (not in the paper)"] if muon else []
    return Record(
        digest,
        inputs.weights_digest,
        init=inputs.start.record,
        notes=[*weights_notes, *optimizer_notes, *inputs.start.notes()],
        hardware=[*(bundle.record.hardware if bundle else ()), sharding.hardware()],
        transfers=transfer_start.transfers_of(bundle, config, digest) if bundle else (),
    )


def load_frozen(
    config: ConfigDict, networks: Networks
) -> tuple[Frozen, vgg_weights.VggWeights | None]:
    """Reads the perceptual network, if any, and makes the run's random key.

    Returns:
      The arrays that steps do not change, and the weights as read from their file, or None.
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
