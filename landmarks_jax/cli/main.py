"""`landmarks-jax COMMAND`: parses the command line, runs the command, reports errors in a line."""

import contextlib
import importlib
import logging
import os
import sys
from collections.abc import Iterator, Sequence

from absl import flags
from absl import logging as absl_logging

from landmarks_jax.cli import presets
from landmarks_jax.cli.command import Call, Command
from landmarks_jax.system import cache
from landmarks_jax.system.errors import ConfigError, UserError, tell

# Each is a module of this package with a `COMMAND`, imported only when it is called.
COMMANDS = {
    "train": "train a landmark detector",
    "eval": "score a trained run: tables, curves and images",
    "compare": "put scored runs side by side in one table",
    "export": "write a trained detector as one file: packed, StableHLO or ONNX",
    "detect": "find landmarks in images, videos or a camera",
    "demo": "show a web page that finds landmarks in the browser",
    "prepare": "decode and crop photos once, for faster training",
    "session": "train, score and pack up within some minutes on a borrowed machine",
    "transfer": "write a run as small files, to continue it on another machine",
    "convert": "read published weights: VGG networks, PyTorch checkpoints",
    "reproduce": "train, tabulate and check the paper's tables",
    "figure": "draw the same faces under several runs, as the paper's Fig. 2",
}
_HELP = ("--help", "-help", "-h", "--helpfull", "--helpshort")
# What absl appends to the help of flags that take several values.
_REPEAT = ";\n    repeat this option to specify a list of values"
_WIDTH = 100


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command; may be called any number of times in a process.

    A `UserError` becomes one line on standard error.

    Args:
      argv: the command and its arguments; None for the process's own.

    Returns:
      The exit code: 0, 2 for a wrong command line, or the error's or the command's own.
    """
    name, *arguments = [*(sys.argv[1:] if argv is None else argv)] or ["--help"]
    if name in _HELP:
        print(_overview())
        return 0
    if name not in COMMANDS:
        tell(f"{name}: no such command; it is one of {', '.join(COMMANDS)}")
        return UserError.exit_code
    module = importlib.import_module(f"landmarks_jax.cli.{name}")
    command: Command = module.COMMAND
    if any(argument in _HELP for argument in arguments):
        print(_help(name, module.__doc__ or "", command))
        return 0
    try:
        call = parse(name, command, arguments)
        _set_up(call)
        with _log_to_stderr():
            code = command.run(call)
            sys.stdout.flush()
    except UserError as error:
        tell(str(error))
        return error.exit_code
    except BrokenPipeError:
        # Whoever read the output, such as `head`, closed it. Python would write again at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    return code or 0


def script() -> None:
    """The console script."""
    sys.exit(main())


def parse(name: str, command: Command, arguments: Sequence[str]) -> Call:
    """Parses a command's flags, and loads its configuration.

    Raises:
      ConfigError: a flag, an argument or the configuration is wrong.
    """
    words = [name, *arguments]
    if command.config is not None:
        words = _with_config_path(words, command.default_config)
    values = _flags_of(command, words)
    try:
        rest = values(words)
        if command.config is not None:
            getattr(values.config, "seed")  # noqa: B009  (raises what went wrong on loading)
    except flags.Error as error:
        raise ConfigError(f"{error}; --help lists the flags") from error
    except (OSError, SyntaxError, TypeError, ValueError) as error:
        raise ConfigError(f"--config: cannot load the file: {error}") from error
    except (AttributeError, KeyError) as error:
        # What ml-collections raises for a field that the configuration does not have.
        text = str(error).strip("\"'").replace("\\n", " ").replace("\\'", "'")
        raise ConfigError(
            f"the configuration or a --config flag names an unknown field: {text}"
        ) from error
    if len(rest) > 1 and not command.arguments:
        raise ConfigError(
            f"unknown argument {rest[1]!r}; every argument is a --flag; --help lists the flags"
        )
    return Call(values, rest[1:], ["landmarks-jax", name, *arguments])


def _with_config_path(words: list[str], default: str | None) -> list[str]:
    """The words with the file of --config by its path; with the default if there is no --config."""
    for i, word in enumerate(words):
        flag, equals, config = word.partition("=")
        if flag not in ("--config", "-config"):
            continue
        if equals:
            return [*words[:i], f"{flag}={presets.path_of(config)}", *words[i + 1 :]]
        if i + 1 < len(words):
            return [*words[: i + 1], presets.path_of(words[i + 1]), *words[i + 2 :]]
    if default is None:
        return words
    # Not as the flag's own default: that would be loaded, and could fail, when it is defined.
    return [words[0], f"--config={presets.path_of(default)}", *words[1:]]


def _flags_of(command: Command, words: list[str]) -> flags.FlagValues:
    values = flags.FlagValues()
    if command.config is not None:
        # Only here: it takes a third of a second, and most commands need no configuration.
        from ml_collections import config_flags  # noqa: PLC0415

        config_flags.DEFINE_config_file(
            "config",
            None,
            command.config,
            flag_values=values,
            sys_argv=words,
        )
        if command.default_config is None:
            flags.mark_flag_as_required("config", values)
    command.add_flags(values)
    flags.DEFINE_integer(
        "verbosity", None, "Level of the libraries' own log: -1 warnings, 0 notes.",
        flag_values=values,
    )  # fmt: skip
    return values


def _set_up(call: Call) -> None:
    """Quiet libraries, and JAX's compilation cache."""
    level = call.flags.verbosity
    absl_logging.set_verbosity(absl_logging.ERROR if level is None else level)
    cache.keep_compilations()


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


def _help(name: str, text: str, command: Command) -> str:
    values = _flags_of(command, [name])
    lines = [text.strip(), "", "Flags:"]
    for flag in (values[name] for name in values):
        notes = (flag.help or "").removesuffix(_REPEAT)
        if flag.default not in (None, [], "", False):
            notes += f" Default: {flag.default}."
        prefix = "--[no]" if flag.boolean else "--"
        body = flags.text_wrap(notes, length=_WIDTH, indent=" " * 6)
        lines += [f"  {prefix}{flag.name}", body]
    return "\n".join(lines)
