"""The detector people reuse: a packed file in, landmarks of any pictures out."""

import functools
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from landmarks_jax.data.framing import Framing, Rectangle
from landmarks_jax.inference import detector, images, packed_file
from landmarks_jax.system.errors import WeightsError

_SHIPPED = Path(__file__).parent / "pretrained"


class Landmarks(NamedTuple):
    """What is found in pictures; without the leading axis where one picture was given.

    Attributes:
      landmarks: `[B, K, 2]` float32 `(x, y)` in pixels of the picture, the centre of its first
        pixel at 0.
      confidence: `[B, K]` in [0, 1]: the weight of the soft-argmax within 1.5 cells of the
        landmark.
      labelled: `[B, P, 2]` the labelled points that the regressor predicts, in the same pixels;
        None where the file has no regressor.
      heatmaps: `[B, S / 4, S / 4, K]` over the shown part of each picture, None unless asked for.
    """

    landmarks: np.ndarray
    confidence: np.ndarray
    labelled: np.ndarray | None
    heatmaps: np.ndarray | None


class LandmarkDetector:
    """A packed detector, ready for pictures.

    Attributes:
      num_landmarks: K.
      view_size: S, the side of the views in pixels.
      point_names: P names of the labelled points that it also predicts, or none.
      summary: what it was trained on and how it scores, plain JSON.
      frame: what part of a picture it looks at where no box is given.
      regressor: the linear map to the labelled points in the view's frame, or None.
      function: the pure function `(variables, views [B, S, S, 3]) -> detector.Found`, for the
        caller's own `jax.jit`, `jax.vmap` and `jax.grad`; landmarks normalised to the view.
      variables: its weights, on the device.
    """

    def __init__(self, content: packed_file.Packed) -> None:
        """Takes the weights to the device."""
        config = content.config
        self._views = detector.ViewDetector(config, content.variables)
        self.num_landmarks = self._views.num_landmarks
        self.view_size = self._views.view_size
        self.frame = Framing(config.data.canvas_size, config.views.size, config.data.crop)
        self.regressor = content.regressor
        self.summary = content.summary
        self.point_names: tuple[str, ...] = tuple(content.summary.get("point_names", ()))
        self.variables: Mapping[str, Any] = self._views.variables
        self.function: Callable[[Mapping[str, Any], jax.Array], detector.Found] = functools.partial(
            detector.detect, module=detector.build_detector(config), beta=config.model.beta
        )

    def __call__(self, pictures: Any, boxes: Any = None, *, heatmaps: bool = False) -> Landmarks:
        """Finds the landmarks of one picture or of many.

        Args:
          pictures: `[H, W]` or `[H, W, C]`, a batch `[B, H, W, C]`, or a list of pictures of any
            sizes; uint8, or floating in [0, 1]; C is 3, 1 (grey) or 4 (RGBA).
          boxes: `[B, 4]` (`[4]` for one picture) x0, y0, x1, y1: the part to look at, as large
            around the thing as views were in training, in pixel edges (0, 0, W, H is the whole
            picture). Without them what training would have shown of the picture, `frame`.
          heatmaps: return those too.

        Returns:
          Landmarks, in pixels of the pictures given.

        Raises:
          DataError: a picture or a box cannot be used; it is named by its place.
        """
        listed, single = images.as_list(pictures)
        shown = images.rectangles(listed, boxes, single, self.frame)
        found = self.locate(
            images.to_views(listed, shown, self.view_size), shown, heatmaps=heatmaps
        )
        if not single:
            return found
        labelled = None if found.labelled is None else found.labelled[0]
        maps = None if found.heatmaps is None else found.heatmaps[0]
        return Landmarks(found.landmarks[0], found.confidence[0], labelled, maps)

    def locate(
        self, views: np.ndarray, shown: Sequence[Rectangle], *, heatmaps: bool = False
    ) -> Landmarks:
        """Finds the landmarks of views that were cut before, as `images.to_views` cuts them.

        Args:
          views: `[B, S, S, 3]` uint8.
          shown: the part of its picture that each view shows, as `images.rectangles` gives it.
          heatmaps: return those too.

        Returns:
          Landmarks `[B, ...]`, in pixels of the pictures that the views were cut from.
        """
        fields = ("landmarks", "confidence") + (("heatmaps",) if heatmaps else ())
        found = self._views.find(views, fields)
        labelled = None
        if self.regressor is not None:
            labelled = images.from_view(self.regressor(found["landmarks"]), shown)
        landmarks = images.from_view(found["landmarks"], shown)
        return Landmarks(landmarks, found["confidence"], labelled, found.get("heatmaps"))


def load_detector(path: str | os.PathLike[str] = "faces") -> LandmarkDetector:
    """Loads a packed detector.

    Args:
      path: a file of `landmarks-jax export`, or the name of a detector that comes with the package.

    Raises:
      WeightsError: the file is missing, damaged, of another kind, or of a newer version.
    """
    return LandmarkDetector(packed_file.read(find(path)))


def find(path: str | os.PathLike[str]) -> Path:
    """The packed file of a path, or of the name of a detector that comes with this package.

    A name stands before a file of that name without an ending: `./faces` is that file.

    Raises:
      WeightsError: there is neither.
    """
    shipped = {file.stem: file for file in sorted(_SHIPPED.glob("*.safetensors"))}
    if os.fspath(path) in shipped:
        return shipped[os.fspath(path)]
    if not os.path.exists(path):
        raise WeightsError(
            f"{path}: no such file; a packed detector is made by `landmarks-jax export`, and with "
            f"this package come {', '.join(shipped) or 'none'}"
        )
    return Path(path)
