"""Stages of a measurement: each in a process of its own, its result written as it comes.

    STAGE.json   what it has measured; "complete" says whether that is all
    STAGE.log    what its process printed

So a stage that fails, hangs, runs out of memory or is killed costs no other, nor what it had
measured itself.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks import harness
from benchmarks.child_processes import Child
from landmarks_jax.system import cache
from landmarks_jax.system.errors import UserError
from landmarks_jax.system.signals import Interrupt


class Stage(NamedTuple):
    """A stage.

    Attributes:
      needs: seconds on a GPU until it has measured something; it is not started with fewer left.
      limit: seconds after which it is cut off.
      measure: yields its result, plain JSON, whenever there is more; called with `tiny`.
    """

    needs: float
    limit: float
    measure: Callable[..., Iterator[dict[str, Any]]]


def compilations(out: Path) -> Path:
    """Where the stages of a folder keep compiled programs, and what XLA found fast for a GPU."""
    return (out / "compiled").absolute()


def measure_here(name: str, stage: Stage, out: Path, *, tiny: bool) -> None:
    """Measures a stage in this process.

    An incomplete result of an earlier attempt is replaced once there is as much again.
    """
    path, start = out / f"{name}.json", time.perf_counter()
    earlier = _size(read(out, [name], tiny=tiny).get(name, {}))
    result: dict[str, Any] = {"tiny": tiny}
    for measured in stage.measure(tiny=tiny):
        result = {**measured, "tiny": tiny, "complete": False}
        if "command" in result:  # the user's, who names no single stage
            result["command"] = result["command"].removesuffix(f" --stage {name}")
        result["stage_seconds"] = round(time.perf_counter() - start, 1)
        if _size(result) >= earlier:
            harness.write_json(path, result)
    harness.write_json(path, result | {"complete": True})


def _size(result: Mapping[str, Any]) -> int:
    """How much a result holds: its rows, or its entries."""
    return len(result.get("rows", result))


def read(out: Path, names: Iterable[str], *, tiny: bool) -> dict[str, dict[str, Any]]:
    """The results of stages that have measured something, by name.

    Raises:
      UserError: one cannot be read, or was measured with the other size of networks.
    """
    results = {}
    for name in names:
        path = out / f"{name}.json"
        if not path.exists():
            continue
        result = harness.read_json(path, "remove it")
        if not isinstance(result, dict) or not {"tiny", "complete"} <= result.keys():
            raise UserError(f"{path}: not a stage's result; remove it")
        if result["tiny"] != tiny:
            how = "without" if tiny else "with"
            raise UserError(f"{path}: was measured {how} --tiny; choose another --out")
        results[name] = result
    return results


def run(
    stages: Mapping[str, Stage],
    command: Sequence[str],
    out: Path,
    *,
    tiny: bool,
    end: float,
    interrupt: Interrupt,
    changed: Callable[[dict[str, str]], None],
) -> dict[str, str]:
    """Runs the stages that are not complete, in order, while there is time.

    Args:
      stages: by name.
      command: the module that measures one by `--stage NAME`, and its arguments.
      out: the folder of their results.
      tiny: whether networks are tiny; then stages have no limits of their own, as a CPU's speed is
        not known.
      end: when the time is over, on the clock of `time.monotonic()`.
      interrupt: of this process.
      changed: called with the stages without a whole result, and why, whenever one has more.

    Returns:
      The stages without a whole result, and why.
    """
    left_out: dict[str, str] = {}
    results = read(out, stages, tiny=tiny)
    for name, stage in stages.items():
        if results.get(name, {}).get("complete"):
            continue
        left = end - time.monotonic()
        if interrupt.signal is not None:
            left_out[name] = "stopped before it began"
            continue
        if left <= 0 or (not tiny and stage.needs > left):
            left_out[name] = f"would not fit into the {max(left, 0):.0f} s left"
            continue
        print(f"{name} ...", flush=True)
        log = out / f"{name}.log"
        log.unlink(missing_ok=True)
        child = Child(
            command[0],
            [*command[1:], "--stage", name],
            log,
            # PyTorch needs its share of the memory; what one stage compiled the next may reuse.
            {
                "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
                cache.COMPILATIONS: str(compilations(out)),
            },
        )
        watch = _Watch(out / f"{name}.json", lambda: changed(left_out))
        limit = left if tiny else min(stage.limit, left)
        why = child.wait(time.monotonic() + limit, interrupt, meanwhile=watch)
        if why:
            left_out[name] = why
        changed(left_out)
    return left_out


class _Watch:
    """Tells of a file that has changed, when called."""

    def __init__(self, path: Path, tell: Callable[[], None]) -> None:
        self._path, self._tell = path, tell
        self._seen = self._time()

    def _time(self) -> int:
        try:
            return self._path.stat().st_mtime_ns
        except OSError:
            return 0

    def __call__(self) -> None:
        time_now = self._time()
        if time_now != self._seen:
            self._seen = time_now
            self._tell()
