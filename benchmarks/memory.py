"""The memory that a training step takes, by configuration: XLA's plan, and the peaks of some steps.

python -m benchmarks.memory --out docs/results/benchmarks/memory_cpu.json

Every configuration is measured in a process of its own, for a process keeps one peak. Weights of
the perceptual network are random; what they are changes no size.
"""

import argparse
import importlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks import records
from benchmarks.contenders import Ours
from benchmarks.problem import make_problem
from landmarks_jax.training import memory

ROOT = Path(__file__).resolve().parent.parent
CONFIGS = ("quickstart", "faces_cpu", "best_cpu", "released", "paper")
STEPS = 3


def measure(name: str, fields: dict[str, Any]) -> dict[str, Any]:
    """Takes `STEPS` steps of a configuration in this process.

    Args:
      name: of the file in `configs/`.
      fields: what differs from it, as `{"train.batch_size": 2}`.

    Returns:
      A row of the result; peaks in MiB, the process's after the first step and after the last.
    """
    config = importlib.import_module(f"landmarks_jax.configs.{name}").get_config()
    for field, value in fields.items():
        section, _, key = field.rpartition(".")
        (config[section] if section else config)[key] = value
    if config.perceptual.weights:
        config.perceptual.weights = "random"
    ours = Ours(make_problem(config), 1)
    ours()
    first = memory.host_peak()
    for _ in range(STEPS - 1):
        ours()
    peaks = records.mib({"first": first, "last": memory.host_peak()})
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
    lines = []
    for row in result["rows"]:
        plan = row["planned_mib"]
        sizes = [plan["arguments"], plan["temporary"], row["host_peak_mib"][-1]]
        device = f"{plan['device_peak']:,.0f}" if "device_peak" in plan else "-"
        cells = [f"`{row['config']}`", str(row["batch"]), row["dtype"]]
        lines.append([*cells, *(f"{size:,.0f}" for size in sizes), device])
    grown = max(row["host_peak_mib"][-1] - row["host_peak_mib"][0] for row in result["rows"])
    notes = [
        records.ran_on(result),
        "In MiB. Arguments and temporary: what XLA plans for a step, state and batch among the "
        "arguments. Host and device: the most that the process held; on a processor the plan is "
        f"part of the host's, and so is what compiling took. After the first step of {STEPS} the "
        f"host's peak grew by {grown:,.0f} MiB at most.",
    ]
    return records.page("Memory of a training step", records.table(header, lines), notes)


def main() -> None:
    """Measures each configuration in a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, help="JSON file; the table gets the ending .md")
    parser.add_argument("--configs", default=",".join(CONFIGS), help="files of configs/")
    parser.add_argument("--fields", default="{}", help="what differs, as JSON by dotted name")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    names, fields = given.configs.split(","), json.loads(given.fields)
    missing = [name for name in names if not (ROOT / "configs" / f"{name}.py").is_file()]
    if missing:
        parser.error(f"--configs: configs/{missing[0]}.py is not there")
    if given.child:
        print(json.dumps(measure(names[0], fields)))
        return
    rows = []
    for name in names:
        command = [sys.executable, "-m", "benchmarks.memory", "--child", "--configs", name]
        command += ["--fields", given.fields]
        done = subprocess.run(command, check=True, cwd=ROOT, stdout=subprocess.PIPE, text=True)
        rows.append(json.loads(done.stdout.splitlines()[-1]))
        records.log(rows[-1])
    packages = ("jax", "jaxlib", "numpy")
    result = {**records.surroundings("benchmarks.memory", packages), "rows": rows}
    records.write(given.out, result, to_markdown(result))


if __name__ == "__main__":
    main()
