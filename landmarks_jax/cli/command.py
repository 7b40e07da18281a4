"""The interface of subcommands: each module defines a `COMMAND`, whose `run` receives a `Call`."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

from absl import flags


class _TextParser(flags.ArgumentParser):
    """Rejects an empty text, which as a path would be the current folder."""

    def parse(self, argument: str) -> str:
        if not argument.strip():
            raise ValueError("is empty; give a value, or leave the flag out")
        return argument


@dataclass(frozen=True)
class Flag:
    """A flag of a subcommand.

    Attributes:
      name: without dashes.
      help: for `--help`.
      default: None for no value.
      kind: str, int, float or bool; list for texts separated by commas.
      choices: the texts allowed; empty allows any.
      low: the smallest number allowed.
      high: the largest number allowed.
      required: whether the command needs it.
      repeated: whether it may be given several times, for a list of values.
    """

    name: str
    help: str
    default: Any = None
    kind: type = str
    choices: Collection[str] = ()
    low: float | None = None
    high: float | None = None
    required: bool = False
    repeated: bool = False

    def define(self, values: flags.FlagValues) -> None:
        """Defines the flag in absl's `values`."""
        named: dict[str, Any] = {"name": self.name, "default": self.default, "help": self.help}
        named |= {"flag_values": values, "required": self.required}
        if self.kind is bool:
            flags.DEFINE_boolean(**named)
            return
        parser: flags.ArgumentParser = _TextParser()
        if self.choices:
            parser = flags.EnumParser(list(self.choices))
        elif self.kind is list:
            parser = flags.ListParser()
        elif self.kind in (int, float):
            of_kind: Any = flags.IntegerParser if self.kind is int else flags.FloatParser
            parser = of_kind(self.low, self.high)
        if self.repeated:
            flags.DEFINE_multi(parser, flags.ArgumentSerializer(), **named)
        else:
            flags.DEFINE(parser, **named)


@dataclass(frozen=True)
class Call:
    """One call of a subcommand.

    Attributes:
      flags: the parsed flags as attributes.
      arguments: the positional arguments.
      command_line: all of it, for the provenance of results.
      config_file: the value of `--config`; "" for commands that take no configuration.
    """

    flags: flags.FlagValues
    arguments: Sequence[str]
    command_line: Sequence[str]
    config_file: str


@dataclass(frozen=True)
class Command:
    """A subcommand; the docstring of its module is its `--help`.

    Attributes:
      run: does the work and returns the exit code, None for 0. It imports heavy modules itself, so
        that `--help` and wrong flags answer at once.
      flags: its flags, in the order of `--help`.
      config: help of its `--config` flag; None for commands that take no configuration.
      default_config: the preset without `--config`; None requires one.
      config_with_arguments: the preset instead of that one if there are positional arguments.
      arguments: the placeholders of its positional arguments; "" for commands without.
      details: returns text for the end of `--help`.
      after_signal: what to do after a signal that ended the command, which it says in a line
        wherever the signal came; "" leaves signals as they are.
    """

    run: Callable[[Call], int | None]
    flags: Sequence[Flag] = ()
    config: str | None = None
    default_config: str | None = None
    config_with_arguments: str | None = None
    arguments: str = ""
    details: Callable[[], str] | None = None
    after_signal: str = ""
