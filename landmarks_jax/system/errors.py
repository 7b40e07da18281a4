"""Errors that the user can act on: messages say what is wrong, where, and what to do.

The commands print only the message, on one line, and exit with the error's code.
"""

import sys
from collections.abc import Mapping
from typing import Any


class UserError(Exception):
    """An error that the user can act on; its message is one line.

    Attributes:
      exit_code: exit code of the command.
    """

    exit_code = 2


class ConfigError(UserError):
    """A config field has a value that cannot work."""


def wrong_field(config: Mapping[str, Any], field: str, rule: str) -> ConfigError:
    """Makes the error for a field whose value cannot work.

    Args:
      config: the whole configuration.
      field: such as "views.size".
      rule: what the value must be, such as "a multiple of 4".
    """
    return ConfigError(f"config.{field} = {value_of(config, field)!r}: must be {rule}")


def value_of(config: Mapping[str, Any], field: str) -> Any:
    """The value of a field, such as "views.size", of a whole configuration."""
    value: Any = config
    for part in field.split("."):
        value = value[part]
    return value


def refuse_unused(config: Mapping[str, Any], unused: Mapping[str, Any], why: str) -> None:
    """Raises ConfigError if a field without effect is set.

    Args:
      config: the whole configuration.
      unused: the fields without effect, such as "views.cutout", with their defaults.
      why: such as "with config.data.crop = 'box'".
    """
    for field, default in unused.items():
        if value_of(config, field) != default:
            raise wrong_field(config, field, f"{default!r} {why}")


class DataError(UserError):
    """A file or folder of data is missing, malformed or damaged."""


class WeightsError(UserError):
    """A file of pretrained weights is missing, damaged or of another shape."""


class WorkdirError(UserError):
    """A run's folder does not fit the run, or its checkpoint cannot be read."""


class LostError(UserError):
    """Another process of the run is lost; rerun the command to continue. 75: EX_TEMPFAIL."""

    exit_code = 75


def reason(error: BaseException) -> str:
    """Why something failed, in at most 200 characters on one line, to be part of a message.

    The operating system's text if there is one, otherwise the exception's message, or its class if
    the message is empty.
    """
    text = getattr(error, "strerror", None) or str(error)
    return " ".join(text.split())[:200] or type(error).__name__


def url_reason(error: Exception) -> str:
    """Why a download failed: as `reason`, of the error that urllib's own `URLError` hides."""
    hidden = getattr(error, "reason", None)
    return reason(hidden if isinstance(hidden, Exception) else error)


def print_error(message: str) -> None:
    """Prints an error's message on standard error, on one line."""
    print(f"error: {' '.join(message.split())}", file=sys.stderr, flush=True)
