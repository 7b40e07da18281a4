"""What a subcommand's module defines as `COMMAND`, and what its `run` receives."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from absl import flags


@dataclass(frozen=True)
class Call:
    """One call of a subcommand.

    Attributes:
      flags: the parsed flags as attributes.
      arguments: the positional arguments.
      command_line: all of it, for the provenance of results.
      config_file: what `--config` names, "" for commands that take no configuration.
    """

    flags: flags.FlagValues
    arguments: Sequence[str]
    command_line: Sequence[str]
    config_file: str


@dataclass(frozen=True)
class Command:
    """A subcommand; the docstring of its module is its `--help`.

    Attributes:
      run: does the work and returns the exit code, None for 0. It imports what is heavy, so that
        `--help` and wrong flags answer at once.
      add_flags: defines its flags.
      config: help of its `--config` flag; None for commands that take no configuration.
      default_config: the preset without `--config`; None requires one.
      arguments: what its positional arguments are called; "" for commands without.
      details: what `--help` adds at its end.
    """

    run: Callable[[Call], int | None]
    add_flags: Callable[[flags.FlagValues], None]
    config: str | None = None
    default_config: str | None = None
    arguments: str = ""
    details: Callable[[], str] | None = None
