"""The page as a folder: everything it needs, by relative addresses, for any web host."""

import json
import logging
import os
import shutil
import tempfile
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from landmarks_jax.inference import api, graph_export
from landmarks_jax.inference import packed_file as packed
from landmarks_jax.inference.browser import vendor
from landmarks_jax.system import palette
from landmarks_jax.system.errors import WorkdirError

_LOGGER = logging.getLogger(__name__)
FORMAT = "landmarks_jax.demo"
DESCRIPTION = "model.json"
MODEL = "model.onnx"
_PAGE = resources.files("landmarks_jax.inference.browser") / "page"


def build(detector: str | os.PathLike[str], folder: Path) -> None:
    """Makes the page of a detector, whole or not at all.

    Args:
      detector: a packed file, or the name of a detector that comes with this package.
      folder: what to make; an empty folder is replaced, and an earlier page with nothing beside it.

    Raises:
      ConfigError: the ONNX converter is not installed.
      WeightsError: the detector or the runtime cannot be had.
      WorkdirError: the folder holds something else, or cannot be written.
    """
    _check(folder)
    packed_file = api.find(detector)
    content = packed.read(packed_file)
    _LOGGER.info("making the page of %s", packed_file)
    runtime = vendor.runtime()
    # The kernels in half: what a visitor has to wait for.
    model = graph_export.to_onnx(content, "float16")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.") as scratch:
            made = Path(scratch) / "page"
            shutil.copytree(runtime, made / "runtime")
            for file in _PAGE.iterdir():
                target = made / ("runtime" if file.name == "LICENSE.onnxruntime.txt" else "")
                (target / file.name).write_bytes(file.read_bytes())
            (made / MODEL).write_bytes(model)
            description = describe(content, packed_file.stem)
            (made / DESCRIPTION).write_text(json.dumps(description, indent=1) + "\n")
            made.chmod(0o755)
            if folder.exists():
                folder.replace(Path(scratch) / "before")
            made.replace(folder)
    except OSError as error:
        raise WorkdirError(f"{folder}: cannot be written ({error})") from error


def describe(content: packed.Packed, name: str) -> dict[str, Any]:
    """What the page knows of its detector, as plain JSON."""
    config, regressor = content.config, content.regressor
    colors = np.rint(255 * palette.landmark_colors(config.model.num_landmarks)).astype(int)
    return {
        "format": FORMAT,
        "name": name,
        "model": MODEL,
        "num_landmarks": config.model.num_landmarks,
        "view_size": config.views.size,
        "canvas_size": config.data.canvas_size,
        "crop": config.data.crop,
        "dot_scale": palette.crowding(config.model.num_landmarks),
        "colors": ["#{:02x}{:02x}{:02x}".format(*color) for color in colors],
        "num_labelled": 0 if regressor is None else len(regressor.y_origin) // 2,
        "point_names": content.summary.get("point_names", []),
        "score": next(iter(content.summary.get("scores", [])), None),
    }


def _check(folder: Path) -> None:
    """Refuses a folder that holds anything but an earlier page, such as a host's own files."""
    if not os.path.lexists(folder):
        return
    try:
        names = {file.name for file in folder.iterdir()}
        if not names:
            return
        made = {file.name for file in _PAGE.iterdir()} | {"runtime", MODEL, DESCRIPTION}
        page = json.loads((folder / DESCRIPTION).read_text())["format"] == FORMAT
        if page and names <= made:
            return
        others = sorted(names - made) if page else []
    except (OSError, ValueError, TypeError, KeyError):
        others = []
    named = f" ({', '.join(others[:3])})" if others else ""
    raise WorkdirError(f"{folder}: holds something else{named}; name a new folder, or empty it")
