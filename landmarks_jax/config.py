"""Validates configurations, compares them, and converts them to and from JSON."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

import jax
from ml_collections import ConfigDict

from landmarks_jax import geometry, losses
from landmarks_jax.configs import base
from landmarks_jax.data import framing
from landmarks_jax.data.sources.pts import NUM_POINTS, NUM_REDUCED
from landmarks_jax.data.sources.registry import SOURCES, SPLITS
from landmarks_jax.models import detectors, hog
from landmarks_jax.models.vgg import NETWORKS
from landmarks_jax.objective import COMPOSITIONS
from landmarks_jax.system.errors import ConfigError, refuse_unused, wrong_field
from landmarks_jax.tasks import TASKS, task_of

# Fields that may differ when a run is resumed: its length, intervals and paths.
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
    "init.features",
    "perceptual.weights",
    "targets.weights",
)
FREE_SECTIONS = ("eval.",)

CHOICES = {
    "compute_dtype": ("float32", "bfloat16", "float64"),
    "data.source": SOURCES,
    "data.split": SPLITS,
    "data.crop": framing.CROPS,
    "init.mode": ("scratch", "finetune", "adapt"),
    "objective.task": tuple(TASKS),
    "objective.composition": COMPOSITIONS,
    "objective.auxiliary": ("each_step", "fixed"),
    "objective.bn_groups": ("joint", "released"),
    "eval.pts_points": (NUM_REDUCED, NUM_POINTS),
    "perceptual.network": NETWORKS,
    "targets.network": (*NETWORKS, hog.NETWORK),
}

# Fields that the box crop replaces, with the only values it accepts for them.
_WITH_BOX = {"views.scale_range": (1.0, 1.0), "views.scale_std": 0.0, "views.shift_std": 0.0}

# Fields that are tuples of strings.
TEXTS = ("data.roots", "data.exclude", "perceptual.taps", "targets.taps", "eval.protocols")
_KINDS = {bool: "True or False", str: "a text", tuple: "a tuple"}

# Lowest and highest allowed values, both included, and those of all weights of loss terms. Bounds
# that are whole numbers allow no others.
RANGES: dict[str, tuple[float, float]] = {
    **detectors.RANGES,
    "seed": (0, 2**31 - 1),
    "data.max_photos": (0, 10_000_000),
    "data.num_synthetic": (2, 10_000_000),
    "data.synthetic_seed": (0, 2**31 - 1),
    "views.rotation_limit": (0.0, 180.0),
    "views.scale_std": (0.0, 0.3),
    "views.shift_std": (0.0, 1.0),
    "views.bend_std": (0.0, 0.5),
    "views.color_std": (0.0, 1.0),
    "views.cutout": (0.0, 1.0),
    "views.margin": (0.0, 3.0),
    "views.margin_std": (0.0, 0.5),
    "model.generator_channels": (1, 4096),
    "model.residual_blocks": (0, 100),
    "model.sigma": (1e-3, 1e3),
    "objective.separation_sigma": (1e-6, 10.0),
    "objective.reconstruction_weight": (0.0, 1e6),
    "targets.grid": (0, 30),
    "targets.keep": (0, 10**6),
    "targets.components": (1, 512),
    "targets.view_size": (8, 1024),
    "targets.num_fit": (2, 10**6),
    "targets.num_views": (1, 1000),
    "targets.extent": (0.0, 1.0),
    "perceptual.weight": (0.0, 1e6),
    "perceptual.balance_decay": (0.0, 0.999999),
    "optimizer.warmup_steps": (0, 2**31 - 1),
    "optimizer.cosine_steps": (0, 2**31 - 1),
    "optimizer.learning_rate": (1e-12, 10.0),
    "optimizer.beta1": (0.0, 0.999999),
    "optimizer.beta2": (0.0, 0.9999999),
    "optimizer.muon_rate": (0.0, 10.0),
    "optimizer.weight_decay": (0.0, 1.0),
    "optimizer.clip_norm": (0.0, 1e9),
    "optimizer.drop_factor": (0.0, 1.0),
    "optimizer.ema_decay": (0.0, 0.999999),
    "train.batch_size": (2, 2**20),
    "train.accumulate": (1, 2**19),
    "train.steps": (0, 2**31 - 1),
    "train.log_every": (1, 2**31 - 1),
    "train.checkpoint_every": (1, 2**31 - 1),
    "train.picture_every": (0, 2**31 - 1),
    "train.minutes": (0.0, 1e9),
    "eval.num_fit": (2, 10**6),
    "eval.num_score": (1, 10**6),
}
WEIGHT_RANGE = (0.0, 1e6)


def validate(config: ConfigDict) -> None:
    """Checks all fields.

    Raises:
      ConfigError: a value cannot work; the message names the field, its value and what is allowed.
    """
    _check_fields(config)
    if config.compute_dtype == "float64" and not jax.config.read("jax_enable_x64"):
        rule = "float32 or bfloat16 unless JAX_ENABLE_X64=1 is set"
        raise wrong_field(config, "compute_dtype", rule)
    _check_views(config)
    _check_unused(config)
    detectors.module_of(config).check(config)
    task_of(config).check(config)
    _check_start(config)
    detectors.check_features(config)
    if not config.train.steps and not config.train.minutes:
        raise wrong_field(config, "train.steps", "above 0 where config.train.minutes is 0")
    size, rest = divmod(config.train.batch_size, config.train.accumulate)
    if rest or size < 2:
        batch = f"config.train.batch_size = {config.train.batch_size}"
        rule = f"a divisor of {batch} that leaves micro-batches of 2 or more"
        raise wrong_field(config, "train.accumulate", rule)
    if not all(detectors.in_range(step, 1, 2**31 - 1) for step in config.optimizer.drop_steps):
        raise wrong_field(config, "optimizer.drop_steps", "positive steps, whole numbers")


def _check_fields(config: ConfigDict) -> None:
    """Checks that all fields are there, each by itself."""
    ranges = RANGES | dict.fromkeys(losses.weight_fields().values(), WEIGHT_RANGE)
    fields = _flat(config.to_dict())
    for field, example in _flat(base.get_config().to_dict()).items():
        if field not in fields:
            raise ConfigError(f"config.{field}: is missing; start from configs/base.py")
        value = fields[field]
        if field in ranges:
            detectors.check_range(config, field, *ranges[field])
        elif field in CHOICES:
            # By type too: 1 is True to Python.
            if (type(value), value) not in [(type(c), c) for c in CHOICES[field]]:
                raise wrong_field(config, field, f"one of {', '.join(map(str, CHOICES[field]))}")
        elif type(value) is not type(example):
            raise wrong_field(config, field, _KINDS[type(example)])
        # An empty one would be the current folder.
        elif field in TEXTS and not all(isinstance(t, str) and t.strip() for t in value):
            raise wrong_field(config, field, "a tuple of strings that are not empty, as ('one',)")


def _check_views(config: ConfigDict) -> None:
    """Checks the views' sizes and random maps, and that they fit the crop."""
    framing.of_config(config)
    views = config.views
    stds, scales = views.rotation_std, views.scale_range
    if len(stds) != 2 or not all(detectors.in_range(std, 0.0, 180.0) for std in stds):
        rule = "two angles in degrees from 0 to 180, for x and x'"
        raise wrong_field(config, "views.rotation_std", rule)
    valid = len(scales) == 2 and all(detectors.in_range(scale, 0.1, 10.0) for scale in scales)
    if not valid or scales[0] > scales[1]:
        raise wrong_field(config, "views.scale_range", "two ascending factors from 0.1 to 10")
    if config.data.crop == "box" and geometry.MARGIN_DEVIATIONS * views.margin_std > views.margin:
        most = f"at most config.views.margin / {geometry.MARGIN_DEVIATIONS:g}"
        raise wrong_field(config, "views.margin_std", f"{most}, so that no view cuts into its box")


def _check_unused(config: ConfigDict) -> None:
    """Checks that fields without effect have their defaults."""
    defaults = _flat(base.get_config().to_dict())

    def refuse(fields: tuple[str, ...], why: str) -> None:
        refuse_unused(config, {field: defaults[field] for field in fields}, why)

    task, detector = config.objective.task, config.model.detector
    refuse(task_of(config).UNUSED, f"with config.objective.task = {task!r}, which does not use it")
    if not detectors.reads_vgg(config):
        why = f"with config.model.detector = {detector!r}, which reads no features"
        refuse(("model.features_network", "model.features_tap"), why)
    if config.data.crop == "box":
        why = "with config.data.crop = 'box', whose views are boxes of the points"
        refuse_unused(config, _WITH_BOX, why)
    else:
        refuse(("views.margin", "views.margin_std"), "unless config.data.crop = 'box'")


def _check_start(config: ConfigDict) -> None:
    scratch, core = config.init.mode == "scratch", config.init.core
    if scratch == bool(core.strip()):
        rule = "'', or config.init.mode 'finetune' or 'adapt'"
        if not scratch:
            rule = "the folder of a run of configs/mpii_pretrain.py, or a published PyTorch file"
        raise wrong_field(config, "init.core", rule)


def check_devices(config: ConfigDict, num_devices: int) -> None:
    """Raises ConfigError for a batch or micro-batches that the devices cannot share evenly."""
    count = config.train.accumulate
    if config.train.batch_size % (num_devices * count):
        rule = f"divisible by the {num_devices} devices"
        if count > 1:
            rule += f" times config.train.accumulate = {count}"
        raise wrong_field(config, "train.batch_size", rule)


def with_fields(config: ConfigDict, fields: Mapping[str, Any]) -> ConfigDict:
    """A copy with other values of some fields, named as `train.steps`."""
    config = config.copy_and_resolve_references()
    with config.unlocked():
        for field, value in fields.items():
            section, _, name = field.rpartition(".")
            (config[section] if section else config)[name] = value
    return config


def to_json(config: ConfigDict) -> str:
    """Serialises a configuration."""
    return json.dumps(config.to_dict(), indent=2, sort_keys=True) + "\n"


def from_json(text: str) -> ConfigDict:
    """Parses the output of `to_json`; lists become tuples again.

    Raises:
      ValueError: the text is not a configuration.
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
    """Yields the fields that make `new` a different run from `old`, with both values or None."""
    for field, before, after in changes(old, new):
        if field not in FREE_FIELDS and not field.startswith(FREE_SECTIONS):
            yield field, before, after


def changes(old: ConfigDict, new: ConfigDict) -> Iterator[tuple[str, Any, Any]]:
    """Yields all fields that differ, in order, with both values or None; tuples as lists."""
    before, after = _flat(json.loads(to_json(old))), _flat(json.loads(to_json(new)))
    for field in sorted(before.keys() | after.keys()):
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
