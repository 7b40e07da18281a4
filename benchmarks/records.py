"""What benchmarks share: rounds in turn, what they ran on, and results as JSON and Markdown."""

import importlib.metadata
import importlib.util
import json
import os
import platform
import shlex
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from landmarks_jax.training import memory

OURS = "landmarks_jax"
DTYPES = ("float32", "bfloat16")
# Rounds go on for so many seconds, and so often at least and at most.
SECONDS, FEWEST, MOST = 12.0, 3, 50
# Of what is multiplied and copied to find a machine's rates: side of a matrix, bytes.
_MATRIX_SIDE = {"cpu": 2048}
_COPIED = {"cpu": 2**28}


def seconds_of(call: Callable[[], Any]) -> float:
    """How long a call takes."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def in_turn(
    runs: Mapping[str, Callable[[], Any]],
    *,
    seconds: float = SECONDS,
    fewest: int = FEWEST,
    most: int = MOST,
    warm_up: int = 2,
) -> dict[str, list[float]]:
    """Seconds of every round; each contender runs once a round, in turn, after warming up.

    So what else the machine does meets all of them alike.

    Args:
      runs: by name; a call returns when its work is done.
      seconds: rounds go on for so long ...
      fewest: ... but so many at least ...
      most: ... and at most.
      warm_up: calls of each before the first round, one contender after the other.
    """
    for run in runs.values():
        for _ in range(warm_up):
            run()
    times: dict[str, list[float]] = {name: [] for name in runs}
    start, rounds = time.perf_counter(), 0
    while rounds < fewest or (time.perf_counter() - start < seconds and rounds < most):
        for name, run in runs.items():
            times[name].append(seconds_of(run))
        rounds += 1
    return times


def quartiles_ms(times: Sequence[float], per: int = 1) -> list[float]:
    """Lower quartile, median and upper quartile, in milliseconds; of `per` things a round."""
    if len(times) < 2:
        return [round(1e3 * times[0] / per, 3)] * 3
    quartiles = statistics.quantiles(times, n=4, method="inclusive")
    return [round(1e3 * quartile / per, 3) for quartile in quartiles]


def matmul_peak(dtype: str) -> float:
    """The best rate of a large matrix product here, in operations a second.

    Of random numbers: a GPU multiplies zeros and ones faster, for want of heat. Float32 is computed
    as the backend does unless told otherwise: on a GPU in TF32.
    """
    side = _MATRIX_SIDE.get(jax.default_backend(), 8192)
    matrix = jax.random.normal(jax.random.key(0), (side, side)).astype(dtype)
    return 2 * side**3 / _best_seconds(jnp.matmul, matrix, matrix)


def copy_bandwidth() -> float:
    """The best rate at which memory is copied here, in bytes read and written a second."""
    size = _COPIED.get(jax.default_backend(), 2**32)
    return 2 * size / _best_seconds(jnp.negative, jnp.ones(size // 4, jnp.float32))


def _best_seconds(function: Callable[..., jax.Array], *arrays: jax.Array) -> float:
    """The fastest of a few calls, of those that make up for the time a call takes to start."""
    run = jax.jit(function)
    calls = 1 if jax.default_backend() == "cpu" else 10

    def several() -> None:
        for _ in range(calls):
            out = run(*arrays)
        out.block_until_ready()

    return min(seconds_of(several) for _ in range(8)) / calls


def why_no_torch() -> str | None:
    """Why PyTorch cannot run on the kind of device that JAX uses here; None where it can."""
    if importlib.util.find_spec("torch") is None:
        return "torch is not installed"
    try:
        import torch  # noqa: PLC0415
    except (ImportError, OSError) as error:
        return f"torch cannot be imported ({error})"
    if jax.default_backend() == "gpu" and not torch.cuda.is_available():
        return "this torch sees no GPU"
    return None


def default_dtypes() -> str:
    """The arithmetic that a benchmark takes unless told otherwise, by commas."""
    return "float32,bfloat16" if jax.default_backend() == "gpu" else "float32"


def mib(sizes: Mapping[str, int | None]) -> dict[str, float]:
    """Bytes by name in MiB, those that are known."""
    return {name: round(size / memory.MIB, 1) for name, size in sizes.items() if size is not None}


def resident() -> int | None:
    """What this process has in memory now, in bytes; None where the system does not say."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        return None
    return pages * os.sysconf("SC_PAGE_SIZE")


def surroundings(module: str, packages: Iterable[str]) -> dict[str, Any]:
    """The command, and what it ran on: the head of every result.

    Args:
      module: the benchmark, `python -m` of it.
      packages: whose versions matter.
    """
    return {
        "command": shlex.join(["python", "-m", module, *sys.argv[1:]]),
        "versions": {name: _version(name) for name in packages},
        "python": platform.python_version(),
        "device": f"{jax.local_device_count()} x {jax.devices()[0].device_kind}",
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
    }


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def ran_on(result: Mapping[str, Any]) -> str:
    """The sentence that says how a result was made."""
    versions = ", ".join(f"{name} {version}" for name, version in result["versions"].items())
    return (
        f"`{result['command']}` on {result['device']} ({result['machine']}); Python "
        f"{result['python']}, {versions}."
    )


def peaks(result: Mapping[str, Any]) -> str:
    """The best matrix products of a result's machine, in words."""
    rates = result["matmul_gflops"].items()
    return ", ".join(f"{rate:,} in {dtype}" for dtype, rate in rates) + " GFLOP/s"


def left_out(result: Mapping[str, Any]) -> list[str]:
    """A line for each contender that could not run."""
    return [f"Left out: {name} ({why})." for name, why in result["left_out"].items()]


def table(header: Sequence[str], lines: Iterable[Sequence[str]]) -> list[str]:
    """The lines of a Markdown table."""
    rows = [header, ["---"] * len(header), *lines]
    return [f"| {' | '.join(row)} |" for row in rows]


def page(title: str, rows: Sequence[str], notes: Sequence[str], level: int = 1) -> str:
    """A result in Markdown: its title, its table, and a paragraph for each note."""
    paragraphs = ["\n\n".join(notes), ""] if notes else []
    return "\n".join([f"{'#' * level} {title}", "", *rows, "", *paragraphs])


def write(out: Path | None, result: Mapping[str, Any], markdown: str) -> None:
    """Prints the table, and writes the JSON with the table beside it, in `.md`."""
    if out:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(result, indent=1) + "\n")
        out.with_suffix(".md").write_text(markdown)
    print(markdown)


def log(row: Mapping[str, Any]) -> None:
    """Tells of a row as soon as it is measured."""
    print(json.dumps(row), file=sys.stderr, flush=True)
