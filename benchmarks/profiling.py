"""A profile of a few training steps: the longest kernels, and the time of each part.

Read from `jax.profiler`'s own file by `jax.profiler.ProfileData`; TensorBoard is not needed. Where
in the networks a kernel belongs, the compiled step's text says.
"""

import re
import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
from ml_collections import ConfigDict

from benchmarks import records, tracing
from benchmarks.contenders import Ours
from benchmarks.problem import make_problem

# An instruction of the compiled step, and the stack of names that it was traced under.
_INSTRUCTION = re.compile(r"%?([\w.-]+) = .*metadata=\{[^}]*op_name=\"([^\"]*)\"")
LONGEST = 10


class Kernel(NamedTuple):
    """One run of a kernel.

    Attributes:
      name: the kernel's.
      operation: the instruction of the compiled program it was started for, or "".
      milliseconds: that it took.
    """

    name: str
    operation: str
    milliseconds: float


def places(text: str) -> dict[str, str]:
    """Instruction -> where it was traced, such as `jvp(Generator)/residual1/conv1/...`."""
    found = map(_INSTRUCTION.search, text.splitlines())
    return {match[1]: match[2] for match in found if match}


def read(path: Path) -> Iterator[Kernel]:
    """The kernels that ran on an accelerator, or else the operations that a CPU ran."""
    planes = list(jax.profiler.ProfileData.from_file(str(path)).planes)
    devices = [plane for plane in planes if plane.name.startswith("/device:")]
    streams = [
        line
        for plane in devices
        for line in plane.lines
        # Other lines of a device sum these up.
        if line.name.startswith("Stream") or plane.name.startswith("/device:TPU")
    ]
    on_device = bool(streams)
    for line in streams or [line for plane in planes for line in plane.lines]:
        for event in line.events:
            operation = str(dict(event.stats).get("hlo_op", ""))
            if on_device or operation:
                yield Kernel(event.name, operation, event.duration_ns / 1e6)


def summary(kernels: Iterable[Kernel], where: dict[str, str], count: int) -> dict[str, Any]:
    """Kernels by name and by part of the networks, a step.

    Args:
      kernels: as `read` gives them.
      where: as `places` gives it.
      count: steps that were profiled.
    """
    times: defaultdict[str, float] = defaultdict(float)
    calls: Counter[str] = Counter()
    operations: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))
    parts: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))
    for kernel in kernels:
        times[kernel.name] += kernel.milliseconds
        calls[kernel.name] += 1
        place = where.get(kernel.operation, "")
        operations[kernel.name][place or kernel.operation] += kernel.milliseconds
        direction = "backward" if "transpose(" in place else "forward"
        parts[tracing.part_of(place)][direction] += kernel.milliseconds
    total = sum(times.values())
    longest = [
        {
            "kernel": name,
            "ms": round(taken / count, 4),
            "share": round(taken / total, 4),
            "calls": round(calls[name] / count, 2),
            "mostly": max(operations[name], key=operations[name].__getitem__),
        }
        for name, taken in sorted(times.items(), key=lambda item: -item[1])[:LONGEST]
    ]
    return {
        "kernel_ms": round(total / count, 4),
        "kernels": round(sum(calls.values()) / count, 1),
        "parts_ms": {
            part: {direction: round(ms / count, 4) for direction, ms in spent.items()}
            for part, spent in sorted(parts.items())
        },
        "longest": longest,
    }


def measure(config: ConfigDict, count: int = 5) -> dict[str, Any]:
    """Profiles a few steps; plain JSON. `wall_ms` is a step's without the profiler."""
    ours = Ours(make_problem(config), count)
    ours()
    wall = min(records.seconds_of(ours) for _ in range(2)) / count
    options = jax.profiler.ProfileOptions()
    options.python_tracer_level = 0
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder, profiler_options=options):
            ours()
        (path,) = Path(folder).rglob("*.xplane.pb")
        found = summary(read(path), places(ours.text()), count)
    return {
        "channels": config.model.generator_channels,
        "dtype": config.compute_dtype,
        "batch": config.train.batch_size,
        "steps": count,
        "wall_ms": round(1e3 * wall, 4),
        **found,
    }
