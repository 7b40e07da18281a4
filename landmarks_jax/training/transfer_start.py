"""Runs that begin from transfer files: found, checked, recorded, and their first checkpoint."""

import logging
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np
from ml_collections import ConfigDict

from landmarks_jax import config as configuration
from landmarks_jax.objective import Networks
from landmarks_jax.system.errors import WorkdirError
from landmarks_jax.tasks import task_of
from landmarks_jax.training import (
    checkpoints,
    distributed,
    run_folder,
    sharding,
    targets,
    transfer_files,
)
from landmarks_jax.training import state as states
from landmarks_jax.training.record import Transfer
from landmarks_jax.training.state import by_name
from landmarks_jax.training.transfer_files import MANIFEST, Bundle, networks_of, read

# What may differ from the run before, besides what a resumed run may change: photos decoded on one
# machine may be prepared on another, another device has another precision, and another time
# another length. Of `targets.steps` only later ones may.
_FREE_FIELDS = (
    "data.source",
    "compute_dtype",
    "optimizer.cosine_steps",
    "optimizer.drop_steps",
    "targets.steps",
)
# Of all fields that may change those that bear on the result, which notes name.
_NOTED = (
    "train.steps",
    "train.minutes",
    "compute_dtype",
    "optimizer.cosine_steps",
    "optimizer.drop_steps",
    "targets.steps",
)
_LOGGER = logging.getLogger(__name__)


def find(workdir: Path, path: Path | None) -> Bundle | None:
    """Reads the transfer files that a run begins from; None without a path or with checkpoints.

    Raises:
      WorkdirError: they are missing or damaged, or the run began from some and has no checkpoint.
    """
    step = run_folder.newest_step(workdir)
    if step is not None:
        unused = "" if path is None else f"; the transfer files {path} are not used"
        _LOGGER.info("continuing from the checkpoint of step %d in %s%s", step, workdir, unused)
        return None
    if path is not None:
        return read(path)
    if run_folder.is_run(workdir) and run_folder.read_record(workdir).transfers:
        raise WorkdirError(
            f"{workdir}: began from transfer files and has no checkpoint; name them again with "
            "--transfer, or use another --workdir"
        )
    return None


def check_config(bundle: Bundle, config: ConfigDict) -> None:
    """Rejects a configuration that differs from that of the run in more than a transfer may change.

    Raises:
      WorkdirError: naming the field.
    """
    for field, before, now in configuration.differences(bundle.config, config):
        past = field == "targets.steps" and _until(before, bundle.step) != _until(now, bundle.step)
        if field not in _FREE_FIELDS or past:
            raise WorkdirError(
                f"{bundle.path / MANIFEST}: the run had config.{field} = {before!r}, not {now!r}; "
                "use its value, or train from scratch without --transfer"
            )


def check(bundle: Bundle, config: ConfigDict, networks: Networks, weights_digest: str) -> None:
    """Rejects transfer files of another run than the configuration describes.

    Raises:
      WorkdirError: naming the field or the array.
    """
    check_config(bundle, config)
    manifest = bundle.path / MANIFEST
    if bundle.record.weights_digest != weights_digest:
        raise WorkdirError(f"{manifest}: {run_folder.OTHER_WEIGHTS}")
    expected = by_name(networks_of(states.abstract_state(config, networks, sharding.make_mesh())))
    for name, leaf in expected.items():
        if name not in bundle.arrays:
            raise WorkdirError(f"{manifest}: {name} is missing")
        array = bundle.arrays[name]
        if array.shape != leaf.shape:
            raise WorkdirError(f"{manifest}: {name} has shape {array.shape}, expected {leaf.shape}")
        if array.dtype.kind != "f" or not np.isfinite(array).all():
            raise WorkdirError(f"{manifest}: {name} is not of finite floating-point numbers")


def _until(steps: Sequence[int], last: int) -> list[int]:
    return [step for step in steps if step <= last]


def transfers_of(bundle: Bundle, config: ConfigDict, data_digest: str) -> list[Transfer]:
    """The transfers of a run that begins from these files: the earlier ones, and this one."""
    changes = [
        f"config.{field} from {before!r} to {now!r}"
        for field, before, now in configuration.changes(bundle.config, config)
        if field in _NOTED
    ]
    made = carried_targets(bundle, config, data_digest) is not None
    last = Transfer(
        bundle.step,
        bundle.seconds,
        warmup_steps=states.new_optimizer_warmup_steps(config) if bundle.step else 0,
        other_photos=bundle.record.data_digest != data_digest,
        new_targets=_targets_step(bundle, config) < bundle.step and not made,
        changes=changes,
    )
    return [*bundle.record.transfers, last]


def _targets_step(bundle: Bundle, config: ConfigDict) -> int:
    """The step at which the targets of a run's last step were made; its own without targets."""
    if not task_of(config).MAKES_TARGETS:
        return bundle.step
    return targets.made_at(config, bundle.record.transfers, bundle.step)


def carried_targets(
    bundle: Bundle, config: ConfigDict, data_digest: str
) -> dict[str, np.ndarray] | None:
    """The targets of a run's last step, as `targets.write_arrays` takes them.

    None where the files have none, or of other photos.
    """
    prefix = transfer_files.targets_prefix(_targets_step(bundle, config))
    found = {k.removeprefix(prefix): v for k, v in bundle.arrays.items() if k.startswith(prefix)}
    if not found or bundle.record.data_digest != data_digest:
        return None
    pieces = [found.pop(part) for part in sorted(found) if part.startswith("points-")]
    return {"points": np.concatenate(pieces), **found}


def begin(
    bundle: Bundle,
    config: ConfigDict,
    networks: Networks,
    *,
    names: Sequence[str],
    workdir: Path,
    saved: checkpoints.Checkpoints,
) -> None:
    """Writes the first checkpoint of a run, its log and its targets from checked transfer files.

    The run's folder must be claimed before. `names` are those of the photos.
    """
    record = run_folder.read_record(workdir)
    transfer = record.transfers[-1]
    _LOGGER.info("from the transfer files %s: %s", bundle.path, transfer.note())
    made = carried_targets(bundle, config, record.data_digest)
    if made is not None:
        path = targets.path_at(workdir, _targets_step(bundle, config))
        targets.write_arrays(path, names, **made)
    mesh = sharding.make_mesh()
    like = networks_of(states.abstract_state(config, networks, mesh))
    leaves = [np.asarray(bundle.arrays[name], leaf.dtype) for name, leaf in by_name(like).items()]
    trees = jax.tree.unflatten(jax.tree.structure(like), leaves)
    if distributed.is_first():
        row = {"step": bundle.step, "seconds": round(bundle.seconds, 3)}
        run_folder.write_log(workdir, [*bundle.log, {**row, "transfer": transfer._asdict()}])
    state = states.state_with_new_optimizer(config, trees, bundle.step, mesh)
    saved.save(bundle.step, state, bundle.seconds)
    saved.wait()
