"""The page as a folder with relative links only, for any web host."""

import json
import logging
import os
import tempfile
from importlib import resources
from pathlib import Path
from typing import Any

from landmarks_jax.inference import api, face_finder, graph_export, packed_file
from landmarks_jax.inference.browser import vendor
from landmarks_jax.inference.face_finder import FaceFrame
from landmarks_jax.inference.packed_file import PackedDetector
from landmarks_jax.system import files, palette
from landmarks_jax.system.errors import WorkdirError, reason

_LOGGER = logging.getLogger(__name__)
FORMAT = "landmarks_jax.demo"
DESCRIPTION = "model.json"
MODEL = "model.onnx"
FINDER = "faces.onnx"
_PAGE = resources.files("landmarks_jax.inference.browser") / "page"


def build(detector: str | os.PathLike[str], folder: Path) -> None:
    """Builds the page of a detector atomically.

    The page finds faces by itself if the detector is of faces and the extra `faces` is installed.

    Args:
      detector: a packed file, or the name of a shipped detector.
      folder: the folder to create. It may be empty or an earlier page, which is replaced.

    Raises:
      ConfigError: the extra `export` is not installed.
      WeightsError: the detector cannot be read, or the runtime cannot be downloaded.
      WorkdirError: the folder holds other files, or cannot be written.
    """
    folder = Path(os.path.realpath(folder))  # else a link would be replaced, not what it names
    _check(folder)
    path = api.find_packed(detector)
    packed = packed_file.read(path)
    _LOGGER.info("building the page of %s", path)
    runtime = vendor.runtime()
    models = {MODEL: graph_export.to_onnx(packed, "float16")}  # half the download
    if FaceFrame.of(packed.summary) is not None:
        if face_finder.is_missing():
            _LOGGER.warning("warning: one face must fill the frame; %s", face_finder.INSTALL)
        else:
            models[FINDER] = face_finder.onnx_of_any_size()
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.") as scratch:
            new = Path(scratch) / "page"
            (new / "runtime").mkdir(parents=True)
            for name, data in runtime.items():
                (new / "runtime" / name).write_bytes(data)
            for file in _PAGE.iterdir():
                target = new / ("runtime" if file.name == "LICENSE.onnxruntime.txt" else "")
                (target / file.name).write_bytes(file.read_bytes())
            for name, data in models.items():
                (new / name).write_bytes(data)
            description = json.dumps(describe(packed, path.stem, FINDER in models), indent=1)
            (new / DESCRIPTION).write_text(description + "\n")
            new.chmod(0o755)
            if folder.exists():
                folder.replace(Path(scratch) / "before")
            new.replace(folder)
    except OSError as error:
        raise WorkdirError(f"{folder}: cannot be written ({reason(error)})") from error


def describe(packed: PackedDetector, name: str, finds_faces: bool) -> dict[str, Any]:
    """The page's description of its detector, as plain JSON."""
    config = packed.config
    frame = FaceFrame.of(packed.summary)
    return {
        "format": FORMAT,
        "name": name,
        "model": MODEL,
        "num_landmarks": config.model.num_landmarks,
        "view_size": config.views.size,
        "canvas_size": config.data.canvas_size,
        "crop": config.data.crop,
        "dot_scale": palette.crowding(config.model.num_landmarks),
        "colors": palette.hex_colors(config.model.num_landmarks),
        "landmark_names": packed.summary.get("landmark_names", []),
        "num_labelled": packed.num_labelled,
        "point_names": packed.summary.get("point_names", []),
        "score": next(iter(packed.summary.get("scores", [])), None),
        "finder": FINDER if finds_faces else None,
        "face_frame": None if frame is None else frame._asdict(),
    }


def _format_of(description: Path) -> Any:
    try:
        return json.loads(description.read_text())["format"]
    except (ValueError, TypeError, KeyError, RecursionError):
        return None


def _check(folder: Path) -> None:
    """Refuses a folder that holds anything but an earlier page, such as a web host's own files."""
    if not os.path.lexists(folder):
        return
    others: list[str] = []
    try:
        names = {file.name for file in folder.iterdir()}
        if not names:
            return
        described = folder / DESCRIPTION
        if not files.not_regular(described) and _format_of(described) == FORMAT:
            page = {file.name for file in _PAGE.iterdir()} | {"runtime", MODEL, FINDER, DESCRIPTION}
            others = sorted(names - page)
            if not others:
                return
    except OSError as error:
        raise WorkdirError(f"{folder}: cannot be written ({reason(error)})") from error
    examples = f" ({', '.join(others[:3])})" if others else ""
    raise WorkdirError(f"{folder}: holds other files{examples}; name a new folder, or empty it")
