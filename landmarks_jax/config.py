"""Checks of a configuration before anything slow starts, and its form on disk."""

import json
import math
from collections.abc import Iterator
from typing import Any, NoReturn

import jax
from ml_collections import ConfigDict

from landmarks_jax.data.framing import CROPS
from landmarks_jax.data.sources.mpii import NUM_JOINTS
from landmarks_jax.data.sources.pts import NUM_POINTS, NUM_REDUCED
from landmarks_jax.data.sources.registry import SOURCES, SPLITS
from landmarks_jax.models.vgg import NETWORKS, TAPS
from landmarks_jax.objective import COMPOSITIONS
from landmarks_jax.system.errors import ConfigError

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
    "data.resident",
    "perceptual.weights",
)
FREE_SECTIONS = ("eval.",)

# Fields that came later, and what runs before them did: their folders stay readable.
ADDED_FIELDS: dict[str, Any] = {
    "views.bend_std": 0.0,
    "views.margin": 0.7,
    "views.margin_std": 0.04,
    "data.split": "all",
    "data.resident": False,
    "eval.celeba": "data/celeba",
    "eval.mafl": "data/mafl",
    "eval.mafl_as_released": False,
    "eval.aflw_release": "data/aflw_release-2",
    "eval.pts_points": 5,
    "perceptual.network": "vgg16",
    "init.mode": "scratch",
    "init.core": "",
    "objective.task": "landmarks",
    "eval.mpii": "data/mpii",
    "train.accumulate": 1,
}

CHOICES = {
    "compute_dtype": ("float32", "bfloat16", "float64"),
    "data.source": SOURCES,
    "data.split": SPLITS,
    "data.crop": CROPS,
    "init.mode": ("scratch", "finetune", "adapt"),
    "objective.task": ("landmarks", "pose"),
    "objective.composition": COMPOSITIONS,
    "objective.auxiliary": ("each_step", "fixed"),
    "objective.bn_groups": ("joint", "released"),
    "eval.pts_points": (NUM_REDUCED, NUM_POINTS),
    "perceptual.network": NETWORKS,
}

TEXTS = ("data.roots", "data.exclude", "perceptual.taps", "eval.protocols")

# Lowest and highest value allowed, both included.
RANGES: dict[str, tuple[float, float]] = {
    "seed": (0, 2**31 - 1),
    "data.canvas_size": (8, 4096),
    "data.num_synthetic": (2, 10_000_000),
    "data.synthetic_seed": (0, 2**31 - 1),
    "views.size": (8, 4096),
    "views.rotation_limit": (0, 180),
    "views.scale_std": (0, 0.3),
    "views.shift_std": (0, 1),
    "views.bend_std": (0, 0.5),
    "views.margin": (0, 3),
    "views.margin_std": (0, 0.5),
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
    "train.accumulate": (1, 2**19),
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
        if not isinstance(value, ConfigDict) or part not in value:
            raise ConfigError(f"config.{field}: is missing; start from configs/base.py")
        value = value[part]
    return value


def _fail(config: ConfigDict, field: str, rule: str) -> NoReturn:
    raise ConfigError(f"config.{field} = {_get(config, field)!r}: must be {rule}")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _in_range(value: Any, low: float, high: float) -> bool:
    return _is_number(value) and low <= value <= high


def validate(config: ConfigDict) -> None:
    """Refuses values that cannot work.

    Raises:
      ConfigError: naming the field, its value and what is allowed.
    """
    for field, choices in CHOICES.items():
        if _get(config, field) not in choices:
            _fail(config, field, f"one of {', '.join(map(str, choices))}")
    for field, (low, high) in RANGES.items():
        if not _in_range(_get(config, field), low, high):
            _fail(config, field, f"from {low} to {high}")
    for field in TEXTS:
        value = _get(config, field)
        if not isinstance(value, tuple) or not all(isinstance(part, str) for part in value):
            _fail(config, field, "a tuple of texts, such as ('one',)")
    if config.compute_dtype == "float64" and not jax.config.read("jax_enable_x64"):
        _fail(config, "compute_dtype", "float32 or bfloat16 unless JAX_ENABLE_X64=1 is set")
    _validate_sizes(config)
    _validate_views(config)
    _validate_task(config)
    if not config.train.steps and not config.train.minutes:
        _fail(config, "train.steps", "above 0 where config.train.minutes is 0")
    parts, rest = divmod(config.train.batch_size, config.train.accumulate)
    if rest or parts < 2:
        what = f"config.train.batch_size = {config.train.batch_size}"
        _fail(config, "train.accumulate", f"a divisor of {what} that leaves parts of 2 or more")
    drops = _get(config, "optimizer.drop_steps")
    if not all(_in_range(step, 1, 2**31 - 1) for step in drops):
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
    turns = _get(config, "views.rotation_std")
    if len(turns) != 2 or not all(_in_range(std, 0, 180) for std in turns):
        _fail(config, "views.rotation_std", "two angles in degrees from 0 to 180, for x and x'")
    scales = _get(config, "views.scale_range")
    known = len(scales) == 2 and all(_in_range(scale, 0.1, 10) for scale in scales)
    if not known or scales[0] > scales[1]:
        _fail(config, "views.scale_range", "two rising factors from 0.1 to 10")


def _validate_task(config: ConfigDict) -> None:
    """What is trained, and what it starts from."""
    scratch, core = config.init.mode == "scratch", _get(config, "init.core")
    if not isinstance(core, str) or scratch == bool(core.strip()):
        wants = "'', or config.init.mode 'finetune' or 'adapt'"
        if not scratch:
            wants = "the folder of a run of configs/mpii_pretrain.py, or a published PyTorch file"
        _fail(config, "init.core", wants)
    if config.objective.task == "landmarks":
        return _validate_losses(config)
    if config.data.source not in ("mpii", "prepared"):
        _fail(config, "data.source", "mpii, or prepared from it, where joints are trained")
    if config.model.num_landmarks != NUM_JOINTS:
        _fail(config, "model.num_landmarks", f"{NUM_JOINTS}, MPII's joints")
    if config.data.crop != "center":
        _fail(config, "data.crop", "center where joints are trained: people are cut already")
    if config.perceptual.weights:
        _fail(config, "perceptual.weights", "'' where joints are trained")
    return None


def _validate_losses(config: ConfigDict) -> None:
    taps, weights = config.perceptual.taps, _get(config, "perceptual.weights")
    if weights:
        known = TAPS[config.perceptual.network]
        if not taps or len(set(taps)) != len(taps) or not set(taps) <= set(known):
            _fail(config, "perceptual.taps", f"different ones of {', '.join(known)}")
        deepest = max(int(tap[4]) for tap in taps)
        if not config.views.size >> (deepest - 1):
            _fail(config, "perceptual.taps", f"above block {deepest} at config.views.size")
    perceptual = config.perceptual.weight if weights else 0
    if not config.objective.pixel_weight + config.objective.gradient_weight + perceptual:
        _fail(config, "objective.pixel_weight", "above 0: nothing else compares reconstructions")


def check_devices(config: ConfigDict, num_devices: int) -> None:
    """Refuses a batch, or parts of it, that the devices cannot share evenly."""
    parts = config.train.accumulate
    if config.train.batch_size % (num_devices * parts):
        times = f" times config.train.accumulate = {parts}" * (parts > 1)
        _fail(config, "train.batch_size", f"divisible by the {num_devices} devices{times}")


def to_json(config: ConfigDict) -> str:
    """The configuration as it stands in a run's folder."""
    return json.dumps(config.to_dict(), indent=2, sort_keys=True) + "\n"


def from_json(text: str) -> ConfigDict:
    """Reads what `to_json` wrote, by this version or an earlier one; lists become tuples again.

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
    config = ConfigDict(tuples(parsed))
    for field, value in ADDED_FIELDS.items():
        section, name = field.split(".")
        part = config.get(section)
        if part is None:  # the section came with its first field
            part = config[section] = ConfigDict()
        if isinstance(part, ConfigDict) and name not in part:
            part[name] = value
    return config.lock()


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
