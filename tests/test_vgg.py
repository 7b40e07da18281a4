"""The layers of VGG files, and unusable files; their features are tested in test_vgg_import."""

import os
from pathlib import Path

import jax
import numpy as np
import pytest

from landmarks_jax.models import vgg
from landmarks_jax.system.errors import WeightsError
from landmarks_jax.weights.vgg_weights import digest_of_layers, load_vgg
from tests.vgg_layers import layers_of

DATA = Path(os.environ.get("LANDMARKS_JAX_DATA", Path(__file__).parents[2] / "shared" / "data"))

PAPER_TAPS = ("relu1_2", "relu2_2", "relu3_3", "relu4_3")


@pytest.fixture(scope="module")
def layers():
    return layers_of("vgg16")


def save(path, arrays, **others):
    np.savez(path, **arrays, **others)
    return str(path)


def features(weights, images, taps):
    run = jax.jit(vgg.Vgg(weights.network, taps).apply)
    return run({"params": weights.params}, (images - weights.mean) / weights.std)


def test_without_normalization_the_image_goes_in_as_it_is(tmp_path, layers):
    path = save(tmp_path / "vgg.npz", layers)
    weights = load_vgg(path, "vgg16", ("relu1_1",), normalize=False)
    np.testing.assert_array_equal(weights.mean, 0)
    np.testing.assert_array_equal(weights.std, 1)
    mean = load_vgg(path, "vgg16", ("relu1_1",), normalize=True).mean
    np.testing.assert_allclose(mean, np.array([123.68, 116.779, 103.939]) / 255, rtol=1e-6)


def test_only_the_layers_needed_are_read(tmp_path, layers):
    path = save(tmp_path / "vgg.npz", layers, feature_scale=1 / 255)  # as in files from before
    weights = load_vgg(path, "vgg16", ("relu2_1",), normalize=True)
    assert sorted(weights.params) == [
        *("bias1_1", "bias1_2", "bias2_1"),
        *("kernel1_1", "kernel1_2", "kernel2_1"),
    ]


@pytest.mark.parametrize(("network", "size"), [("vgg16", 14_714_688), ("vgg19", 20_024_384)])
def test_parameter_shapes_are_the_modules(network, size):
    taps = vgg.TAPS[network]
    module = vgg.Vgg(network, taps)
    image = jax.ShapeDtypeStruct((1, 32, 32, 3), np.float32)
    params = jax.eval_shape(module.init, jax.random.key(0), image)["params"]
    shapes = {name: leaf.shape for name, leaf in params.items()}
    assert shapes == vgg.parameter_shapes(network, taps)
    # The convolutions without the three dense layers, as Keras counts them.
    assert sum(int(np.prod(shape)) for shape in shapes.values()) == size


def test_max_pool_drops_the_odd_last():
    x = np.random.default_rng(2).normal(size=(1, 5, 7, 2)).astype(np.float32)
    actual = np.asarray(vgg.max_pool(x))
    assert actual.shape == (1, 2, 3, 2)
    for row in range(2):
        for column in range(3):
            cell = x[0, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2]
            np.testing.assert_array_equal(actual[0, row, column], cell.max((0, 1)))


def test_a_file_of_some_layers_names_the_taps_it_can_give(tmp_path, layers):
    arrays = {name: a for name, a in layers.items() if name < "block3"}
    path = save(tmp_path / "partial.npz", arrays)
    assert "kernel2_2" in load_vgg(path, "vgg16", ("relu2_2",), normalize=True).params
    with pytest.raises(WeightsError) as error:
        load_vgg(path, "vgg16", ("relu1_2", "relu3_1"), normalize=True)
    message = str(error.value)
    assert "cannot compute relu3_1" in message
    assert "relu1_1, relu1_2, relu2_1, relu2_2" in message
    assert "config.perceptual.taps" in message


def damaged(path, layers):
    whole = Path(save(path / "whole.npz", {"a": np.arange(10_000.0)})).read_bytes()
    (path / "damaged.npz").write_bytes(whole[: len(whole) // 2])
    return path / "damaged.npz"


def text(path, layers):
    (path / "text.npz").write_text("version https://git-lfs.github.com/spec/v1\n")
    return path / "text.npz"


def other_shape(path, layers):
    name = "block1_conv1_kernel"
    return save(path / "shape.npz", {**layers, name: layers[name][:, :, :1]})


def other_number(path, layers):
    name = "block1_conv1_kernel"
    digest = digest_of_layers({**layers, name: layers[name] + 1})
    return save(path / "number.npz", layers, sha256=digest)


def another_network(path, layers):
    return save(path / "vgg19.npz", layers, network="vgg19")


def of_fourth_layers(path, layers):
    return save(path / "fourth.npz", {**layers, "block3_conv4_kernel": np.zeros(3)})


def pipe(path, layers):
    os.mkfifo(path / "pipe.npz")
    return path / "pipe.npz"


def not_finite(path, layers):
    name = "block1_conv1_bias"
    return save(path / "nan.npz", {**layers, name: np.full_like(layers[name], np.nan)})


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path, layers: path / "none.npz", "no such file"),
        (damaged, "not a readable .npz"),
        (text, "not a readable .npz"),
        (lambda path, layers: path, "a folder, not a regular file"),
        (pipe, "a named pipe, not a regular file"),
        (other_shape, r"block1_conv1_kernel has shape \(3, 3, 1, 64\)"),
        (not_finite, "block1_conv1_bias has values that are not finite"),
        (lambda p, _: save(p / "c.npz", {}, convention="tensorflow"), "convention 'tensorflow'"),
        (other_number, "damaged \\(checksum\\)"),
        (another_network, "has VGG-19, config.perceptual.network is 'vgg16'"),
        (of_fourth_layers, "has VGG-19"),
    ],
    ids=[
        *("missing", "cut short", "text", "a folder", "pipe", "shape", "nan"),
        *("convention", "checksum", "network", "network not stated"),
    ],
)
def test_unusable_files_are_refused_in_one_line(tmp_path, layers, make, message):
    few = {name: a for name, a in layers.items() if name.startswith("block1_conv1")}
    path = str(make(tmp_path, few))
    with pytest.raises(WeightsError, match=message) as error:
        load_vgg(path, "vgg16", ("relu1_1",), normalize=True)
    assert path in str(error.value)
    assert "\n" not in str(error.value)


def test_features_of_the_real_file_are_of_order_one():
    path = DATA / "weights" / "vgg16_conv1_1_to_conv3_3.npz"
    if not path.exists():
        pytest.skip(f"no VGG-16 weights at {path}")
    taps = ("relu1_2", "relu2_2", "relu3_3")
    weights = load_vgg(str(path), "vgg16", taps, normalize=True)
    y, x = np.mgrid[:32, :32] / 31
    image = np.stack([x, y, (np.hypot(x - 0.5, y - 0.5) < 0.3) * 1.0], -1)[None].astype(np.float32)
    for tap, actual in features(weights, image, taps).items():
        size = float(np.sqrt(np.mean(np.asarray(actual) ** 2)))
        assert 0.1 < size < 20, tap
    with pytest.raises(WeightsError, match="cannot compute relu4_3"):
        load_vgg(str(path), "vgg16", PAPER_TAPS, normalize=True)
