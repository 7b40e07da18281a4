"""The newest checkpoint of a run, onto one device: for evaluation, for export, for other runs."""

from pathlib import Path

import jax
from ml_collections import ConfigDict

from landmarks_jax.system.errors import WorkdirError
from landmarks_jax.tasks import task_of
from landmarks_jax.training import checkpoints, sharding
from landmarks_jax.training import state as states


def restore(workdir: Path, config: ConfigDict) -> checkpoints.Restored:
    """Reads a run's newest checkpoint, onto one device.

    Raises:
      WorkdirError: there is no checkpoint, or it is damaged.
    """
    mesh = sharding.make_mesh(jax.local_devices()[:1])
    missing = WorkdirError(f"{workdir}: has no checkpoint yet; train it first")
    if not (workdir / checkpoints.FOLDER).is_dir():
        raise missing
    with checkpoints.Checkpoints(workdir, read_only=True) as saved:
        networks = task_of(config).build_networks(config)
        restored = saved.restore(states.abstract_state(config, networks, mesh))
    if restored is None:
        raise missing
    return restored
