"""Starts a run from scratch or from a core, the detector of another run.

Everything but the head comes from the core; the head is new, for the run's number of landmarks.
`finetune` trains all weights; `adapt` freezes the 3 x 3 kernels and trains projections of them
(paper, IV-A; see `adaptation`). From scratch, a detector that reads VGG's features gets VGG's
weights. Core and VGG are read once, when a run begins; afterwards they are in the run's
checkpoints.
"""

import dataclasses
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from landmarks_jax.models import adaptation, detectors
from landmarks_jax.system.errors import ConfigError, UserError, WorkdirError
from landmarks_jax.system.files import sha256_of_arrays
from landmarks_jax.tasks import task_of
from landmarks_jax.training import checkpoints, run_folder, sharding
from landmarks_jax.training.state import TrainState, by_name, trained_variables
from landmarks_jax.training.transfer_files import Bundle
from landmarks_jax.weights import published_networks, vgg_weights

_HEAD = "head"
_LOGGER = logging.getLogger(__name__)


class Core(NamedTuple):
    """A pretrained detector.

    Attributes:
      variables: `{"params", "batch_stats"}` of the plain detector, NumPy.
      source: description of where it was read from, for the record.
      features: what the record says of the features that it reads, {} if it reads none.
    """

    variables: dict[str, Any]
    source: str
    features: Mapping[str, str]


class Start(NamedTuple):
    """How a run starts.

    Attributes:
      core: the pretrained detector; None from scratch, or if the run has begun already.
      record: plain JSON for the run's record: `mode`, with a core `core`, `source`, `sha256`, and
        if the detector reads VGG's features `features`, `features_sha256`. Mode `converted` stands
        for networks that `import_published` read.
      features: VGG's weights, for a detector that reads its features from scratch; else None.
    """

    core: Core | None
    record: dict[str, str]
    features: vgg_weights.VggWeights | None = None

    def notes(self) -> list[str]:
        """Notes for the run's tables; none if it started from scratch without VGG's features."""
        record, notes = self.record, []
        if record["mode"] == "converted":
            notes.append("continued from published networks, converted from PyTorch")
        elif record["mode"] != "scratch":
            how = {"finetune": "fine-tuned", "adapt": "adapted by projections"}[record["mode"]]
            core, source, sha256 = (record[name] for name in ("core", "source", "sha256"))
            notes.append(f"{how} from the detector of {core} ({source}; SHA-256 {sha256[:16]})")
        if "features" in record:
            features, sha256 = record["features"], record["features_sha256"]
            notes.append(f"not in the paper: the detector reads {features} (SHA-256 {sha256[:16]})")
        return notes


def find(config: ConfigDict, workdir: Path, bundle: Bundle | None) -> Start:
    """Finds how a run starts or started; reads the core of a run that has not begun.

    Args:
      config: the configuration.
      workdir: the run's folder.
      bundle: the transfer files that the run begins from, if any.

    Raises:
      ConfigError: the core cannot be used, or is not the one that the run began from.
      WeightsError: VGG's weights cannot be used.
      WorkdirError: the folder holds converted networks, which have no training to resume.
    """
    if bundle is not None:
        return Start(None, dict(bundle.record.init))
    begun = run_folder.is_run(workdir)
    earlier = dict(run_folder.read_record(workdir).init) if begun else None
    if earlier is not None and run_folder.newest_step(workdir) is not None:
        if earlier["mode"] == "converted":
            raise WorkdirError(
                f"{workdir}: holds converted networks, no training to resume; start a new run "
                f"from their detector: --config.init.mode=finetune --config.init.core={workdir}"
            )
        return Start(None, earlier)
    start = _from_scratch(config) if config.init.mode == "scratch" else _from_core(config)
    for field, digest in (("core", "sha256"), ("features", "features_sha256")):
        if earlier is not None and earlier.get(digest) != start.record.get(digest):
            raise ConfigError(
                f"config.init.{field} = {config.init[field]!r}: is not what {workdir} was started "
                "with; use another --workdir"
            )
    return start


def _from_scratch(config: ConfigDict) -> Start:
    if not config.init.features:
        return Start(None, {"mode": "scratch"})
    model = config.model
    features = vgg_weights.load_vgg(
        config.init.features,
        model.features_network,
        (model.features_tap,),
        normalize=True,
        fields=vgg_weights.DETECTOR,
    )
    name = f"{features.name} at {model.features_tap}"
    record = {"mode": "scratch", "features": name, "features_sha256": features.digest()}
    return Start(None, record, features)


def _from_core(config: ConfigDict) -> Start:
    core = _read(config)
    record = {
        "mode": config.init.mode,
        "core": config.init.core,
        "source": core.source,
        "sha256": _digest(core),
        **core.features,
    }
    return Start(core, record)


def _field(config: ConfigDict) -> str:
    return f"config.init.core = {config.init.core!r}"


def _read(config: ConfigDict) -> Core:
    """The detector of another run's newest checkpoint, or of a published file."""
    path, field = Path(config.init.core), _field(config)
    try:
        if path.is_file():
            network = published_networks.read_detector(path)
            _check_sizes(config, {"detector": detectors.DEFAULT, **network.sizes})
            return Core(network.variables, "a published PyTorch file", {})
        if not run_folder.is_run(path):
            raise ConfigError(
                "no run and no file there; name the folder of a run of configs/mpii_pretrain.py "
                "or a published PyTorch file"
            )
        other = run_folder.read_config(path)
        _check_sizes(config, other.model)
        restored = checkpoints.restore(path, other)
    except UserError as error:
        raise ConfigError(f"{field}: {error}") from error
    begun = run_folder.read_record(path).init
    return Core(
        jax.device_get(trained_variables(restored.state)),
        f"step {restored.step:,}, trained for {other.objective.task}",
        {name: begun[name] for name in ("features", "features_sha256") if name in begun},
    )


def _check_sizes(config: ConfigDict, sizes: Mapping[str, Any]) -> None:
    for name in ("detector", *detectors.module_of(config).SIZES):
        if sizes[name] != config.model[name]:
            raise ConfigError(
                f"its detector has {name} {sizes[name]} and config.model.{name} is "
                f"{config.model[name]}; they must be the same"
            )


def _digest(core: Core) -> str:
    return sha256_of_arrays(by_name(core.variables))


def begin(start: Start, config: ConfigDict, state: TrainState, mesh: Mesh) -> TrainState:
    """The first state of a run.

    Args:
      start: the result of `find`.
      config: the configuration.
      state: the initialised state; with a core its head and the other networks are kept.
      mesh: the devices.
    """
    if start.core is None:
        task, note = task_of(config), ""
        if not (task.MAKES_TARGETS or task.ON_JOINTS):  # the paper's own task
            note = "; the paper starts from a human pose core, see docs/pretraining.md"
        _LOGGER.info("starting from scratch%s", note)
        if start.features is None:
            return state
        _LOGGER.info("%s", start.notes()[0])
        vgg = start.features
        loaded = {detectors.FEATURES: {"mean": vgg.mean, "std": vgg.std, "vgg": vgg.params}}
        core = jax.tree.map(lambda zero, leaf: np.asarray(leaf, zero.dtype), state.core, loaded)
        return dataclasses.replace(state, core=sharding.put_replicated(mesh, core))
    params, frozen = detectors.split_frozen(config, start.core.variables["params"])
    if config.init.mode == "adapt":
        params, kernels = adaptation.split(params)
        frozen |= kernels

    def from_core(drawn: Any, loaded: Any) -> Any:
        """The loaded leaves, with the head, structure and types of the drawn ones."""
        old, new = flax.traverse_util.flatten_dict(drawn), flax.traverse_util.flatten_dict(loaded)
        leaves = {
            path: leaf if path[0] == _HEAD else np.asarray(new[path], leaf.dtype)
            for path, leaf in old.items()
        }
        return sharding.put_replicated(mesh, flax.traverse_util.unflatten_dict(leaves))

    stats = start.core.variables["batch_stats"]
    params = {**state.params, "detector": from_core(state.params["detector"], params)}
    state = dataclasses.replace(
        state,
        params=params,
        batch_stats={
            **state.batch_stats,
            "detector": from_core(state.batch_stats["detector"], stats),
        },
        averaged=jax.tree.map(jnp.copy, params) if state.averaged else {},
        core=from_core(state.core, frozen),
    )
    counts = (adaptation.num_weights(tree) for tree in (params["detector"], state.core))
    _LOGGER.info("%s; of the detector's weights %s", start.notes()[0], _counted(*counts))
    return state


def _counted(training: int, frozen: int) -> str:
    return f"{training:,} train" + (f" and {frozen:,} are frozen" if frozen else "")
