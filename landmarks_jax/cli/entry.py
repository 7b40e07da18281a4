"""How the entry points start and fail: one line for the user, no trace."""

import logging
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from absl import app, flags
from absl import logging as absl_logging

from landmarks_jax.data.framing import CROPS
from landmarks_jax.system import cache
from landmarks_jax.system.errors import ConfigError, UserError, tell

# Flags defined here are listed by --help of the entry point that asked for them.
flags.disclaim_key_flags()


def define_faces() -> Callable[[], dict[str, Any]]:
    """Defines the flags that name a run's labelled faces.

    Returns:
      What gives their values, once flags are read, as keywords of `evaluate.open_faces`.
    """
    holders: dict[str, flags.FlagHolder] = {
        "protocol_names": flags.DEFINE_multi_string(
            "protocol",
            None,
            "synthetic | mafl | aflw | aflw-995 | aflw-dev, or mpii of a run on joints; default: "
            "the run's config.eval.protocols.",
        ),
        "fit": flags.DEFINE_string(
            "fit", None, "Labelled faces that fit: .csv, .txt, prepared folder or one with .pts."
        ),
        "score": flags.DEFINE_string("score", None, "Labelled faces that are scored, likewise."),
        "crops": flags.DEFINE_multi_enum(
            "crop", [], CROPS, "With --fit and --score; default: the crop of the run's training."
        ),
    }
    # Where the run's configuration does not hold: each stands for the field of config.eval.
    for name, what in (
        ("aflw", "Folder of AFLW's lists (aflw-995, aflw-dev)"),
        ("aflw_release", "Folder of aflw_release-2 (aflw)"),
        ("celeba", "CelebA's folder (mafl)"),
        ("mafl", "Folder of MAFL's lists (mafl)"),
        ("mpii", "MPII's folder (mpii)"),
    ):
        holders[name] = flags.DEFINE_string(name, None, f"{what}, if not the run's.")
    holders["mafl_as_released"] = flags.DEFINE_bool(
        "mafl_as_released", None, "Fit without three photos of MAFL, as the released code does."
    )
    holders["pts_points"] = flags.DEFINE_integer(
        "pts_points", None, "5 or 68: points of --fit and --score folders with .pts files."
    )
    return lambda: {name: holder.value for name, holder in holders.items()}


def define_handover() -> Callable[[], Path | None]:
    """Defines the flag that names a handover, and returns what gives its value."""
    holder = flags.DEFINE_string(
        "handover",
        None,
        "A handover to restart from, where the run's folder has no checkpoint yet.",
    )
    return lambda: Path(holder.value) if holder.value else None


def define_multihost() -> Callable[[], dict[str, Any]]:
    """Defines the flags that make a process one of several that are one run.

    Returns:
      What gives their values as keywords of `processes.joined`.

    Raises:
      ConfigError: (what is returned does) they do not go together.
    """
    multihost = flags.DEFINE_bool(
        "multihost",
        False,
        "This process is one of several that train one run; each is started with the same command. "
        "They find each other by themselves under SLURM, Open MPI and on cloud clusters.",
    )
    places: dict[str, flags.FlagHolder] = {
        "coordinator": flags.DEFINE_string(
            "coordinator",
            None,
            "Elsewhere: HOST:PORT of process 0, as all can reach it; any free port.",
        ),
        "num_processes": flags.DEFINE_integer(
            "num_processes", None, "With --coordinator: how many processes there are."
        ),
        "process_id": flags.DEFINE_integer(
            "process_id", None, "With --coordinator: which of them this is, from 0."
        ),
    }

    def values() -> dict[str, Any]:
        place = {name: holder.value for name, holder in places.items()}
        given = [f"--{name}" for name, value in place.items() if value is not None]
        if given and not multihost.value:
            raise ConfigError(f"{given[0]}: only with --multihost")
        if given and len(given) < len(place):
            missing = " and ".join(f"--{name}" for name in place if f"--{name}" not in given)
            raise ConfigError(f"{given[0]}: needs {missing} as well, or none of the three")
        if given:
            _check_place(**place)
        return {"multihost": multihost.value, **place}

    return values


def _check_place(coordinator: str, num_processes: int, process_id: int) -> None:
    host, _, port = coordinator.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 2**16:
        raise ConfigError(f"--coordinator={coordinator}: must be HOST:PORT, such as node7:8476")
    if num_processes < 1:
        raise ConfigError(f"--num_processes={num_processes}: must be at least 1")
    if not 0 <= process_id < num_processes:
        raise ConfigError(f"--process_id={process_id}: must be from 0 to {num_processes - 1}")


def run(
    main: Callable[..., int | None],
    *,
    default_config: str | None = None,
    positional: bool = False,
) -> None:
    """Runs an entry point's `main` after absl has read the flags.

    A `UserError` becomes one line on standard error and its exit code, mostly 2.

    Args:
      main: returns the exit code, None for 0.
      default_config: the configuration file where no --config is given.
      positional: whether there are arguments besides the flags; `main` is called with their list.
    """

    def guarded(argv: Sequence[str]) -> None:
        if len(argv) > 1 and not positional:
            raise app.UsageError(f"unknown argument {argv[1]!r}; every argument is a --flag")
        _log_to_stderr()
        cache.keep_compilations()
        try:
            code = main(list(argv[1:])) if positional else main()
            sys.stdout.flush()
        except UserError as error:
            _fail(str(error), error.exit_code)
        except BrokenPipeError:
            # Whoever read the output, such as `head`, has enough. Python's own end writes again.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sys.exit(1)
        sys.exit(code or 0)

    argv = list(sys.argv)
    if default_config and not any(a.split("=")[0] in ("--config", "-config") for a in argv):
        # Not the flag's own default: that would be read, and could fail, before there is a parser.
        argv.insert(1, f"--config={default_config}")
    app.run(guarded, argv=argv, flags_parser=_parse)


def _parse(argv: Sequence[str]) -> list[str]:
    """Reads the flags, and with them the configuration file."""
    try:
        rest = flags.FLAGS(list(argv))
        if "config" in flags.FLAGS:
            # Raises what went wrong when the file was loaded.
            getattr(flags.FLAGS["config"].value, "seed")  # noqa: B009
    except flags.Error as error:
        _fail(f"{error}; --help lists the flags")
    except OSError as error:
        _fail(f"--config: no such configuration file: {str(error).splitlines()[-1].strip()}")
    except (SyntaxError, TypeError, ValueError) as error:
        _fail(f"--config: the file is no configuration that can be read: {error}")
    except (AttributeError, KeyError) as error:
        # What ml-collections raises for a field that the configuration does not have.
        text = str(error).strip("\"'").replace("\\n", " ").replace("\\'", "'")
        _fail(f"the configuration or a --config flag names an unknown field: {text}")
    return rest


def _fail(message: str, code: int = UserError.exit_code) -> NoReturn:
    tell(message)
    sys.exit(code)


def _log_to_stderr() -> None:
    """This program's notes as plain lines, and no library's unless --verbosity asks for them."""
    if not flags.FLAGS["verbosity"].present:
        absl_logging.set_verbosity(absl_logging.ERROR)
    logger = logging.getLogger("landmarks_jax")
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(message)s"))
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False
