"""The detector that reads VGG's features: its maps, frozen weights, files; what is refused."""

import json
import shutil
import time
from functools import partial
from pathlib import Path

import jax
import numpy as np
import pytest

from benchmarks import roofline
from landmarks_jax import config as configuration
from landmarks_jax import keypoints
from landmarks_jax.evaluation import pack_run, run_evaluation
from landmarks_jax.inference import graph_export, packed_file
from landmarks_jax.inference.detector import ViewDetector
from landmarks_jax.models import detectors
from landmarks_jax.studies import runs, timed_session
from landmarks_jax.system.errors import ConfigError, WeightsError
from landmarks_jax.system.sealed_json import sealed
from landmarks_jax.tasks import task_of
from landmarks_jax.training import (
    checkpoints,
    import_published,
    loop,
    run_folder,
    sharding,
    transfer_files,
)
from landmarks_jax.training import state as states
from landmarks_jax.weights import vgg_weights
from tests import plain
from tests.running import leaves_of, narrow, shared_compilation, train
from tests.vgg_layers import layers_of

FROZEN = "core/features/"
PUBLISHED = Path(__file__).parent / "published"


def save_weights(path, seed=0, blocks="123", **entries):
    layers = layers_of("vgg16", seed)
    np.savez(path, **{k: v for k, v in layers.items() if k[len("block")] in blocks}, **entries)
    return str(path)


def deep(weights, **fields):
    fields = {"model__residual_blocks": 0, "objective__composition": "baseline", **fields}
    return narrow(model__detector="deep_hourglass", init__features=weights, **fields)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return save_weights(tmp_path_factory.mktemp("weights") / "vgg16.npz")


@pytest.fixture(scope="module")
def run(tmp_path_factory, weights):
    """A run of four steps, whose file of weights is gone when it goes on after two."""
    workdir = tmp_path_factory.mktemp("run")
    config = deep(weights, train__steps=2)
    assert train(config, workdir) == 0
    config = configuration.with_fields(config, {"train.steps": 4, "init.features": "gone.npz"})
    assert train(config, workdir) == 0
    return workdir, config


def variables_of(run):
    with shared_compilation():
        return jax.device_get(states.trained_variables(checkpoints.restore(*run).state))


@pytest.mark.parametrize(
    ("network", "tap", "convention"),
    [("vgg16", "relu3_3", "caffe"), ("vgg19", "relu3_1", "torchvision")],
)
def test_landmarks_are_the_plain_compositions(tmp_path, network, tap, convention, module_x64):
    np.savez(tmp_path / "vgg.npz", **layers_of(network), convention=convention)
    config = deep(str(tmp_path / "vgg.npz"), compute_dtype="float64")
    config.model.features_network, config.model.features_tap = network, tap
    read = vgg_weights.load_vgg(str(tmp_path / "vgg.npz"), network, (tap,), normalize=True)
    images = np.random.default_rng(0).uniform(size=(3, 16, 16, 3))
    module = detectors.build_detector(config)
    init = jax.jit(partial(module.init, use_running_average=False))
    params = init(jax.random.key(1), images)["params"]
    params["features"] = {"mean": read.mean, "std": read.std, "vgg": read.params}
    params = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)

    @jax.jit
    def landmarks(params):
        scores, _ = module.apply(
            {"params": params}, images, use_running_average=False, mutable=["batch_stats"]
        )
        return keypoints.soft_argmax(scores, config.model.beta)

    expected = jax.jit(plain.detector)(params, images, config.model.beta)
    np.testing.assert_allclose(landmarks(params), expected, rtol=0, atol=1e-12)
    without = {**params, "features": jax.tree.map(np.zeros_like, params["features"])}
    without["features"]["std"] = np.ones(3)
    assert np.abs(landmarks(without) - expected).max() > 1e-3


def test_features_never_train_and_are_kept_without_their_file(run, weights):
    read = vgg_weights.load_vgg(weights, "vgg16", ("relu3_3",), normalize=True)
    leaves = leaves_of(*run)
    frozen = {name: leaf for name, leaf in leaves.items() if name.startswith(FROZEN)}
    assert len(frozen) == 2 + 2 * 7
    for name, value in read.params.items():
        np.testing.assert_array_equal(frozen[f"{FROZEN}vgg/{name}"], value)
    np.testing.assert_array_equal(frozen[f"{FROZEN}mean"], read.mean)
    np.testing.assert_array_equal(frozen[f"{FROZEN}std"], read.std)
    # Neither the optimiser nor the gradient's norm sees them.
    training = sum(leaf.size for name, leaf in leaves.items() if name.startswith("params/detector"))
    moments = [leaf.size for name, leaf in leaves.items() if name.startswith("opt_state")]
    assert training < 100_000 < frozen[f"{FROZEN}vgg/kernel3_3"].size
    assert training in moments
    assert max(moments) < 100_000
    rows = run_folder.read_log(run[0])
    assert [row["step"] for row in rows] == [1, 2, 3, 4]
    assert all(np.isfinite(row["norm_detector"]) and row["norm_detector"] > 0 for row in rows)


def test_what_reads_the_features_trains(run):
    trained = variables_of(run)["params"]
    assert trained["features_conv"]["kernel"].shape == (1, 1, 256, 4)
    assert np.any(trained["features_norm"]["scale"] != 1)  # as it begins


def test_tables_and_the_record_name_the_features(run):
    record = run_folder.read_record(run[0])
    assert record.init["features"] == "Caffe VGG-16 at relu3_3"
    note = "not in the paper: the detector reads Caffe VGG-16 at relu3_3 (SHA-256 "
    assert any(text.startswith(note) for text in record.all_notes())


@pytest.mark.parametrize("precision", ["float32", "float16"])
def test_a_packed_file_needs_no_other(run, tmp_path, precision):
    path = tmp_path / "deep.safetensors"
    packed_file.write(path, pack_run.pack_run(run[0], []), precision)
    back = packed_file.read(path)
    views = np.random.default_rng(1).integers(0, 256, (2, 16, 16, 3), np.uint8)
    expected = ViewDetector(run[1], variables_of(run))(views)
    error = np.abs(ViewDetector(back.config, back.variables)(views) - expected).max()
    assert error <= (1e-6 if precision == "float32" else 0.02)
    function = jax.jit(graph_export.view_function(back, precision))
    np.testing.assert_allclose(function(views)["landmarks"], expected, atol=0.02)


def test_the_untrained_control_reads_the_same_features(run):
    with shared_compilation():
        rows = run_evaluation.detectors_of(run[1], checkpoints.restore(*run).state)
    shared = rows["untrained"].variables["params"]["features"]
    jax.tree.map(np.testing.assert_array_equal, shared, variables_of(run)["params"]["features"])
    kernels = [
        rows[name].variables["params"]["stem"]["kernel"] for name in ("running", "untrained")
    ]
    assert np.any(kernels[0] != kernels[1])


def test_a_transfer_keeps_them(run, tmp_path):
    transfer_files.write(checkpoints.restore(*run), run[0], tmp_path / "out")
    longer = configuration.with_fields(run[1], {"train.steps": 5})
    assert loop.train(longer, tmp_path / "new", transfer_from=tmp_path / "out") == 0
    before, after = leaves_of(*run), leaves_of(tmp_path / "new", longer)
    names = [name for name in before if name.startswith(FROZEN)]
    for name in names:
        np.testing.assert_array_equal(after[name], before[name])
    assert run_folder.read_record(tmp_path / "new").init == run_folder.read_record(run[0]).init


@pytest.mark.parametrize("mode", ["finetune", "adapt"])
def test_a_core_brings_its_features(run, tmp_path, mode):
    config = deep("", init__mode=mode, init__core=str(run[0]), train__steps=2)
    assert train(config, tmp_path / mode) == 0
    before, after = leaves_of(*run), leaves_of(tmp_path / mode, config)
    for name in (name for name in before if name.startswith(FROZEN)):
        np.testing.assert_array_equal(after[name], before[name])
    adapted = [name for name in after if name.startswith("core/") and "features" not in name]
    assert bool(adapted) == (mode == "adapt")
    old, new = (run_folder.read_record(folder) for folder in (run[0], tmp_path / mode))
    assert new.init["features_sha256"] == old.init["features_sha256"]
    assert any("reads Caffe VGG-16 at relu3_3" in note for note in new.all_notes())


def test_other_weights_than_it_began_with_are_refused(tmp_path):
    config = deep(save_weights(tmp_path / "vgg.npz"))
    workdir = tmp_path / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "compile_program", stop)
        with pytest.raises(StoppedError):
            loop.train(config, workdir)
    save_weights(tmp_path / "vgg.npz", seed=1)
    with pytest.raises(
        ConfigError, match=r"config\.init\.features = .*vgg\.npz': is not what .* started"
    ):
        loop.train(config, workdir)


class StoppedError(Exception):
    """Ends a run before its first step."""


def stop(*_, **__):
    raise StoppedError


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"init__features": ""},
            r"init\.features = '': must be VGG weights \(\.npz\) for config",
        ),
        (
            {"model__detector": "hourglass"},
            r"init\.features = 'a\.npz': must be '' unless config",
        ),
        (
            {"init__mode": "finetune", "init__core": "run"},
            r"features = 'a\.npz': must be '' unless",
        ),
        (
            {"model__features_tap": "relu2_2"},
            "must be one of relu3_1, relu3_2, relu3_3, which have",
        ),
        (
            {"model__features_tap": "relu3_4"},
            "must be one of relu3_1, relu3_2, relu3_3, which have",
        ),
        ({"model__features_network": "vgg11"}, r"features_network = 'vgg11': must be one of vgg16"),
        ({"model__detector_channels": 12}, "must be a multiple of 8"),
    ],
)
def test_fields_that_do_not_fit_are_refused(fields, message):
    fields = {"init__features": "a.npz", **fields}
    with pytest.raises(ConfigError, match=message):
        configuration.validate(narrow(**{"model__detector": "deep_hourglass", **fields}))


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        (
            {"blocks": "12"},
            r"cannot compute relu3_3 of config\.model\.features_tap, .*; it is enough for relu1_1",
        ),
        ({"network": "vgg19"}, r"has VGG-19, config\.model\.features_network is 'vgg16'"),
    ],
)
def test_weights_that_do_not_fit_are_refused_before_anything_is_written(tmp_path, entries, message):
    config = deep(save_weights(tmp_path / "vgg.npz", **entries))
    with pytest.raises(WeightsError, match=message):
        loop.train(config, tmp_path / "run")
    config = deep(str(tmp_path / "none.npz"))
    with pytest.raises(WeightsError, match=r"config\.init\.features needs VGG weights"):
        loop.train(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_its_convolutions_are_counted():
    config = deep("vgg.npz", views__size=48, data__canvas_size=60, model__detector_channels=128)
    shapes = jax.eval_shape(
        lambda image: detectors.build_detector(config).init(
            jax.random.key(0), image, use_running_average=True
        ),
        jax.ShapeDtypeStruct((1, 48, 48, 3), np.float32),
    )["params"]
    kernels = [leaf.shape for leaf in jax.tree.leaves(shapes) if leaf.ndim == 4]
    counted = [*roofline.detector_convs(config), *roofline.features_convs(config)]
    assert sorted(conv.kernel for conv in counted) == sorted(kernels)
    by_hand = 48**2 * 9 * (3 * 64 + 64 * 64) + 24**2 * 9 * (64 * 128 + 128 * 128)
    by_hand += 12**2 * 9 * (128 * 256 + 2 * 256 * 256)
    assert sum(conv.macs for conv in roofline.features_convs(config)) == by_hand
    shallow = configuration.with_fields(config, {"model.detector": "hourglass"})
    reading = 12**2 * 256 * 64
    more = roofline.macs_per_photo(config) - roofline.macs_per_photo(shallow)
    assert more == 2 * by_hand + 2 * 3 * reading


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float64"])
def test_weights_are_of_the_precision_of_the_run(module_x64, dtype):
    config = deep("vgg.npz", compute_dtype=dtype)
    networks = task_of(config).build_networks(config)
    state = states.abstract_state(config, networks, sharding.make_mesh(jax.devices()[:1]))
    types = {leaf.dtype.name for leaf in jax.tree.leaves((state.params, state.core))}
    assert types == {"float64" if dtype == "float64" else "float32"}


def test_a_session_refuses_a_missing_file_before_it_prepares_photos(tmp_path):
    config = deep(str(tmp_path / "none.npz"))
    limits = {"start": time.monotonic(), "minutes": 10.0, "reserve": 1.0}
    with pytest.raises(WeightsError, match=r"config\.init\.features needs VGG weights"):
        timed_session.run_session(
            config, tmp_path / "run", tmp_path / "out", photos=["no-photos"], **limits
        )


def test_published_networks_are_read_as_plain_ones(tmp_path):
    config = deep("vgg.npz", data__canvas_size=40, views__size=32, model__features_tap="relu3_1")
    read = import_published.import_run(tmp_path / "run", config, detector=PUBLISHED / "core.pth")
    assert read.model.detector == detectors.DEFAULT
    assert read.init.features == ""


def test_a_packed_file_without_a_deviation_is_refused(run, tmp_path):
    packed = pack_run.pack_run(run[0], [])
    packed.variables["params"]["features"]["std"] = np.array([1, 0, 1], np.float32)
    with pytest.raises(WeightsError, match="params/features/std must be positive"):
        packed_file.write(tmp_path / "deep.safetensors", packed)


def test_runs_with_other_features_are_other_experiments(run, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(run[0], other)
    record = json.loads((other / "run.json").read_text())
    record["init"]["features_sha256"] = "0" * 64
    del record["sha256"]
    (other / "run.json").write_text(json.dumps(sealed(record)))
    read = [runs.read_run(str(folder)) for folder in (run[0], other)]
    assert len(runs.seed_groups(read)) == 2
    assert [d["field"] for d in runs.differences(read)] == ["run.json: init.features_sha256"]
