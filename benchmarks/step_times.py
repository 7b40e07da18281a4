"""Times of the training step and of PyTorch's, row by row, whatever becomes of a contender."""

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any

from ml_collections import ConfigDict

from benchmarks import contenders, harness
from benchmarks.contenders import TORCH, Ours
from benchmarks.harness import OURS
from benchmarks.problem import configure, make_problem
from benchmarks.roofline import macs_per_photo
from benchmarks.rounds import failure, time_in_turn
from landmarks_jax.training import memory

Cell = tuple[int, str, int]  # the generator's channels, arithmetic, photos per step


def measure_cell(
    config: Any,
    flags: Iterable[str],
    *,
    check: Callable[[], dict[str, str]],
    steps_per_round: int,
    seconds: float,
    with_ours: bool = True,
) -> Iterator[tuple[list[dict[str, Any]], dict[str, str]]]:
    """One configuration's rows so far, ours first, and why contenders are left out.

    Ours is timed alone before anything of PyTorch's is compiled, so that whatever happens there
    leaves a row of ours. Then `check` says which variants of PyTorch's are not timed, and why. The
    others and ours take turns, and every round gives better rows.
    """
    problem = make_problem(config)
    runs: dict[str, Any] = {}
    times: dict[str, list[float]] = {}
    facts: dict[str, dict[str, Any]] = {}
    left_out: dict[str, str] = {}
    missing = harness.why_no_torch()

    def rows(times: dict[str, list[float]]) -> list[dict[str, Any]]:
        timed = {name: spent for name, spent in times.items() if spent}
        in_turn = OURS in timed and len(timed) > 1
        for name in timed.keys() - facts.keys():
            facts[name] = {
                "first_loss": runs[name].loss,
                "compile_seconds": round(runs[name].compile_seconds, 1),
                "memory_mib": runs[name].memory(),
            }
        return [
            _row(config, name, timed, steps_per_round, facts[name] | {"alternated": in_turn})
            for name in timed
        ]

    if with_ours:
        runs[OURS] = Ours(problem, steps_per_round)
        runs[OURS]()
        for times, _ in time_in_turn(dict(runs), seconds=0.0, warm_up=0):
            yield rows(times), left_out
    wrong = check()
    for flag in flags:
        name, variant = TORCH[flag].name, TORCH[flag].variant
        try:
            if variant in wrong:
                left_out[name] = wrong[variant]
            elif missing is None:
                runs[name] = contenders.make_theirs(problem, flag, steps_per_round)
            else:
                left_out[name] = missing
        except Exception as error:  # of memory, or of its libraries' own
            left_out[name] = failure(error)
            contenders.release_memory()
        yield rows(times), left_out
    for times, stopped in time_in_turn(runs, seconds=seconds, at_least=5, warm_up=1):
        left_out |= {
            name: f"after {len(times[name])} rounds: {why}" for name, why in stopped.items()
        }
        yield rows(times), left_out


def _row(
    config: Any,
    name: str,
    times: dict[str, list[float]],
    steps_per_round: int,
    facts: dict[str, Any],
) -> dict[str, Any]:
    """What is said of a contender, from the seconds of its rounds and of ours."""
    milliseconds = harness.quartiles(times[name], 1e3 / steps_per_round)
    batch = config.train.batch_size
    rate = round(1e3 * batch / milliseconds[1], 3)
    # Round by round, so that what slows a whole round cancels.
    ratios = [theirs / ours for theirs, ours in zip(times[name], times.get(OURS, ()), strict=False)]
    return {
        "channels": config.model.generator_channels,
        "dtype": config.compute_dtype,
        "batch": batch,
        "contender": name,
        "rounds": len(times[name]),
        "quartiles_ms": milliseconds,
        "images_per_second": rate,
        "over_ours": harness.quartiles(ratios, digits=4) if ratios else None,
        "tflops": round(2e-12 * macs_per_photo(config) * rate, 4),
        **facts,
    }


def measure(
    preset: str,
    cells: Iterable[Cell],
    flags: Iterable[str],
    *,
    steps_per_round: int,
    seconds: float,
    check_losses: bool = True,
    with_ours: bool = True,
    **fields: Any,
) -> Iterator[dict[str, Any]]:
    """Times everything; yields plain JSON, the source of `to_markdown`, whenever there is more.

    Args:
      preset: `paper` or `released`.
      cells: the cells to time.
      flags: keys of `TORCH`.
      steps_per_round: steps between two looks at the clock.
      seconds: duration of a cell's rounds.
      check_losses: whether losses are compared before PyTorch's steps are timed. Who computes
        another loss than ours is left out.
      with_ours: whether ours takes part; without it nothing of ours is in the device's memory.
      fields: changes to the preset, for `problem.configure`.
    """
    flags, cells = tuple(flags), tuple(cells)
    check_losses = check_losses and bool(flags) and harness.why_no_torch() is None
    peaks = {dtype: harness.matmul_peak(dtype) for _, dtype, _ in cells}
    result: dict[str, Any] = {
        **harness.environment(("jax", "jaxlib", "torch", "numpy")),
        "preset": preset,
        "fields": fields,
        "steps_per_round": steps_per_round,
        "seconds": seconds,
        "matmul_gflops": {dtype: round(peak / 1e9, 1) for dtype, peak in peaks.items()},
        "loss_differences": {},
        "left_out": {},
        "rows": [],
    }
    wrong: dict[int, dict[str, str]] = {}
    for channels, dtype, batch in cells:
        config = configure(preset, channels, dtype, batch, **fields)
        where = f"c = {channels}, {dtype}, batch {batch}"
        before, left_out = result["rows"], dict(result["left_out"])
        rows: list[dict[str, Any]] = []
        check = partial(_wrong, config, result["loss_differences"], wrong) if check_losses else dict
        for rows, missing in measure_cell(
            config,
            flags,
            check=check,
            steps_per_round=steps_per_round,
            seconds=seconds,
            with_ours=with_ours,
        ):
            here = {f"{name}, {where}": why for name, why in missing.items()}
            result |= {"rows": before + rows, "left_out": left_out | here}
            yield result | harness.mib({"peak_rss_mib": memory.host_peak()})
        for row in rows:
            harness.log(row)
        contenders.release_memory()


def _wrong(
    config: ConfigDict, differences: dict[str, dict[str, float]], known: dict[int, dict[str, str]]
) -> dict[str, str]:
    """Why variants are not timed; compares the losses of each width once."""
    channels = config.model.generator_channels
    if channels not in known:
        differences[str(channels)], known[channels] = contenders.check_losses(config)
    return known[channels]
