"""The packed detector: one file with everything that finding landmarks needs, and nothing else.

The file is in the safetensors format: a header of JSON and plain arrays, no pickle, nothing that
runs. Its arrays are `params/...` and `batch_stats/...` of the detector and, where there is a
regressor, `regressor/{matrix,x_origin,y_origin}`. Its header's texts:

    format    "landmarks_jax.detector"
    version   of the layout described here, VERSION
    config    JSON: `model`, `views.size`, `data.crop`, `data.canvas_size`, `compute_dtype`
    summary   JSON: what it was trained on, how it scores, what its points are called
    sha256    over all of the above and the arrays
"""

import dataclasses
import functools
import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import flax.traverse_util
import jax
import numpy as np
import safetensors
import safetensors.numpy
from ml_collections import ConfigDict

from landmarks_jax.data.framing import Framing
from landmarks_jax.inference import detector
from landmarks_jax.inference.linear_map import LinearMap
from landmarks_jax.system import files
from landmarks_jax.system.errors import WeightsError, reason

FORMAT = "landmarks_jax.detector"
VERSION = 1
# What finding landmarks needs of a run's configuration.
FIELDS = {
    "": ("compute_dtype",),
    "model": ("num_landmarks", "beta", "detector_channels", "hourglass_depth"),
    "views": ("size",),
    "data": ("crop", "canvas_size"),
}
_REGRESSOR = "regressor/"
PRECISIONS = ("float32", "float16")


@dataclasses.dataclass(frozen=True)
class Packed:
    """What a packed file holds.

    Attributes:
      config: the fields of `FIELDS`.
      variables: `{"params", "batch_stats"}` of the detector, float32 NumPy.
      regressor: from the K landmarks to P labelled points, in the view's frame, or None.
      summary: plain JSON; `point_names`, where not empty, are the P names of the labelled points.
    """

    config: ConfigDict
    variables: Mapping[str, Any]
    regressor: LinearMap | None
    summary: dict[str, Any]


def needed_fields(config: ConfigDict) -> ConfigDict:
    """The part of a run's configuration that a packed file keeps.

    The weights are kept in float32 at most, so float64 becomes float32.
    """
    kept: dict[str, Any] = {}
    for section, fields in FIELDS.items():
        part = config[section] if section else config
        values = {field: part[field] for field in fields}
        kept |= {section: values} if section else values
    if kept["compute_dtype"] == "float64":
        kept["compute_dtype"] = "float32"
    return ConfigDict(kept).lock()


def write(path: str | os.PathLike[str], packed: Packed, precision: str = "float32") -> None:
    """Writes a packed file, whole or not at all.

    Args:
      path: the file; one that is there is replaced.
      packed: what it shall hold.
      precision: of the convolutions' kernels. "float16" halves the file; biases, batch norm and
        the regressor stay float32 or float64.

    Raises:
      WeightsError: something does not fit, or is not finite, or the file cannot be written.
    """
    if precision not in PRECISIONS:
        raise ValueError(f"precision {precision!r}: must be one of {', '.join(PRECISIONS)}")
    path = Path(path)
    _check(packed, path)
    weights = flax.traverse_util.flatten_dict(dict(packed.variables), sep="/")
    arrays = {name: stored_array(np.asarray(weights[name]), precision) for name in weights}
    for name, array in arrays.items():
        if not np.isfinite(array).all():  # and `_check` found it finite
            raise WeightsError(f"{path}: {name} has values too large for {precision}")
    if packed.regressor is not None:
        for field in dataclasses.fields(LinearMap):
            # In C order: safetensors writes the bytes as they lie in memory.
            array = np.ascontiguousarray(getattr(packed.regressor, field.name))
            arrays[_REGRESSOR + field.name] = array
    texts = {
        "format": FORMAT,
        "version": str(VERSION),
        "config": json.dumps(packed.config.to_dict(), sort_keys=True),
        "summary": json.dumps(packed.summary, sort_keys=True, allow_nan=False),
    }
    texts["sha256"] = _digest(texts, arrays)
    files.write_file(path, safetensors.numpy.save(arrays, texts), WeightsError)


def read(path: str | os.PathLike[str]) -> Packed:
    """Reads a packed file.

    Raises:
      WeightsError: the file is missing, damaged, of another kind, or of a newer version.
    """
    path = Path(path)
    if os.path.isdir(path):  # os.path's answer, Path's raise, for names too long to be
        raise WeightsError(
            f"{path}: is a folder; a packed detector is a file, made by `landmarks-jax export`"
        )
    if not os.path.isfile(path):
        raise WeightsError(
            f"{path}: no such file; a packed detector is made by `landmarks-jax export`"
        )
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            texts = dict(file.metadata() or {})
            if texts.get("format") != FORMAT:
                raise WeightsError(
                    f"{path}: holds no packed detector; make one with `landmarks-jax export`"
                )
            if int(texts["version"]) > VERSION:
                raise WeightsError(
                    f"{path}: is of version {texts['version']} and this landmarks_jax reads up to "
                    f"{VERSION}; update landmarks_jax"
                )
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        if texts["sha256"] != _digest(texts, arrays):
            raise WeightsError(f"{path}: is damaged, its checksum differs; get or make it again")
        packed = _unpacked(texts, arrays)
    except (safetensors.SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
        raise WeightsError(
            f"{path}: cannot be read as a packed detector ({reason(error)})"
        ) from error
    _check(packed, path)
    return packed


def _unpacked(texts: Mapping[str, str], arrays: Mapping[str, np.ndarray]) -> Packed:
    weights = {
        name: np.asarray(array, np.float32)
        for name, array in arrays.items()
        if not name.startswith(_REGRESSOR)
    }
    regressor = {
        name.removeprefix(_REGRESSOR): array
        for name, array in arrays.items()
        if name.startswith(_REGRESSOR)
    }
    return Packed(
        needed_fields(ConfigDict(dict(json.loads(texts["config"])))),
        flax.traverse_util.unflatten_dict(weights, sep="/"),
        LinearMap(**regressor) if regressor else None,
        dict(json.loads(texts["summary"])),
    )


def _check(packed: Packed, path: Path) -> None:
    """Refuses what could not find landmarks, before it lies on a disk or on a device."""
    try:
        wanted = _shapes_wanted(packed.config)
    except Exception as error:  # whatever Flax and JAX raise for sizes that cannot work
        raise WeightsError(f"{path}: its configuration cannot work ({reason(error)})") from error
    arrays = flax.traverse_util.flatten_dict(dict(packed.variables), sep="/")
    if packed.regressor is not None:
        names = packed.summary.get("point_names")
        points = len(names) if names else len(packed.regressor.y_origin) // 2
        coordinates = 2 * packed.config.model.num_landmarks
        arrays |= {_REGRESSOR + name: array for name, array in vars(packed.regressor).items()}
        wanted |= {
            _REGRESSOR + "matrix": (2 * points, coordinates),
            _REGRESSOR + "x_origin": (coordinates,),
            _REGRESSOR + "y_origin": (2 * points,),
        }
    if missing := sorted(wanted.keys() - arrays.keys()):
        raise WeightsError(f"{path}: {missing[0]} is missing")
    if unknown := sorted(arrays.keys() - wanted.keys()):
        raise WeightsError(f"{path}: {unknown[0]} has no place in its detector")
    for name, shape in wanted.items():
        found = tuple(arrays[name].shape)
        if found != shape:
            raise WeightsError(f"{path}: {name} has the shape {found}, its detector needs {shape}")
        if not np.isfinite(arrays[name]).all():
            raise WeightsError(f"{path}: {name} is not finite; did the training diverge?")


def _shapes_wanted(config: ConfigDict) -> dict[str, tuple[int, ...]]:
    """The names and shapes of the arrays of a configuration's detector."""
    size = config.views.size
    Framing(config.data.canvas_size, size, config.data.crop)
    init = functools.partial(detector.build_detector(config).init, use_running_average=True)
    view = jax.ShapeDtypeStruct((1, size, size, 3), np.float32)
    variables = jax.eval_shape(lambda view: init(jax.random.key(0), view), view)
    arrays = flax.traverse_util.flatten_dict(variables, sep="/")
    return {name: array.shape for name, array in arrays.items()}


def stored_array(array: np.ndarray, precision: str) -> np.ndarray:
    """An array of the networks as files keep it: kernels in the precision, the rest in float32.

    What does not fit becomes infinite.
    """
    dtype = np.float16 if precision == "float16" and array.ndim > 1 else np.float32
    with np.errstate(over="ignore"):
        return np.ascontiguousarray(array, dtype)


def _digest(texts: Mapping[str, str], arrays: Mapping[str, np.ndarray]) -> str:
    """SHA-256 over the texts, less itself, and the arrays with their names, types and shapes."""
    digest = hashlib.sha256()
    for name in sorted(texts.keys() - {"sha256"}):
        digest.update(json.dumps([name, texts[name]]).encode())
    for name in sorted(arrays):
        array = arrays[name]
        digest.update(json.dumps([name, array.dtype.str, array.shape]).encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()
