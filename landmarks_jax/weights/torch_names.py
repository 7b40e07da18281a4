"""Maps names and axes of the released PyTorch code's detector and generator to Flax.

Modules correspond one to one. `detector_modules` and `generator_modules` pair their names; the
arrays, and the order of their axes, follow from the kind of module.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import flax.traverse_util
import numpy as np

from landmarks_jax.system.errors import WeightsError

# A counter that batch norm with a momentum does not use.
_IGNORED = ".num_batches_tracked"
_NORM = {
    "weight": ("params", "scale"),
    "bias": ("params", "bias"),
    "running_mean": ("batch_stats", "mean"),
    "running_var": ("batch_stats", "var"),
}
_CONV = {"weight": ("params", "kernel"), "bias": ("params", "bias")}
# From [out, in, h, w], of transposed convolutions [in, out, h, w], to [h, w, in, out].
_AXES = {"conv": (2, 3, 1, 0), "transposed": (2, 3, 0, 1)}


class Module(NamedTuple):
    """A module with arrays.

    Attributes:
      torch: its name in PyTorch's state dict.
      flax: its path in our trees.
      kind: `norm`, `conv` or `transposed`.
    """

    torch: str
    flax: tuple[str, ...]
    kind: str


def _block(torch: str, flax: tuple[str, ...], *, changes_width: bool = False) -> Iterator[Module]:
    for i in (1, 2, 3):
        yield Module(f"{torch}.bn{i}", (*flax, f"norm{i}"), "norm")
        yield Module(f"{torch}.conv{i}", (*flax, f"conv{i}"), "conv")
    if changes_width:
        yield Module(f"{torch}.downsample.0", (*flax, "skip_norm"), "norm")
        yield Module(f"{torch}.downsample.2", (*flax, "skip_conv"), "conv")


def detector_modules(depth: int) -> Iterator[Module]:
    """The detector's modules, with an hourglass of `depth` levels.

    PyTorch's levels are numbered from the bottom; Flax's are nested.
    """
    yield Module("conv1", ("stem",), "conv")
    yield Module("bn1", ("stem_norm",), "norm")
    yield from _block("conv2", ("block1",), changes_width=True)
    yield from _block("conv3", ("block2",))
    yield from _block("conv4", ("block3",), changes_width=True)
    for level in range(depth, 0, -1):
        flax = ("hourglass", *("inner",) * (depth - level))
        yield from _block(f"m0.b1_{level}", (*flax, "skip"))
        yield from _block(f"m0.b2_{level}", (*flax, "down"))
        if level == 1:
            yield from _block("m0.b2_plus_1", (*flax, "bottom"))
        yield from _block(f"m0.b3_{level}", (*flax, "up"))
    yield from _block("top_m_0", ("top",))
    yield Module("conv_last0", ("last",), "conv")
    yield Module("bn_end0", ("last_norm",), "norm")
    yield Module("l_0", ("head",), "conv")


def generator_modules(num_blocks: int) -> Iterator[Module]:
    """The generator's modules, with `num_blocks` residual blocks."""
    for i in range(3):
        yield Module(f"downsampling.{3 * i}", ("encoder", f"conv{i + 1}"), "conv")
        yield Module(f"downsampling.{3 * i + 1}", ("encoder", f"norm{i + 1}"), "norm")
    yield Module("main.0", ("norm_in",), "norm")
    for i in range(1, num_blocks + 1):
        for j, place in enumerate((0, 3), start=1):
            yield Module(f"main.{i}.main.{place}", (f"residual{i}", f"conv{j}"), "conv")
            yield Module(f"main.{i}.main.{place + 1}", (f"residual{i}", f"norm{j}"), "norm")
    for i in range(2):
        place = num_blocks + 1 + 3 * i
        yield Module(f"main.{place}", (f"up{i + 1}",), "transposed")
        yield Module(f"main.{place + 1}", (f"up_norm{i + 1}",), "norm")
    yield Module(f"main.{num_blocks + 7}", ("conv_out",), "conv")


def depth_of(state: Mapping[str, np.ndarray]) -> int:
    """Number of levels of the hourglass in a detector's state dict."""
    levels = [re.match(r"m0\.b1_(\d+)\.", name) for name in state]
    return max((int(level[1]) for level in levels if level), default=0)


def num_blocks_of(state: Mapping[str, np.ndarray]) -> int:
    """Number of residual blocks in a generator's state dict."""
    return sum(bool(re.fullmatch(r"main\.\d+\.main\.0\.weight", name)) for name in state)


def to_variables(
    state: Mapping[str, np.ndarray],
    modules: Iterator[Module],
    expected: Mapping[str, Any],
    where: str,
) -> dict[str, Any]:
    """Renames the arrays of a state dict and permutes their axes.

    Args:
      state: arrays by PyTorch's names.
      modules: the network's modules.
      expected: the shapes of our `{"params", "batch_stats"}`, from `jax.eval_shape`.
      where: begins the message of an error.

    Returns:
      `{"params", "batch_stats"}`, float32 NumPy.

    Raises:
      WeightsError: an array is missing, unknown, not finite, or has another shape.
    """
    left = {name for name in state if not name.endswith(_IGNORED)}
    shapes = {path: leaf.shape for path, leaf in flax.traverse_util.flatten_dict(expected).items()}
    arrays: dict[tuple[str, ...], np.ndarray] = {}
    for module in modules:
        for leaf, (collection, name) in (_NORM if module.kind == "norm" else _CONV).items():
            path = (collection, *module.flax, name)
            if path not in shapes:
                continue  # a convolution without a bias
            key = f"{module.torch}.{leaf}"
            if key not in state:
                raise WeightsError(f"{where}: {key} is missing")
            left.discard(key)
            array = state[key]
            if array.ndim == 4:
                array = array.transpose(_AXES[module.kind])
            arrays[path] = _checked(array, shapes[path], f"{where}: {key}", state[key].shape)
    if left:
        raise WeightsError(f"{where}: {min(left)} does not belong to the network")
    return flax.traverse_util.unflatten_dict(arrays)


def _checked(
    array: np.ndarray, shape: tuple[int, ...], where: str, original: tuple[int, ...]
) -> np.ndarray:
    if array.shape != shape:
        raise WeightsError(f"{where} has shape {original}, which does not match the other arrays")
    if array.dtype.kind != "f" or not np.isfinite(array).all():
        raise WeightsError(f"{where} does not have finite floating-point numbers")
    return np.ascontiguousarray(array, np.float32)
