"""`landmarks-jax COMMAND`: parses the command line, runs the command, reports errors in a line."""

import contextlib
import errno
import importlib
import logging
import signal
import sys
from collections.abc import Iterator, Sequence

from absl import flags
from absl import logging as absl_logging

from landmarks_jax.cli import presets
from landmarks_jax.cli.command import Call, Command, Flag
from landmarks_jax.system import cache, signals, streams
from landmarks_jax.system.errors import ConfigError, UserError, print_error, reason

# Each is a module of this package with a `COMMAND`, imported only when it is called.
COMMANDS = {
    "train": "train a landmark detector",
    "eval": "score a trained run or a packed detector: tables, curves and images",
    "report": "say which points of a run are reliable, and why: a page to look at",
    "refine": "move points to where features look alike in all photos, without labels",
    "compare": "put scored runs side by side in one table",
    "export": "write a trained detector as one file: packed, StableHLO or ONNX",
    "detect": "find landmarks in images, videos or a camera",
    "label": "click named points in photos, on a local web page",
    "demo": "show a web page that finds landmarks in the browser",
    "prepare": "decode and crop photos once, for faster training",
    "session": "train, score and pack up within some minutes on a borrowed machine",
    "transfer": "write a run as small files, to continue it on another machine",
    "convert": "convert published weights for this program, or landmarks for other programs",
    "reproduce": "train, tabulate and check the paper's tables",
    "figure": "draw the same faces under several runs, as the paper's Fig. 2",
}
_VERBOSITY = Flag("verbosity", "Level of the libraries' own log: -1 warnings, 0 notes.", kind=int)
_HELP = ("--help", "-help", "-h", "--helpfull", "--helpshort")
_WIDTH = 100
_FULL = (errno.ENOSPC, errno.EDQUOT)  # a full disk: errors that name no file


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command; may be called any number of times in a process.

    A `UserError`, or a file that the system refuses, becomes one line on standard error. A command
    goes on if what it prints cannot be written; the exit code says so at its end.

    Args:
      argv: the command and its arguments; None for the process's own.

    Returns:
      The exit code: 0, 2 for a wrong command line, the error's or the command's own, 128 plus the
      number of a signal, 141 if the reader of the output went away, or 1.
    """
    name, *arguments = [*(sys.argv[1:] if argv is None else argv)] or ["--help"]
    with streams.guarded() as output:
        try:
            code = _run(name, arguments)
        except (UserError, signals.SignalledError) as error:
            print_error(str(error))
            code = error.exit_code
        except ModuleNotFoundError as error:
            if (error.name or "").startswith("landmarks_jax"):
                raise
            print_error(f"{name} needs {error.name}: install the extra `train`")
            code = 2
        except KeyboardInterrupt:
            code = 128 + signal.SIGINT
        except OSError as error:
            if error.filename is None and error.errno not in _FULL:
                raise
            where = "" if error.filename is None else f"{error.filename}: "
            print_error(where + reason(error))
            code = 1
        return output.exit_code(code)


def _run(name: str, arguments: Sequence[str]) -> int:
    """Runs a command, or prints help."""
    if name in _HELP:
        print(_overview())
        return 0
    if name not in COMMANDS:
        raise ConfigError(f"{name}: no such command; it is one of {', '.join(COMMANDS)}")
    cache.enable_compilation_cache()  # now, because the configuration of some commands imports JAX
    module = importlib.import_module(f"landmarks_jax.cli.{name}")
    command: Command = module.COMMAND
    if any(argument in _HELP for argument in arguments):
        print(_help(module.__doc__ or "", command))
        return 0
    advice = command.after_signal
    with signals.raising(advice) if advice else contextlib.nullcontext():
        call = parse(name, command, arguments)
        _set_up(call)
        with _log_to_stderr():
            return command.run(call) or 0


def script() -> None:
    """The console script."""
    sys.exit(main())


def parse(name: str, command: Command, arguments: Sequence[str]) -> Call:
    """Parses a command's flags and loads its configuration.

    Raises:
      ConfigError: a flag, an argument or the configuration is wrong.
    """
    call = _parse(name, command, arguments, command.default_config)
    other = command.config_with_arguments
    if other is None or not call.arguments:
        return call
    return _parse(name, command, arguments, other)  # which --config still replaces


def _parse(name: str, command: Command, arguments: Sequence[str], default: str | None) -> Call:
    words, file = list(arguments), None
    if command.config is not None:
        words, file = _take_config(words, default)
    values = _flags_of(command)
    try:
        if file is not None:
            # Only here: the import takes a while, and most commands need no configuration.
            from ml_collections import config_flags  # noqa: PLC0415

            config_flags.DEFINE_config_dict(
                "config", presets.load(file), flag_values=values, sys_argv=words
            )
        rest = values([name, *words])[1:]
    except flags.Error as error:
        raise ConfigError(f"{error}; --help lists the flags") from error
    except (AttributeError, KeyError) as error:
        # What ml-collections raises for a field that the configuration does not have.
        text = str(error).strip("\"'").replace("\\n", " ").replace("\\'", "'")
        raise ConfigError(f"a --config flag names an unknown field: {text}") from error
    if rest and not command.arguments:
        raise ConfigError(
            f"unknown argument {rest[0]!r}; every argument is a --flag; --help lists the flags"
        )
    if not all(word.strip() for word in rest):
        raise ConfigError(
            "an argument is empty; give the name of a file or folder, or leave it out"
        )
    return Call(values, rest, ["landmarks-jax", name, *arguments], file or "")


def _take_config(words: list[str], default: str | None) -> tuple[list[str], str]:
    """The words without --config, and its value or the default.

    Raises:
      ConfigError: neither is there.
    """
    rest, config, take = [], default, False
    for word in words:
        flag, equals, value = word.partition("=")
        if take or (flag in ("--config", "-config") and equals):
            config, take = word if take else value, False
        elif flag in ("--config", "-config"):
            take = True
        else:
            rest.append(word)
    if take or not config:
        raise ConfigError("--config: give the name of a preset, or a file; --help says more")
    return rest, config


def _flags_of(command: Command) -> flags.FlagValues:
    values = flags.FlagValues()
    for flag in (*command.flags, _VERBOSITY):
        flag.define(values)
    return values


def _set_up(call: Call) -> None:
    """Keeps the libraries quiet: what is an error to the user, they raise as well."""
    level = call.flags.verbosity
    absl_logging.set_verbosity(absl_logging.FATAL if level is None else level)


@contextlib.contextmanager
def _log_to_stderr() -> Iterator[None]:
    """Shows the package's log as plain lines on standard error."""
    logger = logging.getLogger("landmarks_jax")
    before = logger.level, logger.propagate
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(message)s"))
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before[0])
        logger.propagate = before[1]


def _overview() -> str:
    lines = [f"  {name:<10} {summary}" for name, summary in COMMANDS.items()]
    return "\n".join(
        [
            "Unsupervised landmark discovery in JAX.",
            "",
            "landmarks-jax COMMAND [--flag=value ...]",
            "",
            *lines,
            "",
            "landmarks-jax COMMAND --help explains a command, with an example.",
        ]
    )


def _help(text: str, command: Command) -> str:
    lines = [text.strip(), "", "Flags:"]
    if command.config is not None:
        default = command.default_config
        kind = f"Default: {default}." if default else "Required."
        shipped = f"A file, or a preset: {', '.join(presets.names())}. {kind}"
        lines += ["  --config", _indented(f"{command.config} {shipped}")]
    for flag in (*command.flags, _VERBOSITY):
        notes = f"<{'|'.join(flag.choices)}>: {flag.help}" if flag.choices else flag.help
        if flag.repeated:
            notes += " May be repeated."
        if flag.default not in (None, [], "", False):
            notes += f" Default: {flag.default}."
        lines += [f"  --{'[no]' if flag.kind is bool else ''}{flag.name}", _indented(notes)]
    if command.details is not None:
        lines += ["", command.details()]
    return "\n".join(lines)


def _indented(text: str) -> str:
    return flags.text_wrap(text, length=_WIDTH, indent=" " * 6)
