"""What a run of `landmarks-jax detect` consists of: detector, parts to view, results, options."""

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from landmarks_jax.data.framing import Rectangle
from landmarks_jax.inference.api import LandmarkDetector, Landmarks
from landmarks_jax.inference.face_finder import FoundFaces
from landmarks_jax.inference.media.drawing import Marks
from landmarks_jax.inference.media.inputs import Boxes
from landmarks_jax.inference.media.result_files import Results, Row
from landmarks_jax.inference.media.view_batches import Cut


@dataclasses.dataclass(frozen=True)
class Options:
    """Drawing and smoothing.

    Attributes:
      draw: write annotated images and videos.
      numbers: draw each landmark's number.
      labelled: draw the labelled points that the regressor predicts.
      trails: in videos, draw the landmarks of this many previous frames.
      smooth: in videos, smooth the points; the smoothed ones are drawn.
      mirror: take the mean over each view and its mirror image.
    """

    draw: bool = True
    numbers: bool = False
    labelled: bool = False
    trails: int = 0
    smooth: bool = False
    mirror: bool = False


@dataclasses.dataclass(frozen=True)
class Job:
    """One run over many files.

    Attributes:
      detector: the detector.
      results: the result files.
      boxes: the parts to view, or None for those that training would have viewed.
      faces: instead, view the faces that are found.
      drawn: the folder of drawings.
      options: options of drawing and smoothing.
      stop: whether to stop after the current image.
    """

    detector: LandmarkDetector
    results: Results
    boxes: Boxes | None
    faces: bool
    drawn: Path
    options: Options
    stop: Callable[[], bool]

    def parts(self, path: str, pixels: np.ndarray) -> np.ndarray | FoundFaces | None:
        """The parts of an image, or of a frame of a video, to view."""
        if self.faces:
            return self.detector.find_faces(pixels)
        return None if self.boxes is None else self.boxes.of(path)

    def rows(
        self,
        file: str,
        cut: Cut[Any],
        landmarks: Landmarks,
        frame: int | None = None,
        time: float | None = None,
    ) -> list[Row]:
        """The result rows of one image or frame, one per view."""
        rows = []
        for index, (number, view) in enumerate(zip(cut.boxes, cut.rectangles, strict=True)):
            points, confidence, labelled, _ = landmarks.select(index)
            box = number if self.faces or self.boxes is not None else None
            score = None if cut.scores is None else cut.scores[index]
            rows.append(
                Row(
                    file=file,
                    frame=frame,
                    time=time,
                    size=cut.size,
                    box=box,
                    view=view,
                    score=score,
                    landmarks=points,
                    confidence=confidence,
                    labelled=labelled,
                    smooth=None,
                )
            )
        return rows

    def marks(self, row: Row) -> Marks:
        """What to draw of a row."""
        landmarks, labelled = row.landmarks, row.labelled
        if row.smooth is not None:
            landmarks, labelled = row.smooth[: len(landmarks)], row.smooth[len(landmarks) :]
        return Marks(landmarks, side(row.view), labelled if self.options.labelled else None)


def side(rectangle: Rectangle) -> float:
    """The side of the square with the same area."""
    left, top, right, bottom = rectangle
    return math.sqrt((right - left) * (bottom - top))
