"""Converts torchvision's and Keras' VGG networks to the `.npz` that `load_vgg` reads.

torchvision's `.pth` names convolutions by their index in the network, `features.N.weight`
`[out, in, 3, 3]`, for RGB images in [0, 1]. Keras' `.h5` names them by block and layer,
`[3, 3, in, out]`, for BGR images in [0, 255]. Dense layers are left out.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from landmarks_jax.models.vgg import LAYERS, NETWORKS, TAPS, parameter_shapes
from landmarks_jax.system import files, npz
from landmarks_jax.system.errors import WeightsError, reason
from landmarks_jax.weights import torch_file, vgg_weights

_HDF5 = b"\x89HDF\r\n\x1a\n"
_KERAS_LAYER = re.compile(r"(?:^|/)block([1-5])_conv([1-4])(?:/|$)")


def convert(path: Path, out: Path) -> str:
    """Converts a network that torchvision or Keras published.

    Args:
      path: torchvision's `.pth` or Keras' `.h5`.
      out: the `.npz` to create or replace.

    Returns:
      The network, one of `models.vgg.NETWORKS`.

    Raises:
      WeightsError: the file is missing, damaged or has another network, or `out` cannot be written.
    """
    if problem := files.not_regular(path):
        raise WeightsError(f"{path}: {problem}")
    with path.open("rb") as file:
        keras = file.read(len(_HDF5)) == _HDF5
    layers = read_keras(path) if keras else read_torch(path)
    network = check_layers(layers, path)
    content: dict[str, Any] = {
        **layers,
        "network": network,
        "convention": "caffe" if keras else "torchvision",
        "source": f"{path.name} (SHA-256 {files.sha256_of(path, WeightsError)})",
        "sha256": vgg_weights.digest_of_layers(layers),
    }
    npz.write_npz(out, WeightsError, **content)
    return network


def read_torch(path: Path) -> dict[str, np.ndarray]:
    """Reads the layers of torchvision's file, by their names in the `.npz`.

    Raises:
      WeightsError: the file is missing, damaged or has another network.
    """
    arrays = torch_file.read_state_dict(path, prefix="features.")
    numbers = [name.split(".")[1] for name, array in arrays.items() if array.ndim == 4]
    for network in NETWORKS:
        places = places_of(network)
        if numbers == list(places):
            break
    else:
        raise WeightsError(
            f"{path}: has convolutions at features.{{{','.join(numbers)}}}, which is neither "
            "VGG-16 nor VGG-19 of torchvision (without batch norm)"
        )
    layers = {}
    for number, layer in places.items():
        kernel = arrays.pop(f"features.{number}.weight")
        layers[vgg_weights.layer_key(f"kernel{layer}")] = kernel.transpose(2, 3, 1, 0)
        if (bias := f"features.{number}.bias") not in arrays:
            raise WeightsError(f"{path}: {bias} is missing")
        layers[vgg_weights.layer_key(f"bias{layer}")] = arrays.pop(bias)
    if arrays:
        raise WeightsError(f"{path}: {min(arrays)} does not belong to {network}")
    return layers


def places_of(network: str) -> dict[str, str]:
    """Maps torchvision's indices of convolutions to layers, such as `"2"` to `"1_2"`.

    A convolution with its ReLU takes two indices, the pool before a block one.
    """
    places, number = {}, 0
    for layer in LAYERS[network]:
        number += layer.endswith("_1") and layer != "1_1"
        places[str(number)] = layer
        number += 2
    return places


def read_keras(path: Path) -> dict[str, np.ndarray]:
    """Reads the layers of Keras' file, by their names in the `.npz`.

    In Keras' own download and in files of `save`, a layer's name is part of the arrays' path;
    `save_weights` of Keras 3 numbers the layers and stores the name as an attribute of the group.

    Raises:
      WeightsError: the file is damaged, or h5py is not installed.
    """
    try:
        import h5py  # noqa: PLC0415
    except ImportError:
        raise WeightsError(f"{path}: reading it needs h5py: pip install '.[convert]'") from None
    layers: dict[str, np.ndarray] = {}

    def visit(name: str, item: Any) -> None:
        # Optimisers have arrays of the same shapes for each layer.
        if not isinstance(item, h5py.Dataset) or "optimizer" in name:
            return
        layer = _KERAS_LAYER.search(f"{name}/{item.parent.attrs.get('name', '')}")
        if not layer:
            return
        kind = "kernel" if item.ndim == 4 else "bias"
        key = vgg_weights.layer_key(f"{kind}{layer[1]}_{layer[2]}")
        if key in layers:
            raise WeightsError(f"{path}: {key} occurs twice")
        layers[key] = np.asarray(item)

    try:
        with h5py.File(path, "r") as file:
            file.visititems(visit)
    except (OSError, RuntimeError, ValueError, TypeError) as error:
        raise WeightsError(f"{path}: cannot be read as Keras' .h5 ({reason(error)})") from error
    return layers


def check_layers(layers: Mapping[str, np.ndarray], path: Path) -> str:
    """The network that has exactly these layers.

    Raises:
      WeightsError: no network has, or a layer has another shape or is not finite.
    """
    network = "vgg19" if vgg_weights.layer_key("kernel3_4") in layers else "vgg16"
    shapes = {
        vgg_weights.layer_key(name): shape
        for name, shape in parameter_shapes(network, TAPS[network]).items()
    }
    if unknown := sorted(layers.keys() - shapes.keys()):
        raise WeightsError(f"{path}: {network} has no {unknown[0]}")
    for name, shape in shapes.items():
        if name not in layers:
            raise WeightsError(f"{path}: {name} is missing")
        if layers[name].shape != shape:
            raise WeightsError(f"{path}: {name} has shape {layers[name].shape}, must be {shape}")
        if layers[name].dtype != np.float32 or not np.isfinite(layers[name]).all():
            raise WeightsError(f"{path}: {name} does not have finite float32 numbers")
    return network
