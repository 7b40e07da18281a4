"""What `benchmarks.accelerator` measures: its stages, the most important first."""

import hashlib
import json
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from typing import Any

import jax
from ml_collections import ConfigDict

from benchmarks import detector, harness, profiling, step_times
from benchmarks.contenders import Ours
from benchmarks.problem import BY_WIDTH, PAPER_STEPS, configure, make_problem, mesh
from benchmarks.stages import Stage
from landmarks_jax import config as configuration
from landmarks_jax.training.sharding import put_batch

MAX_IN_FLIGHT = 2  # steps on the device while the host goes on, as in `training.loop`
# Fields that make a preset small enough for any CPU.
TINY = {
    "views__size": 16,
    "data__canvas_size": 20,
    "model__num_landmarks": 3,
    "model__detector_channels": 8,
    "model__hourglass_depth": 1,
    "model__residual_blocks": 1,
    "perceptual__taps": ("relu1_2",),
}
TINY_BATCH = 4
Results = Iterator[dict[str, Any]]


def preset_of(channels: int, dtype: str, batch: int, *, tiny: bool) -> ConfigDict:
    """The preset of a width with this arithmetic and batch; small if `tiny`."""
    batch = TINY_BATCH if tiny else batch
    return configure(BY_WIDTH[channels], channels, dtype, batch, **(TINY if tiny else {}))


def _machine(*, tiny: bool) -> Results:
    del tiny
    head = harness.environment(("jax", "jaxlib", "torch", "numpy"))
    result = {**head, "memory": jax.devices()[0].memory_stats(), "peak": {}}
    for dtype in ("bfloat16", "float32"):
        result["peak"][dtype] = harness.matmul_peak(dtype)
        yield result
    yield result | {"bandwidth": harness.copy_bandwidth()}


def _train(
    channels: int,
    dtype: str,
    batch: int,
    flags: Sequence[str] = ("released", "fused"),
    *,
    tiny: bool,
    with_ours: bool = True,
) -> Results:
    return step_times.measure(
        BY_WIDTH[channels],
        [(channels, dtype, TINY_BATCH if tiny else batch)],
        flags,
        steps_per_round=1 if tiny else 10,
        seconds=0.0 if tiny else 15.0,
        check_losses=dtype == "bfloat16" and batch == 32,
        with_ours=with_ours,
        **(TINY if tiny else {}),
    )


def _steps(channels: int, *, tiny: bool) -> Results:
    """Steps in a row, each on a batch sent from the host, as a run takes them."""
    config = preset_of(channels, "bfloat16", 32, tiny=tiny)
    problem, devices = make_problem(config), mesh()
    ours = Ours(problem, 1)
    windows, size = (2, 2) if tiny else (20, 100)
    in_flight: deque[jax.Array] = deque()

    def take(count: int) -> float:
        start = time.perf_counter()
        for _ in range(count):
            in_flight.append(ours.step([put_batch(devices, rows) for rows in problem.batch]))
            if len(in_flight) > MAX_IN_FLIGHT:
                in_flight.popleft().block_until_ready()
        return (time.perf_counter() - start) / count

    take(2)
    times: list[float] = []
    for _ in range(windows):
        times.append(take(size))
        yield {
            "channels": channels,
            "batch": config.train.batch_size,
            "steps": len(times) * size,
            "quartiles_ms": harness.quartiles(times, 1e3),
            "minutes_of_85000": round(PAPER_STEPS * sum(times) / len(times) / 60, 2),
            "mean_loss": ours.mean_loss(),
            "memory_mib": ours.memory(),
        }


def _profile(channels: int, batch: int, *, tiny: bool) -> Results:
    return profiling.measure(preset_of(channels, "bfloat16", batch, tiny=tiny))


def _detector(*, tiny: bool) -> Results:
    widths, batches = (["small"], [1]) if tiny else (["paper"], [1, 8, 64, 256])
    return detector.measure(widths, batches, ["bfloat16", "float32"])


def _own_step(config: ConfigDict, *, tiny: bool) -> Results:
    """The step of a configuration as it is, and its profile."""
    fields = json.loads(configuration.to_json(config))
    rounds = 3 if tiny else 20
    return ({**result, "config": fields} for result in profiling.measure(config, rounds=rounds))


# By name, the most important first. Compiling ours takes some 40 s on a GPU, and the comparison of
# losses, once ours is timed, 60 to 80. A batch of 256 at c = 64 takes 40 GiB in ours and more in
# PyTorch's: each has the device to itself.
STAGES = {
    "machine": Stage(30, 60, _machine),
    "train_64_bfloat16_32": Stage(80, 240, partial(_train, 64, "bfloat16", 32)),
    "steps_64": Stage(90, 180, partial(_steps, 64)),
    "train_32_bfloat16_32": Stage(80, 240, partial(_train, 32, "bfloat16", 32)),
    "steps_32": Stage(80, 150, partial(_steps, 32)),
    "train_64_bfloat16_256": Stage(100, 150, partial(_train, 64, "bfloat16", 256, ())),
    "torch_64_bfloat16_256": Stage(70, 150, partial(_train, 64, "bfloat16", 256, with_ours=False)),
    "profile_64_32": Stage(60, 120, partial(_profile, 64, 32)),
    "train_32_bfloat16_256": Stage(100, 180, partial(_train, 32, "bfloat16", 256)),
    "profile_64_256": Stage(80, 150, partial(_profile, 64, 256)),
    "train_64_float32_32": Stage(100, 180, partial(_train, 64, "float32", 32)),
    "train_32_float32_32": Stage(100, 180, partial(_train, 32, "float32", 32)),
    "detector": Stage(90, 240, _detector),
}


def name_of_step(config: ConfigDict) -> str:
    """The name of the stage that measures a configuration's step: other ones have other names."""
    fields = json.loads(configuration.to_json(config))
    del fields["eval"]
    fields["data"] = {name: fields["data"][name] for name in ("crop", "canvas_size")}
    return f"step_{hashlib.sha256(json.dumps(fields).encode()).hexdigest()[:8]}"


def table_of(names: Iterable[str], config: ConfigDict | None) -> dict[str, Stage]:
    """Stages by name; a configuration's own step comes first, because training needs its time."""
    table = {name: STAGES[name] for name in names}
    if config is None:
        return table
    return {name_of_step(config): Stage(80, 240, partial(_own_step, config)), **table}
