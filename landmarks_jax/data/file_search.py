"""Folders and globs to lists of files."""

import collections
import glob
import os
import re
from collections.abc import Iterator

from landmarks_jax.system import files
from landmarks_jax.system.errors import DataError, reason


def walk(top: str) -> Iterator[tuple[str, list[str]]]:
    """A folder and those below it, each with the names of its files.

    Hidden names are skipped. Links are followed, but only after all folders that are not links, and
    each folder is entered once: it is found by its own name rather than by a link's.

    Raises:
      DataError: a folder cannot be searched.
    """
    seen: set[str] = set()
    waiting = collections.deque([top])
    while waiting:
        folder = waiting.popleft()
        real = os.path.realpath(folder)
        if real in seen:
            continue
        seen.add(real)
        try:
            with os.scandir(folder or ".") as found:
                entries = sorted(found, key=lambda entry: entry.name)
        except OSError as error:
            raise DataError(f"{folder}: cannot be searched ({reason(error)})") from error
        names = []
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if not _is_folder(entry):
                names.append(entry.name)
            elif entry.is_symlink():
                waiting.append(os.path.join(folder, entry.name))
            else:
                waiting.appendleft(os.path.join(folder, entry.name))
        yield folder, names


def _is_folder(entry: os.DirEntry[str]) -> bool:
    """False for links that lead nowhere, such as to themselves: they count as unreadable files."""
    try:
        return entry.is_dir()
    except OSError:
        return False


def expand(argument: str) -> list[str]:
    """The file or folder that an argument names, or the sorted matches of a glob.

    Raises:
      DataError: it matches nothing, or names something that is neither file nor folder.
    """
    if os.path.lexists(argument):  # also a name with a bracket in it
        if not os.path.isdir(argument) and (problem := files.not_regular(argument)):
            raise DataError(f"{argument}: {problem}")
        return [argument]
    matches = _glob(argument)
    if not matches:
        raise DataError(f"{argument}: no such file or folder, and no match as a glob")
    return matches


def _glob(pattern: str) -> list[str]:
    """The sorted matches of a pattern; `**` enters every folder once, whatever links lead to it."""
    stars = re.search(r"(?:^|/)\*\*(?:/|$)", pattern)
    if stars is None:
        return sorted(glob.glob(pattern))
    head, tail = pattern[: stars.start()], pattern[stars.end() :]
    if stars[0].startswith("/"):
        head += "/"
    matches: set[str] = set()
    for top in glob.glob(head) if head else [""]:
        for folder, names in walk(top):
            inside = os.path.join(glob.escape(folder), tail)
            matches.update(_glob(inside) if tail else [os.path.join(folder, n) for n in names])
    return sorted(matches)
