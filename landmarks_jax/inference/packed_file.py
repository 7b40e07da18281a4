"""The packed detector: one file with everything that inference needs, and nothing else.

The format is safetensors: a JSON header and plain arrays, no pickle, no code. The arrays are
`params/...` and `batch_stats/...` of the detector and, with a regressor,
`regressor/{matrix,x_origin,y_origin}`. The header holds these texts:

    format    "landmarks_jax.detector"
    version   of this layout, VERSION
    config    JSON: `model`, `views.size`, `data.crop`, `data.canvas_size`, `compute_dtype`
    summary   JSON: training data, scores, names of the labelled points
    sha256    checksum of all of the above and the arrays
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
from landmarks_jax.inference.linear_map import LinearMap
from landmarks_jax.inference.precision import PRECISIONS, cast_array
from landmarks_jax.models import detectors
from landmarks_jax.system import files
from landmarks_jax.system.errors import WeightsError, reason

FORMAT = "landmarks_jax.detector"
VERSION = 1
_REGRESSOR = "regressor/"


@dataclasses.dataclass(frozen=True)
class PackedDetector:
    """The content of a packed file.

    Attributes:
      config: the result of `inference_config`.
      variables: `{"params", "batch_stats"}` of the detector, float32 NumPy.
      regressor: maps the K landmarks to P labelled points in the view's frame, or None.
      summary: plain JSON; `point_names`, unless empty, holds the names of the P labelled points.
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
      WeightsError: `packed` is inconsistent or not finite, or the file cannot be written.
    """
    files.write_file(Path(path), to_bytes(packed, precision, str(path)), WeightsError)


def to_bytes(
    packed: PackedDetector, precision: str = "float32", name: str = "the detector"
) -> bytes:
    """The content of a packed file; `name` starts the message of a `WeightsError`."""
    _validate(packed, name)
    arrays = cast_weights(packed, precision, name)
    for key, array in _regressor_arrays(packed).items():
        arrays[key] = np.ascontiguousarray(array)  # safetensors ignores strides
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
      WeightsError: the file is missing, damaged, of another format, or of a newer version.
    """
    path = Path(path)
    if os.path.isdir(path):  # unlike Path.is_dir, no error for a name that is too long
        raise WeightsError(
            f"{path}: is a folder; give a packed file, as `landmarks-jax export` writes it"
        )
    if not os.path.isfile(path):
        raise WeightsError(f"{path}: no such file; `landmarks-jax export` writes packed files")
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            texts = dict(file.metadata() or {})
            if texts.get("format") != FORMAT:
                raise WeightsError(
                    f"{path}: not a packed detector; make one with `landmarks-jax export`"
                )
            if int(texts["version"]) > VERSION:
                raise WeightsError(
                    f"{path}: has version {texts['version']}, and this landmarks_jax reads up to "
                    f"{VERSION}; update landmarks_jax"
                )
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        if texts["sha256"] != _digest(texts, arrays):
            raise WeightsError(f"{path}: damaged (wrong checksum); download or export it again")
        packed = _unpack(texts, arrays)
    except (safetensors.SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
        raise WeightsError(
            f"{path}: cannot be read as a packed detector ({reason(error)})"
        ) from error
    _validate(packed, str(path))
    return packed


def _unpack(texts: Mapping[str, str], arrays: Mapping[str, np.ndarray]) -> PackedDetector:
    config = json.loads(texts["config"])
    module = config["model"]["detector"]
    if not detectors.is_trusted(module):
        raise ValueError(f"its detector is in the module {module!r}; import that first")
    weights, regressor = {}, {}
    for name, array in arrays.items():
        if name.startswith(_REGRESSOR):
            regressor[name.removeprefix(_REGRESSOR)] = array
        else:
            weights[name] = np.asarray(array, np.float32)
    return PackedDetector(
        inference_config(ConfigDict(config)),
        flax.traverse_util.unflatten_dict(weights, sep="/"),
        LinearMap(**regressor) if regressor else None,
        dict(json.loads(texts["summary"])),
    )


def _validate(packed: PackedDetector, name: str) -> None:
    """Checks that the arrays are finite and are those of the config's detector."""
    try:
        expected = _expected_shapes(packed.config)
    except Exception as error:  # Flax and JAX raise anything for impossible sizes
        raise WeightsError(f"{name}: its config cannot work ({reason(error)})") from error
    if packed.regressor is not None:
        points = len(packed.summary.get("point_names") or ()) or packed.num_labelled
        coordinates = 2 * packed.config.model.num_landmarks
        expected |= {
            _REGRESSOR + "matrix": (2 * points, coordinates),
            _REGRESSOR + "x_origin": (coordinates,),
            _REGRESSOR + "y_origin": (2 * points,),
        }
    arrays = _flat(packed.variables) | _regressor_arrays(packed)
    if missing := sorted(expected.keys() - arrays.keys()):
        raise WeightsError(f"{name}: {missing[0]} is missing")
    if unknown := sorted(arrays.keys() - expected.keys()):
        raise WeightsError(f"{name}: {unknown[0]} is not part of its detector")
    for key, shape in expected.items():
        if arrays[key].shape != shape:
            raise WeightsError(
                f"{name}: {key} has shape {arrays[key].shape}, its detector needs {shape}"
            )
        if not np.isfinite(arrays[key]).all():
            raise WeightsError(f"{name}: {key} is not finite; did the training diverge?")


def _expected_shapes(config: ConfigDict) -> dict[str, tuple[int, ...]]:
    size = config.views.size
    Framing(config.data.canvas_size, size, config.data.crop)  # raises for impossible values
    init = functools.partial(detectors.build_detector(config).init, use_running_average=True)
    view = jax.ShapeDtypeStruct((1, size, size, 3), np.float32)
    variables = jax.eval_shape(lambda view: init(jax.random.key(0), view), view)
    return {name: array.shape for name, array in _flat(variables).items()}


def _flat(variables: Mapping[str, Any]) -> dict[str, Any]:
    return flax.traverse_util.flatten_dict(dict(variables), sep="/")


def _regressor_arrays(packed: PackedDetector) -> dict[str, np.ndarray]:
    if packed.regressor is None:
        return {}
    return {_REGRESSOR + name: array for name, array in vars(packed.regressor).items()}


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
