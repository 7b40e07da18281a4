"""Values that cannot work are refused by name; a configuration survives its file."""

import importlib
import json
from pathlib import Path

import pytest
from ml_collections import ConfigDict

from landmarks_jax import config as configuration
from landmarks_jax import losses
from landmarks_jax.configs import base, mpii_pretrain, paper, released, selftrain_start_cpu
from landmarks_jax.system.errors import ConfigError
from landmarks_jax.tasks import task_of
from tests.running import narrow

CONFIGS = sorted(
    path.stem
    for path in (Path(__file__).parents[1] / "configs").glob("*.py")
    if path.stem != "__init__"
)
NAN, INF = float("nan"), float("inf")


def changed(*changes):
    config = base.get_config()
    with config.unlocked():
        for field, value in changes:
            section, _, name = field.rpartition(".")
            (config[section] if section else config)[name] = value
    return config


@pytest.mark.parametrize("name", CONFIGS)
def test_shipped_configurations_are_valid(name):
    config = importlib.import_module(f"landmarks_jax.configs.{name}").get_config()
    configuration.validate(config)
    with pytest.raises((AttributeError, KeyError)):
        config.no_such_field = 1


@pytest.mark.parametrize(("name", "share"), [("folder", 4 / 5), ("paper", 4 / 5)])
def test_views_show_the_part_of_an_image_that_the_readme_says(name, share):
    # With the center crop: "the middle four fifths". `synthetic`, whose view is of synthetic faces,
    # may differ.
    config = importlib.import_module(f"landmarks_jax.configs.{name}").get_config()
    assert config.views.size / config.data.canvas_size == share


@pytest.mark.parametrize(
    ("field", "value", "allowed"),
    [
        ("model.num_landmarks", 0, "from 1 to 1000"),
        ("model.num_landmarks", -3, "from 1 to 1000"),
        ("views.size", 164, "config.data.canvas_size = 160: must be config.views.size = 164 plus"),
        ("views.size", 32, "config.data.canvas_size = 160: must be config.views.size = 32 plus"),
        ("views.size", 126, "a multiple of 4"),
        ("views.size", 4, "from 8"),
        ("data.canvas_size", 161, "config.views.size = 128 plus an even number, and at most 512"),
        ("data.canvas_size", 127, "canvas"),
        ("model.hourglass_depth", 5, "at most 4 for maps of 32 x 32 cells"),
        ("model.hourglass_depth", 0, "from 1 to 10"),
        ("model.detector_channels", 100, "a multiple of 8"),
        ("model.beta", 0.0, "from 1e-06"),
        ("model.sigma", -0.5, "from 0.001"),
        ("data.source", "imagenet", "celeb_a, mafl, aflw, mtfl, pts, mpii, prepared"),
        ("data.split", "some", "all, train, validation, test"),
        ("init.mode", "warm", "scratch, finetune, adapt"),
        ("init.core", "runs/mpii", "or config.init.mode 'finetune' or 'adapt'"),
        ("objective.task", "faces", "landmarks, self_training, self_training_reconstruction, "),
        ("eval.pts_points", 7, "5, 68"),
        ("data.crop", "middle", "center, tight, box"),
        ("compute_dtype", "float16", "float32, bfloat16, float64"),
        ("objective.composition", "both", "baseline, inter, cycle, all"),
        ("objective.auxiliary", "never", "each_step, fixed"),
        ("objective.bn_groups", "split", "joint, released"),
        ("objective.pixel_weight", NAN, "from 0"),
        ("objective.pixel_weight", 0.0, "above 0: nothing else"),
        ("objective.equivariance_weight", -1.0, "from 0"),
        ("objective.separation_weight", INF, "from 0"),
        ("optimizer.learning_rate", 0.0, "from 1e-12"),
        ("optimizer.learning_rate", NAN, "from 1e-12"),
        ("optimizer.beta1", 1.0, "from 0 to 0.999999"),
        ("optimizer.drop_steps", (100, 0), "positive steps"),
        ("optimizer.drop_steps", (1.5,), "positive steps, whole numbers"),
        ("optimizer.drop_steps", (True,), "positive steps, whole numbers"),
        ("optimizer.ema_decay", 1.0, "from 0"),
        ("views.rotation_std", (15.0,), "two angles"),
        ("views.rotation_std", (15.0, -1.0), "two angles"),
        ("views.rotation_std", (NAN, 15.0), "two angles"),
        ("views.rotation_std", (15.0, INF), "two angles"),
        ("views.scale_range", (1.5, 1.0), "two ascending factors"),
        ("views.scale_range", (NAN, 1.0), "two ascending factors"),
        ("views.scale_range", (0.0, 1.0), "two ascending factors"),
        ("train.batch_size", 1, "from 2"),
        ("train.log_every", 0, "from 1"),
        ("seed", -1, "from 0"),
    ],
)
def test_bad_values_are_named_with_what_is_allowed(field, value, allowed):
    with pytest.raises(ConfigError) as error:
        configuration.validate(changed((field, value)))
    message = str(error.value)
    assert message.startswith("config.")
    assert allowed in message
    if "config.data.canvas_size" not in message:
        assert message.startswith(f"config.{field} = {value!r}")
    assert "\n" not in message


@pytest.mark.parametrize("taps", [("relu9_9",), (), ("relu1_2", "relu1_2"), ("relu1_2", "conv1")])
def test_unknown_taps(taps):
    weights = ("perceptual.weights", "vgg.npz")
    with pytest.raises(ConfigError, match=r"config\.perceptual\.taps = .*relu1_1, relu1_2"):
        configuration.validate(changed(weights, ("perceptual.taps", taps)))


def test_the_taps_are_those_of_the_network():
    fields = ("perceptual.weights", "vgg.npz"), ("perceptual.taps", ("relu1_2", "relu3_4"))
    configuration.validate(changed(*fields, ("perceptual.network", "vgg19")))
    with pytest.raises(ConfigError, match=r"relu3_3, relu4_1"):
        configuration.validate(changed(*fields))


def test_perceptual_loss_alone_is_allowed():
    weights = ("perceptual.weights", "vgg.npz")
    configuration.validate(changed(weights, ("objective.pixel_weight", 0.0)))


def test_a_run_must_end():
    endless = changed(("train.steps", 0))
    with pytest.raises(ConfigError, match=r"config\.train\.steps = 0.*config\.train\.minutes"):
        configuration.validate(endless)
    endless.train.minutes = 10.0
    configuration.validate(endless)


@pytest.mark.parametrize(
    ("size", "canvas", "deepest"), [(64, 80, 3), (48, 60, 2), (24, 30, 1), (40, 50, 1), (8, 16, 0)]
)
def test_deepest_hourglass(size, canvas, deepest):
    sizes = ("views.size", size), ("data.canvas_size", canvas)
    for depth in range(1, deepest + 1):
        configuration.validate(changed(*sizes, ("model.hourglass_depth", depth)))
    message = f"at most {deepest}" if deepest else "used with another config.views.size"
    with pytest.raises(ConfigError, match=rf"config\.model\.hourglass_depth.*{message}"):
        configuration.validate(changed(*sizes, ("model.hourglass_depth", deepest + 1)))


def test_the_batch_is_shared_evenly_by_the_devices():
    config = changed(("train.batch_size", 12))
    for devices in (1, 2, 3, 4, 6, 12):
        configuration.check_devices(config, devices)
    with pytest.raises(ConfigError, match=r"config\.train\.batch_size = 12: .* the 8 devices"):
        configuration.check_devices(config, 8)


@pytest.mark.parametrize("name", CONFIGS)
def test_a_configuration_survives_its_file(name):
    config = importlib.import_module(f"landmarks_jax.configs.{name}").get_config()
    text = configuration.to_json(config)
    back = configuration.from_json(text)
    assert isinstance(back, ConfigDict)
    assert back.is_locked
    assert back.to_dict() == config.to_dict()
    assert configuration.to_json(back) == text
    for field, value in flat(config).items():
        assert type(flat(back)[field]) is type(value), field
    assert not list(configuration.differences(config, back))


def flat(config, prefix=""):
    fields = {}
    for name, value in config.items():
        inner = isinstance(value, ConfigDict)
        fields |= flat(value, f"{prefix}{name}.") if inner else {f"{prefix}{name}": value}
    return fields


@pytest.mark.parametrize(
    ("text", "said"),
    [("[1, 2]", "not an object"), ("3", "not an object"), ("{", "line 1"), ("", "line 1")],
)
def test_text_that_is_no_configuration(text, said):
    with pytest.raises(ValueError, match=said):
        configuration.from_json(text)


def other(value):
    """Another value of the same type."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, tuple):
        return (*value, "more") if not value or isinstance(value[0], str) else (*value[::-1], 7.0)
    return value + (value * 0 + 1 if not isinstance(value, str) else "x")


def test_differences_name_every_field_but_the_free_ones():
    config = base.get_config()
    for field, value in flat(config).items():
        new = changed((field, other(value)))
        actual = list(configuration.differences(config, new))
        free = field in configuration.FREE_FIELDS or field.startswith("eval.")
        assert [name for name, _, _ in actual] == ([] if free else [field])


def test_free_fields_are_lengths_intervals_and_paths():
    everything = set(flat(base.get_config()))
    assert set(configuration.FREE_FIELDS) < everything
    config = base.get_config()
    new = changed(("train.steps", 5), ("data.roots", ("x",)), ("views.size", 64), ("seed", 3))
    actual = list(configuration.differences(config, new))
    assert actual == [("seed", 0, 3), ("views.size", 128, 64)]


def test_differences_show_fields_that_one_side_lacks():
    old = base.get_config()
    with old.unlocked():
        del old.model.beta
    assert list(configuration.differences(old, base.get_config())) == [("model.beta", None, 10.0)]


def test_every_number_has_a_range_of_its_kind_or_choices():
    fields, ranges, choices = flat(base.get_config()), configuration.RANGES, configuration.CHOICES
    assert set(ranges) | set(choices) <= set(fields)
    weights = set(losses.weight_fields().values())
    for field, value in fields.items():
        if type(value) in (int, float) and field not in weights | set(choices):
            assert {type(bound) for bound in ranges[field]} == {type(value)}, field


@pytest.mark.parametrize("wrong", [float, bool, lambda count: count + 0.5, lambda _: NAN])
def test_whole_numbers_are_neither_fractions_nor_booleans(wrong):
    counts = [name for name, bounds in configuration.RANGES.items() if type(bounds[0]) is int]
    assert len(counts) > 20
    for field in counts:
        section, _, name = field.rpartition(".")
        fields = json.loads(configuration.to_json(base.get_config()))
        part = fields[section] if section else fields
        part[name] = wrong(part[name])
        with pytest.raises(ConfigError, match=rf"config\.{field} = .*a whole number from"):
            configuration.validate(configuration.from_json(json.dumps(fields)))


BOX = {"data__crop": "box", "views__scale_std": 0.0, "views__shift_std": 0.0}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"views__scale_std": 0.05}, r"config.views.scale_std = 0.05: must be 0.0 with .*'box'"),
        ({"views__shift_std": 0.04}, r"config.views.shift_std = 0.04: must be 0.0 with"),
        ({"views__scale_range": (1.0, 1.5)}, r"scale_range = \(1.0, 1.5\): must be \(1.0, 1.0\)"),
        ({"views__margin_std": 0.2}, r"config.views.margin_std = 0.2: .* config.views.margin / 4"),
        ({"data__crop": "center", "views__margin": 0.6}, r"config.views.margin = 0.6: must be 0.7"),
        ({"data__crop": "tight", "views__margin_std": 0.0}, r"margin_std = 0.0: must be 0.04 unl"),
    ],
)
def test_fields_that_the_crop_does_not_use_are_refused(fields, message):
    config = narrow(**(BOX | fields))
    with pytest.raises(ConfigError, match=message) as error:
        configuration.validate(config)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("task", "unused"),
    [
        ("landmarks", ("views__color_std", "views__cutout", "objective__reconstruction_weight")),
        ("self_training", ("views__bend_std", "objective__reconstruction_weight")),
        ("pose", ("views__bend_std", "views__color_std", "views__cutout")),
        ("pose", ("objective__reconstruction_weight",)),
    ],
)
def test_fields_that_the_task_does_not_use_are_refused(task, unused):
    for name in unused:
        config, field = narrow(objective__task=task, **{name: 0.1}), name.replace("__", ".")
        message = (
            rf"config\.{field} = 0\.1: must be 0\.0\d? with config\.objective\.task = '{task}'"
        )
        with pytest.raises(ConfigError, match=message):
            configuration.validate(config)


def test_features_are_not_chosen_for_a_detector_that_reads_none():
    message = (
        r"features_tap = 'relu3_1': must be 'relu3_3' with config\.model\.detector = 'hourglass'"
    )
    with pytest.raises(ConfigError, match=message):
        configuration.validate(narrow(model__features_tap="relu3_1"))


@pytest.mark.parametrize("preset", [selftrain_start_cpu, mpii_pretrain])
@pytest.mark.parametrize(
    ("field", "value", "rule"),
    [
        ("objective.equivariance_weight", 5.0, "0.0"),
        ("objective.pixel_weight", 0.0, "1.0"),
        ("objective.bn_groups", "released", "'joint'"),
        ("objective.composition", "cycle", "'all'"),
        ("objective.auxiliary", "fixed", "'each_step'"),
        ("objective.separation_sigma", 0.3, "0.15"),
        ("perceptual.weights", "vgg.npz", "''"),
    ],
)
def test_fields_of_the_reconstruction_are_refused_where_there_is_none(preset, field, value, rule):
    config = preset.get_config()
    configuration.validate(config)
    message = rf"^config\.{field} = {value!r}: must be {rule} with config\.objective\.task = "
    with pytest.raises(ConfigError, match=message):
        configuration.validate(configuration.with_fields(config, {field: value}))


def _describe(config):
    return task_of(config).describe(config)


def test_tables_say_what_a_run_was_trained_on():
    assert _describe(paper.get_config()) == "trained with the center crop, without annotation"
    assert _describe(narrow(data__crop="tight")).startswith("trained with the tight crop")
    assert _describe(released.get_config()) == (
        "trained with the box crop, made from the annotation: views are boxes of the rotated "
        "points with a margin of 70 ± 4 %"
    )
    assert _describe(mpii_pretrain.get_config()).startswith("trained on annotated joints")
