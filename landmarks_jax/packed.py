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

import contextlib
import dataclasses
import hashlib
import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import flax.traverse_util
import numpy as np
import safetensors
import safetensors.numpy
from ml_collections import ConfigDict

from landmarks_jax import config as configuration
from landmarks_jax.errors import WeightsError
from landmarks_jax.evaluation.regression import LinearMap

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
      summary: plain JSON; `point_names` are the P names of the labelled points.
    """

    config: ConfigDict
    variables: Mapping[str, Any]
    regressor: LinearMap | None
    summary: dict[str, Any]


def needed_fields(config: ConfigDict) -> ConfigDict:
    """The part of a run's configuration that a packed file keeps."""
    kept: dict[str, Any] = {}
    for section, fields in FIELDS.items():
        part = config[section] if section else config
        values = {field: part[field] for field in fields}
        kept |= {section: values} if section else values
    return ConfigDict(kept).lock()


def write(path: str | os.PathLike[str], packed: Packed, precision: str = "float32") -> None:
    """Writes a packed file, whole or not at all.

    Args:
      path: the file; one that is there is replaced.
      packed: what it shall hold.
      precision: of the convolutions' kernels. "float16" halves the file; biases, batch norm and
        the regressor stay float32 or float64.

    Raises:
      WeightsError: a value does not fit the precision, or the file cannot be written.
    """
    arrays = {
        name: stored_array(name, np.asarray(array), precision)
        for name, array in flax.traverse_util.flatten_dict(dict(packed.variables), sep="/").items()
    }
    if packed.regressor is not None:
        arrays |= {
            # safetensors writes memory as it lies, and a fitted matrix is a transposed one.
            _REGRESSOR + field.name: np.ascontiguousarray(getattr(packed.regressor, field.name))
            for field in dataclasses.fields(LinearMap)
        }
    texts = {
        "format": FORMAT,
        "version": str(VERSION),
        "config": json.dumps(packed.config.to_dict(), sort_keys=True),
        "summary": json.dumps(packed.summary, sort_keys=True),
    }
    texts["sha256"] = _digest(texts, arrays)
    replace_file(Path(path), safetensors.numpy.save(arrays, texts))


def read(path: str | os.PathLike[str]) -> Packed:
    """Reads a packed file.

    Raises:
      WeightsError: the file is missing, damaged, of another kind, or of a newer version.
    """
    path = Path(path)
    if not path.is_file():
        raise WeightsError(f"{path}: no such file; a packed detector is made by export.py")
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            texts = dict(file.metadata() or {})
            if texts.get("format") != FORMAT:
                raise WeightsError(f"{path}: holds no packed detector; make one with export.py")
            if int(texts["version"]) > VERSION:
                raise WeightsError(
                    f"{path}: is of version {texts['version']} and this landmarks_jax reads up to "
                    f"{VERSION}; update landmarks_jax"
                )
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        if texts["sha256"] != _digest(texts, arrays):
            raise WeightsError(f"{path}: is damaged, its checksum differs; get or make it again")
        return _unpacked(texts, arrays)
    except (safetensors.SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise WeightsError(f"{path}: cannot be read as a packed detector ({reason})") from error


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
        configuration.from_json(texts["config"]),
        flax.traverse_util.unflatten_dict(weights, sep="/"),
        LinearMap(**regressor) if regressor else None,
        json.loads(texts["summary"]),
    )


def stored_array(name: str, array: np.ndarray, precision: str) -> np.ndarray:
    """An array of the networks as files keep it: kernels in the precision, the rest in float32.

    Raises:
      WeightsError: a value is not finite, or does not fit the precision.
    """
    if not np.isfinite(array).all():
        raise WeightsError(f"{name}: has values that are not finite; did the training diverge?")
    if precision == "float32" or array.ndim < 2:
        return np.ascontiguousarray(array, np.float32)
    with np.errstate(over="ignore"):
        half = np.ascontiguousarray(array, np.float16)
    if not np.isfinite(half).all():
        raise WeightsError(f"{name}: has values too large for float16; use float32")
    return half


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


def replace_file(path: Path, data: bytes) -> None:
    """Puts a file in its place in one move, so that it is there whole or not at all.

    Raises:
      WeightsError: it cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, part = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(data)
            os.chmod(part, 0o644)
            os.replace(part, path)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(part)
            raise
    except OSError as error:
        raise WeightsError(f"{path}: cannot be written ({error})") from error
