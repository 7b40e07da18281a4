"""A packed detector as a graph that runs without this package: StableHLO and ONNX.

A graph takes `views` `[b, S, S, 3]` uint8 of any number b and gives, by name,

    landmarks    `[b, K, 2]`, normalised to the view
    confidence   `[b, K]` in [0, 1]
    labelled     `[b, P, 2]`, normalised to the view, where the detector has a regressor

Its arithmetic is float32 whatever the detector was trained in, so that every runtime can do it.
"""

import contextlib
import json
import logging
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from landmarks_jax.inference import detector, packed_file
from landmarks_jax.inference.linear_map import LinearMap
from landmarks_jax.system.errors import ConfigError, WeightsError

FORMAT = "landmarks_jax.graph"
VERSION = 1
INPUT = "views"
PLATFORMS = ("cpu", "cuda", "tpu")
# Of ONNX: the oldest that the converter's result is valid in, for runtimes that are not the newest.
_OPSET = 17

ViewFunction = Callable[[jax.Array], dict[str, jax.Array]]


def view_function(content: packed_file.Packed, precision: str = "float32") -> ViewFunction:
    """The function that the graphs hold, from views to the outputs by name.

    Args:
      content: the detector.
      precision: in which the kernels are kept, one of `packed.PRECISIONS`.

    Raises:
      WeightsError: a value does not fit the precision.
    """
    config = ConfigDict(content.config).unlock()
    config.compute_dtype = "float32"
    module = detector.build_detector(config)
    stored = jax.tree.map(
        lambda array: packed_file.stored_array(np.asarray(array), precision),
        dict(content.variables),
    )
    if not all(np.isfinite(array).all() for array in jax.tree.leaves(stored)):
        raise WeightsError(f"the detector has values that are not finite in {precision}")

    def find(views: jax.Array) -> dict[str, jax.Array]:
        # Inside the graph, so that the file holds the kernels as they are stored.
        variables = jax.tree.map(lambda array: jnp.asarray(array).astype(jnp.float32), stored)
        found = detector.detect(variables, views, module=module, beta=config.model.beta)
        outputs = {"landmarks": found.landmarks, "confidence": found.confidence}
        if content.regressor is not None:
            outputs["labelled"] = _labelled(content.regressor, found.landmarks)
        return outputs

    return find


def description(content: packed_file.Packed, precision: str = "float32") -> dict[str, str]:
    """What another program has to know to feed a graph, as texts."""
    return {
        "format": FORMAT,
        "version": str(VERSION),
        "view_size": str(content.config.views.size),
        "canvas_size": str(content.config.data.canvas_size),
        "crop": content.config.data.crop,
        "num_landmarks": str(content.config.model.num_landmarks),
        "point_names": json.dumps(content.summary.get("point_names", [])),
        "weights": precision,
    }


def to_stablehlo(content: packed_file.Packed, precision: str = "float32") -> bytes:
    """The graph as `jax.export` keeps it, for processors, CUDA and TPUs.

    Raises:
      WeightsError: a value does not fit the precision.
    """
    function = jax.jit(view_function(content, precision))
    exported = jax.export.export(function, platforms=PLATFORMS)(_views(content))
    return bytes(exported.serialize())


def to_onnx(content: packed_file.Packed, precision: str = "float32") -> bytes:
    """The graph as an ONNX model, with `description` among its metadata.

    Raises:
      ConfigError: the converter is not installed.
      WeightsError: a value does not fit the precision.
    """
    function = view_function(content, precision)
    names = list(jax.eval_shape(function, _views(content)))

    def in_order(views: jax.Array) -> tuple[jax.Array, ...]:
        outputs = function(views)
        return tuple(outputs[name] for name in names)

    with _quiet():
        try:
            import jax2onnx  # noqa: PLC0415
            import onnx  # noqa: PLC0415
        except ImportError as error:
            raise ConfigError(
                f"ONNX files: {error.name} is not installed; it comes with the extra `export`"
            ) from error
        model: Any = jax2onnx.to_onnx(
            in_order,
            [_views(content)],
            model_name="landmarks",
            opset=_OPSET,
            input_names=[INPUT],
            output_names=names,
        )
    onnx.helper.set_model_props(model, description(content, precision))
    onnx.checker.check_model(model)
    return model.SerializeToString()


def _views(content: packed_file.Packed) -> jax.ShapeDtypeStruct:
    """Views of a number that stays open."""
    size = content.config.views.size
    return jax.ShapeDtypeStruct(jax.export.symbolic_shape(f"b, {size}, {size}, 3"), jnp.uint8)


def _labelled(regressor: LinearMap, landmarks: jax.Array) -> jax.Array:
    """The linear map to the labelled points, `[b, K, 2]` to `[b, P, 2]`, in float32."""
    matrix = jnp.asarray(regressor.matrix, jnp.float32)
    # Multiplied out, in float64: one product and one sum are left.
    shift = regressor.y_origin - regressor.matrix @ regressor.x_origin
    outputs, inputs = matrix.shape
    mapped = landmarks.reshape(-1, inputs) @ matrix.T + jnp.asarray(shift, jnp.float32)
    return mapped.reshape(-1, outputs // 2, 2)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Drops what the converter says of float64 and of shapes that it then does not need."""
    logger = logging.getLogger("onnx_ir")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
