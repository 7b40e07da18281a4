"""The file formats of `landmarks-jax export`. A new one is a function and a line in `FORMATS`.

Nothing here imports JAX until a detector is encoded, so that `--help` is quick.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from landmarks_jax.inference.packed_file import PackedDetector


@dataclass(frozen=True)
class ExportFormat:
    """A file format.

    Attributes:
      summary: what the file holds and who reads it, for `--help`.
      encode: `(detector, precision)`, the precision one of `PRECISIONS`, to the file's content.
    """

    summary: str
    encode: Callable[["PackedDetector", str], bytes]


def _packed(packed: "PackedDetector", precision: str) -> bytes:
    from landmarks_jax.inference import packed_file  # noqa: PLC0415

    return packed_file.to_bytes(packed, precision)


def _stablehlo(packed: "PackedDetector", precision: str) -> bytes:
    from landmarks_jax.inference import graph_export  # noqa: PLC0415

    return graph_export.to_stablehlo(packed, precision)


def _onnx(packed: "PackedDetector", precision: str) -> bytes:
    from landmarks_jax.inference import graph_export  # noqa: PLC0415

    return graph_export.to_onnx(packed, precision)


FORMATS = {
    "packed": ExportFormat("weights, config and scores, for load_detector", _packed),
    "stablehlo": ExportFormat("a graph for JAX without this package", _stablehlo),
    "onnx": ExportFormat("a graph for ONNX Runtime, also in browsers (extra `export`)", _onnx),
}
