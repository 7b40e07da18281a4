"""Published networks as a run: its folder, with a checkpoint for evaluation and export."""

import functools
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from landmarks_jax import config as configuration
from landmarks_jax.models.generator import Generator
from landmarks_jax.system import files
from landmarks_jax.system.errors import WeightsError, WorkdirError
from landmarks_jax.tasks import task_of
from landmarks_jax.training import checkpoints, sharding
from landmarks_jax.training import state as states
from landmarks_jax.weights import published_networks


def adopt(
    workdir: Path,
    config: ConfigDict,
    *,
    detector: Path,
    generator: Path | None = None,
    core: Path | None = None,
) -> ConfigDict:
    """Writes a run's folder from published files: configuration, record, one checkpoint.

    Args:
      workdir: the folder to make.
      config: the configuration of how the networks were trained, as far as known; its sizes of the
        networks are replaced by those of the files.
      detector: the file of the detector.
      generator: the file of the generator. Without one it is drawn as at the start of a training:
        nothing but more training makes use of it.
      core: the file that an adapted detector's frozen weights are in.

    Returns:
      The configuration with the sizes of the files.

    Raises:
      UserError: a file cannot be used, the files do not fit each other, or the folder holds a run.
    """
    if checkpoints.newest(workdir) is not None:
        raise WorkdirError(f"--workdir {workdir}: holds a run already; name a new folder")
    read = {"detector": published_networks.read_detector(detector, core)}
    if generator is not None:
        read["generator"] = published_networks.read_generator(generator)
    config = _sized(config, read)
    configuration.validate(config)
    notes = _notes(detector, generator, core)
    checkpoints.claim(workdir, config, data_digest="", weights_digest="", notes=notes, hardware=())
    state = _state(config, {name: network.variables for name, network in read.items()})
    with checkpoints.Checkpoints(workdir) as saved:
        saved.save(0, state, 0.0)
    return config


def _sized(config: ConfigDict, read: dict[str, published_networks.Network]) -> ConfigDict:
    """The configuration with the sizes of the networks that were read."""
    config = config.copy_and_resolve_references().unlock()
    found = {name: network.sizes["num_landmarks"] for name, network in read.items()}
    if len(set(found.values())) > 1:
        raise WeightsError(
            f"the detector finds {found['detector']} landmarks and the generator takes "
            f"{found['generator']}: they are of different trainings"
        )
    for network in read.values():
        config.model.update(network.sizes)
    config.init.mode, config.init.core = "scratch", ""  # the detector is plain now
    return config.lock()


def _notes(detector: Path, generator: Path | None, core: Path | None) -> list[str]:
    """What every table of the networks must say."""
    parts = [f"the detector from {_named(detector)}"]
    if core is not None:
        parts.append(f"its projections multiplied into the core {_named(core)}")
    if generator is not None:
        parts.append(f"the generator from {_named(generator)}")
    notes = [
        f"converted from PyTorch, not trained here: {', '.join(parts)}; their training, its length "
        "among it, is not in the files"
    ]
    if generator is None:
        notes.append("no generator was converted: the checkpoint's has seen nothing")
    return notes


def _named(path: Path) -> str:
    return f"{path.name} (SHA-256 {files.sha256_of(path, WeightsError)[:16]})"


def _state(config: ConfigDict, networks: dict[str, Any]) -> states.TrainState:
    """A run's state at step 0 with the networks given, and a fresh optimiser."""
    modules = task_of(config).build_networks(config)
    mesh = sharding.make_mesh(jax.local_devices()[:1])
    like = states.abstract_state(config, modules, mesh)
    if "generator" not in networks and modules.generator is not None:
        networks["generator"] = _drawn(config, modules.generator)

    def of(part: str) -> dict[str, Any]:
        wanted = getattr(like, part)
        values = {name: networks[name][part] for name in wanted}
        return jax.tree.map(lambda leaf, value: np.asarray(value, leaf.dtype), wanted, values)

    kept = {
        "params": of("params"),
        "batch_stats": of("batch_stats"),
        "averaged": of("params") if like.averaged else {},
        "tap_means": {tap: np.zeros((), leaf.dtype) for tap, leaf in like.tap_means.items()},
        "core": {},
    }
    return states.restarted_state(config, kept, 0, mesh)


def _drawn(config: ConfigDict, generator: Generator) -> dict[str, Any]:
    """A generator's variables as at the start of a training."""
    side = config.views.size
    images = np.zeros((1, side, side, 3), np.float32)
    maps = np.zeros((1, side // 4, side // 4, config.model.num_landmarks), np.float32)
    init = jax.jit(functools.partial(generator.init, use_running_average=True))
    return jax.device_get(init(jax.random.key(config.seed), images, maps))
