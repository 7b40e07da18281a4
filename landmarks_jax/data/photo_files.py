"""Finds the readable images below folders; every file is decoded once.

The result of decoding (readable, or why not) is cached with each file's size and modification time
in `$XDG_CACHE_HOME/landmarks_jax` (`~/.cache/landmarks_jax`), so that a later scan only decodes
what is new or changed.
"""

import dataclasses
import hashlib
import json
import logging
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from landmarks_jax.data import decoding, file_search
from landmarks_jax.system import cache as caches
from landmarks_jax.system import files, parallel
from landmarks_jax.system.errors import DataError
from landmarks_jax.system.sealed_json import sealed, unsealed

# Of the formats that Pillow reads, those of photos.
_ENDINGS = (
    "apng avif avifs bmp dib gif j2k jfif jp2 jpe jpeg jpg jpx mpo pbm pcx pgm png pnm ppm psd qoi "
    "sgi tga tif tiff webp"
)
IMAGES = frozenset(f".{ending}" for ending in _ENDINGS.split())

_LOGGER = logging.getLogger(__name__)
_CACHE_VERSION = 4
_NAMED = 3  # examples in a message


@dataclasses.dataclass(frozen=True)
class PhotoFile:
    """An image file: its path, and a name independent of where its folder lies."""

    path: str
    name: str


@dataclasses.dataclass(frozen=True)
class Verdict:
    """The result of decoding a file.

    Attributes:
      problem: why it is unusable, "" if it is not.
      orientation: its EXIF orientation, 1 if stored upright.
      size: width and height in pixels, upright.
    """

    problem: str
    orientation: int
    size: tuple[int, int]


def is_image(name: str) -> bool:
    """Whether a file's name ends as an image's does."""
    return os.path.splitext(name)[1].lower() in IMAGES


def some(names: Sequence[str]) -> str:
    """The first names, and how many more there are."""
    more = f" and {len(names) - _NAMED:,} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more


def list_images(root: str) -> tuple[list[PhotoFile], list[str]]:
    """The files below a folder, sorted by their path relative to it.

    Returns:
      The images, by their endings, and the relative paths of all other visible files.
    """
    if not os.path.isdir(root):
        raise DataError(f"{root}: no such folder of images")
    walked = file_search.walk(root)
    return _sorted([os.path.join(folder, name) for folder, names in walked for name in names], root)


def _sorted(paths: Iterable[str], root: str) -> tuple[list[PhotoFile], list[str]]:
    """Files below a folder as images and others; see `list_images`."""
    title = os.path.basename(os.path.realpath(root))
    images, others = [], []
    for path in paths:
        relative = Path(os.path.relpath(path, root)).as_posix()
        if is_image(path):
            images.append(PhotoFile(path, f"{title}/{relative}"))
        else:
            others.append(relative)
    return sorted(images, key=lambda file: file.name), sorted(others)


def _cache_path(root: str) -> Path:
    digest = hashlib.sha256(os.fsencode(os.path.realpath(root))).hexdigest()[:24]
    return caches.folder() / f"scan-{digest}.json"


def _read_cache(path: Path) -> dict[str, list]:
    """The cached `{file: [bytes, time, problem, orientation, size]}`; none if unreadable."""
    try:
        cache = unsealed(json.loads(path.read_text()))
        return cache["files"] if cache["version"] == _CACHE_VERSION else {}
    except (OSError, ValueError, KeyError):
        return {}


def _write_cache(path: Path, verdicts: dict[str, list]) -> None:
    try:
        files.write_file(path, json.dumps(sealed({"version": _CACHE_VERSION, "files": verdicts})))
    except DataError as error:
        _LOGGER.warning("the results of scanning the images are not cached: %s", error)


def stamp(path: str) -> list[int]:
    """Size in bytes and modification time in nanoseconds; -1 for a broken link."""
    try:
        stat = os.stat(path)
    except OSError:
        return [-1, -1]
    return [stat.st_size, stat.st_mtime_ns]


def _inspect(path: str) -> Verdict:
    try:
        pixels, orientation = decoding.decode(path)
    except DataError as error:
        return Verdict(str(error).removeprefix(f"{path}: "), 1, (0, 0))
    return Verdict("", orientation, (pixels.shape[1], pixels.shape[0]))


def inspect(photos: Sequence[PhotoFile], root: str) -> list[Verdict]:
    """Decodes each file below `root`, or takes the result from the cache."""
    cache_path = _cache_path(root)
    cache = _read_cache(cache_path)
    stamps = [stamp(file.path) for file in photos]
    keys = [os.path.relpath(file.path, root) for file in photos]
    # Unreadable files are decoded again: the cause may have been the machine.
    new = {
        key: i  # by path: several people may share a photo
        for i, key in enumerate(keys)
        if key not in cache or cache[key][:2] != stamps[i] or cache[key][2]
    }
    paths = [photos[i].path for i in new.values()]
    verdicts = parallel.ordered_map(_inspect, paths, f"checking the images of {root}")
    for (key, i), verdict in zip(new.items(), verdicts, strict=True):
        cache[key] = [*stamps[i], *dataclasses.astuple(verdict)]
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


def _listed(roots: Sequence[str]) -> Iterator[tuple[str, list[PhotoFile], list[str]]]:
    """The folders that are named or have named files, with their images and other files."""
    of_folder: dict[str, list[str]] = {}
    for path in (match for root in roots for match in file_search.expand(root)):
        if os.path.isdir(path):
            yield path, *list_images(path)
        else:
            of_folder.setdefault(os.path.dirname(path) or ".", []).append(path)
    for folder, paths in of_folder.items():
        yield folder, *_sorted(paths, folder)


def usable_files(roots: Sequence[str]) -> tuple[list[PhotoFile], str]:
    """The readable images below folders, in a fixed order.

    Args:
      roots: folders, searched recursively, image files, and globs; hidden files are skipped, links
        followed, and a file that two folders share is used once.

    Returns:
      The files, folder by folder and sorted within each, and a note of what was left out ("" if
      nothing was).

    Raises:
      DataError: a folder or file is missing, or a folder has no usable image.
    """
    usable: list[PhotoFile] = []
    others: list[str] = []
    bad: list[str] = []
    repeats = 0
    seen: set[str] = set()
    for root, listed, rest in _listed(roots):
        photos = _without_repeats(listed, seen)
        verdicts = inspect(photos, root)
        good = [file for file, verdict in zip(photos, verdicts, strict=True) if not verdict.problem]
        pairs = zip(photos, verdicts, strict=True)
        unread = [f"{file.path} ({verdict.problem})" for file, verdict in pairs if verdict.problem]
        if not good and len(photos) == len(listed):
            why = f": {len(unread)} unreadable, first {unread[0]}" if unread else ""
            raise DataError(f"{root}: no usable image in this folder{why}")
        repeats += len(listed) - len(photos)
        usable, others, bad = usable + good, others + rest, bad + unread
    notes = []
    if bad:
        notes.append(f"{len(bad):,} unreadable images left out: {some(bad)}")
    if others:
        notes.append(f"{len(others):,} files that are not images left out: {some(others)}")
    if repeats:
        notes.append(f"{repeats:,} files found twice, used once")
    return usable, "; ".join(notes)
