"""The cells of the paper's tables: each a training, told by what it changes in a base.

The base is any configuration. A cell that stands in two tables is one run; its folder is
`RUNS/CELL-seedN`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from landmarks_jax import config as configuration
from landmarks_jax.system.errors import ConfigError

# What every cell decides for itself: a base with other values gives the same runs.
OWN_FIELDS = ("seed", "model.num_landmarks", "objective.composition")
VGG19_WEIGHTS = "data/weights/vgg19.npz"


@dataclass(frozen=True)
class Cell:
    """A training of the tables.

    Attributes:
      name: of its folders, and on the command line.
      title: as the paper calls it.
      composition: of `objective.COMPOSITIONS`.
      num_landmarks: K.
      loss: `both` terms of Eq. 7, `pixel` (L_R) or `perceptual` (L_P) alone.
      network: of the perceptual loss.
    """

    name: str
    title: str
    composition: str = "all"
    num_landmarks: int = 10
    loss: str = "both"
    network: str = "vgg16"

    @property
    def compares_networks(self) -> bool:
        """Whether it says something of the perceptual loss, so that the base must have one."""
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
    """What the cells change.

    Attributes:
      file: of the configuration, as the user named it.
      config: with the user's changes.
      overrides: these changes by field, for command lines.
      vgg19: the weights file of VGG-19; the base's own is of VGG-16.
    """

    file: str
    config: ConfigDict
    overrides: Mapping[str, Any]
    vgg19: str = VGG19_WEIGHTS

    def __post_init__(self) -> None:
        for field in OWN_FIELDS:
            if field in self.overrides:
                raise ConfigError(
                    f"--config.{field}: the cells decide it; leave it out (--seeds, --cells)"
                )
        if (task := self.config.objective.task) != "landmarks":
            raise ConfigError(
                f"config.objective.task = {task!r}: the tables' cells train on landmarks; "
                "configs/mpii_pretrain.py is trained by `landmarks-jax train`"
            )
        if (network := self.config.perceptual.network) != "vgg16":
            raise ConfigError(
                f"config.perceptual.network = {network!r}: a base has 'vgg16'; the cell vgg19-k10 "
                "is the other one"
            )


def cells_of(tables: Sequence[str], names: Sequence[str]) -> list[Cell]:
    """The cells of tables and of a list of names, each once, in this order.

    Raises:
      ConfigError: there is no such table or cell.
    """
    found: list[str] = []
    for table in tables:
        if table not in TABLES:
            raise ConfigError(f"--table {table}: must be one of {', '.join(TABLES)}")
        found += TABLES[table]
    for name in names:
        if name not in CELLS:
            raise ConfigError(f"--cells {name}: must be some of {', '.join(CELLS)}")
        found.append(name)
    return [CELLS[name] for name in dict.fromkeys(found)]


def changes(cell: Cell, base: Base, seed: int) -> dict[str, Any]:
    """The fields that make the base the cell, less those that have the cell's value already.

    Raises:
      ConfigError: the base cannot have this cell.
    """
    perceptual = base.config.perceptual
    if cell.compares_networks and not perceptual.weights:
        raise ConfigError(
            f"config.perceptual.weights = '': the cell {cell.name} wants a base with VGG-16's file"
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
    same = {field for field, value in fields.items() if _get(base.config, field) == value}
    return {field: fields[field] for field in fields if field not in same} | {"seed": seed}


# The last layer of a block has another number there; the paper does not name its taps.
_VGG19_TAPS = {"relu3_3": "relu3_4", "relu4_3": "relu4_4", "relu5_3": "relu5_4"}


def config_of(cell: Cell, base: Base, seed: int) -> ConfigDict:
    """The whole configuration of a cell's run, checked.

    Raises:
      ConfigError: it cannot work.
    """
    config = base.config.copy_and_resolve_references()
    for field, value in changes(cell, base, seed).items():
        section, _, name = field.rpartition(".")
        (config[section] if section else config)[name] = value
    try:
        configuration.validate(config)
    except ConfigError as error:
        raise ConfigError(f"{cell.name}: {error}") from error
    return config


def folder_of(cell: Cell, seed: int, runs: str) -> Path:
    """The folder of a cell's run."""
    return Path(runs) / f"{cell.name}-seed{seed}"


def as_flags(fields: Mapping[str, Any]) -> list[str]:
    """Fields of a configuration as command-line flags."""
    return [f"--config.{field}={value}" for field, value in fields.items()]


def _get(config: ConfigDict, field: str) -> Any:
    section, _, name = field.rpartition(".")
    return config[section][name] if section else config[name]
