"""A packed detector as a graph that runs without this package: StableHLO and ONNX.

A graph maps `views` `[b, S, S, 3]` uint8, for any b, to these outputs:

    landmarks    `[b, K, 2]`, normalised to the view
    confidence   `[b, K]` in [0, 1]
    labelled     `[b, P, 2]`, normalised to the view; only with a regressor

It computes in float32 whatever the detector was trained in, which every runtime supports.
"""

import contextlib
import json
import logging
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import flax.traverse_util
import jax
import jax.export
import jax.numpy as jnp
from ml_collections import ConfigDict

from landmarks_jax.inference import detector, packed_file
from landmarks_jax.inference.linear_map import LinearMap
from landmarks_jax.inference.packed_file import PackedDetector
from landmarks_jax.models import detectors
from landmarks_jax.system.errors import ConfigError

FORMAT = "landmarks_jax.graph"
VERSION = 1
INPUT = "views"
PLATFORMS = ("cpu", "cuda", "tpu")
# The oldest ONNX operator set in which the graph is valid, and the IR version of the release that
# brought it. The converter states a newer IR version, which ONNX Runtime before 1.18 refuses.
_OPSET, _IR_VERSION = 17, 8

ViewFunction = Callable[[jax.Array], dict[str, jax.Array]]


def view_function(packed: PackedDetector, precision: str = "float32") -> ViewFunction:
    """The function of the graphs: views to outputs by name.

    Args:
      packed: the detector.
      precision: precision of the stored kernels, one of `PRECISIONS`.

    Raises:
      WeightsError: a weight is not finite in that precision.
    """
    config = ConfigDict(packed.config).unlock()
    config.compute_dtype = "float32"
    module = detectors.build_detector(config)
    arrays = packed_file.cast_weights(packed, precision)
    stored = flax.traverse_util.unflatten_dict(arrays, sep="/")

    def find(views: jax.Array) -> dict[str, jax.Array]:
        # Cast inside the graph, so that the file holds the kernels in their precision.
        variables = jax.tree.map(lambda array: jnp.asarray(array).astype(jnp.float32), stored)
        output = detector.detect(variables, views, module=module, beta=config.model.beta)
        outputs = {"landmarks": output.landmarks, "confidence": output.confidence}
        if packed.regressor is not None:
            outputs["labelled"] = _apply_regressor(packed.regressor, output.landmarks)
        return outputs

    return find


def metadata(packed: PackedDetector, precision: str = "float32") -> dict[str, str]:
    """The metadata that a program needs to prepare the views of a graph, as texts."""
    return {
        "format": FORMAT,
        "version": str(VERSION),
        "view_size": str(packed.config.views.size),
        "canvas_size": str(packed.config.data.canvas_size),
        "crop": packed.config.data.crop,
        "num_landmarks": str(packed.config.model.num_landmarks),
        "landmark_names": json.dumps(packed.summary.get("landmark_names", [])),
        "point_names": json.dumps(packed.summary.get("point_names", [])),
        "weights": precision,
    }


def to_stablehlo(packed: PackedDetector, precision: str = "float32") -> bytes:
    """The graph serialised by `jax.export`, for `PLATFORMS`.

    Raises:
      WeightsError: a weight is not finite in that precision.
    """
    function = jax.jit(view_function(packed, precision))
    exported = jax.export.export(function, platforms=PLATFORMS)(_input_shape(packed))
    return bytes(exported.serialize())


def to_onnx(packed: PackedDetector, precision: str = "float32") -> bytes:
    """The graph as an ONNX model with `metadata`.

    Raises:
      ConfigError: the extra `export` is not installed.
      WeightsError: a weight is not finite in that precision.
    """
    function, views = view_function(packed, precision), _input_shape(packed)
    names = list(jax.eval_shape(function, views))

    def outputs_in_order(views: jax.Array) -> tuple[jax.Array, ...]:
        outputs = function(views)
        return tuple(outputs[name] for name in names)

    with _quiet():
        try:
            import jax2onnx  # noqa: PLC0415
            import onnx  # noqa: PLC0415
        except ImportError as error:
            raise ConfigError(
                f"ONNX export needs {error.name}: install the extra `export`"
            ) from error
        model: Any = jax2onnx.to_onnx(
            outputs_in_order,
            [views],
            model_name="landmarks",
            opset=_OPSET,
            input_names=[INPUT],
            output_names=names,
        )
    model.ir_version = _IR_VERSION
    onnx.helper.set_model_props(model, metadata(packed, precision))
    onnx.checker.check_model(model)
    return model.SerializeToString()


def _input_shape(packed: PackedDetector) -> jax.ShapeDtypeStruct:
    """The views, with a symbolic batch size."""
    size = packed.config.views.size
    return jax.ShapeDtypeStruct(jax.export.symbolic_shape(f"b, {size}, {size}, 3"), jnp.uint8)


def _apply_regressor(regressor: LinearMap, landmarks: jax.Array) -> jax.Array:
    """Maps landmarks `[b, K, 2]` to labelled points `[b, P, 2]` in float32."""
    matrix = jnp.asarray(regressor.matrix, jnp.float32)
    # Combined in float64, which leaves one product and one sum.
    shift = regressor.y_origin - regressor.matrix @ regressor.x_origin
    flat = landmarks.reshape(-1, matrix.shape[1])
    # In full precision, so that a GPU does not round the points.
    product = jnp.matmul(flat, matrix.T, precision=jax.lax.Precision.HIGHEST)
    mapped = product + jnp.asarray(shift, jnp.float32)
    return mapped.reshape(-1, regressor.num_points, 2)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silences the converter's warnings about float64 and unused shapes."""
    logger = logging.getLogger("onnx_ir")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
