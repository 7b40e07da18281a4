"""What the content of a packed file may be: anything else is refused, whatever its checksum says.

Every function raises ValueError, with a text that names the field or array.
"""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from landmarks_jax.data.formats.records import are_point_names
from landmarks_jax.inference.precision import PRECISIONS
from landmarks_jax.models import detectors
from landmarks_jax.system.errors import ConfigError

REGRESSOR = "regressor/"
_DTYPES = ("float32", "bfloat16")
_DEPTH = 8  # levels of the summary
_FACES = {"name": str, "faces": int}
_GROUP = {"name": str, "limits": str, "faces": int, "forward": float, "mean_shape": float}
_SCORE = {
    "protocol": str,
    "crop": str,
    "fit": _FACES,
    "score": _FACES,
    "forward": float,
    "mean_shape": float,
    "groups": [_GROUP],
    "confidence": [{"faces": int, "lowest": float, "highest": float, "forward": float}],
}
_LEFT_OUT = {
    "protocol": str,
    "crop": str,
    "photos": int,
    "unit": str,
    "error": float,
    "mean_shape": float,
}
_PAIR = {"first": int, "second": int, "distance": float, "swapped": float}
_VERSIONS = dict.fromkeys(("landmarks_jax", "jax", "flax", "device", "machine"), str)
# The forms of the summary's fields, each of which may be absent, and whatever else it may hold.
_SUMMARY = {
    "trained_on": {"source": str, "crop": str},
    "photos": str,
    "notes": [str],
    "provenance": {"steps": int, "training_minutes": float, **_VERSIONS},
    "packed_on": str,
    "scores": [_SCORE],
    "leave_one_out": [_LEFT_OUT],
    "point_names": [str],
    "landmark_names": [str],
    "mirror": {"photos": int, "pairs": [_PAIR]},
    "face_frame": {"finder": str, "photos": int, "x": float, "y": float, "side": float},
}
_KINDS = {
    str: "a text",
    int: "a whole number",
    float: "a number",
    dict: "an object",
    list: "a list",
}


def check_config(fields: Any) -> None:
    """Checks the fields that inference needs: their names, types and ranges."""
    _check_form(fields, dict, "config")
    flat: dict[str, Any] = {}
    for name, part in fields.items():
        inside = part.items() if isinstance(part, dict) else [("", part)]
        flat |= {f"{name}.{field}".rstrip("."): value for field, value in inside}
    module = flat.get("model.detector")
    if not isinstance(module, str) or not detectors.is_trusted(module):
        raise ValueError(f"its detector is in the module {module!r}; import that first")
    needed = {"compute_dtype", "data.crop", "data.canvas_size", "views.size", "model.detector"}
    needed |= {"model.num_landmarks", "model.beta"}
    try:
        needed |= {f"model.{name}" for name in detectors.module_named(module).SIZES}
        _check_names(flat.keys(), needed, "config.")
        for field in flat.keys() & detectors.RANGES:
            detectors.check_range(fields, field, *detectors.RANGES[field])
    except ConfigError as error:
        raise ValueError(str(error)) from error
    if flat["compute_dtype"] not in _DTYPES:
        raise ValueError(f"config.compute_dtype must be one of {', '.join(_DTYPES)}")


def check_summary(summary: Any) -> None:
    """Checks that the summary is plain JSON, and the fields that this package reads."""
    _check_form(summary, dict, "summary")
    _check_plain(summary, "summary", _DEPTH)
    for field in _SUMMARY.keys() & summary.keys():
        _check_form(summary[field], _SUMMARY[field], f"summary.{field}")
    if "provenance" in summary and "packed_on" not in summary:
        raise ValueError("summary.packed_on is missing")
    if "face_frame" in summary and not 0.1 <= summary["face_frame"]["side"] <= 10:
        raise ValueError("summary.face_frame.side must be from 0.1 to 10")
    fields = ("landmark_names", "point_names")
    names = [name for field in fields for name in summary.get(field, ())]
    if not are_point_names(names):
        given = " and ".join(f"summary.{field}" for field in fields if summary.get(field))
        raise ValueError(f"{given} must be different names, of printable characters")


def check_landmarks(summary: Mapping[str, Any], count: int) -> None:
    """Checks what the summary says of each of `count` landmarks."""
    if (names := len(summary.get("landmark_names") or ())) not in (0, count):
        raise ValueError(f"summary.landmark_names has {names} names, not one for each landmark")
    pairs = summary.get("mirror", {"pairs": []})["pairs"]
    numbers = [number for pair in pairs for number in {pair["first"], pair["second"]}]
    if not set(numbers) <= set(range(count)) or len(set(numbers)) < len(numbers):
        raise ValueError(f"summary.mirror.pairs must be different numbers from 0 to {count - 1}")


def _check_plain(value: Any, place: str, depth: int) -> None:
    """Finite numbers and texts that can be written, at most `depth` levels of lists and objects."""
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{place} is {value}, not a finite number")
    if isinstance(value, str):
        value.encode()  # a ValueError for half a character
    if isinstance(value, dict | list):
        if not depth:
            raise ValueError(f"{place} has more than {_DEPTH} levels")
        for part in (*value.keys(), *value.values()) if isinstance(value, dict) else value:
            _check_plain(part, place, depth - 1)


def _check_form(value: Any, form: Any, place: str) -> None:
    """Checks that a value is of a form.

    A form is a type, or an object or a list of forms; an object may have further fields.
    """
    kind = form if isinstance(form, type) else type(form)
    accepted: Any = (int, float) if kind is float else kind
    if not isinstance(value, accepted) or isinstance(value, bool):
        raise ValueError(f"{place} must be {_KINDS[kind]}")
    if isinstance(form, dict):
        _check_names(value.keys(), form.keys() | value.keys(), f"{place}.")
        for name, part in form.items():
            _check_form(value[name], part, f"{place}.{name}")
    elif isinstance(form, list):
        for i, part in enumerate(value):
            _check_form(part, form[0], f"{place}[{i}]")


def check_arrays(arrays: Mapping[str, np.ndarray], expected: Mapping[str, tuple[int, ...]]) -> None:
    """Checks names, shapes and values of the arrays."""
    _check_names(arrays.keys(), expected.keys(), "")
    for name, shape in expected.items():
        array = arrays[name]
        if array.shape != shape:
            raise ValueError(f"{name} has shape {array.shape}, its detector needs {shape}")
        if not np.isfinite(array).all():
            raise ValueError(f"{name} is not finite; did the training diverge?")
        if name.endswith("/var") and (array < 0).any():
            raise ValueError(f"{name} is a negative variance")
        if name.endswith("/std") and (array <= 0).any():
            raise ValueError(f"{name} must be positive")


def check_types(arrays: Mapping[str, np.ndarray]) -> None:
    """Checks that the arrays have the types that are written."""
    for name, array in arrays.items():
        allowed = PRECISIONS if array.ndim > 1 else PRECISIONS[:1]  # only kernels may be halved
        if name.startswith(REGRESSOR):
            allowed = ("float64",)
        if array.dtype.name not in allowed:
            raise ValueError(f"{name} is of type {array.dtype}, must be {' or '.join(allowed)}")


def _check_names(names: Any, expected: Any, prefix: str) -> None:
    if missing := sorted(expected - names):
        raise ValueError(f"{prefix}{missing[0]} is missing")
    if unknown := sorted(names - expected):
        raise ValueError(f"{prefix}{unknown[0]} is not part of its detector")
