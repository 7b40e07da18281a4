"""Imports published PyTorch files as a run, whose checkpoint can be scored or exported."""

from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from landmarks_jax import config as configuration
from landmarks_jax.configs import base
from landmarks_jax.models import detectors
from landmarks_jax.system import files
from landmarks_jax.system.errors import WeightsError, WorkdirError
from landmarks_jax.tasks import task_of
from landmarks_jax.training import checkpoints, run_folder, sharding
from landmarks_jax.training import state as states
from landmarks_jax.weights import published_networks


def import_run(
    workdir: Path,
    config: ConfigDict,
    *,
    detector: Path,
    generator: Path | None = None,
    core: Path | None = None,
) -> ConfigDict:
    """Writes the folder of a run from published files: configuration, record, one checkpoint.

    Args:
      workdir: the folder to create.
      config: how the networks were trained, as far as known; its sizes are replaced by the files'.
      detector: the detector's file.
      generator: the generator's file. Without one the generator is initialised at random, as for
        a new run; only further training uses it.
      core: the file of an adapted detector's frozen weights.

    Returns:
      The configuration with the sizes of the files.

    Raises:
      UserError: a file cannot be used, the files do not belong together, or the folder holds a run.
    """
    if run_folder.newest_step(workdir) is not None:
        raise WorkdirError(f"--workdir {workdir}: holds a run already; name a new folder")
    read = {"detector": published_networks.read_detector(detector, core)}
    if generator is not None:
        read["generator"] = published_networks.read_generator(generator)
    config = _sized(config, read)
    configuration.validate(config)
    record = run_folder.Record(
        "", "", init={"mode": "converted"}, notes=_notes(detector, generator, core)
    )
    with run_folder.locked(workdir):
        run_folder.claim(workdir, config, record)
        state = _state(config, {name: network.variables for name, network in read.items()})
        with checkpoints.Checkpoints(workdir, config) as saved:
            saved.save(0, state, 0.0)
    return config


def _sized(config: ConfigDict, read: dict[str, published_networks.Network]) -> ConfigDict:
    counts = {name: network.sizes["num_landmarks"] for name, network in read.items()}
    if len(set(counts.values())) > 1:
        raise WeightsError(
            f"the detector finds {counts['detector']} landmarks and the generator takes "
            f"{counts['generator']}: they come from different runs"
        )
    # The weights read make a plain detector that starts from no other.
    fields: dict[str, Any] = {"model.detector": detectors.DEFAULT, "init": base.get_config().init}
    for name in ("features_network", "features_tap"):
        fields[f"model.{name}"] = base.get_config().model[name]
    for network in read.values():
        fields |= {f"model.{name}": size for name, size in network.sizes.items()}
    return configuration.with_fields(config, fields)


def _notes(detector: Path, generator: Path | None, core: Path | None) -> list[str]:
    parts = [f"the detector from {_named(detector)}"]
    if core is not None:
        parts.append(f"its projections multiplied into the core {_named(core)}")
    if generator is not None:
        parts.append(f"the generator from {_named(generator)}")
    notes = [
        f"converted from PyTorch, not trained here: {', '.join(parts)}; the files do not say "
        "how, or how long, they were trained"
    ]
    if generator is None:
        notes.append("no generator was converted: the checkpoint's is untrained")
    return notes


def _named(path: Path) -> str:
    return f"{path.name} (SHA-256 {files.sha256_of(path, WeightsError)[:16]})"


def _state(config: ConfigDict, networks: dict[str, Any]) -> states.TrainState:
    """The state at step 0 with these networks and a new optimiser."""
    modules = task_of(config).build_networks(config)
    mesh = sharding.make_mesh(jax.local_devices()[:1])
    like = states.abstract_state(config, modules, mesh)
    if "generator" not in networks and modules.generator is not None:
        drawn = states.start_state(config, modules, mesh)
        parts = ("params", "batch_stats")
        networks["generator"] = {part: getattr(drawn, part)["generator"] for part in parts}

    def cast(part: str) -> dict[str, Any]:
        leaves = getattr(like, part)
        values = {name: networks[name][part] for name in leaves}
        return jax.tree.map(lambda leaf, value: np.asarray(value, leaf.dtype), leaves, values)

    trained = {
        "params": cast("params"),
        "batch_stats": cast("batch_stats"),
        "averaged": cast("params") if like.averaged else {},
        "tap_means": {tap: np.zeros((), leaf.dtype) for tap, leaf in like.tap_means.items()},
        "core": {},
    }
    return states.state_with_new_optimizer(config, trained, 0, mesh)
