"""The cells of the paper's tables: each is a training with a few fields of a base changed.

The base is any configuration. A cell that is in two tables is one run; its folder is
`RUNS/CELL-seedN`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from landmarks_jax import config as configuration
from landmarks_jax.evaluation import labelled_faces
from landmarks_jax.studies.runs import Key, Run, read_run
from landmarks_jax.system.errors import ConfigError, WorkdirError
from landmarks_jax.training import limits, run_folder

# Set by every cell, so the base's own values do not matter.
OWN_FIELDS = ("seed", "model.num_landmarks", "objective.composition")
VGG19_WEIGHTS = "data/weights/vgg19.npz"
# VGG-19's last layers of the blocks; the paper does not name its taps.
_VGG19_TAPS = {"relu3_3": "relu3_4", "relu4_3": "relu4_4", "relu5_3": "relu5_4"}
# Results and logs round minutes.
_ROUNDING = 0.005


@dataclass(frozen=True)
class Cell:
    """A training of the tables.

    Attributes:
      name: name in folders and on the command line.
      title: the paper's name.
      composition: one of `objective.COMPOSITIONS`.
      num_landmarks: K.
      loss: `both` terms of Eq. 7, `pixel` (L_R) or `perceptual` (L_P) alone.
      network: network of the perceptual loss.
    """

    name: str
    title: str
    composition: str = "all"
    num_landmarks: int = 10
    loss: str = "both"
    network: str = "vgg16"

    @property
    def compares_networks(self) -> bool:
        """Whether it is about the perceptual loss, so that the base must have one."""
        return self.loss != "both" or self.network != "vgg16"


CELLS = {
    cell.name: cell
    for cell in (
        Cell("baseline-k10", "Baseline", "baseline"),
        Cell("inter-k10", "w. Inter-Subject", "inter"),
        Cell("cycle-k10", "w. Cycle", "cycle"),
        Cell("all-k10", "Ours-All"),
        Cell("all-k30", "Ours-All", num_landmarks=30),
        Cell("all-k50", "Ours-All", num_landmarks=50),
        Cell("vgg19-k10", "VGG-19", network="vgg19"),
        Cell("pixel-only-k10", "L_R only", loss="pixel"),
        Cell("perceptual-only-k10", "L_P only", loss="perceptual"),
    )
}

_FOUR = ("baseline-k10", "inter-k10", "cycle-k10", "all-k10")
TABLES = {
    "1": (*_FOUR, "all-k30", "all-k50"),
    "2": ("all-k10",),
    "3": ("vgg19-k10", "pixel-only-k10", "perceptual-only-k10", "all-k10"),
    "ablation": (*_FOUR, "pixel-only-k10", "perceptual-only-k10"),
}


@dataclass(frozen=True)
class Base:
    """The configuration that the cells change.

    Attributes:
      file: the configuration, as the user named it.
      config: its content, with the user's overrides.
      overrides: values by field, for command lines.
      vgg19: the weights file of VGG-19; the base's own is VGG-16's.
    """

    file: str
    config: ConfigDict
    overrides: Mapping[str, Any]
    vgg19: str = VGG19_WEIGHTS

    def __post_init__(self) -> None:
        for field in OWN_FIELDS:
            if field in self.overrides:
                raise ConfigError(
                    f"--config.{field}: set by the cells; leave it out (--seeds, --cells)"
                )
        if (task := self.config.objective.task) != "landmarks":
            raise ConfigError(
                f"config.objective.task = {task!r}: the tables' cells train on landmarks; "
                "configs/mpii_pretrain.py is trained by `landmarks-jax train`"
            )
        if (network := self.config.perceptual.network) != "vgg16":
            raise ConfigError(
                f"config.perceptual.network = {network!r}: must be 'vgg16' in a base; the cell "
                "vgg19-k10 has the other one"
            )


def cells_of(tables: Sequence[str], names: Sequence[str]) -> list[Cell]:
    """The cells of tables, then those of a list of names, each once.

    Raises:
      ConfigError: there is no such table or cell.
    """
    chosen: list[str] = []
    for table in tables:
        if table not in TABLES:
            raise ConfigError(f"--table {table}: must be one of {', '.join(TABLES)}")
        chosen += TABLES[table]
    for name in names:
        if name not in CELLS:
            raise ConfigError(f"--cells {name}: must be some of {', '.join(CELLS)}")
        chosen.append(name)
    return [CELLS[name] for name in dict.fromkeys(chosen)]


def changes(cell: Cell, base: Base, seed: int) -> dict[str, Any]:
    """The fields in which a cell differs from the base, with the cell's values.

    Raises:
      ConfigError: the base cannot have this cell.
    """
    perceptual = base.config.perceptual
    if cell.compares_networks and not perceptual.weights:
        raise ConfigError(
            f"config.perceptual.weights = '': the cell {cell.name} needs a base with VGG-16's file"
        )
    fields: dict[str, Any] = {
        "objective.composition": cell.composition,
        "model.num_landmarks": cell.num_landmarks,
    }
    if cell.loss == "pixel":
        fields["perceptual.weights"] = ""
    elif cell.loss == "perceptual":
        fields |= {"objective.pixel_weight": 0.0, "objective.gradient_weight": 0.0}
    if cell.network == "vgg19":
        taps = tuple(_VGG19_TAPS.get(tap, tap) for tap in perceptual.taps)
        fields |= {
            "perceptual.network": "vgg19",
            "perceptual.taps": taps,
            "perceptual.weights": base.vgg19,
        }
    changed = {name: value for name, value in fields.items() if _get(base.config, name) != value}
    return changed | {"seed": seed}


def config_of(cell: Cell, base: Base, seed: int) -> ConfigDict:
    """The configuration of a cell's run, validated.

    Raises:
      ConfigError: it is invalid.
    """
    config = configuration.with_fields(base.config, changes(cell, base, seed))
    try:
        configuration.validate(config)
    except ConfigError as error:
        raise ConfigError(f"{cell.name}: {error}") from error
    return config


def folder_of(cell: Cell, seed: int, runs: str) -> Path:
    """The folder of a cell's run in the folder `runs`."""
    return Path(runs) / f"{cell.name}-seed{seed}"


def as_flags(fields: Mapping[str, Any]) -> list[str]:
    """Fields of a configuration as command-line flags."""
    return [f"--config.{field}={value}" for field, value in fields.items()]


def keys_of(protocols: Sequence[str]) -> list[Key]:
    """The protocols with each of their crops.

    Raises:
      ConfigError: there is no such protocol.
    """
    labelled_faces.check_names(protocols)
    return [(name, crop) for name in protocols for crop in labelled_faces.crops_of(name)]


def open_run(folder: Path, config: ConfigDict) -> Run | None:
    """Reads the run in a folder; None if there is none.

    Args:
      folder: the run's folder.
      config: the configuration that the run must have.

    Raises:
      WorkdirError: the run has another configuration, or is damaged.
    """
    if not run_folder.is_run(folder):
        return None
    run = read_run(str(folder))
    for field, before, now in configuration.differences(run.config, config):
        raise _refusal(folder, field, before, now)
    # The path of the weights may differ, but not whether there are any.
    weights = config.perceptual.weights
    if bool(run.digests["weights_digest"]) != bool(weights):
        raise _refusal(folder, "perceptual.weights", run.config.perceptual.weights, weights)
    return run


def _refusal(folder: Path, field: str, before: object, now: object) -> WorkdirError:
    return WorkdirError(
        f"{folder / run_folder.CONFIG_FILE}: the run has config.{field} = {before!r}, the cell "
        f"needs {now!r}; name another --runs, or the --config and fields that made it"
    )


def is_trained(run: Run, folder: Path, config: ConfigDict) -> bool:
    """Whether a run's newest checkpoint is its last one.

    The log is not enough: its last line is written before the checkpoint.
    """
    newest = run_folder.newest_step(folder)
    return newest == run.steps and _is_done(config, run.steps, run.minutes)


def is_scored(run: Run, key: Key, config: ConfigDict) -> bool:
    """Whether the finished run was scored under a protocol and crop."""
    if key not in run.results:
        return False
    provenance = run.results[key]["provenance"]
    return _is_done(config, provenance["steps"], provenance["training_minutes"])


def _is_done(config: ConfigDict, steps: int | None, minutes: float | None) -> bool:
    """Whether that many steps or minutes are what the configuration asks for."""
    if steps is None or minutes is None:  # no log
        return False
    return limits.is_done(config, steps, 60 * (minutes + _ROUNDING))


def why_missing(run: Run | None, keys: Sequence[Key], config: ConfigDict) -> str:
    """Why a run cannot be tabulated yet, or an empty string."""
    if run is None:
        return "not trained"
    unscored = [key for key in keys if not is_scored(run, key, config)]
    if not unscored:
        return ""
    if _is_done(config, run.steps, run.minutes):
        return f"not scored under {', '.join(f'{name} ({crop})' for name, crop in unscored)}"
    train = config.train
    asked = [f"{train.steps:,} steps"] if train.steps else []
    asked += [f"{train.minutes:g} minutes"] if train.minutes else []
    done = f"{run.steps or 0:,} steps ({run.minutes or 0:.1f} minutes)"
    return f"trained for {done} of {' or '.join(asked)}"


def _get(config: ConfigDict, field: str) -> Any:
    section, _, name = field.rpartition(".")
    return config[section][name] if section else config[name]
