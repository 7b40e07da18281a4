"""Times the detector against the same network in PyTorch and in ONNX Runtime.

python -m benchmarks.detector --out docs/results/benchmarks/detector_cpu.json

uint8 views in, landmarks out, on the first device that JAX finds; PyTorch and ONNX Runtime run on
the same kind of device. All contenders have the same random weights and must give the same points
before anything is timed. Within a round each runs once, one after the other, so that what else the
machine does meets all of them alike; medians are over rounds. A contender that is not installed is
named and left out.
"""

import argparse
import importlib.util
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from benchmarks import arguments, records
from benchmarks.records import OURS
from landmarks_jax.configs import base
from landmarks_jax.inference.detector import ViewDetector, build_detector

# Name -> side of the views, channels, depth of the hourglass.
WIDTHS = {"paper": (128, 256, 4), "small": (64, 64, 3)}
TOLERANCE = {"float32": 1e-3, "bfloat16": 0.2}  # normalised to the view

Contender = Callable[[np.ndarray], np.ndarray]


def configuration(width: str, dtype: str) -> ConfigDict:
    """The configuration of one of `WIDTHS`, K = 10."""
    config = base.get_config()
    size, channels, depth = WIDTHS[width]
    config.compute_dtype = dtype
    config.views.size, config.data.canvas_size = size, size
    config.model.detector_channels, config.model.hourglass_depth = channels, depth
    return config


def random_variables(config: ConfigDict) -> dict[str, Any]:
    """Weights whose batch norm is not the identity, as NumPy arrays."""
    module = build_detector(config)
    views = jnp.zeros((1, config.views.size, config.views.size, 3))
    init = jax.jit(lambda key: module.init(key, views, use_running_average=True))
    variables = jax.device_get(init(jax.random.key(0)))
    rng = np.random.default_rng(0)
    drawn = jax.tree.map(
        lambda leaf: rng.uniform(0.5, 1.5, leaf.shape).astype(np.float32), variables["batch_stats"]
    )
    return {"params": variables["params"], "batch_stats": drawn}


def contenders(config: ConfigDict, variables: dict[str, Any]) -> dict[str, Contender | str]:
    """Name -> what maps views `[B, S, S, 3]` uint8 to landmarks `[B, K, 2]`, or why it is not."""
    found: dict[str, Contender | str] = {OURS: ViewDetector(config, variables)}
    found |= _torch(config, variables)
    found["ONNX Runtime"] = _onnx(config, variables)
    return found


def _torch(config: ConfigDict, variables: dict[str, Any]) -> dict[str, Contender | str]:
    names = ("PyTorch", "PyTorch, compiled")
    why = records.why_no_torch()
    if why is not None:
        return dict.fromkeys(names, why)
    import torch  # noqa: PLC0415

    from benchmarks.torch_detector import TorchDetector, state_dict  # noqa: PLC0415

    model = config.model
    device = "cuda" if jax.default_backend() == "gpu" else "cpu"
    network = TorchDetector(
        model.num_landmarks, model.detector_channels, model.hourglass_depth, model.beta
    )
    network.load_state_dict(state_dict(variables), strict=False)
    network = network.eval().to(device, memory_format=torch.channels_last)
    if config.compute_dtype == "bfloat16":
        network = network.to(torch.bfloat16)

    def run(module: Any) -> Contender:
        def detect(views: np.ndarray) -> np.ndarray:
            with torch.inference_mode():
                return module(torch.from_numpy(views).to(device)).cpu().numpy()

        return detect

    # One graph for all batches: recompiling for each would take minutes.
    return {names[0]: run(network), names[1]: run(torch.compile(network, dynamic=True))}


def _onnx(config: ConfigDict, variables: dict[str, Any]) -> Contender | str:
    if config.compute_dtype != "float32":
        return "the exported graph computes in float32"
    for module in ("onnxruntime", "jax2onnx"):
        if importlib.util.find_spec(module) is None:
            return f"{module} is not installed"
    import onnxruntime  # noqa: PLC0415

    from landmarks_jax.inference import graph_export, packed_file  # noqa: PLC0415  (not on every GPU machine)

    gpu = jax.default_backend() == "gpu"
    provider = "CUDAExecutionProvider" if gpu else "CPUExecutionProvider"
    if provider not in onnxruntime.get_available_providers():
        return f"this onnxruntime has no {provider}"
    content = packed_file.Packed(
        packed_file.needed_fields(config), variables, None, {"point_names": []}
    )
    session = onnxruntime.InferenceSession(graph_export.to_onnx(content), providers=[provider])
    return lambda views: session.run(["landmarks"], {"views": views})[0]


def flops_per_view(config: ConfigDict, variables: dict[str, Any]) -> float:
    """Operations of one view, by XLA's own count."""
    module = build_detector(config)
    views = jnp.zeros((8, config.views.size, config.views.size, 3))
    run = jax.jit(lambda x: module.apply(variables, x, use_running_average=True))
    cost: Any = run.lower(views).compile().cost_analysis()
    return cost["flops"] / len(views)


def measure(widths: list[str], batches: list[int], dtypes: list[str]) -> dict[str, Any]:
    """Times everything; plain JSON, the source of `to_markdown`.

    Raises:
      RuntimeError: a contender finds other points.
    """
    rows: list[dict[str, Any]] = []
    left_out: dict[str, str] = {}
    peaks = {dtype: records.matmul_peak(dtype) for dtype in dtypes}
    rng = np.random.default_rng(0)
    for width in widths:
        for dtype in dtypes:
            config = configuration(width, dtype)
            variables = random_variables(config)
            found = contenders(config, variables)
            left_out |= {
                f"{name}, {dtype}": why for name, why in found.items() if isinstance(why, str)
            }
            runs = {name: run for name, run in found.items() if not isinstance(run, str)}
            flops = flops_per_view(config, variables)
            for batch in batches:
                side = config.views.size
                views = rng.integers(0, 256, (batch, side, side, 3), np.uint8)
                _check(runs, views[:8], TOLERANCE[dtype])
                calls = {name: partial(run, views) for name, run in runs.items()}
                for name, times in records.in_turn(calls).items():
                    cell = {"width": width, "dtype": dtype, "batch": batch, "contender": name}
                    cell |= {"rounds": len(times), "gflop_per_view": round(flops / 1e9, 4)}
                    cell["quartiles_ms"] = records.quartiles_ms(times)
                    cell["floor_ms"] = round(1e3 * flops * batch / peaks[dtype], 3)
                    rows.append(cell)
                    records.log(cell)
    return {
        **records.surroundings("benchmarks.detector", ("jax", "torch", "onnxruntime", "numpy")),
        "matmul_gflops": {dtype: round(peak / 1e9, 1) for dtype, peak in peaks.items()},
        "left_out": left_out,
        "rows": rows,
    }


def _check(runs: dict[str, Contender], views: np.ndarray, tolerance: float) -> None:
    wanted = runs[OURS](views)
    for name, run in runs.items():
        difference = float(np.abs(run(views) - wanted).max())
        if not difference <= tolerance:
            raise RuntimeError(f"{name}: points differ by {difference:g} of the view's half side")


def to_markdown(result: dict[str, Any]) -> str:
    """The table of a result: milliseconds a batch, and how our time compares."""
    names = list(dict.fromkeys(row["contender"] for row in result["rows"]))
    cells: dict[tuple[str, str, int], dict[str, dict[str, Any]]] = {}
    for row in result["rows"]:
        key = row["width"], row["dtype"], row["batch"]
        cells.setdefault(key, {})[row["contender"]] = row
    header = ["Width", "Arithmetic", "Batch", *names, "Ours / fastest other", "Views/s", "Of peak"]
    lines = []
    for (width, dtype, batch), found in cells.items():
        medians = {name: row["quartiles_ms"][1] for name, row in found.items()}
        others = [median for name, median in medians.items() if name != OURS]
        ratio = f"{medians[OURS] / min(others):.2f}" if others else "-"
        times = [f"{medians[name]:.1f} ms" if name in medians else "-" for name in names]
        rate = f"{1e3 * batch / medians[OURS]:,.0f}"
        peak = f"{found[OURS]['floor_ms'] / medians[OURS]:.0%}"
        lines.append([width, dtype, str(batch), *times, ratio, rate, peak])
    notes = [
        records.ran_on(result),
        f"Medians over rounds in turn. Of peak: the operations over the best matrix product here "
        f"({records.peaks(result)}), over our time. Views/s are ours.",
        *records.left_out(result),
    ]
    return records.page("The detector's speed", records.table(header, lines), notes)


def main() -> None:
    """Measures, and writes the JSON with its table beside it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--out", type=arguments.out_file, help="JSON file; the table gets the ending .md"
    )
    parser.add_argument(
        "--widths", type=arguments.names(WIDTHS), default="paper,small", help="by commas"
    )
    parser.add_argument(
        "--batches", type=arguments.counts(1), default="1,8,64,256", help="views at once"
    )
    parser.add_argument(
        "--dtypes",
        type=arguments.names(records.DTYPES),
        default=records.default_dtypes(),
        help=", ".join(records.DTYPES),
    )
    given = parser.parse_args()
    result = measure(given.widths, given.batches, given.dtypes)
    records.write(given.out, result, to_markdown(result))


if __name__ == "__main__":
    arguments.run(main)
