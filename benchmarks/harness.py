"""Shared by all benchmarks: the machine and its rates, arguments, results."""

import argparse
import importlib.metadata
import importlib.util
import json
import math
import os
import platform
import shlex
import statistics
import sys
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import jax
import jax.numpy as jnp

from landmarks_jax.system.errors import UserError, print_error, reason
from landmarks_jax.system.files import write_file
from landmarks_jax.training import memory

ROOT = Path(__file__).parent.parent  # of the repository
OURS = "landmarks_jax"
DTYPES = ("float32", "bfloat16")
T = TypeVar("T")


def seconds_of(call: Callable[[], Any]) -> float:
    """How long a call takes."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def quartiles(values: Sequence[float], scale: float = 1.0, digits: int = 3) -> list[float]:
    """Lower quartile, median and upper quartile, times `scale`."""
    if len(values) < 2:
        return [round(scale * values[0], digits)] * 3
    cuts = statistics.quantiles(values, n=4, method="inclusive")
    return [round(scale * cut, digits) for cut in cuts]


def matmul_peak(dtype: str) -> float:
    """The best rate of a large matrix product here, in operations a second.

    Of random numbers: a GPU multiplies zeros and ones faster, as they cost less power. Float32 at
    JAX's default precision, on a GPU TF32.
    """
    side = 2048 if jax.default_backend() == "cpu" else 8192
    matrix = jax.random.normal(jax.random.key(0), (side, side)).astype(dtype)
    return 2 * side**3 / _best_seconds(jnp.matmul, matrix, matrix)


def copy_bandwidth() -> float:
    """The best rate at which memory is copied here, in bytes read and written a second."""
    size = 2**28 if jax.default_backend() == "cpu" else 2**32
    return 2 * size / _best_seconds(jnp.negative, jnp.ones(size // 4, jnp.float32))


def _best_seconds(function: Callable[..., jax.Array], *arrays: jax.Array) -> float:
    run = jax.jit(function)
    calls = 1 if jax.default_backend() == "cpu" else 10  # starting one takes a GPU's time too

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


def torch_device() -> str:
    """PyTorch's name of the kind of device that JAX uses."""
    return "cuda" if jax.default_backend() == "gpu" else "cpu"


def mib(sizes: Mapping[str, int | None]) -> dict[str, float]:
    """Bytes by name as MiB, without unknown ones."""
    return {name: round(size / memory.MIB, 1) for name, size in sizes.items() if size is not None}


# Arguments


def argument_parser(description: str) -> argparse.ArgumentParser:
    """A parser with `--out`; the description is the first line."""
    parser = argparse.ArgumentParser(description=description.splitlines()[0])
    parser.add_argument("--out", type=out_file, help="JSON file; its table is written beside it")
    return parser


def add_dtypes(parser: argparse.ArgumentParser) -> None:
    """Adds `--dtypes`."""
    default = ",".join(DTYPES) if jax.default_backend() == "gpu" else "float32"
    read = comma_separated(one_of(DTYPES))
    parser.add_argument("--dtypes", type=read, default=default, help=",".join(DTYPES))


def one_of(names: Collection[str]) -> Callable[[str], str]:
    """Reads one of some names."""

    def read(text: str) -> str:
        if text not in names:
            raise argparse.ArgumentTypeError(f"{text!r}: must be one of {', '.join(names)}")
        return text

    return read


def at_least(minimum: T) -> Callable[[str], T]:
    """Reads a finite number of the type of `minimum`, and not below it."""
    kind: Any = type(minimum)

    def read(text: str) -> T:
        try:
            value = kind(text)
        except ValueError:
            value = math.nan
        if not minimum <= value < math.inf:
            what = "a whole number" if kind is int else "a number"
            raise argparse.ArgumentTypeError(f"{text!r}: must be {what} from {minimum}")
        return value

    return read


def comma_separated(read: Callable[[str], T]) -> Callable[[str], tuple[T, ...]]:
    """Reads values between commas, each once; "" is none."""
    return lambda text: tuple(
        dict.fromkeys(read(part.strip()) for part in text.split(",")) if text else ()
    )


def out_file(text: str) -> Path:
    """Reads the name of a JSON file to write, and makes its folder."""
    path = Path(text)
    if path.suffix == ".md" or path.is_dir():
        raise argparse.ArgumentTypeError(f"{text}: must be a JSON file; its table goes beside it")
    out_folder(str(path.parent))
    return path


def out_folder(text: str) -> Path:
    """Reads the name of a folder to write to, and makes it."""
    path = Path(text)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise argparse.ArgumentTypeError(f"{text}: cannot be made ({reason(error)})") from error
    if not os.access(path, os.W_OK):
        raise argparse.ArgumentTypeError(f"{text}: is not writable")
    return path


def run_command(main: Callable[[], int | None]) -> None:
    """Runs a benchmark's `main`; a `UserError` becomes one line and its exit code."""
    try:
        code = main()
    except UserError as error:
        print_error(str(error))
        code = error.exit_code
    sys.exit(code or 0)


# Results


def environment(packages: Iterable[str]) -> dict[str, Any]:
    """The head of every result: its command, versions and machine.

    Args:
      packages: whose versions are recorded.
    """
    module = sys.modules["__main__"].__spec__  # of `python -m`; None in a script
    run = ["-m", module.name] if module else sys.argv[:1]
    return {
        "command": shlex.join(["python", *run, *sys.argv[1:]]),
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


def provenance(result: Mapping[str, Any]) -> str:
    """The note that says how a result was made."""
    versions = ", ".join(f"{name} {version}" for name, version in result["versions"].items())
    return (
        f"`{result['command']}` on {result['device']} ({result['machine']}); Python "
        f"{result['python']}, {versions}."
    )


def peaks(result: Mapping[str, Any]) -> str:
    """The best matrix products of a result's machine, in words."""
    rates = result["matmul_gflops"].items()
    return ", ".join(f"{rate:,} in {dtype}" for dtype, rate in rates) + " GFLOP/s"


def loss_differences(differences: Iterable[float]) -> str:
    """The note about relative differences of PyTorch's losses to ours."""
    return (
        "Before timing, in float32, PyTorch's losses differ from ours by at most "
        f"{max(differences):.1e} of them."
    )


def left_out(result: Mapping[str, Any]) -> list[str]:
    """A note for each contender that could not run."""
    return [f"Left out: {name} ({why})." for name, why in result["left_out"].items()]


def read_json(path: Path, purpose: str) -> Any:
    """Reads a JSON file.

    Args:
      path: the file.
      purpose: the remedy that the error message names.

    Raises:
      UserError: it is missing or damaged.
    """
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read ({reason(error)}); {purpose}") from error


def write_json(path: Path, result: Any) -> None:
    """Writes a JSON file."""
    write_file(path, json.dumps(result, indent=1) + "\n", UserError)


def write_result(out: Path | None, result: Mapping[str, Any], markdown: str) -> None:
    """Prints the table, and writes the JSON with the table beside it, in `.md`."""
    if out:
        write_json(out, result)
        write_file(out.with_suffix(".md"), markdown, UserError)
    print(markdown)


def log(row: Mapping[str, Any]) -> None:
    """Prints a row on standard error as soon as it is measured."""
    print(json.dumps(row), file=sys.stderr, flush=True)
