"""COCO keypoints: JSON with `images`, `annotations` and `categories` (https://cocodataset.org).

An annotation's `keypoints` are `x1, y1, v1, ...`; v is 0 for a point that is not labelled, 1 for a
hidden one, 2 for a visible one. The category names the points. The centre of the first pixel is at
0, 0.
"""

import json
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from landmarks_jax.data import lists
from landmarks_jax.data.formats.records import Found, Labels, same_number
from landmarks_jax.system import files
from landmarks_jax.system.errors import DataError, reason

_ABSENT, _VISIBLE = 0, 2  # values of v
_VALUES = (_ABSENT, 1, _VISIBLE)
_PARTS = ("images", "annotations", "categories")


def read(path: str) -> Labels:
    """Reads the annotated objects of one category; hidden points count as labelled.

    Annotations without any labelled point, such as those of crowds, are left out.

    Raises:
      DataError: the file is malformed, or objects of several categories are labelled.
    """
    content = _load(path)
    listed = _items(content, "images", path)
    images = {_get(image, "id", int, place): image for place, image in listed}
    labelled: list[tuple[tuple[str, str], np.ndarray, tuple[int, int]]] = []
    category, bare = None, 0
    for place, one in _items(content, "annotations", path):
        points = _points(one, place)
        if np.isnan(points).all():
            bare += 1
            continue
        same_number(place, len(points), len(labelled[0][1]) if labelled else 0)
        own = _get(one, "category_id", int, place)
        if category not in (None, own):
            raise DataError(f"{place}: category {own}, those before have {category}; keep one")
        category = own
        image = images.get(number := _get(one, "image_id", int, place))
        if image is None:
            raise DataError(f"{place}: image_id {number} is not the id of an image")
        labelled.append(((place, _get(image, "file_name", str, place)), points, _size(image)))
    if not labelled:
        raise DataError(f"{path}: no object with keypoints is labelled")
    entries, points, sizes = zip(*labelled, strict=True)
    return Labels(
        list(entries),
        np.stack(points),
        _names(content, path, category, len(points[0])),
        (os.path.dirname(path) or ".",),
        annotated=np.array(sizes),
        note=f"{bare:,} annotations without keypoints left out" if bare else "",
    )


def _load(path: str) -> Mapping[str, Any]:
    try:
        if problem := files.not_regular(path):
            raise OSError(problem)
        with open(path, encoding="utf-8-sig") as file:
            content = json.load(file)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({reason(error)})") from error
    except json.JSONDecodeError as error:
        raise DataError(f"{path}:{error.lineno}: not JSON ({error.msg})") from error
    except (ValueError, RecursionError) as error:  # not UTF-8, a number of too many digits
        raise DataError(f"{path}: not JSON ({reason(error)})") from error
    if not isinstance(content, dict):
        raise DataError(f"{path}: not COCO: must be an object with {', '.join(_PARTS)}")
    return content


def _items(content: Mapping[str, Any], name: str, path: str) -> list[tuple[str, Mapping[str, Any]]]:
    """The objects of a part of the file, each with its place."""
    items = _get(content, name, list, path)
    places = [f"{path}: {name}[{i}]" for i in range(len(items))]
    for place, item in zip(places, items, strict=True):
        if not isinstance(item, dict):
            raise DataError(f"{place}: must be an object")
    return list(zip(places, items, strict=True))


def _get(item: Mapping[str, Any], name: str, kind: type, place: str) -> Any:
    value = item.get(name)
    if not isinstance(value, kind) or isinstance(value, bool):
        words = {int: "an integer", str: "a text", list: "a list"}
        raise DataError(f"{place}: {name} must be {words[kind]}")
    return value


def _points(annotation: Mapping[str, Any], place: str) -> np.ndarray:
    """The points `[P, 2]`, NaN where they are not labelled; P is 0 without any."""
    values = annotation.get("keypoints", [])
    if not isinstance(values, list) or len(values) % 3:
        raise DataError(f"{place}: keypoints must be a list x1, y1, v1, ...")
    points = []
    for i in range(0, len(values), 3):
        x, y = (lists.number(json.dumps(value), place) for value in values[i : i + 2])
        if values[i + 2] not in _VALUES:
            raise DataError(f"{place}: the visibility of point {i // 3 + 1} must be 0, 1 or 2")
        points.append((np.nan, np.nan) if values[i + 2] == _ABSENT else (x, y))
    return np.array(points, float).reshape(-1, 2)


def _size(image: Mapping[str, Any]) -> tuple[int, int]:
    """Width and height that were annotated; 0, 0 if the file does not say."""
    width, height = image.get("width"), image.get("height")
    return (width, height) if isinstance(width, int) and isinstance(height, int) else (0, 0)


def _names(
    content: Mapping[str, Any], path: str, category: int | None, count: int
) -> tuple[str, ...]:
    for place, one in _items(content, "categories", path):
        if _get(one, "id", int, place) == category:
            names = one.get("keypoints", [])
            if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
                raise DataError(f"{place}: keypoints must be a list of names")
            if names and len(names) != count:
                raise DataError(f"{place}: {len(names)} names for {count} keypoints")
            return tuple(names)
    return ()


def write(found: Sequence[Found], names: Sequence[str]) -> str:
    """The text of a file: an annotation for each object, with the mean confidence as its `score`.

    A frame of a video is an image with the video's name and its number as `frame`.
    """
    numbers: dict[tuple[str, int | None], int] = {}
    images, annotations = [], []
    for number, one in enumerate(found, 1):
        shown = one.file, one.frame
        if shown not in numbers:
            numbers[shown] = len(numbers) + 1
            image = {"id": numbers[shown], "file_name": one.file}
            image |= {"width": one.size[0], "height": one.size[1]}
            images.append(image if one.frame is None else image | {"frame": one.frame})
        annotations.append({"id": number, "image_id": numbers[shown], **_annotation(one)})
    category = {"id": 1, "name": "object", "supercategory": "object"}
    category |= {"keypoints": list(names), "skeleton": []}
    parts = (images, annotations, [category])
    return json.dumps(dict(zip(_PARTS, parts, strict=True)), allow_nan=False) + "\n"


def _annotation(found: Found) -> dict[str, Any]:
    there = np.isfinite(found.points).all(1)
    keypoints: list[float] = []
    for (x, y), labelled in zip(found.points.tolist(), there, strict=True):
        keypoints += [x, y, _VISIBLE] if labelled else [0, 0, _ABSENT]
    labelled = found.points[there] if there.any() else np.zeros((1, 2))
    width, height = np.ptp(labelled, axis=0).round(4).tolist()
    return {
        "category_id": 1,
        "keypoints": keypoints,
        "num_keypoints": int(there.sum()),
        "bbox": [*labelled.min(0).tolist(), width, height],
        "area": round(width * height, 4),
        "iscrowd": 0,
        "score": round(float(found.confidence.mean()), 4),
    }
