"""A narrow packed detector, pictures and result files for the tests of `detect.py`."""

import csv
import json
from pathlib import Path

import numpy as np
from PIL import Image

from landmarks_jax.inference import detector, packed_file
from landmarks_jax.inference.linear_map import LinearMap
from tests.running import narrow

NAMES = ("left eye", "nose")


def write_detector(path: Path, filled, *, crop: str = "center", regressor: bool = True) -> Path:
    """Packs a random detector of 16-pixel views, K = 3, with two labelled points."""
    # With a steep soft-argmax random maps have their points well apart.
    config = narrow(compute_dtype="float32", model__beta=300.0, data__crop=crop)
    module = detector.build_detector(config)
    variables = filled(module, (1, 16, 16, 3), use_running_average=True)
    rng = np.random.default_rng(0)
    linear = LinearMap(rng.normal(0, 0.5, (4, 6)), rng.normal(0, 0.1, 6), rng.normal(0, 0.1, 4))
    summary = {"point_names": list(NAMES)} if regressor else {}
    content = packed_file.Packed(
        packed_file.needed_fields(config), variables, linear if regressor else None, summary
    )
    packed_file.write(path, content)
    return path


def noise(seed: int, width: int = 30, height: int = 40) -> np.ndarray:
    """A picture `[H, W, 3]` uint8 of coarse noise, which views do not average away."""
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 5, 3), np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))


def load(path: Path) -> np.ndarray:
    """The pixels of a picture as its file has them."""
    with Image.open(path) as image:
        return np.asarray(image)


def read_table(folder: Path) -> list[dict[str, str]]:
    """The rows of a run's table, whose lines of JSON must say the same."""
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
