"""Images and result files for the tests of `landmarks-jax detect`."""

import contextlib
import csv
import json
import os
import socket
from pathlib import Path

import numpy as np
from PIL import Image


def noise(seed: int, width: int = 30, height: int = 40) -> np.ndarray:
    """An image `[H, W, 3]` uint8 of coarse noise, which views do not average away."""
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 5, 3), np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))


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
