"""What was asked for: files, folders and globs as one list of pictures and videos."""

import dataclasses
import glob
import os
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePath

from landmarks_jax.data import photo_files
from landmarks_jax.system.errors import DataError

_ENDINGS = "3gp avi flv m2ts m4v mkv mov mp4 mpeg mpg mts ogv ts webm wmv"
_VIDEOS = frozenset(f".{ending}" for ending in _ENDINGS.split())
# What a drawn picture or video is saved as; anything else gets one more ending.
_JPEG = frozenset((".jfif", ".jpe", ".jpeg", ".jpg"))
_KEPT = {False: _JPEG | {".png"}, True: frozenset((".m4v", ".mkv", ".mov", ".mp4"))}
_ADDED = {False: ".png", True: ".mp4"}


@dataclasses.dataclass(frozen=True)
class Input:
    """One picture or video.

    Attributes:
      path: what to open, and what results call it: as it was given, or below the folder given.
      is_video: whether it is a video, by its ending.
      drawn: where its annotated form goes, relative to the folder of those; no two inputs share it.
    """

    path: str
    is_video: bool
    drawn: PurePath


@dataclasses.dataclass(frozen=True)
class Inputs:
    """Everything to look at.

    Attributes:
      items: in the order given; a folder's or a glob's sorted.
      note: what was left out of folders ("" if nothing was).
    """

    items: list[Input]
    note: str


def is_jpeg(path: PurePath) -> bool:
    """Whether a file's name ends as a JPEG's does."""
    return path.suffix.lower() in _JPEG


def find_inputs(arguments: Sequence[str], drawn: Path) -> Inputs:
    """Lists the pictures and videos that arguments name.

    Folders are searched whole for endings of pictures and videos; hidden files are skipped. A file
    that is named, or that a glob matches, is taken whatever its ending: what is no video by its
    ending is read as a picture.

    Args:
      arguments: files, folders, globs (`**` goes any number of folders down).
      drawn: the folder of annotated files; what lies there is no input.

    Raises:
      DataError: an argument leads to nothing, or there is neither picture nor video at all.
    """
    paths: list[str] = []
    folders: list[str] = []
    others = 0
    for path in (match for argument in arguments for match in _expand(argument)):
        if os.path.isdir(path):
            found, rest = _search(path)
            paths += found
            folders += [path] * bool(found)
            others += rest
        else:
            paths.append(path)
            folders.append(os.path.dirname(path))
    kept, repeats, own = _without_repeats(paths, os.path.realpath(drawn))
    if not kept:
        raise DataError(f"{photo_files.some(arguments)}: no picture and no video there")
    counts = (
        (others, "files in folders that are neither pictures nor videos"),
        (repeats, "files reached twice, taken once"),
        (own, f"files in {drawn}, where results go"),
    )
    note = "; ".join(f"{count:,} {what}" for count, what in counts if count)
    return Inputs(_placed(kept, folders), note and f"left out: {note}")


def _expand(argument: str) -> list[str]:
    """A file or folder, or what a glob matches, as a shell would have it."""
    if os.path.lexists(argument):  # also a name with a bracket in it
        return [argument]
    matches = sorted(glob.glob(argument, recursive=True))
    if not matches:
        raise DataError(f"{argument}: no such file or folder, and no glob that matches any")
    return matches


def _search(folder: str) -> tuple[list[str], int]:
    """The pictures and videos below a folder, sorted, and how many other files there are."""
    pictures, others = photo_files.list_images(folder)
    videos = [os.path.join(folder, name) for name in others if _is_video(name)]
    return sorted([p.path for p in pictures] + videos), len(others) - len(videos)


def _is_video(path: str) -> bool:
    return os.path.splitext(path)[1].lower() in _VIDEOS


def _without_repeats(paths: Iterable[str], drawn: str) -> tuple[list[str], int, int]:
    """The paths once each and outside the folder `drawn`; how many repeats, how many inside."""
    seen: set[str] = set()
    kept: list[str] = []
    repeats = own = 0
    for path in paths:
        absolute = os.path.abspath(path)
        # By the real place: a drawing must not replace its picture behind a link either.
        if os.path.realpath(path).startswith(drawn + os.sep):
            own += 1
        elif absolute in seen:
            repeats += 1
        else:
            seen.add(absolute)
            kept.append(path)
    return kept, repeats, own


def _placed(paths: Sequence[str], folders: Sequence[str]) -> list[Input]:
    """Gives each file its place: as it lies below the folder that all the arguments share."""
    root = os.path.commonpath([os.path.abspath(folder) for folder in folders])
    taken: set[PurePath] = set()
    placed = []
    for path in paths:
        is_video = _is_video(path)
        place = PurePath(os.path.relpath(path, root))
        if place.suffix.lower() not in _KEPT[is_video]:
            place = place.with_name(place.name + _ADDED[is_video])
        while place in taken:  # a.bmp beside a.bmp.png
            place = place.with_name(f"_{place.name}")
        taken.add(place)
        placed.append(Input(path, is_video, place))
    return placed
