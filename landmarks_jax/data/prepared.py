"""The prepared form: a folder of canvases as arrays, read without decoding and without TensorFlow.

    manifest.json   what is here, and the SHA-256 of the other files
    canvases.npy    [N, C, C, 3] uint8, mapped into memory when read
    points.npy      [N, P, 2] float32, normalised to the canvas
    names.json      the N photos' names

It is written beside its place and renamed at the end: it is there whole or not at all. What a
killed process leaves is gone on with; see `partial`.
"""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np

from landmarks_jax.data import prepared_writer
from landmarks_jax.data.box_canvas import Frame, Surroundings
from landmarks_jax.data.framing import Framing
from landmarks_jax.data.sources import registry
from landmarks_jax.system import files
from landmarks_jax.system.errors import ConfigError, DataError

FORMAT_VERSION = 1
MANIFEST = "manifest.json"
_FILES = ("canvases.npy", "points.npy", "names.json")
# What the manifest keeps of the framing, and the config's name for it.
_FRAMING_FIELDS = {
    "crop": "config.data.crop",
    "canvas_size": "config.data.canvas_size",
    "view_size": "config.views.size",
}
# The same of canvases for box views; the size of the canvas follows from these.
_SURROUNDINGS_FIELDS = {
    "crop": "config.data.crop",
    "view_size": "config.views.size",
    "rotation_limit": "config.views.rotation_limit",
    "margin": "config.views.margin",
    "margin_std": "config.views.margin_std",
}


def _fields(frame: Frame) -> dict[str, str]:
    """What says how canvases were cut, and the config's names for it."""
    return _FRAMING_FIELDS if isinstance(frame, Framing) else _SURROUNDINGS_FIELDS


def prepare(source: registry.Source, frame: Frame, out: str | os.PathLike[str]) -> None:
    """Writes a source's canvases to a new folder, whole or not at all.

    Where an earlier call did not come to its end, the same call goes on from there.

    Args:
      source: the photos; with points where they are to be kept or the crop needs them.
      frame: how photos become canvases.
      out: the folder to make; must not be there yet.

    Raises:
      ConfigError: the crop needs points and the source has none.
      DataError: the folder is there already, a photo cannot be read, or its points have no box.
    """
    registry.check(source, frame)
    names = [source.name(i) for i in range(len(source))]
    digest = registry.names_digest(names, source.num_points)
    framed = {field: getattr(frame, field) for field in ("canvas_size", *_fields(frame))}
    made_of = {"format_version": FORMAT_VERSION, "names_digest": digest, **framed}
    with files.resumable_folder(Path(out)) as folder:
        prepared_writer.write_rows(source, frame, folder, made_of)
        files.write_file(folder / "names.json", json.dumps(names))
        manifest = {
            "format_version": FORMAT_VERSION,
            "source": registry.summary(source),
            "count": len(source),
            "num_points": source.num_points,
            **framed,
            "names_digest": digest,
            "sha256": {name: files.sha256_of(folder / name) for name in _FILES},
        }
        files.write_file(folder / MANIFEST, json.dumps(manifest, indent=2) + "\n")
    (Path(out) / prepared_writer.PROGRESS).unlink(missing_ok=True)


def _read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest, its fields all there and its version known."""
    path = folder / MANIFEST
    if not path.is_file():
        raise DataError(f"{folder}: no prepared data here ({MANIFEST} is missing)")
    try:
        manifest = json.loads(path.read_text())
        version = manifest["format_version"]
        if version != FORMAT_VERSION:
            raise DataError(
                f"{path}: format version {version}, this program reads {FORMAT_VERSION}: "
                "prepare the data anew"
            )
        needed = ("source", "count", "num_points", *_FRAMING_FIELDS, "names_digest")
        needed += tuple(_SURROUNDINGS_FIELDS) if "margin" in manifest else ()
        _ = [manifest[field] for field in needed], [manifest["sha256"][name] for name in _FILES]
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path}: damaged ({error}): prepare the data anew") from error
    return manifest


class PreparedCanvases:
    """Canvases of a prepared folder.

    Attributes:
      canvases: `[N, C, C, 3]` uint8, mapped from the file, read-only.
      points: `[N, P, 2]` float32, normalised to the canvas.
      framing: how the photos were cut.
      num_points: P, 0 without annotation.
      digest: the fingerprint of the list of photos, as `sources.source_digest` gives it.
      summary: one line: what was prepared.
    """

    def __init__(self, path: str | os.PathLike[str], verify: bool = True) -> None:
        """Opens the folder.

        Args:
          path: the folder `prepare` made.
          verify: read every byte once and compare the checksums (about a second a gigabyte).

        Raises:
          DataError: something is missing, damaged, or of another version.
        """
        folder = Path(path)
        manifest = _read_manifest(folder)
        for name, expected in manifest["sha256"].items():
            if not (folder / name).is_file():
                raise DataError(f"{folder / name}: missing: prepare the data anew")
            if verify and files.sha256_of(folder / name) != expected:
                raise DataError(f"{folder / name}: damaged (checksum): prepare the data anew")
        self.framing: Frame
        if "margin" in manifest:
            kept = {field: manifest[field] for field in _SURROUNDINGS_FIELDS if field != "crop"}
            self.framing = Surroundings(**kept)
        else:
            self.framing = Framing(**{field: manifest[field] for field in _FRAMING_FIELDS})
        self.num_points: int = manifest["num_points"]
        self.digest: str = manifest["names_digest"]
        self.summary: str = f"{folder}: prepared from {manifest['source']}"
        count, size = manifest["count"], self.framing.canvas_size
        self.canvases = _load(folder / "canvases.npy", (count, size, size, 3), np.uint8)
        self.points = np.array(_load(folder / "points.npy", (count, self.num_points, 2)))
        self._folder = folder

    def __len__(self) -> int:
        return len(self.canvases)

    def names(self) -> list[str]:
        """The photos' names, in order."""
        return json.loads((self._folder / "names.json").read_text())

    def require(self, frame: Frame) -> None:
        """Raises `ConfigError` unless the canvases were cut as `frame` says."""
        if frame.crop == self.framing.crop and type(frame) is not type(self.framing):
            reason = (
                "was prepared for training on box views; evaluation cuts its own, so name the list "
                "of its photos"
                if isinstance(frame, Framing)
                else "was prepared by an earlier version, without the room around the box that "
                "turned views need: prepare the data anew"
            )
            raise ConfigError(f"config.data.crop = {frame.crop!r}: {self._folder} {reason}")
        for field, name in _fields(frame).items():
            wanted, found = getattr(frame, field), getattr(self.framing, field, None)
            if wanted != found:
                raise ConfigError(
                    f"{name} = {wanted!r}, but {self._folder} was prepared with "
                    f"{found!r}: change the field, or prepare the data anew"
                )


def _load(path: Path, shape: tuple[int, ...], dtype: Any = np.float32) -> np.ndarray:
    """Maps an array file and checks that it is what the manifest says."""
    try:
        array = np.load(path, mmap_mode="r" if 0 not in shape else None)  # nothing cannot be mapped
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"{path}: damaged ({error}): prepare the data anew") from error
    if array.shape != shape or array.dtype != dtype:
        raise DataError(
            f"{path}: {array.dtype} {array.shape}, not {np.dtype(dtype)} {shape} as the manifest "
            "says: prepare the data anew"
        )
    return array
