"""When a run is over: after its steps or its minutes."""

from ml_collections import ConfigDict

from landmarks_jax.config import with_fields


def is_done(config: ConfigDict, step: int, seconds: float) -> bool:
    """Whether the steps or the minutes of a run are over."""
    return out_of_steps(config, step) or out_of_time(config, seconds)


def out_of_steps(config: ConfigDict, step: int) -> bool:
    """Whether the steps of a run are over."""
    return bool(config.train.steps) and step >= config.train.steps


def out_of_time(config: ConfigDict, seconds: float) -> bool:
    """Whether the minutes of a run are over."""
    return bool(config.train.minutes) and seconds >= 60 * config.train.minutes


def until(config: ConfigDict, end: int | None) -> ConfigDict:
    """Limits `train.steps` to the step `end`; None leaves it."""
    if end is None:
        return config
    return with_fields(config, {"train.steps": min(end, config.train.steps or end)})


def shortened(config: ConfigDict, seconds: float, left: float) -> ConfigDict:
    """Limits `train.minutes` to the `seconds` already trained plus `left` more."""
    # Not 0, which would mean no limit; less than any step takes.
    minutes = (seconds + max(left, 1e-6)) / 60
    return with_fields(config, {"train.minutes": min(minutes, config.train.minutes or minutes)})
