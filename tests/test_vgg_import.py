"""Converted files of torchvision and Keras give those networks' features."""

import functools
import importlib
import importlib.util

import jax
import numpy as np
import pytest

from landmarks_jax.models import vgg
from landmarks_jax.system.errors import WeightsError
from landmarks_jax.weights import vgg_import
from landmarks_jax.weights.vgg_weights import layer_key, load_vgg
from tests.pickling import tensor, zipped
from tests.running import call
from tests.vgg_layers import layers_of

needs_torch = pytest.mark.skipif(
    importlib.util.find_spec("torch") is None, reason="PyTorch is not installed"
)
# Keras' variables use an old protocol of NumPy when they are saved.
OLD_ARRAYS = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
TAPS = {
    "vgg16": ("relu1_2", "relu2_2", "relu3_3", "relu4_3"),
    "vgg19": ("relu1_2", "relu2_2", "relu3_4", "relu4_4"),
}
# As torchvision numbers its convolutions.
PLACES = {
    "vgg16": "0 2 5 7 10 12 14 17 19 21 24 26 28",
    "vgg19": "0 2 5 7 10 12 14 16 19 21 23 25 28 30 32 34",
}


@pytest.fixture(scope="module")
def images():
    coarse = np.random.default_rng(0).uniform(0, 1, (2, 8, 8, 3))
    return coarse.repeat(4, 1).repeat(4, 2).astype(np.float32)


@functools.cache
def compiled(network):
    return jax.jit(vgg.Vgg(network, TAPS[network]).apply)


def features(path, network, images, *, normalize=True):
    weights = load_vgg(str(path), network, TAPS[network], normalize=normalize)
    params = {"params": weights.params}
    return weights, compiled(network)(params, (images - weights.mean) / weights.std)


@pytest.mark.parametrize("network", vgg.NETWORKS)
def test_torchvisions_indices_of_layers(network):
    assert " ".join(vgg_import.places_of(network)) == PLACES[network]
    assert tuple(vgg_import.places_of(network).values()) == vgg.LAYERS[network]


@needs_torch
@pytest.mark.parametrize(("network", "zip_format"), [("vgg16", False), ("vgg19", True)])
def test_features_are_those_of_pytorchs_layers(tmp_path, images, network, zip_format):
    import torch  # noqa: PLC0415
    from torch import nn  # noqa: PLC0415

    torch.manual_seed(0)
    depths = {"vgg16": (2, 2, 3, 3, 3), "vgg19": (2, 2, 4, 4, 4)}[network]
    parts, taps, inputs = [], [], 3
    for block, (depth, width) in enumerate(zip(depths, (64, 128, 256, 512, 512), strict=True), 1):
        for layer in range(1, depth + 1):
            conv = nn.Conv2d(inputs, width, 3, padding=1)
            nn.init.kaiming_normal_(conv.weight, nonlinearity="relu")
            nn.init.normal_(conv.bias, std=0.3)
            parts += [conv, nn.ReLU()]
            taps.append((f"relu{block}_{layer}", len(parts)))
            inputs = width
        parts.append(nn.MaxPool2d(2))
    model_dict = nn.ModuleDict({"features": nn.Sequential(*parts), "classifier": nn.Linear(4, 5)})
    state = model_dict.state_dict()
    if zip_format:  # and from several GPUs
        state = {f"module.{key}": tensor for key, tensor in state.items()}
    torch.save(state, tmp_path / "x.pth", _use_new_zipfile_serialization=zip_format)

    assert vgg_import.convert(tmp_path / "x.pth", tmp_path / "x.npz") == network
    for normalize in (True, False):
        weights, actual = features(tmp_path / "x.npz", network, images, normalize=normalize)
        assert (weights.convention, weights.network) == ("torchvision", network)
        x = torch.from_numpy(images).permute(0, 3, 1, 2)
        if normalize:
            mean, std = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
            x = (x - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]
        expected = {}
        with torch.inference_mode():
            for i, part in enumerate(parts, 1):
                x = part(x)
                expected |= {tap: x.permute(0, 2, 3, 1).numpy() for tap, at in taps if at == i}
        for tap in TAPS[network]:
            assert (expected[tap] > 0).mean() > 0.1
            np.testing.assert_allclose(actual[tap], expected[tap], atol=1e-4 * expected[tap].max())
    assert weights.notes() == (
        []
        if network == "vgg16"
        else ["perceptual loss of torchvision VGG-19, 4 taps (relu1_2, relu2_2, relu3_4, relu4_4)"]
    )


@pytest.fixture(scope="module")
def keras():
    pytest.importorskip("tensorflow", reason="Keras' network needs the extra `train`")
    # First, because it silences TensorFlow.
    importlib.import_module("landmarks_jax.data.pipeline")
    return importlib.import_module("keras")


def keras_network(keras, network, layers):
    make = {"vgg16": keras.applications.VGG16, "vgg19": keras.applications.VGG19}[network]
    model = make(weights=None, include_top=False, input_shape=(32, 32, 3))
    for layer in model.layers:
        if "conv" in layer.name:
            layer.set_weights([layers[f"{layer.name}_{kind}"] for kind in ("kernel", "bias")])
    return model


@OLD_ARRAYS
@pytest.mark.parametrize(
    ("network", "convention"),
    [("vgg16", "caffe"), ("vgg16", "torchvision"), ("vgg19", "caffe")],
)
def test_features_are_those_of_keras(tmp_path, images, keras, network, convention):
    layers = layers_of(network)
    model = keras_network(keras, network, layers)
    if network == "vgg19":  # through Keras' file
        model.save(tmp_path / "x.h5")
        assert vgg_import.convert(tmp_path / "x.h5", tmp_path / "x.npz") == network
    else:
        np.savez(tmp_path / "x.npz", **layers, convention=convention)
    weights, actual = features(tmp_path / "x.npz", network, images)
    assert weights.convention == convention
    names = [tap.replace("relu", "block").replace("_", "_conv") for tap in TAPS[network]]
    run = keras.Model(model.input, [model.get_layer(name).output for name in names])
    mode = {"caffe": "caffe", "torchvision": "torch"}[convention]
    inputs = keras.applications.imagenet_utils.preprocess_input(255.0 * images, mode=mode)
    scale = 1 / 255 if convention == "caffe" else 1
    for tap, unscaled in zip(TAPS[network], run(inputs), strict=True):
        expected = scale * np.asarray(unscaled)
        assert actual[tap].shape == expected.shape
        assert (expected > 0).mean() > 0.1
        np.testing.assert_allclose(actual[tap], expected, atol=1e-4 * expected.max())
    if network == "vgg19":
        assert weights.notes()[0].startswith("perceptual loss of Caffe VGG-19, 4 taps")


@OLD_ARRAYS
def test_the_layouts_of_keras_files(tmp_path, keras):
    h5py = importlib.import_module("h5py")
    layers = layers_of("vgg16", seed=1)
    keras_network(keras, "vgg16", layers).save_weights(tmp_path / "new.weights.h5")
    # Keras' own download, of 2016.
    with h5py.File(tmp_path / "old.h5", "w") as file:
        file.attrs["layer_names"] = [b"block1_conv1"]
        file.create_group("block1_pool")
        for layer in vgg.LAYERS["vgg16"]:
            block = layer_key(f"kernel{layer}").removesuffix("_kernel")
            for kind, short in (("kernel", "W"), ("bias", "b")):
                file[f"{block}/{block}_{short}_1:0"] = layers[f"{block}_{kind}"]
        file["fc1/fc1_W_1:0"] = np.zeros((5, 4), np.float32)
    for path in (tmp_path / "new.weights.h5", tmp_path / "old.h5"):
        actual = vgg_import.read_keras(path)
        assert actual.keys() == layers.keys()
        for key, expected in layers.items():
            np.testing.assert_array_equal(actual[key], expected)


def h5(path, layers):
    h5py = importlib.import_module("h5py")
    with h5py.File(path, "w") as file:
        for key, array in layers.items():
            block, kind = key.rsplit("_", 1)
            file[f"{block}/{kind}"] = array
    return path


@pytest.mark.parametrize(
    ("numbers", "message"),
    [("0 3 7", r"features\.\{0,3,7\}, which is neither"), (PLACES["vgg16"], r"0\.bias is missing")],
    ids=["batch norm between", "no bias"],
)
def test_other_networks_of_pytorch_are_refused(tmp_path, numbers, message):
    one = tensor((1, 1, 1, 1), (1, 1, 1, 1))
    state = {f"features.{number}.weight": one for number in numbers.split()}
    (tmp_path / "x.pth").write_bytes(zipped(state))
    with pytest.raises(WeightsError, match=message):
        vgg_import.convert(tmp_path / "x.pth", tmp_path / "x.npz")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"block3_conv2_bias": None}, "block3_conv2_bias is missing"),
        ({"block1_conv1_kernel": np.zeros((3, 3, 1, 64), np.float32)}, r"shape \(3, 3, 1, 64\)"),
        ({"block1_conv1_bias": np.full(64, np.nan, np.float32)}, "not have finite float32 numbers"),
        ({"block1_conv1_bias": np.zeros(64, np.int32)}, "not have finite float32 numbers"),
        ({"block4_conv4_bias": np.zeros(512, np.float32)}, "vgg16 has no block4_conv4_bias"),
    ],
    ids=["missing", "shape", "nan", "type", "too many"],
)
def test_layers_that_no_network_has_are_refused(tmp_path, change, message):
    shapes = vgg.parameter_shapes("vgg16", vgg.TAPS["vgg16"])
    layers = {layer_key(key): np.zeros(shape, np.float32) for key, shape in shapes.items()}
    path = tmp_path / "x.h5"
    assert vgg_import.check_layers(layers, path) == "vgg16"
    changed = {key: array for key, array in (layers | change).items() if array is not None}
    with pytest.raises(WeightsError, match=message) as error:
        vgg_import.check_layers(changed, path)
    assert str(error.value).startswith(f"{path}: ")


def test_the_command(tmp_path):
    path, out = h5(tmp_path / "x.h5", layers_of("vgg16")), tmp_path / "vgg16.npz"
    address = "http://127.0.0.1:9/vgg16.pth"  # no server
    commands = (
        [f"--file={path}", f"--out={out}"],
        ["--download=vgg16", f"--out={tmp_path / 'other.npz'}", f"--url={address}"],
        [f"--file={path}", "--download=vgg16", f"--out={out}"],
        [f"--file={path}", "--out=vgg16.h5"],
    )
    converted, download, both, ending = [call("convert", "vgg", *words) for words in commands]
    assert converted[0] == 0, converted[2]
    assert f"{out}: vgg16 from {path}" in converted[1]
    with np.load(out) as file:
        entries = {key: file[key].item() for key in file.files if not key.startswith("block")}
    assert entries.pop("source").startswith("x.h5 (SHA-256 ")
    assert len(entries.pop("sha256")) == 64
    assert entries == {"network": "vgg16", "convention": "caffe"}
    assert download[0] == both[0] == ending[0] == 2
    lines = download[2].splitlines()
    assert lines[:3] == [
        f"address  {address}",
        "size     553433881 bytes",
        "sha256   397923af8e79cdbb6a7127f12361acd7a2f83e06b05044ddf496e83de57a5bf0",
    ]
    assert lines[3].startswith(f"error: {address}: cannot be downloaded to {tmp_path}/vgg16-397923")
    assert both[2].startswith("error: name what to convert: --file FILE, or --download")
    assert ending[2].startswith("error: --out vgg16.h5: name the .npz to write")
