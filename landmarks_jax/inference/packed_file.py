"""The packed detector: one file with everything that inference needs, and nothing else.

The format is safetensors: a JSON header and plain arrays, no pickle, no code. The arrays are
`params/...` and `batch_stats/...` of the detector and, with a regressor,
`regressor/{matrix,x_origin,y_origin}`. The header holds these texts:

    format    "landmarks_jax.detector"
    version   of this layout, VERSION
    config    JSON: `model`, `views.size`, `data.crop`, `data.canvas_size`, `compute_dtype`
    summary   JSON: training data, scores, names of the points
    sha256    checksum of all of the above and the arrays
"""

import dataclasses
import functools
import hashlib
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import flax.traverse_util
import jax
import numpy as np
import safetensors
import safetensors.numpy
from ml_collections import ConfigDict

from landmarks_jax.data import framing
from landmarks_jax.inference import packed_checks
from landmarks_jax.inference.linear_map import LinearMap
from landmarks_jax.inference.packed_checks import REGRESSOR
from landmarks_jax.inference.precision import PRECISIONS, cast_array
from landmarks_jax.models import detectors
from landmarks_jax.system import files
from landmarks_jax.system.errors import WeightsError, reason

FORMAT = "landmarks_jax.detector"
VERSION = 1
_TEXTS = {"format", "version", "config", "summary", "sha256"}
_Y_ORIGIN = f"{REGRESSOR}y_origin"


@dataclasses.dataclass(frozen=True)
class PackedDetector:
    """The content of a packed file.

    Attributes:
      config: the result of `inference_config`.
      variables: `{"params", "batch_stats"}` of the detector, float32 NumPy.
      regressor: maps the K landmarks to P labelled points in the view's frame, or None.
      summary: plain JSON; `point_names` and `landmark_names`, unless empty, hold the names of the P
        labelled points and of the K landmarks.
    """

    config: ConfigDict
    variables: Mapping[str, Any]
    regressor: LinearMap | None
    summary: dict[str, Any]

    @property
    def num_labelled(self) -> int:
        """P, 0 without a regressor."""
        return 0 if self.regressor is None else self.regressor.num_points


def inference_config(config: ConfigDict) -> ConfigDict:
    """The part of a run's config that inference needs. float64 becomes float32."""
    model, dtype = config["model"], config["compute_dtype"]
    name = model["detector"]
    fields = ("num_landmarks", "beta", *detectors.module_named(name).SIZES)
    subset = {
        "compute_dtype": "float32" if dtype == "float64" else dtype,
        "model": {"detector": name, **{field: model[field] for field in fields}},
        "views": {"size": config["views"]["size"]},
        "data": {field: config["data"][field] for field in ("crop", "canvas_size")},
    }
    return ConfigDict(subset).lock()


def write(path: str | os.PathLike[str], packed: PackedDetector, precision: str = "float32") -> None:
    """Writes a packed file atomically, replacing an existing one.

    Args:
      path: the file.
      packed: its content.
      precision: precision of the convolution kernels, one of `PRECISIONS`. "float16" halves the
        file; biases, batch norm and the regressor keep their precision.

    Raises:
      WeightsError: `packed` is not what it may be, or the file cannot be written.
    """
    files.write_file(Path(path), to_bytes(packed, precision, str(path)), WeightsError)


def to_bytes(
    packed: PackedDetector, precision: str = "float32", name: str = "the detector"
) -> bytes:
    """The content of a packed file; `name` starts the message of a `WeightsError`."""
    weights, regressor = _flat(packed.variables), _regressor_arrays(packed)
    try:
        packed_checks.check_config(packed.config.to_dict())
        packed_checks.check_summary(packed.summary)
        _check_arrays(packed.config, packed.summary, weights | regressor)
    except ValueError as error:
        raise WeightsError(f"{name}: {reason(error)}") from error
    arrays = cast_weights(packed, precision, name)
    for key, array in regressor.items():
        arrays[key] = np.ascontiguousarray(array, np.float64)  # safetensors ignores strides
    texts = {
        "format": FORMAT,
        "version": str(VERSION),
        "config": json.dumps(packed.config.to_dict(), sort_keys=True),
        "summary": json.dumps(packed.summary, sort_keys=True, allow_nan=False),
    }
    texts["sha256"] = _digest(texts, arrays)
    return safetensors.numpy.save(arrays, texts)


def cast_weights(
    packed: PackedDetector, precision: str, name: str = "the detector"
) -> dict[str, np.ndarray]:
    """The network's arrays by path: kernels in the given precision, all others in float32.

    Raises:
      WeightsError: a value is not finite in that precision.
    """
    if precision not in PRECISIONS:
        raise ValueError(f"precision {precision!r}: must be one of {', '.join(PRECISIONS)}")
    arrays = {k: cast_array(array, precision) for k, array in _flat(packed.variables).items()}
    for key, array in arrays.items():
        if not np.isfinite(array).all():
            raise WeightsError(f"{name}: {key} has values that are not finite in {precision}")
    return arrays


def read(path: str | os.PathLike[str]) -> PackedDetector:
    """Reads a packed file.

    Raises:
      WeightsError: the file is missing, damaged, of another format, or of a newer version, or its
        content is not what it may be.
    """
    path = Path(path)
    if os.path.isdir(path):  # unlike Path.is_dir, no error for a name that is too long
        raise WeightsError(
            f"{path}: is a folder; give a packed file, as `landmarks-jax export` writes it"
        )
    if problem := files.not_regular(path):
        raise WeightsError(f"{path}: {problem}; `landmarks-jax export` writes packed files")
    try:
        texts, arrays = _open(path)
        if texts["sha256"] != _digest(texts, arrays):
            raise WeightsError(f"{path}: damaged (wrong checksum); download or export it again")
        return _unpack(texts, arrays)
    except (safetensors.SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
        raise WeightsError(
            f"{path}: cannot be read as a packed detector ({reason(error)})"
        ) from error
    except RecursionError as error:
        raise WeightsError(
            f"{path}: cannot be read as a packed detector (JSON of too many levels)"
        ) from error


def _open(path: Path) -> tuple[dict[str, str], dict[str, np.ndarray]]:
    """The texts and arrays of a file of this format and version."""
    with safetensors.safe_open(path, framework="numpy") as file:
        texts = dict(file.metadata() or {})
        if texts.get("format") != FORMAT:
            raise WeightsError(
                f"{path}: not a packed detector; make one with `landmarks-jax export`"
            )
        if texts.keys() != _TEXTS:
            raise ValueError(f"its texts must be {', '.join(sorted(_TEXTS))}")
        version = texts["version"]
        if not re.fullmatch("[1-9][0-9]{0,8}", version, re.ASCII):
            raise ValueError(f"version {version[:20]!r} is none")
        if int(version) > VERSION:
            raise WeightsError(
                f"{path}: has version {version}, and this landmarks_jax reads up to {VERSION}; "
                "update landmarks_jax"
            )
        return texts, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


def _unpack(texts: Mapping[str, str], arrays: Mapping[str, np.ndarray]) -> PackedDetector:
    fields, summary = json.loads(texts["config"]), json.loads(texts["summary"])
    packed_checks.check_config(fields)
    packed_checks.check_summary(summary)
    packed_checks.check_types(arrays)
    config = inference_config(ConfigDict(fields))
    _check_arrays(config, summary, arrays)
    regressor = {
        name.removeprefix(REGRESSOR): array
        for name, array in arrays.items()
        if name.startswith(REGRESSOR)
    }
    weights = {
        name: np.asarray(array, np.float32)
        for name, array in arrays.items()
        if not name.startswith(REGRESSOR)
    }
    return PackedDetector(
        config,
        flax.traverse_util.unflatten_dict(weights, sep="/"),
        LinearMap(**regressor) if regressor else None,
        summary,
    )


def _check_arrays(
    config: ConfigDict, summary: Mapping[str, Any], arrays: Mapping[str, np.ndarray]
) -> None:
    """Checks that the arrays are those of the config's detector and a regressor to named points."""
    try:
        expected = _expected_shapes(config)
    except Exception as error:  # Flax and JAX raise anything for impossible sizes
        raise ValueError(f"its config cannot work: {reason(error)}") from error
    names = summary.get("point_names")
    if any(name.startswith(REGRESSOR) for name in arrays):
        points = len(names or ()) or max(1, arrays.get(_Y_ORIGIN, np.zeros(0)).size // 2)
        coordinates = 2 * config.model.num_landmarks
        expected |= {
            REGRESSOR + "matrix": (2 * points, coordinates),
            REGRESSOR + "x_origin": (coordinates,),
            _Y_ORIGIN: (2 * points,),
        }
    elif names:
        raise ValueError("summary.point_names without a regressor")
    packed_checks.check_landmarks(summary, config.model.num_landmarks)
    packed_checks.check_arrays(arrays, expected)


def _expected_shapes(config: ConfigDict) -> dict[str, tuple[int, ...]]:
    size = config.views.size
    framing.of_config(config)  # raises for impossible values
    detectors.module_of(config).check(config)
    init = functools.partial(detectors.build_detector(config).init, use_running_average=True)
    view = jax.ShapeDtypeStruct((1, size, size, 3), np.float32)
    variables = jax.eval_shape(lambda view: init(jax.random.key(0), view), view)
    return {name: array.shape for name, array in _flat(variables).items()}


def _flat(variables: Mapping[str, Any]) -> dict[str, Any]:
    return flax.traverse_util.flatten_dict(dict(variables), sep="/")


def _regressor_arrays(packed: PackedDetector) -> dict[str, np.ndarray]:
    if packed.regressor is None:
        return {}
    return {REGRESSOR + name: array for name, array in vars(packed.regressor).items()}


def _digest(texts: Mapping[str, str], arrays: Mapping[str, np.ndarray]) -> str:
    """SHA-256 of the texts, except the checksum, and of the arrays' names, types and values."""
    digest = hashlib.sha256()
    for name in sorted(texts.keys() - {"sha256"}):
        digest.update(json.dumps([name, texts[name]]).encode())
    for name in sorted(arrays):
        array = arrays[name]
        digest.update(json.dumps([name, array.dtype.str, array.shape]).encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()
