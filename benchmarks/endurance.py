"""Many steps on end, as a run takes them: what 85,000 would take, and whether memory stays."""

import itertools
import time
from collections import deque
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from benchmarks import records
from benchmarks.contenders import Ours
from benchmarks.problem import PAPER_STEPS, make_problem, mesh
from landmarks_jax.training import sharding

# Steps that may be under way on the device while the host goes on, as in `training.loop`.
IN_FLIGHT = 2
# Batches on the host, sent in turn.
_POOL = 8


def measure(config: ConfigDict, count: int, window: int = 100) -> dict[str, Any]:
    """Takes steps, each on a batch that is sent from the host, and looks at the clock by windows.

    Args:
      config: the configuration.
      count: steps that are measured, whole windows; some go before.
      window: steps between two looks.

    Returns:
      Plain JSON: time of a step by windows, minutes that the paper's steps would take, memory at
      the first window's end and at the last one's.
    """
    problem = make_problem(config)
    ours = Ours(problem, 1)
    rng = np.random.default_rng(2)
    pool = [problem.batch]
    for _ in range(_POOL - 1):
        canvases = rng.integers(0, 256, problem.batch[0].shape, np.uint8)
        pool.append((canvases, *problem.batch[1:]))
    ours()
    batches = itertools.cycle(pool)
    under_way: deque[jax.Array] = deque()
    here = mesh()

    def steps(number: int) -> float:
        start = time.perf_counter()
        for _ in range(number):
            batch = [sharding.put_batch(here, rows) for rows in next(batches)]
            under_way.append(ours.step(batch))
            if len(under_way) > IN_FLIGHT:
                under_way.popleft().block_until_ready()
        return time.perf_counter() - start

    steps(min(window, 10))
    times, memory = [], []
    for _ in range(max(1, count // window)):
        times.append(steps(window) / window)
        memory.append(_memory())
    total = sum(times) * window
    return {
        "channels": config.model.generator_channels,
        "dtype": config.compute_dtype,
        "batch": config.train.batch_size,
        "steps": len(times) * window,
        "seconds": round(total, 3),
        "quartiles_ms": records.quartiles_ms(times),
        "images_per_second": round(config.train.batch_size * len(times) * window / total, 3),
        "minutes_of_85000": round(PAPER_STEPS * total / len(times) / window / 60, 2),
        "compile_seconds": round(ours.compile_seconds, 1),
        "mean_loss": ours.mean_loss(),
        "memory_mib": {"first_window": memory[0], "last_window": memory[-1]},
    }


def _memory() -> dict[str, float]:
    """What the process holds now, and the device, in MiB."""
    stats = jax.devices()[0].memory_stats() or {}
    found = {f"device_{name}": stats.get(name) for name in ("bytes_in_use", "peak_bytes_in_use")}
    return records.mib({**found, "resident": records.resident()})
