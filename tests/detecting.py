"""Images and result files for the tests of `landmarks-jax detect`."""

import contextlib
import csv
import json
import os
import socket
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image


def noise(seed: int, width: int = 30, height: int = 40) -> np.ndarray:
    """An image `[H, W, 3]` uint8 of coarse noise, which views do not average away."""
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 5, 3), np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))


# By EXIF orientation, what is stored of an image `[H, W, 3]`, as the standard says where the stored
# first row and column are seen: 6 has the first row at the right and the first column at the top.
STORED = {
    1: lambda image: image,
    2: lambda image: image[:, ::-1],
    3: lambda image: image[::-1, ::-1],
    4: lambda image: image[::-1],
    5: lambda image: image.swapaxes(0, 1),
    6: lambda image: image.swapaxes(0, 1)[::-1],
    7: lambda image: image[::-1, ::-1].swapaxes(0, 1),
    8: lambda image: image.swapaxes(0, 1)[:, ::-1],
}
# What keeps as much of an image as the format can.
BEST: dict[str, dict[str, Any]] = {
    ".avif": {"quality": 100, "subsampling": "4:4:4"},
    ".jpg": {"quality": 100, "subsampling": 0},
    ".webp": {"lossless": True},
}


def save_rotated(path: Path, image: np.ndarray, orientation: int, **options: object) -> np.ndarray:
    """Saves an image `[H, W, 3]` rotated, with the orientation that shows it upright.

    Returns:
      The pixels as stored.
    """
    pixels = np.ascontiguousarray(STORED[orientation](image))
    exif = Image.Exif()
    exif[0x0112] = orientation
    if path.suffix == ".tif":
        options["tiffinfo"] = {0x0112: orientation}
    else:
        options = {"exif": exif, **BEST.get(path.suffix, {}), **options}
    Image.fromarray(pixels).save(path, **options)
    return pixels


def exif_entry(kind: int, count: int, value: bytes, after: bytes = b"") -> bytes:
    """EXIF data whose only tag is an orientation of any type."""
    return b"MM\0*" + struct.pack(">IHHHI4sI", 8, 1, 0x0112, kind, count, value, 0) + after


# Orientations that are not one SHORT from 1 to 8, and data that is not EXIF.
BAD_EXIF = {
    "text": b"hello world",
    "short": b"MM\0*\0\0",
    "cut": exif_entry(3, 1, b"\0\6")[:-12],
    "elsewhere": b"MM\0*" + struct.pack(">I", 1 << 31),
    "byte": exif_entry(1, 1, b"\6"),
    "word": exif_entry(2, 4, b"six\0"),
    "undefined": exif_entry(7, 1, b"\6"),
    "long": exif_entry(4, 1, b"\0\0\0\6"),
    "fraction": exif_entry(5, 1, struct.pack(">I", 26), struct.pack(">II", 6, 0)),
    "two": exif_entry(3, 2, b"\0\6\0\6"),
    "zero": exif_entry(3, 1, b"\0\0"),
    "nine": exif_entry(3, 1, b"\0\11"),
}


def save_bad_exif(path: Path, image: np.ndarray, exif: bytes) -> None:
    """Saves an image with EXIF data that may be damaged."""
    options = BEST.get(path.suffix, {})
    if path.suffix == ".avif":  # Pillow writes only what it can read
        good = Image.Exif()
        good[0x010E] = "x" * len(exif)
        good = good.tobytes()
        Image.fromarray(image).save(path, exif=good, **options)
        bytes_ = path.read_bytes()
        assert bytes_.count(good[6:]) == 1
        path.write_bytes(bytes_.replace(good[6:], exif.ljust(len(good) - 6, b"\0")))
        return
    exif = b"Exif\0\0" + exif if path.suffix == ".jpg" else exif
    Image.fromarray(image).save(path, exif=exif, **options)


def add_chunk(
    path: Path,
    image: np.ndarray,
    kind: bytes,
    data: bytes,
    *,
    checksum: int | None = None,
    before: bytes = b"IDAT",
) -> None:
    """Saves a PNG with one chunk more, its checksum right unless given."""
    Image.fromarray(image).save(path)
    png = path.read_bytes()
    if checksum is None:
        checksum = zlib.crc32(data, zlib.crc32(kind))
    at = png.index(before) - 4
    chunk = struct.pack(">I", len(data)) + kind + data + struct.pack(">I", checksum)
    path.write_bytes(png[:at] + chunk + png[at:])


def large_texts() -> list[tuple[bytes, bytes]]:
    """Chunks of a PNG with more text, XMP or colour profile than Pillow reads: 64 MB each."""
    packed = zlib.compress(bytes(64 << 20), 1)
    return [
        (b"zTXt", b"Comment\0\0" + packed),
        (b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + packed),
        (b"iCCP", b"ICC\0\0" + packed),
        (b"tEXt", b"Comment\0" + b"a" * (65 << 20)),
    ]


XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'


def make_odd(folder: Path) -> dict[str, str]:
    """Files that cannot be opened, or would wait for ever, and why they are left out."""
    os.mkfifo(folder / "pipe.jpg")
    with socket.socket(socket.AF_UNIX) as server, contextlib.chdir(folder):
        server.bind("socket.png")
    (folder / "endless.jpg").symlink_to("/dev/zero")
    (folder / "loop.jpg").symlink_to("loop.jpg")
    (folder / "gone.jpg").symlink_to("nowhere.jpg")
    (folder / "up").symlink_to(folder)
    return {
        "pipe.jpg": "a named pipe, not a regular file",
        "socket.png": "a socket, not a regular file",
        "endless.jpg": "a device, not a regular file",
        "loop.jpg": "Too many levels of symbolic links",
        "gone.jpg": "a link to a missing file",
    }


def load(path: Path) -> np.ndarray:
    """The pixels of an image file."""
    with Image.open(path) as image:
        return np.asarray(image)


def read_table(folder: Path) -> list[dict[str, str]]:
    """The rows of landmarks.csv, after checking that landmarks.jsonl holds the same."""
    with (folder / "landmarks.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    lines = [json.loads(line) for line in (folder / "landmarks.jsonl").read_text().splitlines()]
    assert len(rows) == len(lines)
    for row, line in zip(rows, lines, strict=True):
        assert row["file"] == line["file"]
        for name in ("frame", "time", "box"):
            assert row[name] == "" if line[name] is None else float(row[name]) == line[name]
        np.testing.assert_array_equal(points(row), line["landmarks"])
        np.testing.assert_array_equal(confidence(row), line["confidence"])
        for name, point in line.get("labelled", {}).items():
            np.testing.assert_array_equal(labelled(row, name), point)
    return rows


def points(row: dict[str, str], prefix: str = "") -> np.ndarray:
    """The landmarks `[3, 2]` of a row."""
    return np.array([[float(row[f"{prefix}{axis}{i}"]) for axis in "xy"] for i in (1, 2, 3)])


def confidence(row: dict[str, str]) -> np.ndarray:
    return np.array([float(row[f"c{i}"]) for i in (1, 2, 3)])


def labelled(row: dict[str, str], name: str) -> np.ndarray:
    return np.array([float(row[f"{name.replace(' ', '_')}_{axis}"]) for axis in "xy"])


def read_skipped(folder: Path) -> dict[str, str]:
    with (folder / "skipped.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    return {row["file"]: row["reason"] for row in rows}
