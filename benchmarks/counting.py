"""Operations and numbers moved of a training step, in closed form from the method's layers.

Of the plain layers, each a convolution that method and configuration name: it knows nothing of how
ours are written. `benchmarks.tracing` counts what is run. All counts are of multiply-adds a photo
and step, forward and backward, by part: detector, encoder, decoder, vgg.
"""

import itertools
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from ml_collections import ConfigDict

from landmarks_jax.models import vgg as vggs

PARTS = ("detector", "encoder", "decoder", "vgg")


class Layer(NamedTuple):
    """A convolution of one image.

    Attributes:
      part: one of `PARTS`.
      kernel: `(k, k, inputs, outputs)`.
      positions: how often the kernel is applied.
      read: numbers of its input.
      written: numbers of its output.
      first: whether its input is the part's images.
      normed: numbers that a batch norm before or behind it normalises.
    """

    part: str
    kernel: tuple[int, int, int, int]
    positions: int
    read: int
    written: int
    first: bool = False
    normed: int = 0

    @property
    def macs(self) -> int:
        """Multiply-adds of an image forward; of either gradient as many."""
        return int(np.prod(self.kernel)) * self.positions


class Pass(NamedTuple):
    """A layer's forward or one of its gradients, in a step.

    Attributes:
      part: one of `PARTS`.
      direction: `forward` or `backward`.
      macs: multiply-adds a photo.
      moved: numbers read and written a photo, if all pointwise work is fused into it.
      weights: numbers of the kernel, once a call.
      apart: numbers moved a photo besides if batch norm is not part of the convolutions.
    """

    part: str
    direction: str
    macs: float
    moved: float
    weights: int
    apart: float


# Passes over the normalised numbers that batch norm takes by itself: forward it reads them for its
# statistics, reads them again and writes; backward it reads them and their gradient twice and
# writes.
_NORM_PASSES = {"forward": 3, "backward": 5}


def _conv(
    part: str,
    size: int,
    side: int,
    inputs: int,
    outputs: int,
    *,
    stride: int = 1,
    first: bool = False,
    norm: str = "",
) -> Layer:
    """A convolution; `norm` says whether what is `read` or `written` is normalised."""
    out = side // stride
    read, written = side**2 * inputs, out**2 * outputs
    normed = {"read": read, "written": written, "": 0}[norm]
    return Layer(part, (size, size, inputs, outputs), out**2, read, written, first, normed)


def _block(side: int, inputs: int, width: int) -> Iterator[Layer]:
    widths = (inputs, width // 2, width // 4, width // 4)
    for before, after in itertools.pairwise(widths):
        yield _conv("detector", 3, side, before, after, norm="read")
    if inputs != width:
        yield _conv("detector", 1, side, inputs, width, norm="read")


def detector_layers(config: ConfigDict) -> Iterator[Layer]:
    """The detector's convolutions."""
    side, width = config.views.size, config.model.detector_channels
    yield _conv("detector", 7, side, 3, width // 4, stride=2, first=True, norm="written")
    yield from _block(side // 2, width // 4, width // 2)
    side //= 4
    yield from _block(side, width // 2, width // 2)
    yield from _block(side, width // 2, width)
    here = side
    for _ in range(config.model.hourglass_depth):
        yield from _block(here, width, width)  # skip
        here //= 2
        for _ in ("down", "up"):
            yield from _block(here, width, width)
    yield from _block(here, width, width)  # bottom
    yield from _block(side, width, width)
    yield _conv("detector", 1, side, width, width)
    yield _conv("detector", 1, side, width, config.model.num_landmarks, norm="read")


def generator_layers(config: ConfigDict) -> Iterator[Layer]:
    """The encoder's and the decoder's convolutions."""
    side, c = config.views.size, config.model.generator_channels
    yield _conv("encoder", 7, side, 3, c, first=True, norm="written")
    yield _conv("encoder", 4, side, c, 2 * c, stride=2, norm="written")
    yield _conv("encoder", 4, side // 2, 2 * c, 4 * c, stride=2, norm="written")
    width, side = 4 * c + config.model.num_landmarks, side // 4
    for _ in range(2 * config.model.residual_blocks):
        yield _conv("decoder", 3, side, width, width, norm="written")
    for _ in range(2):
        half = width // 2
        sizes = (side**2 * width, 4 * side**2 * half)
        yield Layer("decoder", (4, 4, width, half), side**2, *sizes, normed=sizes[1])
        width, side = half, 2 * side
    yield _conv("decoder", 7, side, width, 3)


def vgg_layers(config: ConfigDict) -> Iterator[Layer]:
    """VGG's convolutions up to the last tap."""
    side, inputs, network = config.views.size, 3, config.perceptual.network
    for layer in vggs.layers_needed(network, config.perceptual.taps):
        if layer.endswith("_1") and layer != "1_1":
            side //= 2
        width = vggs.width_of(network, layer)
        yield _conv("vgg", 3, side, inputs, width, first=layer == "1_1")
        inputs = width


def _passes(layer: Layer, images: int, *, of_input: bool, of_weights: bool) -> Iterator[Pass]:
    """A layer's passes over so many images a photo, with the gradients asked for."""
    macs, weights = images * layer.macs, int(np.prod(layer.kernel))
    moved = images * (layer.read + layer.written)
    apart = {name: images * layer.normed * times for name, times in _NORM_PASSES.items()}
    yield Pass(layer.part, "forward", macs, moved, weights, apart["forward"])
    if of_input:
        yield Pass(layer.part, "backward", macs, moved, weights, 0)
    if of_weights:
        yield Pass(layer.part, "backward", macs, moved, weights, apart["backward"])


def passes(config: ConfigDict) -> list[Pass]:
    """Every convolution of a training step of the method, forward and backward.

    Gradients that nothing needs are not among them: of the photos themselves, of VGG's kernels, of
    the targets' features.
    """
    composition = config.objective.composition
    directions = 2 if composition in ("cycle", "all") else 1
    found: list[Pass] = []
    for layer in detector_layers(config):
        found += _passes(layer, 2, of_input=not layer.first, of_weights=True)
    for layer in generator_layers(config):
        if composition in ("inter", "all"):
            found += _passes(layer, directions, of_input=not layer.first, of_weights=True)
            found += _passes(layer, directions, of_input=True, of_weights=True)
        else:
            found += _passes(layer, directions, of_input=not layer.first, of_weights=True)
    for layer in vgg_layers(config) if config.perceptual.weights else ():
        found += _passes(layer, directions, of_input=True, of_weights=False)
        found += _passes(layer, directions, of_input=False, of_weights=False)
    return found


def macs_per_photo(config: ConfigDict) -> float:
    """Multiply-adds of a training step a photo, by the closed form."""
    return sum(one.macs for one in passes(config))
