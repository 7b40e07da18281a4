"""Detectors by module name: `config.model.detector` names the one that a run trains.

A detector is one module, of this package or importable, with

    STRIDE   side of the view over the side of the score maps
    SIZES    the fields of `config.model` that decide the shapes of its parameters
    check    `(config) -> None`, raises ConfigError for sizes that cannot work
    build    `(config, bn_updates) -> nn.Module`, which maps views `[B, S, S, 3]` in [0, 1] to score
             maps `[B, S / STRIDE, S / STRIDE, K]`, called with `use_running_average`; `dtype` is an
             attribute, `batch_stats` a collection, and the layer that `init_from` replaces is named
             `head`

and, if it reads VGG's features,

    READS_VGG   True: the part `features` of its parameters is a `deep_hourglass.Features`, which
                never trains and which `init_from` fills from `config.init.features`
"""

import importlib
import importlib.util
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import flax.linen as nn
from ml_collections import ConfigDict

from landmarks_jax.system.errors import ConfigError, value_of, wrong_field

DEFAULT = "hourglass"
FEATURES = "features"  # the part of the parameters that holds VGG's

# Lowest and highest allowed values, both included, of what a detector depends on. Bounds that are
# whole numbers allow no others.
RANGES: dict[str, tuple[float, float]] = {
    "data.canvas_size": (8, 4096),
    "views.size": (8, 4096),
    "model.num_landmarks": (1, 1000),
    "model.detector_channels": (8, 8192),
    "model.hourglass_depth": (1, 10),
    "model.beta": (1e-6, 1e6),
}


class DetectorModule(Protocol):
    """The interface of a detector's module."""

    STRIDE: int
    SIZES: tuple[str, ...]
    check: Callable[[ConfigDict], None]
    build: Callable[..., nn.Module]


def in_range(value: Any, low: float, high: float) -> bool:
    """Whether a value is a number within bounds, and whole if they are."""
    # By type: a bool is an int to Python.
    return type(value) in (int, type(low)) and low <= value <= high


def check_range(config: Mapping[str, Any], field: str, low: float, high: float) -> None:
    """Raises ConfigError unless a field is `in_range`."""
    if not in_range(value_of(config, field), low, high):
        whole = "a whole number " if isinstance(low, int) else ""
        raise wrong_field(config, field, f"{whole}from {low:.10g} to {high:.10g}")


def module_named(name: str) -> DetectorModule:
    """The module of a detector.

    Args:
      name: of a module of `landmarks_jax.models`, such as "hourglass", or of any importable one.

    Raises:
      ConfigError: there is no such module, or it does not define the whole interface.
    """
    field = f"config.model.detector = {name!r}"
    try:
        module: Any = importlib.import_module(_full_name(name))
    except (ImportError, ValueError) as error:
        raise ConfigError(f"{field}: must be a module with a detector ({error})") from error
    missing = [part for part in DetectorModule.__annotations__ if not hasattr(module, part)]
    if missing:
        raise ConfigError(f"{field}: the module has no {missing[0]}; see {__name__}")
    detector: DetectorModule = module
    return detector


def is_trusted(name: str) -> bool:
    """Whether a file may name this detector: it is in this package or already imported.

    Importing a module runs its code, which reading a file must not do.
    """
    return _full_name(name) in sys.modules or _full_name(name).startswith(f"{__package__}.")


def _full_name(name: str) -> str:
    own = f"{__package__}.{name}"
    return own if name.isidentifier() and importlib.util.find_spec(own) else name


def keep_landmarks(
    config: ConfigDict, variables: Mapping[str, Any], numbers: Sequence[int]
) -> tuple[ConfigDict, dict[str, Any]]:
    """Keeps some of a detector's landmarks.

    Args:
      config: the configuration.
      variables: `{"params", "batch_stats"}`.
      numbers: the landmarks to keep, from 0, in their new order.

    Returns:
      The configuration with their number, and the variables with their part of `head`.

    Raises:
      ConfigError: there are no such landmarks.
    """
    check_numbers(config, numbers)
    config = config.copy_and_resolve_references()
    with config.unlocked():
        config.model.num_landmarks = len(numbers)
    params = variables["params"]
    head = {name: leaf[..., list(numbers)] for name, leaf in params["head"].items()}
    return config, {**variables, "params": {**params, "head": head}}


def check_numbers(config: ConfigDict, numbers: Sequence[int]) -> None:
    """Raises ConfigError unless `numbers` are landmarks of a detector, from 0."""
    count = config.model.num_landmarks
    if not numbers or max(numbers) >= count:
        raise ConfigError(
            f"landmarks {numbers_text(numbers)}: must be of its {count}, numbered from 0 to "
            f"{count - 1}"
        )


def numbers_text(numbers: Sequence[int]) -> str:
    """Numbers of landmarks as flags give them, such as "0,3,5:9"."""
    runs = _runs(numbers)
    return ",".join(f"{low}:{high + 1}" if low < high else f"{low}" for low, high in runs)


def kept_note(config: ConfigDict, numbers: Sequence[int]) -> str:
    """The note for tables of some of a detector's landmarks."""
    runs = [f"{low} to {high}" if low < high else f"{low}" for low, high in _runs(numbers)]
    return f"landmarks {', '.join(runs)} of {config.model.num_landmarks}"


def _runs(numbers: Sequence[int]) -> list[tuple[int, int]]:
    """The first and last number of each stretch of consecutive ones."""
    runs: list[tuple[int, int]] = []
    for number in numbers:
        if runs and number == runs[-1][1] + 1:
            runs[-1] = runs[-1][0], number
        else:
            runs.append((number, number))
    return runs


def module_of(config: ConfigDict) -> DetectorModule:
    """The module of a configuration's detector."""
    return module_named(config.model.detector)


def reads_vgg(config: ConfigDict) -> bool:
    """Whether the detector reads VGG's features."""
    return getattr(module_of(config), "READS_VGG", False)


def check_features(config: ConfigDict) -> None:
    """Raises ConfigError unless `config.init.features` is given exactly where it is read."""
    reads = config.init.mode == "scratch" and reads_vgg(config)  # a core has its features already
    if reads and not config.init.features:
        rule = f"VGG weights (.npz) for config.model.detector = {config.model.detector!r}"
        raise wrong_field(config, "init.features", f"{rule}; landmarks-jax convert vgg makes them")
    if config.init.features and not reads:
        rule = "'' unless config.model.detector = 'deep_hourglass' starts from scratch"
        raise wrong_field(config, "init.features", rule)


def split_frozen(
    config: ConfigDict, params: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Splits a detector's parameters into those that train and VGG's, which never do."""
    frozen = {FEATURES: params[FEATURES]} if reads_vgg(config) else {}
    return {name: part for name, part in params.items() if name not in frozen}, frozen


def build_detector(config: ConfigDict, bn_updates: tuple[int, ...] = (0,)) -> nn.Module:
    """Builds the detector of a configuration.

    Args:
      config: the configuration, or the part of it that a packed file keeps.
      bn_updates: see `layers.BatchNorm.updates`.
    """
    return module_of(config).build(config, bn_updates)
