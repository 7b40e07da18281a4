"""The memory of a training step by configuration: XLA's plan, and the peaks of some steps.

python -m benchmarks.memory --out docs/results/benchmarks/memory_cpu.json

Every configuration is measured in a process of its own, as a process has one peak. Weights of the
perceptual network are random, which changes no size.
"""

import argparse
import json
import subprocess
import sys
from typing import Any

from benchmarks import harness
from benchmarks.contenders import Ours
from benchmarks.problem import make_problem
from landmarks_jax.cli import presets
from landmarks_jax.system.tables import DASH, Table
from landmarks_jax.training import memory

CONFIGS = ("synthetic", "faces_cpu", "best_cpu", "released", "paper")
STEPS = 3


def measure(name: str, fields: dict[str, Any]) -> dict[str, Any]:
    """Takes `STEPS` steps of a configuration in this process.

    Args:
      name: of a preset.
      fields: changes to it, such as `{"train.batch_size": 2}`.

    Returns:
      A row of the result; peaks in MiB, the process's after the first step and after the last.
    """
    config = presets.load(name)
    config.update_from_flattened_dict(fields)
    if config.perceptual.weights:
        config.perceptual.weights = "random"
    ours = Ours(make_problem(config), 1)
    ours()
    first = memory.host_peak()
    for _ in range(STEPS - 1):
        ours()
    peaks = harness.mib({"first": first, "last": memory.host_peak()})
    return {
        "config": name,
        "batch": config.train.batch_size,
        "dtype": config.compute_dtype,
        "planned_mib": ours.memory(),
        "host_peak_mib": [peaks["first"], peaks["last"]],
    }


def to_markdown(result: dict[str, Any]) -> str:
    """The table of a result."""
    header = ["Configuration", "Batch", "Arithmetic", "Arguments", "Temporary", "Host", "Device"]
    rows = []
    for row in result["rows"]:
        plan = row["planned_mib"]
        sizes = [plan["arguments"], plan["temporary"], row["host_peak_mib"][-1]]
        device = f"{plan['device_peak']:,.0f}" if "device_peak" in plan else DASH
        cells = [f"`{row['config']}`", str(row["batch"]), row["dtype"]]
        rows.append([*cells, *(f"{size:,.0f}" for size in sizes), device])
    growth = max(row["host_peak_mib"][-1] - row["host_peak_mib"][0] for row in result["rows"])
    notes = [
        harness.provenance(result),
        "In MiB. Arguments and temporary: XLA's plan of a step, with state and batch among the "
        "arguments. Host and device: peaks; on a CPU the host's includes the plan and what "
        f"compiling took. After the first step of {STEPS} the host's peak grew by {growth:,.0f} "
        "MiB at most.",
    ]
    return Table(header, rows, "Memory of a training step", notes).to_markdown(1)


def main() -> None:
    """Measures each configuration in a process of its own."""
    parser = harness.argument_parser(__doc__)
    configs = harness.comma_separated(harness.one_of(presets.names()))
    parser.add_argument("--configs", type=configs, default=",".join(CONFIGS), help="by commas")
    parser.add_argument("--fields", default="{}", help="what differs, as JSON by dotted name")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        print(json.dumps(measure(args.configs[0], json.loads(args.fields))))
        return
    rows = []
    for name in args.configs:
        command = [sys.executable, "-m", "benchmarks.memory", "--child", "--configs", name]
        command += ["--fields", args.fields]
        done = subprocess.run(
            command, check=True, cwd=harness.ROOT, stdout=subprocess.PIPE, text=True
        )
        rows.append(json.loads(done.stdout.splitlines()[-1]))
        harness.log(rows[-1])
    packages = ("jax", "jaxlib", "numpy")
    result = {**harness.environment(packages), "rows": rows}
    harness.write_result(args.out, result, to_markdown(result))


if __name__ == "__main__":
    harness.run_command(main)
