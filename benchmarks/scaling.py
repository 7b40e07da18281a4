"""Trains the same narrow run on one and on many devices and processes, and projects what it costs.

python -m benchmarks.scaling --out docs/results/benchmarks/scaling_cpu.json

Measured: the losses of the same run in one process, in one with eight simulated devices, and in two
and four real processes that talk by the CPU's collectives. They share this machine's cores, so
their speed says nothing. Projected: what a step computes on each device, against what it sends.
"""

import argparse
import json
import os
import re
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from benchmarks import arguments, projection, records, roofline
from landmarks_jax import objective
from landmarks_jax.configs import base
from landmarks_jax.system import cache
from landmarks_jax.training import batches, distributed, loop, program, reports, sharding
from landmarks_jax.training import state as states

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
ROOT = Path(__file__).parent.parent
_COUNTS = "collectives.json"


def configuration(dtype: str, steps: int = STEPS) -> ConfigDict:
    """A run of the whole method so narrow that rounding, not speed, is what can differ."""
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
    folder: Path,
    layouts: Iterable[str] = tuple(LAYOUTS),
    steps: int = STEPS,
    *,
    count: bool = False,
) -> dict[str, dict[str, list[float]]]:
    """The losses of every step, by layout and arithmetic; the runs' folders stay in `folder`.

    Args:
      folder: where runs go.
      layouts: names of `LAYOUTS`.
      steps: of each run.
      count: also compile a step once more to count how often its devices wait for each other.

    Raises:
      RuntimeError: a process failed.
    """
    found: dict[str, dict[str, list[float]]] = {}
    for layout in layouts:
        number, devices = LAYOUTS[layout]
        port = free_port()
        started = []
        for process in range(number):
            given = ["--child", str(folder / layout), "--steps", str(steps)]
            given += ["--process", str(process), "--processes", str(number), "--port", str(port)]
            given += ["--count"] * (count and devices > 1)
            flags = f"--xla_force_host_platform_device_count={devices}"
            environment = {**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
            environment["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"  # compiling is what takes the time
            command = [sys.executable, "-m", "benchmarks.scaling", *given]
            started.append(
                subprocess.Popen(
                    command,
                    cwd=ROOT,
                    env=environment,
                    text=True,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.PIPE,
                )
            )
        said = [running.communicate()[1].strip()[-1000:] for running in started]  # waits for all
        if any(running.returncode for running in started):
            raise RuntimeError(f"{layout}: {said}")
        found[layout] = {dtype: losses(folder / layout / dtype) for dtype in DTYPES}
        records.log({"layout": layout, "last": found[layout]["float64"][-1]})
    return found


def losses(workdir: Path) -> list[float]:
    """The losses that a run wrote down."""
    lines = (workdir / reports.METRICS_FILE).read_text().splitlines()
    return [json.loads(line)["loss"] for line in lines]


def free_port() -> int:
    """A port of this machine that nobody listens on."""
    with socket.socket() as found:
        found.bind(("localhost", 0))
        return int(found.getsockname()[1])


def child(folder: Path, steps: int, place: Mapping[str, Any], *, count: bool) -> None:
    """One of a layout's processes: trains in either arithmetic, and counts if asked."""
    with distributed.joined(**place):
        for dtype in DTYPES:
            jax.config.update("jax_enable_x64", dtype == "float64")
            loop.train(configuration(dtype, steps), folder / dtype)
            if dtype == "float32" and count:
                (folder / _COUNTS).write_text(json.dumps(count_all_reduces(configuration(dtype))))


def count_all_reduces(config: ConfigDict) -> dict[str, int]:
    """How often the devices wait for each other in a step, as this platform's compiler leaves it.

    Returns:
      `all_reduces` in the compiled step, and `batch_norms`: calls of batch norm in it.
    """
    mesh = sharding.make_mesh()
    networks = objective.build_networks(config)
    frozen = sharding.put_replicated(mesh, loop.load_frozen(config, networks)[0])
    state = states.abstract_state(config, networks, mesh)
    photos = batches.batch_shapes(config, 0, sharding.by_row(mesh))
    compiled = program.compile_program(config, networks, state, frozen, mesh, photos=photos)
    found = re.findall(r" all-reduce(?:-start)?\(", compiled.step.as_text())
    return {"all_reduces": len(found), "batch_norms": len(projection.norm_sizes(config))}


def differences(found: Mapping[str, Mapping[str, list[float]]]) -> dict[str, dict[str, float]]:
    """How far each layout's losses are from those of one process, relative to them.

    Returns:
      By layout: `first_float32`, of the first step, and `float64`, the largest of all steps.
    """
    wanted = found[ALONE]

    def largest(given: list[float], wanted: list[float]) -> float:
        return max(abs(a - b) / abs(b) for a, b in zip(given, wanted, strict=True))

    return {
        layout: {
            "first_float32": largest(curve["float32"][:1], wanted["float32"][:1]),
            "float64": largest(curve["float64"], wanted["float64"]),
        }
        for layout, curve in found.items()
    }


def measure(folder: Path) -> dict[str, Any]:
    """Everything; plain JSON, the source of `to_markdown`."""
    found = curves(folder, count=True)
    counts = json.loads((folder / "1 process, 8 devices" / _COUNTS).read_text())
    per_norm = counts["all_reduces"] / counts["batch_norms"]
    peak = roofline.DEVICES[projection.DEVICE]
    return {
        **records.surroundings("benchmarks.scaling", ("jax", "jaxlib", "orbax-checkpoint")),
        "steps": STEPS,
        "differences": differences(found),
        "collectives": counts,
        "peak": {
            "name": peak["name"],
            "dtype": projection.ARITHMETIC,
            "rate": peak["peak"][projection.ARITHMETIC],
        },
        "links": {name: link._asdict() for name, link in projection.LINKS.items()},
        "projected": projection.rows(per_norm),
        "curves": found,
    }


def _difference(value: float) -> str:
    """A relative difference; losses are written down with nine digits."""
    return f"{value:.1e}" if value else "below 1e-08"


def to_markdown(result: dict[str, Any]) -> str:
    """The tables of a result: how far curves differ, and what is projected."""
    lines = [
        [layout, *(_difference(found[name]) for name in ("first_float32", "float64"))]
        + [f"{result['curves'][layout][dtype][-1]:.9f}" for dtype in DTYPES]
        for layout, found in result["differences"].items()
    ]
    measured = records.table(
        [
            "Layout",
            "First loss, float32",
            f"Losses of {result['steps']} steps, float64",
            *(f"Last loss, {dtype}" for dtype in DTYPES),
        ],
        lines,
    )
    chosen = [step for step in (1, 2, 5, 10, 20) if step <= result["steps"]]
    curve = records.table(
        ["float32, loss at step", *map(str, chosen)],
        [
            [layout, *(f"{found['float32'][step - 1]:.6f}" for step in chosen)]
            for layout, found in result["curves"].items()
        ],
    )
    projected = records.table(
        ["Preset", "Devices", "Link", "Photos each", "Compute", "Sending", "Waiting", "Efficiency"],
        [
            [row["preset"], str(row["devices"]), row["link"], str(row["photos_per_device"])]
            + [f"{row[name]:.2f} ms" for name in ("compute_ms", "sending_ms", "waiting_ms")]
            + [f"{row['efficiency']:.0%}"]
            for row in result["projected"]
        ],
    )
    peak, counts = result["peak"], result["collectives"]
    latencies = ", ".join(
        f"{1e6 * link['latency']:.0f} us ({name})" for name, link in result["links"].items()
    )
    sizes = {
        row["preset"]: f"{row['gradient_bytes'] / 1e6:.1f} MB and {row['all_reduces']} all-reduces "
        f"({row['preset']})"
        for row in result["projected"]
    }
    text = records.page(
        "One run on many devices and processes",
        measured,
        [
            records.ran_on(result),
            "**Measured**: relative differences to one process, of the same narrow run. In float64 "
            "nothing but the order of sums differs. float32 gradients of this model differ by "
            "about 1 % for rounding alone, so those curves part:",
        ],
    )
    return (
        text
        + "\n"
        + "\n".join(curve)
        + "\n\n"
        + records.page(
            "Projected, not measured",
            projected,
            [
                f"Compute: the step's multiply-adds on each device at {peak['rate'] / 1e12:.0f} "
                f"TFLOP/s, the {peak['dtype']} peak of an {peak['name']}. No step reaches it, and "
                "a slower one makes the shares below smaller. Sending: gradients, 4 bytes a "
                "trained parameter, and the statistics of batch norm, by a ring over the link. "
                f"Waiting: an assumed {latencies} for each of batch norm's all-reduces, as many "
                f"for each call as the step measured above has, {counts['all_reduces']} (those of "
                f"the gradients among them) for {counts['batch_norms']} calls. A step sends "
                f"{' and '.join(sizes.values())}. Efficiency: compute over the sum; nothing is "
                "taken to overlap.",
            ],
            level=2,
        )
    )


def main() -> None:
    """Measures, and writes the JSON with its tables beside it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--out", type=arguments.out_file, help="JSON file; the tables get the ending .md"
    )
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    for name in ("steps", "process", "processes", "port"):
        parser.add_argument(f"--{name}", type=int, default=0, help=argparse.SUPPRESS)
    parser.add_argument("--count", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        place: dict[str, Any] = {"multihost": given.processes > 1}
        if place["multihost"]:
            place |= {"coordinator": f"localhost:{given.port}", "process_id": given.process}
            place["num_processes"] = given.processes
        return child(given.child, given.steps, place, count=given.count)
    cache.keep_compilations()
    with tempfile.TemporaryDirectory() as folder:
        result = measure(Path(folder))
    return records.write(given.out, result, to_markdown(result))


if __name__ == "__main__":
    arguments.run(main)
