"""A profile of a few training steps: the longest kernels, and the time of each part.

Read from `jax.profiler`'s own file, without TensorBoard. The compiled step's text says where in the
networks a kernel belongs.
"""

import tempfile
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
from ml_collections import ConfigDict

from benchmarks import harness, hlo
from benchmarks.contenders import Ours
from benchmarks.harness import OURS
from benchmarks.problem import make_problem
from benchmarks.rounds import time_in_turn

LONGEST = 10


class KernelRun(NamedTuple):
    """One run of a kernel.

    Attributes:
      name: the kernel's.
      operation: the instruction of the compiled program it belongs to, or "".
      milliseconds: its duration.
    """

    name: str
    operation: str
    milliseconds: float


def part_of(scope: str) -> str:
    """The part of the networks that a scope belongs to."""
    if "Generator" in scope:
        return "encoder" if "encoder" in scope else "decoder"
    names = {"Detector": "detector", "Vgg": "vgg"}
    return next((part for name, part in names.items() if name in scope), "other")


def record(run: Callable[[], Any]) -> list[KernelRun]:
    """The kernels of a call that returns when they are done."""
    options = jax.profiler.ProfileOptions()
    options.python_tracer_level = 0
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder, profiler_options=options):
            run()
        (path,) = Path(folder).rglob("*.xplane.pb")
        with warnings.catch_warnings():
            # The reader's types warn when first made, which as an error would end the process.
            warnings.simplefilter("ignore", DeprecationWarning)
            return list(_read(path))


def _read(path: Path) -> Iterator[KernelRun]:
    data = jax.profiler.ProfileData.from_file(str(path))  # its planes need it alive
    lines = [(plane.name, line) for plane in data.planes for line in plane.lines]
    # An accelerator's streams, as its other lines summarise them; on a CPU XLA's threads.
    streams = [
        line
        for plane, line in lines
        if plane.startswith("/device:") and line.name.startswith("Stream")
    ]
    threads = [line for _, line in lines if line.name.startswith("tf_XLA")]
    for line in streams or threads:
        for event in line.events:
            operation = str(dict(event.stats).get("hlo_op", ""))
            if streams or operation:
                yield KernelRun(event.name, operation, event.duration_ns / 1e6)


def _scope(kernel: KernelRun, where: dict[str, str]) -> str:
    """Where a kernel was traced, "" if that is not known.

    A CUDA graph's kernels have no operation, but those that XLA wrote are named after theirs.
    """
    return where.get(kernel.operation) or where.get(kernel.name, "")


def summarize(kernels: Iterable[KernelRun], where: dict[str, str], steps: int) -> dict[str, Any]:
    """Kernels by name and by part of the networks, per step.

    Args:
      kernels: the result of `record`.
      where: the result of `hlo.scopes`, by instruction and by kernel.
      steps: number of profiled steps.
    """
    by_name: dict[str, list[KernelRun]] = defaultdict(list)
    parts: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))
    for kernel in kernels:
        by_name[kernel.name].append(kernel)
        scope = _scope(kernel, where)
        direction = "backward" if "transpose(" in scope else "forward"
        parts[part_of(scope)][direction] += kernel.milliseconds
    times = {name: sum(run.milliseconds for run in runs) for name, runs in by_name.items()}
    total = sum(times.values())
    longest = []
    for name in sorted(times, key=times.__getitem__, reverse=True)[:LONGEST]:
        places: dict[str, float] = defaultdict(float)
        for run in by_name[name]:
            places[_scope(run, where) or run.operation] += run.milliseconds
        longest.append(
            {
                "kernel": name,
                "ms": round(times[name] / steps, 4),
                "share": round(times[name] / total, 4),
                "calls": round(len(by_name[name]) / steps, 2),
                "mostly": max(places, key=places.__getitem__),
            }
        )
    return {
        "kernel_ms": round(total / steps, 4),
        "kernels": round(sum(map(len, by_name.values())) / steps, 1),
        "parts_ms": {
            part: {direction: round(ms / steps, 4) for direction, ms in spent.items()}
            for part, spent in sorted(parts.items())
        },
        "longest": longest,
    }


def measure(config: ConfigDict, *, steps: int = 5, rounds: int = 20) -> Iterator[dict[str, Any]]:
    """Times a configuration's step, then profiles it; yields plain JSON whenever there is more.

    Args:
      config: the configuration.
      steps: of a round, and of the profile.
      rounds: timed without the profiler.
    """
    ours = Ours(make_problem(config), steps)
    ours()
    result = {
        "channels": config.model.generator_channels,
        "dtype": config.compute_dtype,
        "batch": config.train.batch_size,
        "steps": steps,
        "first_loss": ours.loss,
        "compile_seconds": round(ours.compile_seconds, 1),
        "from_cache": ours.from_cache,
        "memory_mib": ours.memory(),
    }
    for times, _ in time_in_turn({OURS: ours}, seconds=0.0, at_least=rounds, warm_up=1):
        result["quartiles_ms"] = harness.quartiles(times[OURS], 1e3 / steps)
        yield result
    yield result | summarize(record(ours), hlo.scopes(ours.hlo()), steps)
