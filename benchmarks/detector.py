"""Times the detector against the same network in PyTorch and in ONNX Runtime.

python -m benchmarks.detector --out docs/results/benchmarks/detector_cpu.json

uint8 views in, landmarks out, on the first device that JAX finds; the others run on the same kind
of device. All have the same random weights and must find the same points before anything is timed.
A contender that is not installed is named and left out.
"""

import importlib.util
import itertools
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from benchmarks import harness
from benchmarks.harness import OURS
from benchmarks.roofline import detector_convs
from benchmarks.rounds import failure, time_in_turn
from landmarks_jax.configs import base
from landmarks_jax.inference.detector import ViewDetector
from landmarks_jax.models.detectors import build_detector
from landmarks_jax.system.tables import DASH, Table

# Name -> side of the views, channels, depth of the hourglass.
WIDTHS = {"paper": (128, 256, 4), "small": (64, 64, 3)}
# Of landmarks in [-1, 1]. A GPU rounds the factors of float32 products, too (TF32).
TOLERANCE = {"cpu": {"float32": 1e-3, "bfloat16": 0.2}, "cuda": {"float32": 0.05, "bfloat16": 0.2}}

Contender = Callable[[np.ndarray], np.ndarray]


def configure(width: str, dtype: str) -> ConfigDict:
    """The configuration of one of `WIDTHS`, K = 10."""
    config = base.get_config()
    size, channels, depth = WIDTHS[width]
    config.compute_dtype = dtype
    config.views.size, config.data.canvas_size = size, size
    config.model.detector_channels, config.model.hourglass_depth = channels, depth
    return config


def random_variables(config: ConfigDict) -> dict[str, Any]:
    """Random weights whose batch norm is not the identity, as NumPy arrays."""
    module = build_detector(config)
    views = jnp.zeros((1, config.views.size, config.views.size, 3))
    init = jax.jit(lambda key: module.init(key, views, use_running_average=True))
    variables = jax.device_get(init(jax.random.key(0)))
    rng = np.random.default_rng(0)
    statistics = jax.tree.map(
        lambda leaf: rng.uniform(0.5, 1.5, leaf.shape).astype(np.float32), variables["batch_stats"]
    )
    return {"params": variables["params"], "batch_stats": statistics}


def make_contenders(
    config: ConfigDict, variables: dict[str, Any]
) -> tuple[dict[str, Contender], dict[str, str]]:
    """Functions from views `[B, S, S, 3]` to landmarks `[B, K, 2]`; and why others are left out."""
    runs: dict[str, Contender] = {OURS: ViewDetector(config, variables)}
    left_out: dict[str, str] = {}
    makers: dict[str, Callable[[], Contender | str]] = {
        "PyTorch": lambda: _torch(config, variables, compiled=False),
        "PyTorch, compiled": lambda: _torch(config, variables, compiled=True),
        "ONNX Runtime": lambda: _onnx(config, variables),
    }
    for name, make in makers.items():
        try:
            made = make()
        except Exception as error:  # of its libraries' own
            made = failure(error)
        if isinstance(made, str):
            left_out[name] = made
        else:
            runs[name] = made
    return runs, left_out


def _torch(config: ConfigDict, variables: dict[str, Any], *, compiled: bool) -> Contender | str:
    missing = harness.why_no_torch()
    if missing is not None:
        return missing
    import torch  # noqa: PLC0415

    from benchmarks.torch_networks import TorchDetector, state_dict  # noqa: PLC0415

    model = config.model
    device = harness.torch_device()
    network = TorchDetector(
        model.num_landmarks, model.detector_channels, model.hourglass_depth, model.beta
    )
    network.load_state_dict(state_dict(variables), strict=False)
    network = network.eval().to(device, memory_format=torch.channels_last)
    if config.compute_dtype == "bfloat16":
        network = network.to(torch.bfloat16)
    # Dynamic: one graph for all batch sizes, as compiling for each would take minutes.
    module: Any = torch.compile(network, dynamic=True) if compiled else network

    def detect(views: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            return module(torch.from_numpy(views).to(device)).cpu().numpy()

    return detect


def _onnx(config: ConfigDict, variables: dict[str, Any]) -> Contender | str:
    if config.compute_dtype != "float32":
        return "the exported graph computes in float32"
    for module in ("onnxruntime", "jax2onnx"):
        if importlib.util.find_spec(module) is None:
            return f"{module} is not installed"
    import onnxruntime  # noqa: PLC0415

    from landmarks_jax.inference import graph_export, packed_file  # noqa: PLC0415

    gpu = jax.default_backend() == "gpu"
    provider = "CUDAExecutionProvider" if gpu else "CPUExecutionProvider"
    if provider not in onnxruntime.get_available_providers():
        return f"this onnxruntime has no {provider}"
    content = packed_file.PackedDetector(
        packed_file.inference_config(config), variables, None, {"point_names": []}
    )
    session = onnxruntime.InferenceSession(graph_export.to_onnx(content), providers=[provider])
    return lambda views: session.run(["landmarks"], {"views": views})[0]


def check_landmarks(
    runs: dict[str, Contender], views: np.ndarray, tolerance: float
) -> dict[str, str]:
    """Removes the contenders that fail or find other landmarks than ours; returns why, by name."""
    ours, wrong = runs[OURS](views), {}
    for name in [name for name in runs if name != OURS]:
        try:
            difference = float(np.abs(runs[name](views) - ours).max())
        except Exception as error:  # of its libraries' own
            wrong[name] = failure(error)
        else:
            if not difference <= tolerance:
                wrong[name] = f"its landmarks in [-1, 1] differ from ours by {difference:g}"
        if name in wrong:
            del runs[name]
    return wrong


def measure(
    widths: Iterable[str], batches: Iterable[int], dtypes: Iterable[str]
) -> Iterator[dict[str, Any]]:
    """Times everything; yields plain JSON, the source of `to_markdown`, whenever there is more."""
    batches, dtypes = tuple(batches), tuple(dtypes)
    peaks = {dtype: harness.matmul_peak(dtype) for dtype in dtypes}
    result: dict[str, Any] = {
        **harness.environment(("jax", "torch", "onnxruntime", "numpy")),
        "matmul_gflops": {dtype: round(peak / 1e9, 1) for dtype, peak in peaks.items()},
        "left_out": {},
        "rows": [],
    }
    rng = np.random.default_rng(0)
    for width, dtype in itertools.product(widths, dtypes):
        config = configure(width, dtype)
        side = config.views.size
        runs, missing = make_contenders(config, random_variables(config))
        flops = 2 * sum(conv.macs for conv in detector_convs(config))
        for batch in batches:
            views = rng.integers(0, 256, (batch, side, side, 3), np.uint8)
            missing |= check_landmarks(runs, views[:8], TOLERANCE[harness.torch_device()][dtype])
            calls: dict[str, Callable[[], Any]]
            calls = {name: partial(run, views) for name, run in runs.items()}
            *_, (times, stopped) = time_in_turn(calls)
            missing |= stopped
            for name in stopped:
                del runs[name]
            for name, spent in times.items():
                if not spent:
                    continue
                row = {"width": width, "dtype": dtype, "batch": batch, "contender": name}
                row |= {"rounds": len(spent), "gflop_per_view": round(flops / 1e9, 4)}
                row["quartiles_ms"] = harness.quartiles(spent, 1e3)
                row["floor_ms"] = round(1e3 * flops * batch / peaks[dtype], 3)
                result["rows"].append(row)
                harness.log(row)
            result["left_out"] |= {f"{name}, {dtype}": why for name, why in missing.items()}
            yield result


def to_markdown(result: dict[str, Any], level: int = 1) -> str:
    """The table of a result: milliseconds per batch, and how ours compares."""
    names = list(dict.fromkeys(row["contender"] for row in result["rows"]))
    cells: dict[tuple[str, str, int], dict[str, dict[str, Any]]] = {}
    for row in result["rows"]:
        key = row["width"], row["dtype"], row["batch"]
        cells.setdefault(key, {})[row["contender"]] = row
    header = ["Width", "Arithmetic", "Batch", *names, "Ours / fastest other", "Views/s", "Of peak"]
    rows = []
    for (width, dtype, batch), by_name in cells.items():
        medians = {name: row["quartiles_ms"][1] for name, row in by_name.items()}
        others = [median for name, median in medians.items() if name != OURS]
        ratio = f"{medians[OURS] / min(others):.2f}" if others else DASH
        times = [f"{medians[name]:.1f} ms" if name in medians else DASH for name in names]
        rate = f"{1e3 * batch / medians[OURS]:,.0f}"
        peak = f"{by_name[OURS]['floor_ms'] / medians[OURS]:.0%}"
        rows.append([width, dtype, str(batch), *times, ratio, rate, peak])
    notes = [
        harness.provenance(result),
        "Medians over rounds in turn. Of peak: the operations over the best matrix product here "
        f"({harness.peaks(result)}), over our time. Views/s are ours.",
        *harness.left_out(result),
    ]
    return Table(header, rows, "The detector's speed", notes).to_markdown(level)


def main() -> None:
    """Measures, and writes the JSON with its table beside it."""
    parser = harness.argument_parser(__doc__)
    read = harness.comma_separated
    widths, batches = read(harness.one_of(WIDTHS)), read(harness.at_least(1))
    parser.add_argument("--widths", type=widths, default="paper,small", help="by commas")
    parser.add_argument("--batches", type=batches, default="1,8,64,256", help="views per call")
    harness.add_dtypes(parser)
    args = parser.parse_args()
    *_, result = measure(args.widths, args.batches, args.dtypes)
    harness.write_result(args.out, result, to_markdown(result))


if __name__ == "__main__":
    harness.run_command(main)
