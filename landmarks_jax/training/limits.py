"""When a run is over: after its steps or its minutes; and a session of it, at its deadline."""

import time

from ml_collections import ConfigDict


def is_done(config: ConfigDict, step: int, seconds: float, deadline: float | None = None) -> bool:
    """Whether the steps or the minutes of a run are over, or its session."""
    return out_of_steps(config, step) or out_of_time(config, seconds, deadline)


def out_of_steps(config: ConfigDict, step: int) -> bool:
    """Whether the steps of a run are over."""
    return bool(config.train.steps) and step >= config.train.steps


def out_of_time(config: ConfigDict, seconds: float, deadline: float | None = None) -> bool:
    """Whether the minutes of a run are over, or its session: at `deadline` of `time.monotonic`."""
    late = deadline is not None and time.monotonic() >= deadline
    return late or (bool(config.train.minutes) and seconds >= 60 * config.train.minutes)
