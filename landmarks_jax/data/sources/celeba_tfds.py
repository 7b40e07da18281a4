"""CelebA as TensorFlow Datasets prepares it (`celeb_a`), read record by record.

TFDS keeps the photos' own JPEG bytes, so pixels are those of the official files. It does not keep
their names; but it writes each split in the order of the MD5 of split and file name, and the
official splits are ranges of numbers. So the names are found again, and photos can be left out
by name as everywhere else. Five annotations known from the official list prove it for a folder.

Records are found by their places in the files and parsed by TFDS itself, without TensorFlow. This
is the one importer of tensorflow_datasets.
"""

import os
import struct
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from landmarks_jax.data import decoding, lists, photo_files
from landmarks_jax.data.sources import celeba, origins, photos
from landmarks_jax.system.errors import DataError

NAME = "celeb_a"
# The official partition: numbers of the photos of each split, both ends included.
RANGES = {"train": (1, 162_770), "validation": (162_771, 182_637), "test": (182_638, 202_599)}
# The first lines of list_landmarks_align_celeba.txt.
KNOWN = {
    1: (69, 109, 106, 113, 77, 142, 73, 152, 108, 154),
    2: (69, 110, 107, 112, 81, 135, 70, 151, 108, 153),
    3: (76, 112, 104, 106, 108, 128, 74, 156, 98, 158),
    4: (72, 113, 108, 108, 101, 138, 71, 155, 101, 151),
    5: (66, 114, 112, 112, 86, 119, 71, 147, 104, 150),
}
_POINTS = ("lefteye", "righteye", "nose", "leftmouth", "rightmouth")
# A TFRecord: the length of the data and its checksum, the data, its checksum.
_HEAD, _TAIL = struct.Struct("<QI"), 4


class CelebaRecords:
    """The photos of `celeb_a` in the order of their numbers, with five points.

    They are called as in the official layout, so that a run does not care which of them it reads.

    Attributes:
      num_points: 5.
      summary: one line: how many photos of where, and what was left out.
    """

    num_points: int = celeba.NUM_POINTS

    def __init__(
        self, root: str | None = None, exclude: Sequence[str] = (), part: str = "all"
    ) -> None:
        """Finds the records.

        Args:
          root: the folder that holds `celeb_a`; TFDS's own by default.
          exclude: list files of photos to leave out (MAFL's `testing.txt`).
          part: "all", "train", "validation" or "test".

        Raises:
          DataError: the records are missing, damaged, or of another order than TFDS's.
        """
        folder = _prepared_folder(root)
        self._features, splits = _open(folder)
        self._places = _places_of_names(splits)
        self._check_known()
        first, last = zip(*(RANGES[name] for name in photos.parts(part, RANGES)), strict=True)
        numbers = [n for n in sorted(self._places) if min(first) <= n <= max(last)]
        listed = [
            photo_files.PhotoFile("", f"{celeba.FOLDER}/{number:06d}.jpg") for number in numbers
        ]
        kept, excluded = lists.leave_out(listed, exclude)
        self._numbers = [numbers[i] for i in kept]
        which = folder if part == "all" else f"{folder} ({part})"
        self.summary = photos.one_line(
            f"{len(kept):,} photos of {which}, {self.num_points} points each", excluded
        )

    def __len__(self) -> int:
        return len(self._numbers)

    def photo(self, index: int) -> np.ndarray:
        """One photo, `[H, W, 3]` uint8 RGB."""
        data = self._example(self._numbers[index])["image"]
        return decoding.decode_bytes(bytes(data), self.name(index), upright=False)[0]

    def points(self, index: int) -> np.ndarray:
        """Its points `[5, 2]` float32 `(x, y)` in pixels."""
        return self._landmarks(self._numbers[index])

    def name(self, index: int) -> str:
        """Its name in the official layout."""
        return f"{celeba.FOLDER}/{self._numbers[index]:06d}.jpg"

    def _example(self, number: int) -> Any:
        """A record as TFDS's features say, its picture still encoded."""
        import tensorflow_datasets as tfds  # noqa: PLC0415

        path, start, length = self._places[number]
        with open(path, "rb") as file:
            file.seek(start)
            data = file.read(length)
        try:
            skip = {"image": tfds.decode.SkipDecoding()}
            return self._features.deserialize_example_np(data, decoders=skip)
        except Exception as error:  # of the protocol buffers, or a feature that is not there
            raise DataError(
                f"{path}: the record at byte {start} cannot be read ({error}); build {NAME} anew"
            ) from error

    def _landmarks(self, number: int) -> np.ndarray:
        found = self._example(number)["landmarks"]
        pairs = [[found[f"{point}_{axis}"] for axis in "xy"] for point in _POINTS]
        return np.array(pairs, np.float32)

    def _check_known(self) -> None:
        """Raises `DataError` unless the first photos have the points they are known to have."""
        for number, known in KNOWN.items():
            if self._landmarks(number).ravel().tolist() != list(known):
                raise DataError(
                    f"{self._places[number][0]}: the records are not in TFDS's order (photo "
                    f"{number:06d} has other points than CelebA's list says), so photos cannot be "
                    f"told apart. Needed: {origins.CELEBA_TFDS}, or the official files"
                )


def _prepared_folder(root: str | None) -> str:
    """The newest version of `celeb_a` below a folder."""
    if root is None:
        try:
            from tensorflow_datasets.core import constants  # noqa: PLC0415
        except ImportError as error:
            raise _missing_library(error) from error
        root = constants.DATA_DIR
    folder = os.path.join(os.path.expanduser(root), NAME)
    origins.need_folder(folder, origins.CELEBA_TFDS)
    versions = {
        tuple(map(int, name.split("."))): name
        for name in os.listdir(folder)
        if all(part.isdigit() for part in name.split("."))
    }
    if not versions:
        raise DataError(f"{folder}: no version in it. Needed: {origins.CELEBA_TFDS}")
    return os.path.join(folder, versions[max(versions)])


def _open(folder: str) -> tuple[Any, dict[str, list[tuple[str, int]]]]:
    """TFDS's features, and for each split its files with the number of records in them."""
    try:
        import tensorflow_datasets as tfds  # noqa: PLC0415
    except ImportError as error:
        raise _missing_library(error) from error
    try:
        info = tfds.builder_from_directory(folder).info
        splits = {
            name: [
                (str(path), count)
                for path, count in zip(part.filepaths, part.shard_lengths, strict=True)
            ]
            for name, part in info.splits.items()
        }
    except Exception as error:  # whatever is wrong with its JSON files
        reason = " ".join(str(error).split())
        raise DataError(f"{folder}: TFDS cannot read it ({reason}); build {NAME} anew") from error
    if info.file_format is not tfds.core.FileFormat.TFRECORD:
        raise DataError(f"{folder}: is of format {info.file_format}; build it as tfrecord")
    return info.features, splits


def _missing_library(error: ImportError) -> DataError:
    return DataError(f"source {NAME!r} needs tensorflow-datasets, of the extra `train` ({error})")


def _places_of_names(
    splits: dict[str, list[tuple[str, int]]],
) -> dict[int, tuple[str, int, int]]:
    """For each photo's number the file, the first byte and the length of its record."""
    from tensorflow_datasets.core import hashing  # noqa: PLC0415

    places: dict[int, tuple[str, int, int]] = {}
    for split, (first, last) in RANGES.items():
        shards = splits.get(split, [])
        found = [(path, *place) for path, count in shards for place in _records(path, count)]
        if len(found) != last - first + 1:
            raise DataError(
                f"{NAME}: {len(found):,} records of split {split!r}, CelebA has "
                f"{last - first + 1:,}; build it anew"
            )
        hasher = hashing.Hasher(split)
        numbers = sorted(range(first, last + 1), key=lambda n: hasher.hash_key(f"{n:06d}.jpg"))
        places |= dict(zip(numbers, found, strict=True))
    return places


def _records(path: str, count: int) -> Iterator[tuple[int, int]]:
    """Where the records of a file begin and how long they are; there must be `count` of them."""
    try:
        size = os.path.getsize(path)
        with open(path, "rb") as file:
            start = 0
            for _ in range(count):
                head = file.read(_HEAD.size)
                length = _HEAD.unpack(head)[0] if len(head) == _HEAD.size else size
                begin, start = start + _HEAD.size, start + _HEAD.size + length + _TAIL
                if start > size:
                    raise DataError(f"{path}: is cut short; build {NAME} anew")
                yield begin, length
                file.seek(start)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); build {NAME} anew") from error
    if start != size:
        raise DataError(f"{path}: has more than its {count} records; build {NAME} anew")
