"""The inputs of a detection: files, folders and globs as one list, and the table of boxes."""

import dataclasses
import os
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePath

import numpy as np

from landmarks_jax.data import file_search, lists, photo_files
from landmarks_jax.system import files
from landmarks_jax.system.errors import DataError

_ENDINGS = "3gp avi flv m2ts m4v mkv mov mp4 mpeg mpg mts ogv ts webm wmv"
_VIDEOS = frozenset(f".{ending}" for ending in _ENDINGS.split())
# Drawn files keep these endings; to any other one more is appended.
_JPEG = frozenset((".jfif", ".jpe", ".jpeg", ".jpg"))
_KEPT = {False: _JPEG | {".png"}, True: frozenset((".m4v", ".mkv", ".mov", ".mp4"))}
_APPENDED = {False: ".png", True: ".mp4"}
_BOX_HEADER = ["file", "x0", "y0", "x1", "y1"]


@dataclasses.dataclass(frozen=True)
class Input:
    """An image or video file.

    Attributes:
      path: the file, as the user named it or below the folder that the user named.
      is_video: whether it is a video, by its extension.
      drawn: where its drawing goes, relative to the folder of drawings; unique among the inputs.
    """

    path: str
    is_video: bool
    drawn: PurePath


def is_jpeg(path: PurePath) -> bool:
    """Whether a file has the extension of a JPEG."""
    return path.suffix.lower() in _JPEG


def find_inputs(arguments: Sequence[str], drawn: Path) -> tuple[list[Input], str]:
    """Lists the images and videos that arguments name.

    Folders are searched recursively for files with the extension of an image or video; hidden files
    are skipped, links are followed, folders entered once. A file that is named, or matched by a
    glob, is taken whatever its extension, as an image unless it has the extension of a video.

    Args:
      arguments: files, folders and globs (`**` matches any number of folders).
      drawn: the folder of drawings, which is not searched.

    Returns:
      The inputs, in the order of the arguments, those of a folder or glob sorted; and a note about
      what was skipped, "" if nothing was.

    Raises:
      DataError: an argument matches nothing or is not a regular file, or no image or video is
        found.
    """
    paths: list[str] = []
    folders: list[str] = []
    others = 0
    for path in (match for argument in arguments for match in file_search.expand(argument)):
        if os.path.isdir(path):
            inside, skipped = _search(path)
            paths += inside
            others += skipped
            if inside:
                folders.append(path)
        else:
            paths.append(path)
            folders.append(os.path.dirname(path))
    kept, repeated, own = _without_repeats(paths, os.path.realpath(drawn))
    if not kept:
        raise DataError(f"{photo_files.some(arguments)}: no images and no videos")
    counts = (
        (others, "files in folders that are neither images nor videos"),
        (repeated, "files named more than once"),
        (own, f"files in {drawn}, the folder of drawings"),
    )
    note = "; ".join(f"{count:,} {what}" for count, what in counts if count)
    return _with_drawn(kept, folders), note and f"skipped: {note}"


def _search(folder: str) -> tuple[list[str], int]:
    """The images and videos below a folder, sorted, and the number of other files."""
    images, others = photo_files.list_images(folder)
    videos = [os.path.join(folder, name) for name in others if _is_video(name)]
    return sorted([image.path for image in images] + videos), len(others) - len(videos)


def _is_video(path: str) -> bool:
    return os.path.splitext(path)[1].lower() in _VIDEOS


def _without_repeats(paths: Iterable[str], drawn: str) -> tuple[list[str], int, int]:
    """The paths outside `drawn`, each once; the number of repeats; the number inside `drawn`."""
    seen: set[str] = set()
    kept: list[str] = []
    repeated = own = 0
    for path in paths:
        absolute = os.path.abspath(path)
        # By the real path: a drawing must not overwrite its image behind a link either.
        if os.path.realpath(path).startswith(drawn + os.sep):
            own += 1
        elif absolute in seen:
            repeated += 1
        else:
            seen.add(absolute)
            kept.append(path)
    return kept, repeated, own


def _with_drawn(paths: Sequence[str], folders: Sequence[str]) -> list[Input]:
    """Mirrors the files below the common parent of all folders in the folder of drawings."""
    root = os.path.commonpath([os.path.abspath(folder) for folder in folders])
    taken: set[PurePath] = set()
    inputs = []
    for path in paths:
        is_video = _is_video(path)
        drawn = PurePath(os.path.relpath(path, root))
        if drawn.suffix.lower() not in _KEPT[is_video]:
            drawn = drawn.with_name(drawn.name + _APPENDED[is_video])
        while drawn in taken:  # a.bmp and a.bmp.png
            drawn = drawn.with_name(f"_{drawn.name}")
        taken.add(drawn)
        inputs.append(Input(path, is_video, drawn))
    return inputs


class Boxes:
    """A CSV file `file,x0,y0,x1,y1` with that header: the parts of each image to view.

    Boxes are in pixel edges of the upright image: 0, 0, W, H is all of it.
    """

    def __init__(self, path: str) -> None:
        """Reads the CSV file.

        Args:
          path: the CSV file. Images are relative to its folder, or else to the working directory.

        Raises:
          DataError: a line is malformed or names a missing file; the message gives its number.
        """
        self._path = path
        self._boxes: dict[str, list[np.ndarray]] = {}
        lines = lists.read_lines(path)
        place, header = next(lines, (path, ""))
        if [cell.lower() for cell in lists.cells(header, place)] != _BOX_HEADER:
            raise DataError(f"{place}: the header must be {','.join(_BOX_HEADER)}")
        for place, line in lines:
            name, *cells = lists.cells(line, place)
            if len(cells) != 4:
                raise DataError(f"{place}: {1 + len(cells)} cells, the header has 5")
            box = lists.numbers(cells, place)
            if not (box[0] < box[2] and box[1] < box[3]):
                raise DataError(f"{place}: the box must have x0 < x1 and y0 < y1")
            relative = os.path.join(os.path.dirname(path), name)
            file = next(filter(os.path.isfile, (relative, name)), None)
            if file is None:
                raise DataError(f"{place}: {files.not_regular(relative)}: {relative}")
            self._boxes.setdefault(os.path.realpath(file), []).append(box)
        if not self._boxes:
            raise DataError(f"{path}: no box is listed")

    def of(self, path: str) -> np.ndarray:
        """The boxes `[n, 4]` of a file in the order of their lines; n may be 0."""
        return np.array(self._boxes.get(os.path.realpath(path), ()), np.float64).reshape(-1, 4)

    def split(self, inputs: Sequence[Input]) -> tuple[list[Input], list[Input], str]:
        """Splits the inputs into those with and without boxes.

        Returns:
          Both, and a note about listed files that are not inputs, "" if there are none.

        Raises:
          DataError: no input has a box.
        """
        real_paths = [os.path.realpath(item.path) for item in inputs]
        boxed: list[Input] = []
        unboxed: list[Input] = []
        for item, real_path in zip(inputs, real_paths, strict=True):
            (boxed if real_path in self._boxes else unboxed).append(item)
        if not boxed:
            raise DataError(f"{self._path}: no box for any of the {len(inputs):,} inputs")
        unused = len(self._boxes.keys() - set(real_paths))
        note = f"{self._path}: {unused:,} listed files are not inputs" if unused else ""
        return boxed, unboxed, note
