"""Public inference API: load a packed detector and run it on images."""

import functools
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from landmarks_jax.data import framing
from landmarks_jax.data.framing import Rectangle
from landmarks_jax.inference import detector, face_finder, mirroring, packed_file
from landmarks_jax.inference.face_finder import FaceFrame, FoundFaces
from landmarks_jax.inference.images import as_images, from_view, to_views, view_rectangles
from landmarks_jax.inference.mirroring import MirrorPairs
from landmarks_jax.models import detectors
from landmarks_jax.system.errors import DataError, WeightsError

_SHIPPED = Path(__file__).parent / "pretrained"


class Landmarks(NamedTuple):
    """Landmarks of images; for a single image every array lacks the leading axis.

    Attributes:
      landmarks: `[B, K, 2]` float32 `(x, y)` in pixels; the centre of an image's first pixel is at
        (0, 0).
      confidence: `[B, K]` in [0, 1]: the soft-argmax weight within 1.5 cells of the landmark.
      labelled: `[B, P, 2]` labelled points predicted by the regressor, in the same pixels; None
        without a regressor.
      heatmaps: `[B, S / 4, S / 4, K]` over the viewed part of each image; None unless requested.
    """

    landmarks: np.ndarray
    confidence: np.ndarray
    labelled: np.ndarray | None
    heatmaps: np.ndarray | None

    def select(self, index: int | slice) -> "Landmarks":
        """The landmarks of one image of the batch, or of a slice of it."""
        return Landmarks(
            self.landmarks[index],
            self.confidence[index],
            None if self.labelled is None else self.labelled[index],
            None if self.heatmaps is None else self.heatmaps[index],
        )


class LandmarkDetector:
    """A packed detector, ready to run on images.

    Attributes:
      num_landmarks: K.
      view_size: S, the side of the views in pixels.
      landmark_names: names of the K landmarks, or empty.
      point_names: names of the P labelled points, or empty.
      summary: training data and scores, plain JSON.
      frame: which part of an image it views without a box.
      face_frame: which part it views of a found face; None unless it is of faces.
      mirror_pairs: which landmarks mirror each other; None if it is not known of any.
      regressor: the linear map to the labelled points in the view's frame, or None.
      function: the pure function `(variables, views [B, S, S, 3]) -> detector.ViewLandmarks`, for
        your own `jax.jit`, `jax.vmap` and `jax.grad`; landmarks are normalised to the view.
      variables: its weights, on the device.
    """

    def __init__(self, packed: packed_file.PackedDetector) -> None:
        """Moves the weights to the device."""
        config = packed.config
        self._views = detector.ViewDetector(config, packed.variables)
        self.num_landmarks = self._views.num_landmarks
        self.view_size = self._views.view_size
        self.frame = framing.of_config(config)
        self.face_frame = FaceFrame.of(packed.summary)
        self.mirror_pairs = MirrorPairs.of(packed.summary, self.num_landmarks)
        self.regressor = packed.regressor
        self.summary = packed.summary
        self.landmark_names: tuple[str, ...] = tuple(packed.summary.get("landmark_names", ()))
        self.point_names: tuple[str, ...] = tuple(packed.summary.get("point_names", ()))
        self.variables: Mapping[str, Any] = self._views.variables
        self.function: Callable[[Mapping[str, Any], jax.Array], detector.ViewLandmarks] = (
            functools.partial(
                detector.detect, module=detectors.build_detector(config), beta=config.model.beta
            )
        )

    def __call__(
        self, images: Any, boxes: Any = None, *, heatmaps: bool = False, mirror: bool = False
    ) -> Landmarks:
        """Detects the landmarks of one image or of several.

        Args:
          images: an image `[H, W]` or `[H, W, C]`, a batch `[B, H, W, C]`, or a list of images of
            any sizes; uint8, or floating in [0, 1]; C is 3, 1 (grey) or 4 (RGBA).
          boxes: `[B, 4]` x0, y0, x1, y1: the part of each image to view, as large around the object
            as the views of training, in pixel edges (0, 0, W, H is the whole image); of a single
            image `[4]`, or `[n, 4]` for n parts of it. By default the part that training would have
            viewed, see `frame`.
          heatmaps: return the heatmaps too.
          mirror: take the mean over each view and its mirror image, which takes twice the time.

        Returns:
          Landmarks in pixels of the images; n for n parts of a single image.

        Raises:
          DataError: an image or a box cannot be used; the message names it by its index. Or with
            `mirror`, no landmarks are known to mirror each other.
        """
        listed, single = as_images(images)
        rectangles = view_rectangles(listed, boxes, single, self.frame)
        viewed = listed * len(rectangles) if single else listed
        views = to_views(viewed, rectangles, self.view_size)
        batch = self.locate(views, rectangles, heatmaps=heatmaps, mirror=mirror)
        return batch.select(0) if single and np.ndim(boxes) < 2 else batch

    def find_faces(self, image: Any) -> FoundFaces:
        """Finds the faces of an image, and the part of it to view of each.

        `detector(image, boxes=detector.find_faces(image).boxes)` are the landmarks of all faces.

        Args:
          image: `[H, W]` or `[H, W, C]`, as for `__call__`.

        Returns:
          The parts to view, `[n, 4]` in pixel edges, and the scores `[n]`, best first.

        Raises:
          ConfigError: the extra `faces` is not installed.
          DataError: the image cannot be used, or the detector is not known to be of faces.
        """
        if self.face_frame is None:
            raise DataError(f"this detector {face_finder.NO_FRAME}")
        listed, single = as_images(image)
        if not single:
            raise DataError("find_faces takes a single image; call it for each")
        found = face_finder.find_faces(listed[0])
        return found._replace(boxes=self.face_frame.views(found.boxes))

    def locate(
        self,
        views: np.ndarray,
        rectangles: Sequence[Rectangle],
        *,
        heatmaps: bool = False,
        mirror: bool = False,
    ) -> Landmarks:
        """Detects landmarks in views that `images.to_views` has cut.

        Args:
          views: `[B, S, S, 3]` uint8.
          rectangles: the part of its image that each view shows, from `images.view_rectangles`.
          heatmaps: return the heatmaps too.
          mirror: see `__call__`.

        Returns:
          Landmarks `[B, ...]` in pixels of the images that the views were cut from.
        """
        fields = ("landmarks", "confidence") + (("heatmaps",) if heatmaps else ())
        if mirror:
            pairs = mirroring.need_pairs(self.mirror_pairs, "this detector")
            output = pairs.find(self._views, views, fields)
        else:
            output = self._views.find(views, fields)
        labelled = None
        if self.regressor is not None:
            labelled = from_view(self.regressor(output["landmarks"]), rectangles)
        landmarks = from_view(output["landmarks"], rectangles)
        return Landmarks(landmarks, output["confidence"], labelled, output.get("heatmaps"))


def load_detector(path: str | os.PathLike[str] = "faces") -> LandmarkDetector:
    """Loads a packed detector.

    Forks of this process cannot use it: start worker processes by `spawn`, and load it there.

    Args:
      path: a packed file, or the name of a detector that ships with this package.

    Raises:
      WeightsError: the file is missing, damaged, of another format, or of a newer version.
      UserError: in a fork of a process that has loaded a detector.
    """
    return LandmarkDetector(packed_file.read(find_packed(path)))


def find_packed(path: str | os.PathLike[str]) -> Path:
    """Resolves a path or the name of a shipped detector to a packed file.

    The name takes precedence over a file of the same name; write `./faces` for that file.

    Raises:
      WeightsError: there is neither.
    """
    shipped = {file.stem: file for file in sorted(_SHIPPED.glob("*.safetensors"))}
    if os.fspath(path) in shipped:
        return shipped[os.fspath(path)]
    if not os.path.exists(path):
        raise WeightsError(
            f"{path}: no such file; `landmarks-jax export` writes packed files, and this package "
            f"ships: {', '.join(shipped) or 'none'}"
        )
    return Path(path)
