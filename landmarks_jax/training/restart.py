"""The start of a run from a handover: the networks of another run, a fresh optimiser, a warm-up.

A restart is not a resume, whose result would be that of a run without the break. It is said in the
log, in the run's metrics and record, and under every table of the run.
"""

import json
import logging
from pathlib import Path

import jax
import numpy as np
from ml_collections import ConfigDict

from landmarks_jax import config as configuration
from landmarks_jax.objective import Networks
from landmarks_jax.system.errors import WorkdirError
from landmarks_jax.training import checkpoints, distributed, reports, run_transfer, sharding
from landmarks_jax.training import state as states
from landmarks_jax.training.checkpoints import Restart
from landmarks_jax.training.run_transfer import Handover

# Besides what may differ on resuming: photos may be decoded here and prepared there.
_FREE = ("data.source",)

_LOGGER = logging.getLogger(__name__)


def find(workdir: Path, path: Path | None) -> Handover | None:
    """The handover that a run starts from; None where it has checkpoints, or none is named.

    Raises:
      WorkdirError: it is missing or damaged, or the run began from one and has lost it.
    """
    step = checkpoints.newest(workdir)
    if step is not None:
        unused = "" if path is None else f"; the handover {path} is not used"
        _LOGGER.info("going on from the checkpoint of step %d in %s%s", step, workdir, unused)
        return None
    if path is not None:
        return run_transfer.read(path)
    if checkpoints.read_restarts(workdir):
        raise WorkdirError(
            f"{workdir}: began from a handover and has no checkpoint; name it again with "
            "--handover, or use another --workdir"
        )
    return None


def check(handed: Handover, config: ConfigDict, networks: Networks, weights_digest: str) -> None:
    """Refuses a handover of another run than the configuration describes.

    Raises:
      WorkdirError: naming the field or the array.
    """
    where = handed.path / run_transfer.MANIFEST
    for field, before, now in configuration.differences(handed.config, config):
        if field not in _FREE:
            raise WorkdirError(
                f"{where}: the run had config.{field} = {before!r}, asked for is {now!r}; "
                "use its value, or train from scratch without --handover"
            )
    if handed.run.get("weights_digest") != weights_digest:
        raise WorkdirError(
            f"{where}: the run used other weights than config.perceptual.weights = "
            f"{config.perceptual.weights!r} gives; name its own"
        )
    mesh = sharding.make_mesh()
    wanted = run_transfer.by_name(
        run_transfer.networks_of(states.abstract_state(config, networks, mesh))
    )
    if missing := sorted(wanted.keys() - handed.arrays.keys()):
        raise WorkdirError(f"{where}: {missing[0]} is missing")
    for name, leaf in wanted.items():
        found = handed.arrays[name].shape
        if found != leaf.shape:
            raise WorkdirError(f"{where}: {name} has the shape {found}, wanted is {leaf.shape}")


def restarts(handed: Handover, config: ConfigDict, data_digest: str) -> list[Restart]:
    """The restarts of a run that starts from a handover: those before, and this one."""
    before = checkpoints.restarts_of(handed.run, handed.path / run_transfer.MANIFEST)
    other_photos = handed.run.get("data_digest") != data_digest
    warmup_steps = states.restart_warmup_steps(config)
    return [*before, Restart(handed.step, handed.seconds, warmup_steps, other_photos)]


def begin(
    handed: Handover,
    config: ConfigDict,
    networks: Networks,
    *,
    workdir: Path,
    saved: checkpoints.Checkpoints,
) -> None:
    """Makes a handover the first checkpoint of a run, whose metrics go on after its own.

    Call it once `check` has passed and the run's folder is claimed.
    """
    restart = checkpoints.read_restarts(workdir)[-1]
    _LOGGER.info("from the handover %s: %s", handed.path, restart.note())
    mesh = sharding.make_mesh()
    like = run_transfer.networks_of(states.abstract_state(config, networks, mesh))
    names = run_transfer.by_name(like)
    leaves = [np.asarray(handed.arrays[name], leaf.dtype) for name, leaf in names.items()]
    trees = jax.tree.unflatten(jax.tree.structure(like), leaves)
    event = {"step": handed.step, "seconds": round(handed.seconds, 3), "restart": restart._asdict()}
    if distributed.is_first():
        (workdir / reports.METRICS_FILE).write_text(handed.metrics + json.dumps(event) + "\n")
    state = states.restarted_state(config, trees, handed.step, mesh)
    saved.save(handed.step, state, handed.seconds)
    saved.wait()
