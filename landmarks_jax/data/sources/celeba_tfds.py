"""CelebA as TensorFlow Datasets prepares it (`celeb_a`), read record by record.

TFDS keeps the photos' own JPEG bytes, so the pixels are those of the official files. It does not
keep their names, but it orders each split by the MD5 of split and file name, and the official
splits are ranges of numbers. So the names can be recovered, and photos can be left out by name as
in every other source. Five annotations known from the official list verify it for a folder.

Records are located in the files here and parsed by TFDS, without TensorFlow. No other module
imports tensorflow_datasets.
"""

import os
import struct
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from landmarks_jax.data import decoding, lists, photo_files
from landmarks_jax.data.sources import celeba, photos
from landmarks_jax.system.errors import DataError, reason

NAME = "celeb_a"
ORIGIN = (
    "CelebA as TensorFlow Datasets prepares it: `tfds build celeb_a --data_dir DIR` downloads it "
    "and writes DIR/celeb_a/2.1.0; name DIR, or use TFDS's own folder"
)
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


class CelebaRecords(photos.Source):
    """The photos of `celeb_a` in the order of their numbers, with five points.

    Names are those of the official layout, so a run can read either.
    """

    num_points = celeba.NUM_POINTS

    def __init__(
        self, root: str | None = None, exclude: Sequence[str] = (), split: str = "all"
    ) -> None:
        """Finds the records.

        Args:
          root: the folder of `celeb_a`; TFDS's own by default.
          exclude: lists of photos to leave out (MAFL's `testing.txt`).
          split: "all", "train", "validation" or "test".

        Raises:
          DataError: the records are missing, damaged, or not in TFDS's order.
        """
        folder = _prepared_folder(root)
        self._features, splits = _open(folder)
        self._places = _places_of_names(splits)
        self._check_known()
        ranges = [RANGES[name] for name in photos.select_splits(split, RANGES)]
        first, last = ranges[0][0], ranges[-1][1]
        numbers = [n for n in sorted(self._places) if first <= n <= last]
        listed = [
            photo_files.PhotoFile("", f"{celeba.FOLDER}/{number:06d}.jpg") for number in numbers
        ]
        kept, excluded = lists.leave_out(listed, exclude)
        self._numbers = [numbers[i] for i in kept]
        which = folder if split == "all" else f"{folder} ({split})"
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
        """The photo's name in the official layout."""
        return f"{celeba.FOLDER}/{self._numbers[index]:06d}.jpg"

    def _example(self, number: int) -> Any:
        """A parsed record, its image still encoded."""
        import tensorflow_datasets as tfds  # noqa: PLC0415

        path, start, length = self._places[number]
        with open(path, "rb") as file:
            file.seek(start)
            data = file.read(length)
        try:
            skip = {"image": tfds.decode.SkipDecoding()}
            return self._features.deserialize_example_np(data, decoders=skip)
        except Exception as error:  # damaged protocol buffers raise many kinds
            raise DataError(
                f"{path}: the record at byte {start} cannot be read ({reason(error)}); "
                f"build {NAME} again"
            ) from error

    def _landmarks(self, number: int) -> np.ndarray:
        values = self._example(number)["landmarks"]
        pairs = [[values[f"{point}_{axis}"] for axis in "xy"] for point in _POINTS]
        return np.array(pairs, np.float32)

    def _check_known(self) -> None:
        """Raises `DataError` unless the first photos have the points of the official list."""
        for number, known in KNOWN.items():
            if self._landmarks(number).ravel().tolist() != list(known):
                raise DataError(
                    f"{self._places[number][0]}: the records are not in TFDS's order (photo "
                    f"{number:06d} has other points than CelebA's list says), so photos cannot be "
                    f"told apart. Needed: {ORIGIN}, or the official files"
                )


def open_config(data: Any) -> CelebaRecords:
    """Opens the photos of `config.data`."""
    root = photos.roots_of(data, "at most one folder")[0] if data.roots else None
    return CelebaRecords(root, tuple(data.exclude), data.split)


def _prepared_folder(root: str | None) -> str:
    """The newest version of `celeb_a` below a folder."""
    if root is None:
        try:
            from tensorflow_datasets.core import constants  # noqa: PLC0415
        except ImportError as error:
            raise _missing_library(error) from error
        root = constants.DATA_DIR
    folder = os.path.join(os.path.expanduser(root), NAME)
    photos.need_folder(folder, ORIGIN)
    versions = {
        tuple(map(int, name.split("."))): name
        for name in os.listdir(folder)
        if all(number.isdigit() for number in name.split("."))
    }
    if not versions:
        raise DataError(f"{folder}: no version in it. Needed: {ORIGIN}")
    return os.path.join(folder, versions[max(versions)])


def _open(folder: str) -> tuple[Any, dict[str, list[tuple[str, int]]]]:
    """TFDS's features, and for each split its files with their numbers of records."""
    try:
        import tensorflow_datasets as tfds  # noqa: PLC0415
    except ImportError as error:
        raise _missing_library(error) from error
    try:
        info = tfds.builder_from_directory(folder).info
        splits = {
            name: [
                (str(path), count)
                for path, count in zip(split.filepaths, split.shard_lengths, strict=True)
            ]
            for name, split in info.splits.items()
        }
    except Exception as error:  # whatever is wrong with its JSON files
        raise DataError(
            f"{folder}: TFDS cannot read it ({reason(error)}); build {NAME} again"
        ) from error
    if info.file_format is not tfds.core.FileFormat.TFRECORD:
        raise DataError(f"{folder}: has format {info.file_format}; build it as tfrecord")
    return info.features, splits


def _missing_library(error: ImportError) -> DataError:
    return DataError(
        f"source {NAME!r} needs tensorflow-datasets, which the extra `train` installs ({error})"
    )


def _places_of_names(
    splits: dict[str, list[tuple[str, int]]],
) -> dict[int, tuple[str, int, int]]:
    """File, first byte and length of the record of each photo, by its number."""
    from tensorflow_datasets.core import hashing  # noqa: PLC0415

    places: dict[int, tuple[str, int, int]] = {}
    for split, (first, last) in RANGES.items():
        shards = splits.get(split, [])
        records = [(path, *place) for path, count in shards for place in _records(path, count)]
        if len(records) != last - first + 1:
            raise DataError(
                f"{NAME}: {len(records):,} records of split {split!r}, CelebA has "
                f"{last - first + 1:,}; build it again"
            )
        hasher = hashing.Hasher(split)
        numbers = sorted(range(first, last + 1), key=lambda n: hasher.hash_key(f"{n:06d}.jpg"))
        places |= dict(zip(numbers, records, strict=True))
    return places


def _records(path: str, count: int) -> Iterator[tuple[int, int]]:
    """First byte and length of each of the `count` records of a TFRecord file."""
    try:
        size = os.path.getsize(path)
        with open(path, "rb") as file:
            start = 0
            for _ in range(count):
                head = file.read(_HEAD.size)
                length = _HEAD.unpack(head)[0] if len(head) == _HEAD.size else size
                begin, start = start + _HEAD.size, start + _HEAD.size + length + _TAIL
                if start > size:
                    raise DataError(f"{path}: is truncated; build {NAME} again")
                yield begin, length
                file.seek(start)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({reason(error)}); build {NAME} again") from error
    if start != size:
        raise DataError(f"{path}: has more than its {count} records; build {NAME} again")
