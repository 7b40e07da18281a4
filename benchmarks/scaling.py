"""Trains the same narrow run on one and on many devices and processes, and compares the losses.

python -m benchmarks.scaling --out docs/results/benchmarks/scaling_cpu.json

In one process, in one with eight simulated devices, and in two and four real processes that
communicate by the CPU's collectives. They share this machine's cores, so no speed is measured.
"""

import argparse
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from benchmarks import harness
from landmarks_jax.configs import base
from landmarks_jax.system import cache
from landmarks_jax.system.tables import Table
from landmarks_jax.training import distributed, loop, run_folder

# Processes, and simulated devices of each.
LAYOUTS = {
    "1 process": (1, 1),
    "1 process, 8 devices": (1, 8),
    "2 processes": (2, 1),
    "4 processes": (4, 1),
}
ALONE = "1 process"
DTYPES = ("float32", "float64")
STEPS = 20


def configuration(dtype: str, steps: int = STEPS) -> ConfigDict:
    """A run of the whole method, narrow enough for any machine."""
    config = base.get_config()
    config.compute_dtype = dtype
    config.data.num_synthetic, config.data.canvas_size, config.views.size = 64, 20, 16
    config.model.num_landmarks, config.model.generator_channels = 3, 2
    config.model.detector_channels, config.model.hourglass_depth = 8, 1
    config.model.residual_blocks = 1
    config.objective.equivariance_weight = config.objective.separation_weight = 1.0
    config.train.batch_size, config.train.steps = 8, steps
    config.train.log_every, config.train.picture_every = 1, 0
    config.train.checkpoint_every = STEPS
    return config


def curves(
    folder: Path, layouts: Iterable[str] = tuple(LAYOUTS), steps: int = STEPS
) -> dict[str, dict[str, list[float]]]:
    """The losses of every step, by layout and arithmetic.

    Args:
      folder: the parent of the run folders, `LAYOUT/DTYPE`.
      layouts: names of `LAYOUTS`.
      steps: number of steps of each run.

    Raises:
      RuntimeError: a process failed.
    """
    result: dict[str, dict[str, list[float]]] = {}
    for layout in layouts:
        processes, devices = LAYOUTS[layout]
        command = [sys.executable, "-m", "benchmarks.scaling", "--child", str(folder / layout)]
        command += ["--steps", str(steps), "--processes", str(processes)]
        command += ["--port", str(free_port())]
        environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
        environment["XLA_FLAGS"] = f"--xla_force_host_platform_device_count={devices}"
        environment["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"  # most of the time is compiling
        pipes: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}
        running = [
            subprocess.Popen(
                [*command, "--process", str(i)],
                cwd=harness.ROOT,
                env=environment,
                text=True,
                **pipes,
            )
            for i in range(processes)
        ]
        errors = [process.communicate()[1].strip()[-1000:] for process in running]
        if any(process.returncode for process in running):
            raise RuntimeError(f"{layout}: {errors}")
        result[layout] = {dtype: losses(folder / layout / dtype) for dtype in DTYPES}
        harness.log({"layout": layout, "last": result[layout]["float64"][-1]})
    return result


def losses(workdir: Path) -> list[float]:
    """The logged losses of a run."""
    return [row["loss"] for row in run_folder.read_log(workdir)]


def free_port() -> int:
    """A free port of this machine."""
    with socket.socket() as listener:
        listener.bind(("localhost", 0))
        return int(listener.getsockname()[1])


def _train_child(args: argparse.Namespace) -> None:
    """Trains in one of a layout's processes."""
    place: dict[str, Any] = {"multihost": args.processes > 1}
    if place["multihost"]:
        place |= {"coordinator": f"localhost:{args.port}", "process_id": args.process}
        place["num_processes"] = args.processes
    with distributed.joined(**place):
        for dtype in DTYPES:
            jax.config.update("jax_enable_x64", dtype == "float64")
            loop.train(configuration(dtype, args.steps), args.child / dtype)


def differences(
    by_layout: Mapping[str, Mapping[str, list[float]]],
) -> dict[str, dict[str, float]]:
    """The relative differences of each layout's losses to those of one process.

    Returns:
      By layout: `first_float32`, of the first step, and `float64`, the largest of all steps.
    """
    alone = by_layout[ALONE]

    def largest(dtype: str, curve: list[float]) -> float:
        return max(
            abs(a - b) / abs(b) for a, b in zip(curve, alone[dtype][: len(curve)], strict=True)
        )

    return {
        layout: {
            "first_float32": largest("float32", curve["float32"][:1]),
            "float64": largest("float64", curve["float64"]),
        }
        for layout, curve in by_layout.items()
    }


def measure(folder: Path) -> dict[str, Any]:
    """All layouts; plain JSON, the source of `to_markdown`."""
    by_layout = curves(folder)
    return {
        **harness.environment(("jax", "jaxlib", "orbax-checkpoint")),
        "steps": STEPS,
        "differences": differences(by_layout),
        "curves": by_layout,
    }


def to_markdown(result: dict[str, Any]) -> str:
    """The tables of a result: how far curves differ, and the float32 ones."""

    def difference(value: float) -> str:
        return f"{value:.1e}" if value else "below 1e-08"  # losses are logged with nine digits

    steps = result["steps"]
    header = ["Layout", "First loss, float32", f"Losses of {steps} steps, float64"]
    header += [f"Last loss, {dtype}" for dtype in DTYPES]
    rows = []
    for layout, values in result["differences"].items():
        last = [f"{result['curves'][layout][dtype][-1]:.9f}" for dtype in DTYPES]
        rows.append(
            [layout, difference(values["first_float32"]), difference(values["float64"]), *last]
        )
    notes = [
        harness.provenance(result),
        "Relative differences to one process, of the same narrow run. In float64 only the order of "
        "sums differs. float32 gradients of this model differ by about 1 % from rounding alone, so "
        "those curves diverge:",
    ]
    main_table = Table(header, rows, "One run on many devices and processes", notes)
    shown = [step for step in (1, 2, 5, 10, 20) if step <= steps]
    curve_table = Table(
        ["float32, loss at step", *map(str, shown)],
        [
            [layout, *(f"{curve['float32'][step - 1]:.6f}" for step in shown)]
            for layout, curve in result["curves"].items()
        ],
    )
    return "\n".join([main_table.to_markdown(1), curve_table.to_markdown()])


def main() -> None:
    """Measures, and writes the JSON with its tables beside it."""
    parser = harness.argument_parser(__doc__)
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    for name in ("steps", "process", "processes", "port"):
        parser.add_argument(f"--{name}", type=int, default=0, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        _train_child(args)
        return
    cache.enable_compilation_cache()
    with tempfile.TemporaryDirectory() as folder:
        result = measure(Path(folder))
    harness.write_result(args.out, result, to_markdown(result))


if __name__ == "__main__":
    harness.run_command(main)
