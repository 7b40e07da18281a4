"""The floor: what a training step must compute and move, and the time no step can beat.

python -m benchmarks.roofline --device h200 --out docs/results/benchmarks/roofline_h200.json

Three floors. No step can take less than its multiply-adds over the best matrix product (`compute`).
None that does one convolution after the other can take less than the sum, over convolutions and
their gradients, of the longer of computing and moving what they read and write, if all pointwise
work were part of them and cost nothing (`roofline`). With convolutions from a library, which leave
batch norm to passes of its own, what these move comes on top (`library`). What is counted, see
`benchmarks.counting` and `benchmarks.tracing`.
"""

import argparse
from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import jax
from ml_collections import ConfigDict

from benchmarks import arguments, counting, records, tracing
from benchmarks.problem import PAPER_STEPS, PRESETS, configure

# Rates in operations and bytes a second. Not of this machine: what a file says by them is assumed.
DEVICES: dict[str, dict[str, Any]] = {
    "h200": {
        "name": "NVIDIA H200",
        "peak": {"bfloat16": 790e12, "float32": 395e12},
        "bandwidth": 4.3e12,
        "source": "assumed: a bfloat16 product of 8192 and a copy, as measured on another machine "
        "of this kind; float32 is TF32, half of bfloat16 by the data sheet",
    },
    "h100": {
        "name": "NVIDIA H100 SXM",
        "peak": {"bfloat16": 790e12, "float32": 395e12},
        "bandwidth": 3.0e12,
        "source": "assumed: a bfloat16 product of 8192 and a copy, as measured on another machine "
        "of this kind; float32 is TF32, half of bfloat16 by the data sheet",
    },
}
_BYTES = {"bfloat16": 2, "float32": 4}
# Of a parameter: Adam reads it, its gradient and two means, and writes it and the means.
_ADAM_BYTES = 28


def measured(dtypes: Iterable[str]) -> dict[str, Any]:
    """This machine's own rates, as an entry of `DEVICES`."""
    return {
        "name": f"this {jax.devices()[0].device_kind}",
        "peak": {dtype: records.matmul_peak(dtype) for dtype in dtypes},
        "bandwidth": records.copy_bandwidth(),
        "source": "measured here: a matrix product and a copy",
    }


def floors(config: ConfigDict, device: dict[str, Any]) -> dict[str, Any]:
    """The floors of a configuration's step.

    Returns:
      Milliseconds a step (`compute_ms`, `roofline_ms`, `library_ms`) and, by part, multiply-adds
      and bytes a photo with the part's share of the roofline.
    """
    photos, width = config.train.batch_size, _BYTES[config.compute_dtype]
    peak, bandwidth = device["peak"][config.compute_dtype], device["bandwidth"]
    parts: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))
    apart = 0.0
    for one in counting.passes(config):
        moved = width * (photos * one.moved + one.weights)
        apart += width * photos * one.apart
        part = parts[one.part]
        part[f"{one.direction}_macs"] += one.macs
        part["bytes"] += moved / photos
        part["roofline_ms"] += 1e3 * max(2 * photos * one.macs / peak, moved / bandwidth)
    for name, moved in _moved_besides(config).items():
        parts[name]["bytes"] = moved / photos
        parts[name]["roofline_ms"] = 1e3 * moved / bandwidth
    roofline = sum(part["roofline_ms"] for part in parts.values())
    return {
        "compute_ms": 2e3 * photos * counting.macs_per_photo(config) / peak,
        "roofline_ms": roofline,
        "library_ms": roofline + 1e3 * apart / bandwidth,
        "parts": {name: dict(part) for name, part in parts.items()},
    }


def _moved_besides(config: ConfigDict) -> dict[str, float]:
    """Bytes a step that no convolution moves: canvases into views, and Adam's update."""
    canvases = tracing.canvases_of(config)
    views = 2 * config.train.batch_size * config.views.size**2 * 3 * _BYTES["float32"]
    parameters = tracing.num_parameters(config)
    return {"views": canvases.size + views, "optimiser": _ADAM_BYTES * parameters}


def count(
    presets: Iterable[str],
    batches: Iterable[int],
    dtypes: Iterable[str],
    device: dict[str, Any],
    *,
    compiled: bool = False,
    channels: int | None = None,
    **fields: Any,
) -> dict[str, Any]:
    """Counts and floors; plain JSON, the source of `to_markdown`.

    Args:
      presets: of `PRESETS`.
      batches: photos a step.
      dtypes: arithmetic.
      device: an entry of `DEVICES`, or `measured`.
      compiled: count too what XLA compiles for the device here.
      channels: the generator's c; None is the preset's own.
      fields: what differs from the preset, as `problem.configure` takes it.
    """
    rows, counts = [], {}
    batches, dtypes = tuple(batches), tuple(dtypes)
    for preset in presets:
        for batch in batches:
            for dtype in dtypes:
                config = configure(preset, channels, dtype, batch, **fields)
                row = {"preset": preset, "dtype": dtype, "batch": batch}
                rows.append(row | floors(config, device))
        config = configure(preset, channels, dtypes[0], batches[0], **fields)
        counts[preset] = {
            "channels": config.model.generator_channels,
            "closed_form": closed_form(config),
            "run": tracing.run_macs(config),
            "xla_given": tracing.xla_costs(config, compiled=False),
        }
        if compiled:
            counts[preset]["xla_compiled"] = tracing.xla_costs(config, compiled=True)
    return {
        **records.surroundings("benchmarks.roofline", ("jax", "jaxlib")),
        "floor_of": device,
        "counts": counts,
        "rows": rows,
    }


def closed_form(config: ConfigDict) -> dict[str, dict[str, float]]:
    """Multiply-adds a photo, `{part: {"forward", "backward"}}`."""
    found: dict[str, dict[str, float]] = defaultdict(lambda: {"forward": 0.0, "backward": 0.0})
    for one in counting.passes(config):
        found[one.part][one.direction] += one.macs
    return dict(found)


def to_markdown(result: dict[str, Any]) -> str:
    """The floors, and beneath them the counts, of a result."""
    device = result["floor_of"]
    header = ["Preset", "Arithmetic", "Batch", "Compute", "Roofline", "Images/s"]
    header += [f"{PAPER_STEPS:,} steps", "Library", f"{PAPER_STEPS:,} steps"]
    names = list(result["rows"][0]["parts"])
    header += [f"{name}, ms" for name in names]
    lines = []
    for row in result["rows"]:
        line = [row["preset"], row["dtype"], str(row["batch"])]
        line += [f"{row['compute_ms']:,.2f} ms", f"{row['roofline_ms']:,.2f} ms"]
        line += [f"{1e3 * row['batch'] / row['roofline_ms']:,.0f}"]
        line += [f"{PAPER_STEPS * row['roofline_ms'] / 6e4:,.1f} min"]
        line += [
            f"{row['library_ms']:,.2f} ms",
            f"{PAPER_STEPS * row['library_ms'] / 6e4:,.1f} min",
        ]
        line += [f"{row['parts'][name]['roofline_ms']:,.2f}" for name in names]
        lines.append(line)
    rates = ", ".join(f"{peak / 1e12:,.3g} TFLOP/s in {d}" for d, peak in device["peak"].items())
    notes = [
        records.ran_on(result),
        f"The floor is of: {device['name']}, {rates}, {device['bandwidth'] / 1e9:,.4g} GB/s "
        f"({device['source']}). Compute: the closed form's multiply-adds over that product. "
        "Roofline: over convolutions and gradients, the longer of computing and moving, pointwise "
        "work free; the parts' columns are its shares, images/s its rate. Library: batch norm in "
        "passes of its own on top.",
    ]
    tables = [records.page("The floor of a training step", records.table(header, lines), notes)]
    for preset, counts in result["counts"].items():
        tables.append(_counts_table(preset, counts))
    return "\n".join(tables)


def _counts_table(preset: str, counts: dict[str, Any]) -> str:
    ways = [way for way in counts if way.startswith("xla") and counts[way]]
    header = ["Part", "Closed form, forward", "and backward", "Run, forward", "and backward"]
    header += [f"XLA, {way[4:]}, {what}" for way in ways for what in ("half FLOPs", "MB")]
    sums: list[float] = [0.0] * 4
    lines = []
    for part in (*counting.PARTS, "other", "views"):
        values = [
            counts[way].get(part, {}).get(direction, 0.0) / 1e9
            for way in ("closed_form", "run")
            for direction in ("forward", "backward")
        ]
        sums = [total + value for total, value in zip(sums, values, strict=True)]
        lines.append([part, *(f"{value:,.2f}" for value in values), *_xla(counts, ways, part)])
    lines.append(["step", *(f"{value:,.2f}" for value in sums), *_xla(counts, ways, "step")])
    notes = [
        "Thousand millions of multiply-adds a photo and step. Closed form: the plain layers. Run: "
        "convolutions and matrix products in our step's jaxpr. XLA counts pointwise work too and "
        "leaves padding out; given: before it compiles, so that no byte is saved by fusion.",
    ]
    title = f"Multiply-adds, {preset}, c = {counts['channels']}"
    return records.page(title, records.table(header, lines), notes, level=2)


def _xla(counts: dict[str, Any], ways: list[str], part: str) -> list[str]:
    cells = []
    for way in ways:
        cost = counts[way].get(part)
        cells += (
            [f"{cost['flops'] / 2e9:,.2f}", f"{cost['bytes'] / 1e6:,.0f}"] if cost else ["-"] * 2
        )
    return cells


def main() -> None:
    """Counts, and writes the JSON with its tables beside it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--out", type=arguments.out_file, help="JSON file; the tables get the ending .md"
    )
    parser.add_argument("--presets", type=arguments.names(PRESETS), default="paper,released")
    parser.add_argument(
        "--batches", type=arguments.counts(2), default="32,256", help="photos a step"
    )
    parser.add_argument(
        "--dtypes", type=arguments.names(_BYTES), default="bfloat16,float32", help="by commas"
    )
    parser.add_argument("--device", default="here", choices=("here", *DEVICES), help="whose rates")
    parser.add_argument("--compiled", action="store_true", help="count what XLA compiles here, too")
    given = parser.parse_args()
    result = count(
        given.presets,
        given.batches,
        given.dtypes,
        measured(given.dtypes) if given.device == "here" else DEVICES[given.device],
        compiled=given.compiled,
    )
    records.write(given.out, result, to_markdown(result))


if __name__ == "__main__":
    arguments.run(main)
