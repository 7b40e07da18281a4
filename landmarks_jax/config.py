"""Checks of a configuration before anything slow starts, and its form on disk."""

import json
import math
from collections.abc import Iterator
from typing import Any

from ml_collections import ConfigDict

from landmarks_jax.errors import ConfigError
from landmarks_jax.models.vgg import TAPS
from landmarks_jax.objective import COMPOSITIONS

# What may differ between sittings of one run: how long, how often, and where things lie.
FREE_FIELDS = (
    "train.steps",
    "train.minutes",
    "train.log_every",
    "train.checkpoint_every",
    "train.picture_every",
    "data.roots",
    "data.exclude",
    "data.landmarks",
    "perceptual.weights",
)
FREE_SECTIONS = ("eval.",)

CHOICES = {
    "compute_dtype": ("float32", "bfloat16", "float64"),
    "data.source": ("synthetic", "folder", "celeba", "mtfl", "prepared"),
    "data.crop": ("center", "tight", "box"),
    "objective.composition": COMPOSITIONS,
    "objective.auxiliary": ("each_step", "fixed"),
    "objective.bn_groups": ("joint", "released"),
}

# Lowest and highest value allowed, both included.
RANGES: dict[str, tuple[float, float]] = {
    "seed": (0, 2**31 - 1),
    "data.canvas_size": (8, 4096),
    "data.num_synthetic": (2, 2**31 - 1),
    "data.synthetic_seed": (0, 2**31 - 1),
    "views.size": (8, 4096),
    "views.rotation_limit": (0, 180),
    "views.scale_std": (0, 0.3),
    "views.shift_std": (0, 1),
    "model.num_landmarks": (1, 1000),
    "model.beta": (1e-6, 1e6),
    "model.sigma": (1e-3, 1e3),
    "model.detector_channels": (8, 8192),
    "model.hourglass_depth": (1, 10),
    "model.generator_channels": (1, 4096),
    "model.residual_blocks": (0, 100),
    "objective.pixel_weight": (0, 1e6),
    "objective.gradient_weight": (0, 1e6),
    "objective.equivariance_weight": (0, 1e6),
    "objective.separation_weight": (0, 1e6),
    "objective.separation_sigma": (1e-6, 10),
    "perceptual.weight": (0, 1e6),
    "perceptual.balance_decay": (0, 0.999999),
    "optimizer.learning_rate": (1e-12, 10),
    "optimizer.beta1": (0, 0.999999),
    "optimizer.beta2": (0, 0.9999999),
    "optimizer.weight_decay": (0, 1),
    "optimizer.clip_norm": (0, 1e9),
    "optimizer.warmup_steps": (0, 2**31 - 1),
    "optimizer.drop_factor": (0, 1),
    "optimizer.cosine_steps": (0, 2**31 - 1),
    "optimizer.ema_decay": (0, 0.999999),
    "train.batch_size": (2, 2**20),
    "train.steps": (0, 2**31 - 1),
    "train.minutes": (0, 1e9),
    "train.log_every": (1, 2**31 - 1),
    "train.checkpoint_every": (1, 2**31 - 1),
    "train.picture_every": (0, 2**31 - 1),
    "eval.num_fit": (2, 10**6),
    "eval.num_score": (1, 10**6),
}


def _get(config: ConfigDict, field: str) -> Any:
    value: Any = config
    for part in field.split("."):
        value = value[part]
    return value


def _fail(config: ConfigDict, field: str, rule: str) -> None:
    raise ConfigError(f"config.{field} = {_get(config, field)!r}: must be {rule}")


def validate(config: ConfigDict) -> None:
    """Refuses values that cannot work.

    Raises:
      ConfigError: naming the field, its value and what is allowed.
    """
    for field, choices in CHOICES.items():
        if _get(config, field) not in choices:
            _fail(config, field, f"one of {', '.join(choices)}")
    for field, (low, high) in RANGES.items():
        value = _get(config, field)
        if not (math.isfinite(value) and low <= value <= high):
            _fail(config, field, f"from {low} to {high}")
    _validate_sizes(config)
    _validate_views(config)
    _validate_perceptual(config)
    if not config.train.steps and not config.train.minutes:
        _fail(config, "train.steps", "above 0 where config.train.minutes is 0")
    if any(step <= 0 for step in config.optimizer.drop_steps):
        _fail(config, "optimizer.drop_steps", "positive steps")


def _validate_sizes(config: ConfigDict) -> None:
    size, canvas = config.views.size, config.data.canvas_size
    if size % 4:
        _fail(config, "views.size", "a multiple of 4, the map is a quarter of it")
    if size > canvas:
        _fail(config, "views.size", f"at most the canvas, config.data.canvas_size = {canvas}")
    if (canvas - size) % 2:
        _fail(config, "data.canvas_size", f"even like config.views.size = {size}, to be centred")
    if config.model.detector_channels % 8:
        _fail(config, "model.detector_channels", "a multiple of 8, blocks cut it into eighths")
    cells, depth = size // 4, config.model.hourglass_depth
    if cells % 2**depth or cells // 2**depth < 2:
        halvings = (cells & -cells).bit_length() - 1
        deepest = halvings if cells >> halvings >= 2 else halvings - 1
        rule = (
            f"at most {deepest} for maps of {cells} x {cells} cells"
            if deepest >= 1
            else (f"possible for maps of {cells} x {cells} cells: change config.views.size")
        )
        _fail(config, "model.hourglass_depth", rule)


def _validate_views(config: ConfigDict) -> None:
    views = config.views
    if len(views.rotation_std) != 2 or not all(0 <= std <= 180 for std in views.rotation_std):
        _fail(config, "views.rotation_std", "two angles in degrees from 0 to 180, for x and x'")
    if len(views.scale_range) != 2 or not 0.1 <= views.scale_range[0] <= views.scale_range[1] <= 10:
        _fail(config, "views.scale_range", "two rising factors from 0.1 to 10")


def _validate_perceptual(config: ConfigDict) -> None:
    taps = config.perceptual.taps
    if config.perceptual.weights:
        unknown = [tap for tap in taps if tap not in TAPS]
        if unknown or not taps or len(set(taps)) != len(taps):
            _fail(config, "perceptual.taps", f"different ones of {', '.join(TAPS)}")
    elif config.objective.pixel_weight == 0:
        _fail(config, "objective.pixel_weight", "above 0 where config.perceptual.weights is ''")


def check_devices(config: ConfigDict, num_devices: int) -> None:
    """Refuses a batch that the devices cannot share evenly."""
    if config.train.batch_size % num_devices:
        _fail(config, "train.batch_size", f"divisible by the {num_devices} devices")


def to_json(config: ConfigDict) -> str:
    """The configuration as it stands in a run's folder."""
    return json.dumps(config.to_dict(), indent=2, sort_keys=True) + "\n"


def from_json(text: str) -> ConfigDict:
    """Reads what `to_json` wrote; lists become tuples again.

    Raises:
      ValueError: the text is not such a configuration.
    """

    def tuples(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: tuples(part) for name, part in value.items()}
        return tuple(tuples(part) for part in value) if isinstance(value, list) else value

    parsed = json.loads(text)
    if not isinstance(parsed, dict):
        raise ValueError("not an object of fields")
    return ConfigDict(tuples(parsed)).lock()


def differences(old: ConfigDict, new: ConfigDict) -> Iterator[tuple[str, Any, Any]]:
    """Fields that make `new` another run than `old`, with both values; None where it is absent."""
    before, after = _flat(json.loads(to_json(old))), _flat(json.loads(to_json(new)))
    for field in sorted(before.keys() | after.keys()):
        if field in FREE_FIELDS or field.startswith(FREE_SECTIONS):
            continue
        if before.get(field) != after.get(field):
            yield field, before.get(field), after.get(field)


def _flat(fields: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in fields.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat
