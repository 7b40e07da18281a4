"""What benchmarks are told on the command line: read, and refused, before anything is timed."""

import argparse
import json
import math
import os
import sys
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

from landmarks_jax.system.errors import UserError, tell


def names(known: Collection[str], *, none: bool = False) -> Callable[[str], tuple[str, ...]]:
    """Reads names by commas.

    Args:
      known: what they must be of.
      none: whether there may be none.
    """

    def read(text: str) -> tuple[str, ...]:
        given = tuple(dict.fromkeys(part.strip() for part in text.split(","))) if text else ()
        unknown = [name for name in given if name not in known]
        if unknown or not (given or none):
            raise argparse.ArgumentTypeError(
                f"{', '.join(map(repr, unknown)) or 'nothing'}: must be of {', '.join(known)}"
            )
        return given

    return read


def count(least: int) -> Callable[[str], int]:
    """Reads a whole number."""

    def read(text: str) -> int:
        if not text.strip().isdecimal() or int(text) < least:
            raise argparse.ArgumentTypeError(f"{text!r}: must be a whole number from {least}")
        return int(text)

    return read


def counts(least: int) -> Callable[[str], tuple[int, ...]]:
    """Reads whole numbers by commas."""
    return lambda text: tuple(dict.fromkeys(map(count(least), text.split(","))))


def amount(text: str) -> float:
    """Reads a number that is not negative."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r}: must be a number from 0")
    return value


def out_file(text: str) -> Path:
    """Reads where a JSON file is to be written, and makes its folder."""
    path = Path(text)
    if path.suffix == ".md" or path.is_dir():
        raise argparse.ArgumentTypeError(f"{text}: must be a JSON file; the table goes beside it")
    out_folder(str(path.parent))
    return path


def out_folder(text: str) -> Path:
    """Reads the name of a folder to write to, and makes it."""
    path = Path(text)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise argparse.ArgumentTypeError(
            f"{text}: cannot be made ({error.strerror}); name another place"
        ) from error
    if not os.access(path, os.W_OK):
        raise argparse.ArgumentTypeError(f"{text}: cannot be written to; name another place")
    return path


def stored(path: Path, module: str) -> dict[str, Any]:
    """Reads a result that a benchmark wrote.

    Args:
      path: its JSON file.
      module: the benchmark, `python -m` of it.

    Raises:
      UserError: there is none, it is damaged, or another program's.
    """
    again = f"name one that python -m {module} --out wrote"
    try:
        result = json.loads(path.read_text())
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); {again}") from error
    except ValueError as error:
        raise UserError(f"{path}: is no JSON ({error}); {again}") from error
    words = str(result.get("command", "")).split() if isinstance(result, dict) else []
    if module not in words:
        raise UserError(f"{path}: is no result of {module}; {again}")
    return dict(result)


def run(main: Callable[[], int | None]) -> None:
    """Runs a benchmark's `main`; a `UserError` becomes one line and its exit code."""
    try:
        code = main()
    except UserError as error:
        tell(str(error))
        code = error.exit_code
    sys.exit(code or 0)
