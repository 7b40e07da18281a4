"""Reads the released PyTorch code's detectors and generators into Flax variables.

The sizes of a network follow from its arrays. An adapted detector's 3 x 3 convolutions have the
weight `W @ theta` (paper, IV-A): its file only has `W`; `theta` is in the file of the core that it
was adapted from. Their product is taken here, so the result is a plain detector.
"""

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from landmarks_jax.models import hourglass
from landmarks_jax.models.generator import Generator
from landmarks_jax.models.hourglass import Detector
from landmarks_jax.system.errors import WeightsError
from landmarks_jax.weights import torch_names
from landmarks_jax.weights.torch_file import read_state_dict

State = dict[str, np.ndarray]
_MAX_LEVELS = 10


class Network(NamedTuple):
    """A network that was read.

    Attributes:
      variables: `{"params", "batch_stats"}`, float32 NumPy.
      sizes: the fields of `config.model` that follow from its arrays.
    """

    variables: dict[str, Any]
    sizes: dict[str, int]


def read_detector(path: Path, core: Path | None = None) -> Network:
    """Reads a detector: plain, fine-tuned, or adapted from a core.

    Args:
      path: the file.
      core: the core's file, for an adapted detector.

    Raises:
      WeightsError: a file is missing, damaged or has another network, or the core is missing.
    """
    state = read_state_dict(path)
    stem = _array(state, "conv1.weight", 4, path, "detector")
    head = _array(state, "l_0.weight", 4, path, "detector")
    state = fold(state, path, core)
    num_landmarks, channels, depth = len(head), 4 * len(stem), torch_names.depth_of(state)
    if channels % 8 or not 1 <= depth <= _MAX_LEVELS:
        raise WeightsError(
            f"{path}: a detector of {channels} channels and {depth} levels of the hourglass: the "
            f"channels must be a multiple of 8, the levels 1 to {_MAX_LEVELS}"
        )
    # Any size that all levels of the hourglass can halve has the same parameters.
    side = hourglass.STRIDE << depth
    views = jax.ShapeDtypeStruct((1, side, side, 3), np.float32)
    shapes = _shapes(Detector(num_landmarks, channels, depth), views)
    modules = torch_names.detector_modules(depth)
    variables = torch_names.to_variables(state, modules, shapes, str(path))
    return Network(
        variables,
        {
            "num_landmarks": num_landmarks,
            "detector_channels": channels,
            "hourglass_depth": depth,
        },
    )


def fold(state: Mapping[str, np.ndarray], path: Path, core: Path | None) -> State:
    """Replaces every `W` of an adapted detector by the weight `W @ theta`.

    Args:
      state: the detector's state dict.
      path: its file, for messages.
      core: the file with `theta` as weights, for an adapted detector only.

    Raises:
      WeightsError: an adapted detector without core, a plain one with, or shapes that do not match.
    """
    adapted = sorted(name for name in state if name.endswith(".W"))
    if not adapted:
        if core is not None:
            raise WeightsError(f"{path}: not an adapted detector; drop --core")
        return dict(state)
    if core is None:
        raise WeightsError(
            f"{path}: an adapted detector ({adapted[0]} and {len(adapted) - 1} more), whose frozen "
            "weights are in the file of its core; name that file with --core"
        )
    frozen = read_state_dict(core)
    folded = {name: array for name, array in state.items() if not name.endswith(".W")}
    for name in adapted:
        weight = f"{name.removesuffix('W')}weight"
        if weight in state:
            raise WeightsError(f"{path}: has both {name} and {weight}")
        if weight not in frozen:
            raise WeightsError(f"{core}: {weight} is missing; not the core of {path}")
        theta, matrix = frozen[weight], state[name]
        if theta.ndim != 4 or matrix.shape != (len(theta), len(theta)):
            raise WeightsError(
                f"{path}: {name} has shape {matrix.shape}, which does not match {weight} with "
                f"shape {theta.shape} in {core}"
            )
        # In double precision, and rounded once.
        product = matrix.astype(np.float64) @ theta.reshape(len(theta), -1).astype(np.float64)
        folded[weight] = product.reshape(theta.shape).astype(np.float32)
    return folded


def read_generator(path: Path) -> Network:
    """Reads a generator.

    Raises:
      WeightsError: the file is missing, damaged or has another network.
    """
    state = read_state_dict(path)
    channels = len(_array(state, "downsampling.0.weight", 4, path, "generator"))
    width = len(_array(state, "main.0.weight", 1, path, "generator"))
    num_landmarks = width - 4 * channels
    num_blocks = torch_names.num_blocks_of(state)
    if num_landmarks < 1:
        raise WeightsError(
            f"{path}: main.0 has {width} channels, must have more than {4 * channels}"
        )
    views = jax.ShapeDtypeStruct((1, 8, 8, 3), np.float32)
    maps = jax.ShapeDtypeStruct((1, 2, 2, num_landmarks), np.float32)
    shapes = _shapes(Generator(channels, num_blocks), views, maps)
    modules = torch_names.generator_modules(num_blocks)
    variables = torch_names.to_variables(state, modules, shapes, str(path))
    return Network(
        variables,
        {
            "num_landmarks": num_landmarks,
            "generator_channels": channels,
            "residual_blocks": num_blocks,
        },
    )


def _array(state: State, name: str, ndim: int, path: Path, kind: str) -> np.ndarray:
    if name not in state or state[name].ndim != ndim or not state[name].size:
        raise WeightsError(f"{path}: not a {kind} of the released code ({name} is missing)")
    return state[name]


def _shapes(module: Any, *inputs: jax.ShapeDtypeStruct) -> Any:
    init = functools.partial(module.init, use_running_average=True)
    return jax.eval_shape(init, jax.random.key(0), *inputs)
