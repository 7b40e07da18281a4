"""The list of usable pictures: fixed at the start of a run, every file decoded once.

What a scan finds (good, or why not) is kept with each file's size and time of change in
`$XDG_CACHE_HOME/landmarks_jax` (`~/.cache/landmarks_jax`), so that a later start only looks at
what is new or changed.
"""

import dataclasses
import hashlib
import json
import logging
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from landmarks_jax.data import decoding
from landmarks_jax.system import cache as caches
from landmarks_jax.system import files, parallel
from landmarks_jax.system.errors import DataError

_ENDINGS = "bmp gif jfif jpe jpeg jpg pbm pgm png pnm ppm tga tif tiff webp"
PICTURES = frozenset(f".{ending}" for ending in _ENDINGS.split())

_LOGGER = logging.getLogger(__name__)
_CACHE_VERSION = 1
_NAMED = 3  # examples in a message


@dataclasses.dataclass(frozen=True)
class PhotoFile:
    """One picture: where it is, and what it is called wherever the folder stands."""

    path: str
    name: str


@dataclasses.dataclass(frozen=True)
class Verdict:
    """What decoding a file found: why it is unusable ("" where it is fine), its orientation."""

    problem: str
    orientation: int


def is_picture(name: str) -> bool:
    """Whether a file's name ends as a picture's does."""
    return os.path.splitext(name)[1].lower() in PICTURES


def some(names: Sequence[str]) -> str:
    """The first few names, and how many more there are."""
    more = f" and {len(names) - _NAMED:,} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more


def _walk(folder: str, seen: set[str]) -> Iterable[os.DirEntry[str]]:
    """Every file below a folder that is not hidden, links followed, no folder entered twice."""
    real = os.path.realpath(folder)
    if real in seen:
        return
    seen.add(real)
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if entry.is_dir():
                yield from _walk(entry.path, seen)
            else:  # broken links too: they are counted as unreadable
                yield entry


def list_pictures(root: str) -> tuple[list[PhotoFile], list[str]]:
    """The files below a folder, sorted by their path relative to it.

    Returns:
      The pictures, by their file names, and the relative paths of all other visible files.
    """
    if not os.path.isdir(root):
        raise DataError(f"{root}: no such folder of pictures")
    title = os.path.basename(os.path.realpath(root))
    pictures, others = [], []
    try:
        entries = list(_walk(root, set()))
    except OSError as error:
        raise DataError(f"{root}: cannot be searched ({error})") from error
    for entry in entries:
        relative = Path(os.path.relpath(entry.path, root)).as_posix()
        if is_picture(entry.name):
            pictures.append(PhotoFile(entry.path, f"{title}/{relative}"))
        else:
            others.append(relative)
    return sorted(pictures, key=lambda file: file.name), sorted(others)


def _cache_path(root: str) -> Path:
    digest = hashlib.sha256(os.path.realpath(root).encode()).hexdigest()[:24]
    return caches.folder() / f"scan-{digest}.json"


def _read_cache(path: Path) -> dict[str, list]:
    """The kept verdicts `{file: [size, time, problem, orientation]}`; none where unreadable."""
    try:
        kept = json.loads(path.read_text())
        return kept["files"] if kept["version"] == _CACHE_VERSION else {}
    except (OSError, ValueError, KeyError, TypeError):
        return {}  # a cache is only ever a shortcut


def _write_cache(path: Path, verdicts: dict[str, list]) -> None:
    try:
        files.write_file(path, json.dumps({"version": _CACHE_VERSION, "files": verdicts}))
    except DataError as error:
        _LOGGER.warning("the results of scanning the images are not cached: %s", error)


def stamp(path: str) -> list[int]:
    """Size in bytes and time of change in nanoseconds; of a broken link, those of nothing."""
    try:
        stat = os.stat(path)
    except OSError:
        return [-1, -1]
    return [stat.st_size, stat.st_mtime_ns]


def _inspect(path: str) -> Verdict:
    try:
        _, orientation = decoding.decode(path)
    except DataError as error:
        return Verdict(str(error).removeprefix(f"{path}: "), 1)
    return Verdict("", orientation)


def inspect(photos: Sequence[PhotoFile], root: str) -> list[Verdict]:
    """Decodes each file below `root` once, or remembers having done so."""
    cache_path = _cache_path(root)
    cache = _read_cache(cache_path)
    stamps = [stamp(file.path) for file in photos]
    keys = [os.path.relpath(file.path, root) for file in photos]
    # What could not be read is looked at again: the reason may have been the machine's.
    new = {
        key: i  # by name: several people may share a photo
        for i, key in enumerate(keys)
        if key not in cache or cache[key][:2] != stamps[i] or cache[key][2]
    }
    paths = [photos[i].path for i in new.values()]
    what = f"reading the pictures of {root} once"
    found = parallel.ordered_map(_inspect, paths, what)
    for (key, i), verdict in zip(new.items(), found, strict=True):
        cache[key] = [*stamps[i], verdict.problem, verdict.orientation]
    if new:
        _write_cache(cache_path, cache)
    return [Verdict(*cache[key][2:]) for key in keys]


def _without_repeats(photos: Iterable[PhotoFile], seen: set[str]) -> list[PhotoFile]:
    """The files whose real path is not in `seen`, which grows."""
    folders: dict[str, str] = {}
    kept = []
    for file in photos:
        folder, base = os.path.split(file.path)
        if folder not in folders:
            folders[folder] = os.path.realpath(folder)
        real = os.path.join(folders[folder], base)
        if os.path.islink(real):
            real = os.path.realpath(real)
        if real not in seen:
            seen.add(real)
            kept.append(file)
    return kept


def usable_files(roots: Sequence[str]) -> tuple[list[PhotoFile], str]:
    """The pictures below all folders that can be read, in a fixed order.

    Args:
      roots: folders, searched whole; hidden files are skipped, links followed, and a file that two
        folders share is taken once.

    Returns:
      The files, folder by folder and sorted within each, and a note of what was left out ("" if
      nothing was).

    Raises:
      DataError: a folder is missing or has no usable picture.
    """
    usable: list[PhotoFile] = []
    others: list[str] = []
    bad: list[str] = []
    repeats = 0
    seen: set[str] = set()
    for root in roots:
        listed, rest = list_pictures(root)
        photos = _without_repeats(listed, seen)
        verdicts = inspect(photos, root)
        good = [file for file, verdict in zip(photos, verdicts, strict=True) if not verdict.problem]
        pairs = zip(photos, verdicts, strict=True)
        unread = [f"{file.path} ({verdict.problem})" for file, verdict in pairs if verdict.problem]
        if not good and len(photos) == len(listed):
            why = f": {len(unread)} unreadable, first {unread[0]}" if unread else ""
            raise DataError(f"{root}: no usable picture in this folder{why}")
        repeats += len(listed) - len(photos)
        usable, others, bad = usable + good, others + rest, bad + unread
    notes = []
    if bad:
        notes.append(f"{len(bad):,} unreadable pictures left out: {some(bad)}")
    if others:
        notes.append(f"{len(others):,} files that are no pictures left out: {some(others)}")
    if repeats:
        notes.append(f"{repeats:,} files reached twice, taken once")
    return usable, "; ".join(notes)
