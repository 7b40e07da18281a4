"""Reads VGG-16 and VGG-19, trained on ImageNet, from an `.npz` into the parameters of `models.vgg`.

    landmarks-jax convert vgg --download vgg16 --out data/weights/vgg16.npz
    landmarks-jax convert vgg --file vgg16-397923af.pth --out vgg16.npz

The `.npz` has `block{b}_conv{j}_kernel` `[3, 3, in, out]` and `block{b}_conv{j}_bias` `[out]`, of
the first layers or of all. These entries are optional:

    convention      `caffe` (the default, as Keras: BGR images in [0, 255], less the means) or
                    `torchvision` (RGB images in [0, 1])
    network         `vgg16` or `vgg19`
    source          the file it was converted from
    sha256          digest of the layers
"""

import hashlib
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from landmarks_jax.models.vgg import LAYERS, parameter_shapes
from landmarks_jax.system import files, npz
from landmarks_jax.system.errors import WeightsError

# Of ImageNet's photos, RGB in [0, 1].
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
# RGB in [0, 255].
CAFFE_MEAN = (123.68, 116.779, 103.939)
# Eq. 6.
PAPER_TAPS = ("relu1_2", "relu2_2", "relu3_3", "relu4_3")
CONVENTIONS = ("caffe", "torchvision")
# How the note of `VggWeights.notes` begins.
NETWORK_NOTE = "perceptual loss of "
_TITLES = {"caffe": "Caffe", "torchvision": "torchvision", "vgg16": "VGG-16", "vgg19": "VGG-19"}


class Fields(NamedTuple):
    """The fields of a configuration that name weights, for messages."""

    weights: str
    network: str
    taps: str


PERCEPTUAL = Fields("perceptual.weights", "perceptual.network", "perceptual.taps")
TARGETS = Fields("targets.weights", "targets.network", "targets.taps")
DETECTOR = Fields("init.features", "model.features_network", "model.features_tap")


class VggWeights(NamedTuple):
    """Parameters and the preprocessing they expect.

    Attributes:
      params: `{"kernel1_1": [3, 3, in, out], "bias1_1": [out], ...}` for RGB images.
      mean: `[3]`, subtracted from images in [0, 1].
      std: `[3]`, then divided by.
      convention: `caffe` or `torchvision`.
      taps: the taps that the parameters are for.
      network: `vgg16` or `vgg19`.
    """

    params: dict[str, np.ndarray]
    mean: np.ndarray
    std: np.ndarray
    convention: str
    taps: tuple[str, ...]
    network: str = "vgg16"

    def digest(self) -> str:
        """A fingerprint of the arrays, in hexadecimal, with which a run detects changes."""
        sums = hashlib.sha256()
        for name in sorted(self.params):
            sums.update(np.ascontiguousarray(self.params[name]).tobytes())
        sums.update(self.mean.tobytes() + self.std.tobytes())
        return sums.hexdigest()

    def notes(self) -> list[str]:
        """Notes for tables, unless these are torchvision's weights at the paper's taps."""
        taps = self.taps
        if (self.network, self.convention, taps) == ("vgg16", "torchvision", PAPER_TAPS):
            return []
        return [f"{NETWORK_NOTE}{self.name}, {len(taps)} taps ({', '.join(taps)})"]

    @property
    def name(self) -> str:
        """Such as "Caffe VGG-16"."""
        return f"{_TITLES[self.convention]} {_TITLES[self.network]}"


def load_vgg(
    path: str,
    network: str,
    taps: tuple[str, ...],
    *,
    normalize: bool,
    fields: Fields = PERCEPTUAL,
) -> VggWeights:
    """Reads the layers that the taps need.

    ReLU networks are homogeneous: with its input and its biases divided by 255, a Caffe network
    gives features divided by 255, which have the scale of torchvision's. So biases of Caffe weights
    are scaled here, and the network takes images in [0, 1] less the means over 255.

    Args:
      path: the `.npz` file.
      network: `vgg16` or `vgg19`.
      taps: names such as `relu1_2`.
      normalize: subtract the mean (and divide by the deviation, for torchvision's weights); if
        False, images are not changed, as in the paper's released code.
      fields: of the configuration that name them.

    Raises:
      WeightsError: the file is missing or damaged, has another network, lacks a tap, or has a
        layer of another shape.
    """
    arrays = _read(path, fields)
    convention = str(arrays.get("convention", "caffe"))
    _check(path, arrays, network, convention, fields)
    params = {}
    for tap in taps:
        for name, shape in parameter_shapes(network, (tap,)).items():
            params[name] = _layer(
                arrays, name, shape, path=path, network=network, tap=tap, fields=fields
            )
    if convention == "caffe":
        params["kernel1_1"] = params["kernel1_1"][:, :, ::-1]
        params = {n: a / np.float32(255) if n.startswith("bias") else a for n, a in params.items()}
        mean, std = np.array(CAFFE_MEAN) / 255.0, np.ones(3)
    else:
        mean, std = np.array(IMAGENET_MEAN), np.array(IMAGENET_STD)
    if not normalize:
        mean, std = np.zeros(3), np.ones(3)
    return VggWeights(
        params, mean.astype(np.float32), std.astype(np.float32), convention, taps, network
    )


def _read(path: str, fields: Fields) -> dict[str, np.ndarray]:
    if problem := files.not_regular(path):
        without = ", or '' for the pixel loss alone" if fields == PERCEPTUAL else ""
        raise WeightsError(
            f"{path}: {problem}; config.{fields.weights} needs VGG weights (.npz), made by "
            f"landmarks-jax convert vgg{without}"
        )
    try:
        return npz.read_npz(path)
    except ValueError as error:
        raise WeightsError(
            f"{path}: not a readable .npz file of weights ({error}); remove it, or make "
            "it again by landmarks-jax convert vgg"
        ) from error


def _check(
    path: str, arrays: Mapping[str, np.ndarray], network: str, convention: str, fields: Fields
) -> None:
    """Checks the optional entries of the file."""
    if convention not in CONVENTIONS:
        known = ", ".join(CONVENTIONS)
        raise WeightsError(f"{path}: convention {convention!r}; known are {known}")
    # In files without the entry, only VGG-19 has a fourth layer in a block.
    actual = str(arrays.get("network", "vgg19" if layer_key("kernel3_4") in arrays else network))
    if actual != network:
        raise WeightsError(
            f"{path}: has {_TITLES.get(actual, actual)}, config.{fields.network} is {network!r}"
        )
    if "sha256" in arrays and str(arrays["sha256"]) != digest_of_layers(arrays):
        raise WeightsError(f"{path}: damaged (checksum); convert it again")


def digest_of_layers(arrays: Mapping[str, np.ndarray]) -> str:
    """SHA-256 of the layers of a file, with their names, types and shapes."""
    sums = hashlib.sha256()
    for name in sorted(name for name in arrays if name.startswith("block")):
        array = np.ascontiguousarray(arrays[name])
        sums.update(f"{name} {array.dtype.str} {array.shape}\n".encode())
        sums.update(array.tobytes())
    return sums.hexdigest()


def layer_key(name: str) -> str:
    """The file's name of a parameter of `models.vgg` such as `kernel1_2`."""
    kind, layer = name[:-3], name[-3:]
    return f"block{layer[0]}_conv{layer[2]}_{kind}"


def _layer(
    arrays: Mapping[str, np.ndarray],
    name: str,
    shape: tuple[int, ...],
    *,
    path: str,
    network: str,
    tap: str,
    fields: Fields,
) -> np.ndarray:
    key = layer_key(name)
    if key not in arrays:
        available = [f"relu{at}" for at in LAYERS[network] if layer_key(f"bias{at}") in arrays]
        raise WeightsError(
            f"{path}: cannot compute {tap} of config.{fields.taps}, {key} is not in the file; it "
            f"is enough for {', '.join(available) or 'none'}"
        )
    if arrays[key].shape != shape:
        raise WeightsError(
            f"{path}: {key} has shape {arrays[key].shape}, {_TITLES[network]} has {shape}"
        )
    if not np.all(np.isfinite(arrays[key])):
        raise WeightsError(f"{path}: {key} has values that are not finite")
    return arrays[key].astype(np.float32)
