"""Compiles the training step for a GPU that need not be there, and counts its kernels.

python -m benchmarks.compiled_step --out docs/results/benchmarks/compiled_step_h100.json

Needs JAX's CUDA plug-in (`pip install 'landmarks-jax[cuda]'`) and NVIDIA's `ptxas`, but no GPU.
cuDNN's kernels are not timed while compiling, so that a convolution counts as one.
"""

from collections.abc import Iterable
from typing import Any

import jax
from jax.experimental import topologies

from benchmarks import harness, hlo, roofline
from benchmarks.problem import BY_WIDTH, configure, input_shapes, random_vgg
from landmarks_jax.system.errors import UserError, reason
from landmarks_jax.system.tables import Table
from landmarks_jax.tasks import task_of
from landmarks_jax.tasks.task import Frozen
from landmarks_jax.training import program, sharding
from landmarks_jax.training import state as states

SMALL = 1e6  # bytes; starting such a kernel takes longer than what it moves
# Of a kernel on a GPU, in seconds: at best and at worst, however little it does.
LEAST_SECONDS = (2e-6, 4e-6)
# Of the best matrix product, what convolutions reach: at best and at worst.
REACHED = (0.8, 0.5)
# An H100's, as NVIDIA publishes them, in XLA's own form.
H100 = """
gpu_device_info {
  threads_per_block_limit: 1024
  threads_per_warp: 32
  shared_memory_per_block: 49152
  shared_memory_per_core: 233472
  threads_per_core_limit: 2048
  core_count: 132
  fpus_per_core: 128
  block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
  memory_bandwidth: 3352320000000
  l2_cache_size: 52428800
  clock_rate_ghz: 1.98
  device_memory_size: 84929347584
  shared_memory_per_block_optin: 232448
  cuda_compute_capability { major: 9 }
  registers_per_core_limit: 65536
  registers_per_block_limit: 65536
}
platform_name: "CUDA"
dnn_version_info { major: 9 minor: 12 }
runtime_version { major: 13 }
device_description_str: "NVIDIA H100 80GB HBM3"
"""


def h100() -> jax.sharding.Mesh:
    """An H100 that is not there.

    Raises:
      UserError: JAX's CUDA plug-in is missing or cannot compile for it.
    """
    try:
        topology = topologies.get_topology_desc(
            platform="cuda", target_config=H100, topology="1x1x1"
        )
    except Exception as error:  # the plug-in's own, of several types
        raise UserError(
            f"cannot compile for an H100 ({reason(error)}); install JAX's CUDA plug-in: pip "
            "install 'landmarks-jax[cuda]'"
        ) from error
    return sharding.make_mesh(list(topology.devices))


def compile_step(channels: int, dtype: str, batch: int, mesh: jax.sharding.Mesh) -> str:
    """The text of the compiled step.

    Args:
      channels: of the generator, a key of `BY_WIDTH`.
      dtype: of the arithmetic.
      batch: photos a step.
      mesh: the device to compile for.
    """
    config = configure(BY_WIDTH[channels], channels, dtype, batch)
    networks = task_of(config).build_networks(config)
    whole = sharding.replicated(mesh)
    shapes = jax.eval_shape(lambda: Frozen(jax.random.key(0), *random_vgg(config)))
    frozen = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=whole), shapes)
    step, inputs = program.step_and_inputs(
        config,
        networks,
        states.abstract_state(config, networks, mesh),
        frozen,
        mesh,
        photos=input_shapes(config, sharding.by_row(mesh)),
    )
    # Kernels of cuDNN cannot be timed without a GPU.
    compiled = step.lower(*inputs).compile(compiler_options={"xla_gpu_autotune_level": "0"})
    return compiled.as_text() or ""


def count(text: str, peak: float, bandwidth: float) -> dict[str, Any]:
    """What a step's kernels move and should take.

    Args:
      text: of the compiled step.
      peak: operations a second of the best matrix product.
      bandwidth: bytes a second of a copy.
    """
    kernels = hlo.kernels(text)
    convolutions = [kernel for kernel in kernels if kernel.kind == hlo.CONVOLUTION]
    predicted = [
        sum(
            max(2 * kernel.macs / (peak * reached), kernel.bytes / bandwidth, least)
            for kernel in kernels
        )
        for reached, least in zip(REACHED, LEAST_SECONDS, strict=True)
    ]
    return {
        "kernels": len(kernels),
        "small": sum(kernel.bytes < SMALL for kernel in kernels),
        "convolutions": len(convolutions),
        "gigabytes": round(sum(kernel.bytes for kernel in kernels) / 1e9, 2),
        "gigabytes_of_convolutions": round(sum(kernel.bytes for kernel in convolutions) / 1e9, 2),
        "tflop_of_convolutions": round(2e-12 * sum(kernel.macs for kernel in convolutions), 3),
        "predicted_ms": [round(1e3 * seconds, 3) for seconds in predicted],
    }


def measure(widths: Iterable[int], dtype: str, batch: int) -> dict[str, Any]:
    """Counts the step's kernels at some widths; plain JSON, the source of `to_markdown`."""
    device, mesh, rows = roofline.DEVICES["h100"], h100(), []
    for channels in widths:
        text = compile_step(channels, dtype, batch, mesh)
        counted = count(text, device["peak"][dtype], device["bandwidth"])
        rows.append({"channels": channels, "dtype": dtype, "batch": batch, **counted})
        harness.log(rows[-1])
    packages = ("jax", "jaxlib", "jax-cuda13-plugin", "flax", "optax")
    return {**harness.environment(packages), "rows": rows}


def to_markdown(result: dict[str, Any]) -> str:
    """The table of a result."""
    header = ["c", "Arithmetic", "Batch", "Kernels", "Under 1 MB", "Convolutions", "GB moved"]
    header += ["By convolutions", "TFLOP of convolutions", "Predicted, ms"]
    rows = []
    for row in result["rows"]:
        cells = [str(row["channels"]), row["dtype"], str(row["batch"])]
        cells += [f"{row[name]:,}" for name in ("kernels", "small", "convolutions")]
        cells += [f"{row['gigabytes']:.1f}", f"{row['gigabytes_of_convolutions']:.1f}"]
        cells += [f"{row['tflop_of_convolutions']:.1f}"]
        rows.append([*cells, "{:.1f} to {:.1f}".format(*row["predicted_ms"])])
    device = roofline.DEVICES["h100"]
    peak = device["peak"][result["rows"][0]["dtype"]]
    least, reached = (f"{1e6 * s:g}" for s in LEAST_SECONDS), (f"{s:.0%}" for s in REACHED)
    notes = [
        harness.provenance(result),
        f"One step, compiled for an {device['name']}; nothing ran on one. GB: read and written by "
        "all kernels, from their shapes; of an operand that a kernel only slices, the slice. "
        "Predicted: each kernel takes the longest of moving its "
        f"bytes at {device['bandwidth'] / 1e12:g} TB/s, computing at {' or '.join(reached)} of "
        f"{peak / 1e12:g} TFLOP/s, and {' or '.join(least)} microseconds.",
    ]
    return Table(header, rows, "The compiled training step", notes).to_markdown(1)


def main() -> None:
    """Compiles, and writes the JSON with its table beside it."""
    parser = harness.argument_parser(__doc__)
    widths = harness.comma_separated(harness.one_of([str(width) for width in BY_WIDTH]))
    parser.add_argument("--widths", type=widths, default="64,32", help="by commas")
    parser.add_argument("--batch", type=harness.at_least(2), default=32, help="photos a step")
    parser.add_argument("--dtype", type=harness.one_of(harness.DTYPES), default="bfloat16")
    args = parser.parse_args()
    result = measure(map(int, args.widths), args.dtype, args.batch)
    harness.write_result(args.out, result, to_markdown(result))


if __name__ == "__main__":
    jax.config.update("jax_platforms", "cpu")  # no GPU is looked for
    harness.run_command(main)
