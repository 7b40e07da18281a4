"""The prepared form: a folder of canvases as arrays, read without decoding and TensorFlow.

    manifest.json   description, and the SHA-256 of the other files
    canvases.npy    [N, C, C, 3] uint8, memory-mapped when read
    points.npy      [N, P, 2] float32, normalised to the canvas
    names.json      the N photos' names

The folder appears only once it is complete. If preparing is interrupted, the same call resumes it,
see `prepared_writer`.
"""

import dataclasses
import json
import os
from pathlib import Path
from typing import Any

import numpy as np

from landmarks_jax.data import cutting, framing, prepared_writer
from landmarks_jax.data.box_canvas import BoxCanvas, Frame
from landmarks_jax.data.framing import Framing
from landmarks_jax.data.prepared_writer import CANVASES, POINTS
from landmarks_jax.data.sources import photos
from landmarks_jax.system import files, parallel
from landmarks_jax.system.errors import ConfigError, DataError, reason

FORMAT_VERSION = 1
MANIFEST = "manifest.json"
_NAMES = "names.json"
_FILES = (CANVASES, POINTS, _NAMES)
# Fields of a frame and their names in the config.
_CONFIG_NAMES = {
    "crop": "config.data.crop",
    "canvas_size": "config.data.canvas_size",
    "view_size": "config.views.size",
    "rotation_limit": "config.views.rotation_limit",
    "margin": "config.views.margin",
    "margin_std": "config.views.margin_std",
}


def prepare(source: photos.Source, frame: Frame, out: str | os.PathLike[str]) -> None:
    """Writes a source's canvases to a new folder, or resumes an interrupted call.

    Args:
      source: the photos; their points are kept.
      frame: how photos become canvases.
      out: the folder to make; must not exist.

    Raises:
      ConfigError: the crop needs points and the source has none.
      DataError: the folder exists, a photo cannot be read, or its points have no box.
    """
    cutting.check(source, frame)
    names = [source.name(i) for i in range(len(source))]
    digest = photos.names_digest(names, source.num_points)
    cut = {"crop": frame.crop, "canvas_size": frame.canvas_size, **dataclasses.asdict(frame)}
    inputs = {"format_version": FORMAT_VERSION, "names_digest": digest, **cut}
    with files.resumable_folder(Path(out)) as folder:
        prepared_writer.write_rows(source, frame, folder, inputs)
        files.write_file(folder / _NAMES, json.dumps(names))
        manifest = {
            "format_version": FORMAT_VERSION,
            "source": source.summary,
            "count": len(source),
            "num_points": source.num_points,
            **cut,
            "names_digest": digest,
            "sha256": {name: files.sha256_of(folder / name) for name in _FILES},
        }
        files.write_file(folder / MANIFEST, json.dumps(manifest, indent=2) + "\n")
    (Path(out) / prepared_writer.PROGRESS).unlink(missing_ok=True)


class PreparedCanvases:
    """Canvases of a prepared folder.

    Attributes:
      canvases: `[N, C, C, 3]` uint8, memory-mapped, read-only; in memory once `fit` shrank them.
      points: `[N, P, 2]` float32, normalised to the canvas.
      framing: how the photos were cut.
      num_points: P, 0 without annotation.
      digest: the fingerprint of the list of photos, `photos.source_digest`.
      summary: one line for the log.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """Opens the folder that `prepare` made and compares its checksums (about 1 s a gigabyte).

        Raises:
          DataError: something is missing, damaged, or of another version.
        """
        self._folder = Path(path)
        manifest, self.framing = _read_manifest(self._folder)
        for name, expected in manifest["sha256"].items():
            file = self._folder / name
            if not file.is_file():
                raise DataError(f"{file}: missing: prepare the data again")
            if files.sha256_of(file) != expected:
                raise DataError(f"{file}: damaged (checksum): prepare the data again")
        self.num_points: int = manifest["num_points"]
        self.digest: str = manifest["names_digest"]
        self.summary: str = f"{path}: prepared from {manifest['source']}"
        count, size = manifest["count"], self.framing.canvas_size
        self.canvases = _load(self._folder / CANVASES, (count, size, size, 3), np.uint8)
        points = _load(self._folder / POINTS, (count, self.num_points, 2), np.float32)
        self.points = np.array(points)

    def __len__(self) -> int:
        return len(self.canvases)

    def names(self) -> list[str]:
        """The photos' names."""
        names: list[str] = json.loads((self._folder / _NAMES).read_text())
        return names

    def fit(self, frame: Frame) -> None:
        """Shrinks canvases that were cut alike but larger to `frame`, then as `require`."""
        own = self.framing
        if (
            isinstance(frame, Framing)
            and isinstance(own, Framing)
            and own.crop == frame.crop
            and own.canvas_size > frame.canvas_size
            and own.canvas_size * frame.view_size == own.view_size * frame.canvas_size
        ):
            size = float(own.canvas_size)
            shrunk = np.empty((len(self), *[frame.canvas_size] * 2, 3), np.uint8)

            def shrink(row: int) -> None:
                shrunk[row] = framing.stretch(
                    self.canvases[row], (0.0, 0.0, size, size), frame.canvas_size
                )

            for _ in parallel.ordered_map(shrink, range(len(self)), "shrinking canvases"):
                pass
            self.canvases = shrunk
            self.framing = frame
        self.require(frame)

    def require(self, frame: Frame) -> None:
        """Raises `ConfigError` unless the canvases were cut as `frame` says."""
        evaluated = isinstance(frame, Framing) and frame.crop == "box"
        if evaluated and isinstance(self.framing, BoxCanvas):
            raise ConfigError(
                f"config.data.crop = 'box': {self._folder} was prepared to train on box views; "
                "evaluation cuts its own, so name the list of its photos"
            )
        for field in ("crop", *(field.name for field in dataclasses.fields(frame))):
            required, actual = getattr(frame, field), getattr(self.framing, field, None)
            if required != actual:
                raise ConfigError(
                    f"{_CONFIG_NAMES[field]} = {required!r}, but {self._folder} was prepared with "
                    f"{actual!r}: change the field, or prepare the data again"
                )


def _read_manifest(folder: Path) -> tuple[dict[str, Any], Frame]:
    path = folder / MANIFEST
    if not path.is_file():
        raise DataError(f"{folder}: not a folder of prepared data ({MANIFEST} is missing)")
    try:
        manifest = json.loads(path.read_text())
        version = manifest["format_version"]
        if version != FORMAT_VERSION:
            raise DataError(
                f"{path}: format version {version}, this program reads {FORMAT_VERSION}: "
                "prepare the data again"
            )
        kind = BoxCanvas if "margin" in manifest else Framing
        frame = kind(**{field.name: manifest[field.name] for field in dataclasses.fields(kind)})
        _ = [manifest[field] for field in ("source", "count", "num_points", "names_digest")]
        _ = [manifest["sha256"][name] for name in _FILES]
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path}: damaged ({reason(error)}): prepare the data again") from error
    return manifest, frame


def _load(path: Path, shape: tuple[int, ...], dtype: type) -> np.ndarray:
    """Memory-maps an array file; `DataError` unless it is what the manifest says."""
    try:
        array = np.load(path, mmap_mode="r" if 0 not in shape else None)  # empty maps are refused
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"{path}: damaged ({reason(error)}): prepare the data again") from error
    if array.shape != shape or array.dtype != dtype:
        raise DataError(
            f"{path}: {array.dtype} {array.shape}, not {np.dtype(dtype)} {shape} as the manifest "
            "says: prepare the data again"
        )
    return array
