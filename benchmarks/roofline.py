"""Lower bounds: what a training step must compute and move, and the time no step can beat.

python -m benchmarks.roofline --device h200 --out docs/results/benchmarks/roofline_h200.json

`compute`: the step's multiply-adds over the best matrix product. `roofline`: the sum, over
convolutions and their gradients, of the longer of computing and of moving what each reads and
writes, with all pointwise work free. Counted are the plain layers of the method, whatever way ours
are written; a test holds the count against PyTorch's.
"""

import itertools
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict

from benchmarks import harness
from benchmarks.problem import PAPER_STEPS, PRESETS, configure, input_shapes, num_parameters
from landmarks_jax.models import detectors, hog, vgg
from landmarks_jax.system.tables import Table
from landmarks_jax.tasks import task_of
from landmarks_jax.training.refiner import PCA_PHOTOS

# Whose convolutions are counted.
DETECTORS = ("hourglass", "deep_hourglass")
PARTS = ("detector", "encoder", "decoder", "vgg")
# Rates in operations and bytes per second, assumed where this machine is another.
_ASSUMED = (
    "assumed: a bfloat16 product of 8192 and a copy, as measured on another machine of this kind; "
    "float32 is TF32, half of bfloat16 by the data sheet"
)
_PEAK = {"bfloat16": 790e12, "float32": 395e12}
DEVICES: dict[str, dict[str, Any]] = {
    "h200": {"name": "NVIDIA H200", "peak": _PEAK, "bandwidth": 4.3e12, "source": _ASSUMED},
    "h100": {"name": "NVIDIA H100 SXM", "peak": _PEAK, "bandwidth": 3.0e12, "source": _ASSUMED},
}
_BYTES = {"bfloat16": 2, "float32": 4}
# Per parameter: Adam reads it, its gradient and two means, and writes it and the means.
_ADAM_BYTES = 28


class Conv(NamedTuple):
    """A convolution of one image.

    Attributes:
      part: one of `PARTS`.
      kernel: `(k, k, inputs, outputs)`.
      positions: how often the kernel is applied.
      read: elements of its input.
      written: elements of its output.
    """

    part: str
    kernel: tuple[int, int, int, int]
    positions: int
    read: int
    written: int

    @property
    def macs(self) -> int:
        """Multiply-adds per image, forward; each of the two gradients takes as many."""
        return int(np.prod(self.kernel)) * self.positions


def _conv(part: str, k: int, side: int, inputs: int, outputs: int, *, stride: int = 1) -> Conv:
    positions = (side // stride) ** 2
    return Conv(part, (k, k, inputs, outputs), positions, side**2 * inputs, positions * outputs)


def _block(side: int, inputs: int, width: int) -> Iterator[Conv]:
    for before, after in itertools.pairwise((inputs, width // 2, width // 4, width // 4)):
        yield _conv("detector", 3, side, before, after)
    if inputs != width:
        yield _conv("detector", 1, side, inputs, width)


def detector_convs(config: ConfigDict) -> Iterator[Conv]:
    """The detector's convolutions, without those of VGG that it may read; see `features_convs`."""
    side, width = config.views.size, config.model.detector_channels
    yield _conv("detector", 7, side, 3, width // 4, stride=2)
    yield from _block(side // 2, width // 4, width // 2)
    side //= 4
    if detectors.reads_vgg(config):
        inputs = vgg.width_of(config.model.features_network, config.model.features_tap[4:])
        yield _conv("detector", 1, side, inputs, width // 2)
    yield from _block(side, width // 2, width // 2)
    yield from _block(side, width // 2, width)
    level = side
    for _ in range(config.model.hourglass_depth):
        yield from _block(level, width, width)  # skip
        level //= 2
        for _ in ("down", "up"):
            yield from _block(level, width, width)
    yield from _block(level, width, width)  # bottom
    yield from _block(side, width, width)
    yield _conv("detector", 1, side, width, width)
    yield _conv("detector", 1, side, width, config.model.num_landmarks)


def generator_convs(config: ConfigDict) -> Iterator[Conv]:
    """The encoder's and the decoder's convolutions."""
    side, c = config.views.size, config.model.generator_channels
    yield _conv("encoder", 7, side, 3, c)
    yield _conv("encoder", 4, side, c, 2 * c, stride=2)
    yield _conv("encoder", 4, side // 2, 2 * c, 4 * c, stride=2)
    width, side = 4 * c + config.model.num_landmarks, side // 4
    for _ in range(2 * config.model.residual_blocks):
        yield _conv("decoder", 3, side, width, width)
    for _ in range(2):  # transposed
        half, written = width // 2, 4 * side**2 * (width // 2)
        yield Conv("decoder", (4, 4, width, half), side**2, side**2 * width, written)
        width, side = half, 2 * side
    yield _conv("decoder", 7, side, width, 3)


def features_convs(config: ConfigDict) -> Iterator[Conv]:
    """VGG's convolutions whose features the detector reads; none if it reads none."""
    if detectors.reads_vgg(config):
        model = config.model
        yield from vgg_convs(model.features_network, (model.features_tap,), config.views.size)


def vgg_convs(network: str, taps: Sequence[str], side: int) -> Iterator[Conv]:
    """VGG's convolutions up to the last tap, on an image of `side` pixels."""
    inputs = 3
    for layer in vgg.layers_needed(network, taps):
        if layer.endswith("_1") and layer != "1_1":
            side //= 2
        width = vgg.width_of(network, layer)
        yield _conv("vgg", 3, side, inputs, width)
        inputs = width


def step_convs(config: ConfigDict) -> Iterator[tuple[Conv, int, int]]:
    """Every convolution of a training step.

    Left out are gradients that nothing needs: of photos, VGG's kernels and the targets' features.

    Yields:
      The convolution, images per photo, and passes: forward, and the gradients it needs.
    """
    task = task_of(config)
    reconstructs = "generator" in task.NETWORKS
    views = 2 * reconstructs + (task.MAKES_TARGETS or not reconstructs)
    for conv in features_convs(config):
        yield conv, views, 1
    for i, conv in enumerate(detector_convs(config)):
        yield conv, views, 3 if i else 2
    if not reconstructs:
        return
    composition, perceptual = config.objective.composition, config.perceptual
    directions = 2 if composition in ("cycle", "all") else 1
    for i, conv in enumerate(generator_convs(config)):
        yield conv, directions, 3 if i else 2
        if composition in ("inter", "all"):  # a second time, on the intermediate images
            yield conv, directions, 3
    if not perceptual.weights:
        return
    for conv in vgg_convs(perceptual.network, perceptual.taps, config.views.size):
        yield conv, directions, 2  # reconstructions
        yield conv, directions, 1  # targets


def macs_per_photo(config: ConfigDict) -> int:
    """Multiply-adds of a training step per photo."""
    return sum(images * passes * conv.macs for conv, images, passes in step_convs(config))


def macs_of_targets(config: ConfigDict, photos: int, *, later: bool) -> int:
    """Multiply-adds of making the targets of self-training once.

    Convolutions alone, of which histograms of gradients need none; without those of a packed
    detector that points start from.

    Args:
      config: the configuration.
      photos: number of different photos.
      later: whether points start from those of the detector in training.
    """
    targets = config.targets
    fitted = min(photos, max(1, targets.num_fit // (2 if targets.mirror else 1)))
    images = photos + min(fitted, PCA_PHOTOS) + (fitted if targets.mirror else 0)
    macs = 0
    if targets.network != hog.NETWORK:
        compared = vgg_convs(targets.network, targets.taps, targets.view_size)
        macs = images * sum(conv.macs for conv in compared)
    if later:
        convs = itertools.chain(features_convs(config), detector_convs(config))
        macs += photos * targets.num_views * sum(conv.macs for conv in convs)
    return macs


def lower_bounds(config: ConfigDict, device: dict[str, Any]) -> dict[str, Any]:
    """The lower bounds of the time of a configuration's step.

    Args:
      config: the configuration.
      device: an entry of `DEVICES`, or anything with its "peak" and "bandwidth".

    Returns:
      `compute_ms` and `roofline_ms` per step and, by part, multiply-adds and bytes per photo and
      milliseconds of the roofline.
    """
    photos, width = config.train.batch_size, _BYTES[config.compute_dtype]
    peak, bandwidth = device["peak"][config.compute_dtype], device["bandwidth"]
    parts: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))
    for conv, images, passes in step_convs(config):
        macs, part = passes * images * conv.macs, parts[conv.part]
        elements = images * photos * (conv.read + conv.written) + int(np.prod(conv.kernel))
        moved = passes * width * elements
        part["macs"] += macs
        part["bytes"] += moved / photos
        part["roofline_ms"] += 1e3 * max(2 * photos * macs / peak, moved / bandwidth)
    views = 2 * photos * config.views.size**2 * 3 * _BYTES["float32"]
    besides = {
        "views": input_shapes(config).canvases.size + views,
        "optimiser": _ADAM_BYTES * num_parameters(config),
    }
    for name, moved in besides.items():
        parts[name] = {"bytes": moved / photos, "roofline_ms": 1e3 * moved / bandwidth}
    return {
        "compute_ms": 2e3 * photos * macs_per_photo(config) / peak,
        "roofline_ms": sum(part["roofline_ms"] for part in parts.values()),
        "parts": {name: dict(part) for name, part in parts.items()},
    }


def measured(dtypes: Iterable[str]) -> dict[str, Any]:
    """This machine's own rates, as an entry of `DEVICES`."""
    return {
        "name": f"this {jax.devices()[0].device_kind}",
        "peak": {dtype: harness.matmul_peak(dtype) for dtype in dtypes},
        "bandwidth": harness.copy_bandwidth(),
        "source": "measured here: a matrix product and a copy",
    }


def measure(configs: dict[str, list[ConfigDict]], device: dict[str, Any]) -> dict[str, Any]:
    """The lower bounds of configurations by preset; plain JSON, the source of `to_markdown`."""
    rows = [
        {"preset": preset, "dtype": config.compute_dtype, "batch": config.train.batch_size}
        | lower_bounds(config, device)
        for preset, variants in configs.items()
        for config in variants
    ]
    return {**harness.environment(("jax", "jaxlib")), "floor_of": device, "rows": rows}


def to_markdown(result: dict[str, Any]) -> str:
    """The table of a result."""
    device = result["floor_of"]
    names = list(result["rows"][0]["parts"])
    header = ["Preset", "Arithmetic", "Batch", "GMAC per photo", "Compute", "Roofline", "Images/s"]
    header += [f"{PAPER_STEPS:,} steps", *(f"{name}, ms" for name in names)]
    rows = []
    for row in result["rows"]:
        macs = sum(part.get("macs", 0) for part in row["parts"].values())
        cells = [row["preset"], row["dtype"], str(row["batch"]), f"{macs / 1e9:,.1f}"]
        cells += [f"{row['compute_ms']:,.2f} ms", f"{row['roofline_ms']:,.2f} ms"]
        cells += [f"{1e3 * row['batch'] / row['roofline_ms']:,.0f}"]
        cells += [f"{PAPER_STEPS * row['roofline_ms'] / 6e4:,.1f} min"]
        rows.append([*cells, *(f"{row['parts'][name]['roofline_ms']:,.2f}" for name in names)])
    rates = ", ".join(f"{peak / 1e12:,.3g} TFLOP/s in {d}" for d, peak in device["peak"].items())
    notes = [
        harness.provenance(result),
        f"The device: {device['name']}, {rates}, {device['bandwidth'] / 1e9:,.4g} GB/s "
        f"({device['source']}). Compute: the step's multiply-adds (GMAC: 10^9) over that product. "
        "Roofline: over convolutions and their gradients, the longer of computing and moving, "
        "pointwise work free; the columns of the parts are its shares, images/s its rate.",
    ]
    return Table(header, rows, "Lower bounds of a training step", notes).to_markdown(1)


def main() -> None:
    """Counts, and writes the JSON with its table beside it."""
    parser = harness.argument_parser(__doc__)
    read = harness.comma_separated
    parser.add_argument(
        "--presets", type=read(harness.one_of(PRESETS)), default="paper,released", help="by commas"
    )
    parser.add_argument("--batches", type=read(harness.at_least(2)), default="32,256", help="sizes")
    dtypes = read(harness.one_of(_BYTES))
    parser.add_argument("--dtypes", type=dtypes, default="bfloat16,float32", help="by commas")
    parser.add_argument(
        "--device", default="here", choices=("here", *DEVICES), help="whose rates; here: measured"
    )
    args = parser.parse_args()
    device = measured(args.dtypes) if args.device == "here" else DEVICES[args.device]
    cells = list(itertools.product(args.batches, args.dtypes))
    configs = {name: [configure(name, None, d, b) for b, d in cells] for name in args.presets}
    result = measure(configs, device)
    harness.write_result(args.out, result, to_markdown(result))


if __name__ == "__main__":
    harness.run_command(main)
