"""The file formats of `landmarks-jax export`. A new one is a function and a line in `FORMATS`."""

import pkgutil
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from landmarks_jax.inference.packed_file import PackedDetector


class ExportFormat(NamedTuple):
    """A file format.

    Attributes:
      summary: what the file holds and who reads it, for `--help`.
      encoder: `module:function`, which maps the detector and one of `PRECISIONS` to the file's
        content. It is imported, and JAX with it, at the first use: `--help` is quick.
    """

    summary: str
    encoder: str

    def encode(self, packed: "PackedDetector", precision: str) -> bytes:
        """The file's content."""
        content: bytes = pkgutil.resolve_name(self.encoder)(packed, precision)
        return content


_HERE = "landmarks_jax.inference"
FORMATS = {
    "packed": ExportFormat(
        "weights, config and scores, for load_detector", f"{_HERE}.packed_file:to_bytes"
    ),
    "stablehlo": ExportFormat(
        "a graph for JAX without this package", f"{_HERE}.graph_export:to_stablehlo"
    ),
    "onnx": ExportFormat(
        "a graph for ONNX Runtime, also in browsers (extra `export`)",
        f"{_HERE}.graph_export:to_onnx",
    ),
}
