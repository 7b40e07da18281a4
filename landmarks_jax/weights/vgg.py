"""VGG-16 trained on ImageNet, read from an `.npz` file into the parameters of `models.vgg`.

The file holds `block{b}_conv{j}_kernel` `[3, 3, in, out]` and `block{b}_conv{j}_bias` `[out]`, for
the first layers or for all, and optionally `convention`: `caffe` (the default: what Keras ships;
blue first, 0 to 255, less the means) or `torchvision` (red first, 0 to 1).
"""

import hashlib
import zipfile
import zlib
from typing import NamedTuple

import numpy as np

from landmarks_jax.errors import WeightsError
from landmarks_jax.models.vgg import LAYERS, TAPS, parameter_shapes

# Of ImageNet's photos in [0, 1], red first.
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
# Red first, in 0 to 255.
CAFFE_MEAN = (123.68, 116.779, 103.939)
# Eq. 6.
PAPER_TAPS = ("relu1_2", "relu2_2", "relu3_3", "relu4_3")
CONVENTIONS = ("caffe", "torchvision")


class VggWeights(NamedTuple):
    """Parameters and the preprocessing they expect.

    Attributes:
      params: `{"kernel1_1": [3, 3, in, out], "bias1_1": [out], ...}`, red first.
      mean: `[3]`, subtracted from images in [0, 1].
      std: `[3]`, then divided by.
      convention: `caffe` or `torchvision`.
      taps: what the parameters reach to.
    """

    params: dict[str, np.ndarray]
    mean: np.ndarray
    std: np.ndarray
    convention: str
    taps: tuple[str, ...]

    def digest(self) -> str:
        """A fingerprint of the numbers, in hexadecimal: a run keeps it to notice a change."""
        sums = hashlib.sha256()
        for name in sorted(self.params):
            sums.update(np.ascontiguousarray(self.params[name]).tobytes())
        sums.update(self.mean.tobytes() + self.std.tobytes())
        return sums.hexdigest()

    def notes(self) -> list[str]:
        """What tables must say where these are not torchvision's weights at the paper's taps."""
        taps = self.taps
        if self.convention == "torchvision" and taps == PAPER_TAPS:
            return []
        name = {"caffe": "Caffe", "torchvision": "torchvision"}[self.convention]
        return [f"perceptual loss of {name} VGG-16, {len(taps)} taps ({', '.join(taps)})"]


def load_vgg16(path: str, taps: tuple[str, ...], *, normalize: bool) -> VggWeights:
    """Reads the layers that the taps need.

    ReLU networks are homogeneous: a Caffe network fed with its input over 255, its biases over 255,
    gives its features over 255, which are of torchvision's size. So Caffe weights are scaled here
    (`feature_scale` 1/255) and take images in [0, 1] less the means over 255.

    Args:
      path: the `.npz` file.
      taps: names such as `relu1_2`.
      normalize: subtract the mean (and divide by the deviation, for torchvision's weights); without
        it the network sees the image as it is, as in the paper's released code.

    Raises:
      WeightsError: the file is missing or damaged, lacks a tap or has a layer of another shape.
    """
    try:
        # Opened here: NumPy leaves the file of a damaged archive open.
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
    except FileNotFoundError:
        raise WeightsError(
            f"{path}: no such file; config.perceptual.weights wants VGG-16 weights (.npz), "
            "or '' for the pixel loss alone"
        ) from None
    except (
        OSError,
        ValueError,
        EOFError,
        zipfile.BadZipFile,
        TypeError,
        zlib.error,
        NotImplementedError,
    ) as error:
        raise WeightsError(f"{path}: not a readable .npz file of weights ({error})") from error

    convention = str(arrays.get("convention", "caffe"))
    if convention not in CONVENTIONS:
        raise WeightsError(f"{path}: convention {convention!r}; known are {', '.join(CONVENTIONS)}")
    params = {}
    for tap in taps:
        for name, shape in parameter_shapes((tap,)).items():
            params[name] = _layer(arrays, name, shape, path, tap)
    if convention == "caffe":
        params["kernel1_1"] = params["kernel1_1"][:, :, ::-1]
        params = {n: a / np.float32(255) if n.startswith("bias") else a for n, a in params.items()}
        mean, std = np.array(CAFFE_MEAN) / 255.0, np.ones(3)
    else:
        mean, std = np.array(IMAGENET_MEAN), np.array(IMAGENET_STD)
    if not normalize:
        mean, std = np.zeros(3), np.ones(3)
    return VggWeights(params, mean.astype(np.float32), std.astype(np.float32), convention, taps)


def _layer(
    arrays: dict[str, np.ndarray], name: str, shape: tuple[int, ...], path: str, tap: str
) -> np.ndarray:
    kind, layer = name[:-3], name[-3:]
    key = f"block{layer[0]}_conv{layer[2]}_{kind}"
    if key not in arrays:
        given = [
            TAPS[i] for i, at in enumerate(LAYERS) if f"block{at[0]}_conv{at[2]}_bias" in arrays
        ]
        raise WeightsError(
            f"{path}: cannot give {tap}, {key} is not in the file; "
            f"set config.perceptual.taps to some of: {', '.join(given) or 'none'}"
        )
    if arrays[key].shape != shape:
        raise WeightsError(f"{path}: {key} has shape {arrays[key].shape}, VGG-16 has {shape}")
    if not np.all(np.isfinite(arrays[key])):
        raise WeightsError(f"{path}: {key} holds values that are not finite")
    return arrays[key].astype(np.float32)
