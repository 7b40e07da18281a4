"""Small data sets in their official layouts, written as their owners publish them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from scipy import io

from landmarks_jax.data import cutting
from tests.running import write_photos

COLUMNS = "lefteye_x lefteye_y righteye_x righteye_y nose_x nose_y leftmouth_x leftmouth_y "
COLUMNS += "rightmouth_x rightmouth_y"
# The first five lines of the official list.
CELEBA_POINTS = (
    "69 109 106 113 77 142 73 152 108 154",
    "69 110 107 112 81 135 70 151 108 153",
    "76 112 104 106 108 128 74 156 98 158",
    "72 113 108 108 101 138 71 155 101 151",
    "66 114 112 112 86 119 71 147 104 150",
)


def save(path: Path, size: tuple[int, int], seed: int = 0) -> Path:
    """An image of smooth noise, so that JPEG keeps much of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed).integers(0, 256, (5, 4, 3), np.uint8)
    Image.fromarray(noise).resize(size, Image.Resampling.BICUBIC).save(path)
    return path


def canvases_of(source, frame):
    """Canvases `[N, C, C, 3]` and points `[N, P, 2]` of all photos of a source."""
    rows = [cutting.cut_photo(source, frame, index) for index in range(len(source))]
    canvases, points = zip(*rows, strict=True)
    return np.stack(canvases), np.stack(points)


def celeba_points(number: int) -> list[int]:
    known = CELEBA_POINTS[(number - 1) % len(CELEBA_POINTS)]
    return [int(value) + (number - 1) // len(CELEBA_POINTS) for value in known.split()]


def celeba(root: Path, splits: Sequence[int] = (12, 3, 5)) -> Path:
    """CelebA with so many photos of the training, validation and test splits."""
    count = sum(splits)
    numbers = range(1, count + 1)
    for number in numbers:
        save(root / "img_align_celeba" / f"{number:06d}.jpg", (178, 218), number)
    lines = [str(count), COLUMNS]
    # The official list pads its columns.
    lines += [
        f"{n:06d}.jpg " + " ".join(f"{value:>4}" for value in celeba_points(n)) for n in numbers
    ]
    (root / "list_landmarks_align_celeba.txt").write_text("\n".join(lines) + "\n")
    which = np.repeat([0, 1, 2], splits)
    lines = [f"{n:06d}.jpg {part}" for n, part in zip(numbers, which, strict=True)]
    (root / "list_eval_partition.txt").write_text("\n".join(lines) + "\n")
    return root


def mafl(folder: Path, training: Sequence[int], testing: Sequence[int]) -> Path:
    """MAFL's lists of these photos."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, numbers in (("training", training), ("testing", testing)):
        text = "".join(f"{number:06d}.jpg\n" for number in numbers)
        (folder / f"{name}.txt").write_text(text)
    return folder


def mtfl(folder: Path, count: int = 12, seed: int = 0) -> Path:
    """Labelled faces in MTFL's list form; returns the list."""
    write_photos(folder / "AFLW", count, (40, 40), seed)
    rng = np.random.default_rng(1)
    lines = []
    for i in range(1, count + 1):
        x = np.array([12, 28, 20, 14, 26]) + rng.normal(0, 1, 5)
        y = np.array([14, 14, 20, 27, 27]) + rng.normal(0, 1, 5)
        lines.append(f"AFLW/{i:06d}.jpg " + " ".join(f"{v:.2f}" for v in (*x, *y)))
    path = folder / "faces.txt"
    path.write_text("\n".join(lines) + "\n")
    return path


def aflw(root: Path, train: int = 6, test: int = 4) -> Path:
    """aflw_release-2 with so many faces, each of another size."""
    rng = np.random.default_rng(3)
    for split, count in (("train", train), ("test", test)):
        sizes = np.stack([40 + np.arange(count), 60 - np.arange(count)], 1)  # height, width
        names = [f"{i % 2}/image{i:05d}_{100 + i}.jpg" for i in range(count)]
        for i, (name, (height, width)) in enumerate(zip(names, sizes, strict=True)):
            save(root / "output" / split / name, (int(width), int(height)), i)
        (root / f"aflw_{split}_images.txt").write_text(
            "".join(f"{split}/{name}\n" for name in names)
        )
        rows_columns = FACE[:, ::-1] * sizes[:, None] + rng.normal(0, 1, (count, 5, 2))
        io.savemat(root / f"aflw_{split}_keypoints.mat", {"gt": rows_columns, "hw": sizes})
    return root


# Eyes, nose and mouth of a face, as shares of its width and height.
FACE = np.array([[0.3, 0.35], [0.7, 0.35], [0.5, 0.55], [0.35, 0.75], [0.65, 0.75]])


def pts_text(points: np.ndarray, framed: bool = True) -> str:
    """A .pts file of points that count from 1."""
    lines = [f"{x:.6f} {y:.6f}" for x, y in points]
    if framed:
        lines = ["version: 1", f"n_points:  {len(points)}", "{", *lines, "}"]
    return "\n".join(lines) + "\n"


def pts(root: Path, count: int = 4, seed: int = 0) -> np.ndarray:
    """Photos with .pts files, every other one framed; returns the points `[N, 68, 2]` from 1."""
    points = np.random.default_rng(5).uniform(5, 45, (count, 68, 2)).round(3)
    for i in range(count):
        ending = "png" if i % 2 else "jpg"
        save(root / "set" / f"image_{i:04d}.{ending}", (50, 48), seed + i)
        text = pts_text(points[i], framed=i % 2 == 0)
        (root / "set" / f"image_{i:04d}.pts").write_text(text)
    return points


def structs(rows: Sequence[dict[str, Any]]) -> np.ndarray:
    """A MATLAB struct array `1 x N`; a field that a row lacks is empty."""
    fields = list(dict.fromkeys(name for row in rows for name in row))
    array = np.empty((1, len(rows)), [(name, object) for name in fields])
    for i, row in enumerate(rows):
        array[0, i] = tuple(row.get(name, np.zeros((0, 0))) for name in fields)
    return array


def mpii_person(offset: float, joints: Sequence[int] = range(16), **changes: Any) -> dict[str, Any]:
    """A person as in the official file; joint j stands at (10 j + offset, 5 j + offset)."""
    points = []
    for j in joints:
        # Upper neck and head have no flag; some flags are texts.
        flag = np.zeros((0, 0)) if j in (8, 9) else ("1" if j % 2 else 0)
        points.append({"x": 10.0 * j + offset, "y": 5.0 * j + offset, "id": j, "is_visible": flag})
    person = {"x1": 20, "y1": 30, "x2": 50, "y2": 70, "scale": 1.5, "objpos": {"x": 60, "y": 80}}
    return person | {"annopoints": {"point": structs(points)}} | changes


def mpii(root: Path, images: Sequence[dict[str, Any]], **fields: Any) -> Path:
    """MPII of images `{"name", "people", "train", "apart", "video"}`; `fields` are RELEASE's own.

    Video 18 is one for validation, 1 to 17 train.
    """
    for i, image in enumerate(images):
        save(root / "images" / image["name"], (200, 160), i)
    rows = []
    for image in images:
        people = structs(image["people"]) if image["people"] else np.zeros((0, 0))
        rows.append({"image": {"name": image["name"]}, "annorect": people})
        rows[-1] |= {"vididx": image.get("video", 1)}
    apart = np.empty((len(images), 1), object)
    for i, image in enumerate(images):
        apart[i, 0] = np.array(image.get("apart", []), np.uint8).reshape(-1, 1)
    release = {
        "annolist": structs(rows),
        "img_train": np.array([[image.get("train", 1) for image in images]], np.uint8),
        "single_person": apart,
        "version": "12",
    }
    content = {name: value for name, value in (release | fields).items() if value is not None}
    io.savemat(root / "mpii_human_pose_v1_u12_1.mat", {"RELEASE": content})
    return root
