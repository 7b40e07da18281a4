"""When a run is over: after its steps or its minutes, or for this session at its deadline."""

import time

from ml_collections import ConfigDict


def is_done(config: ConfigDict, step: int, seconds: float, deadline: float | None = None) -> bool:
    """Whether the steps or minutes are over, or the `deadline` by `time.monotonic()` has passed."""
    late = deadline is not None and time.monotonic() >= deadline
    out_of_time = bool(config.train.minutes) and seconds >= 60 * config.train.minutes
    return late or out_of_time or out_of_steps(config, step)


def out_of_steps(config: ConfigDict, step: int) -> bool:
    """Whether the steps of a run are over."""
    return bool(config.train.steps) and step >= config.train.steps
