"""What pictures and videos share: the detector, what is wanted, and where results go."""

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path

from landmarks_jax.data.framing import Rectangle
from landmarks_jax.inference.api import LandmarkDetector, Landmarks
from landmarks_jax.inference.media.box_table import Boxes
from landmarks_jax.inference.media.drawing import Marks
from landmarks_jax.inference.media.result_files import Results, Row


@dataclasses.dataclass(frozen=True)
class Options:
    """What is wanted besides the points.

    Attributes:
      draw: annotated pictures and videos.
      numbers: in those, each landmark's number.
      labelled: in those, the labelled points that the regressor predicts.
      trails: in annotated videos, where landmarks were in this many frames before.
      smooth: of videos, smoothed points too; those are drawn.
    """

    draw: bool = True
    numbers: bool = False
    labelled: bool = False
    trails: int = 0
    smooth: bool = False


@dataclasses.dataclass(frozen=True)
class Job:
    """One run over many files.

    Attributes:
      detector: finds the points.
      results: where they are written.
      boxes: what to look at, or None for the part that training would have shown.
      drawn: the folder of annotated files.
      options: what is wanted.
      stop: whether to end after the picture at hand.
    """

    detector: LandmarkDetector
    results: Results
    boxes: Boxes | None
    drawn: Path
    options: Options
    stop: Callable[[], bool]

    def rows(
        self, file: str, found: Landmarks, frame: int | None = None, time: float | None = None
    ) -> list[Row]:
        """The rows of one picture or frame, one a view."""
        return [
            Row(
                file,
                frame,
                time,
                None if self.boxes is None else index,
                found.landmarks[index],
                found.confidence[index],
                None if found.labelled is None else found.labelled[index],
                None,
            )
            for index in range(len(found.landmarks))
        ]

    def marks(self, row: Row, shown: Rectangle) -> Marks:
        """What is drawn of a row whose view shows a part of the picture; smoothed where it is."""
        landmarks, labelled = row.landmarks, row.labelled
        if row.smooth is not None:
            landmarks, labelled = row.smooth[: len(landmarks)], row.smooth[len(landmarks) :]
        return Marks(landmarks, side(shown), labelled if self.options.labelled else None)


def side(shown: Rectangle) -> float:
    """The side of the square as large as a rectangle."""
    left, top, right, bottom = shown
    return math.sqrt((right - left) * (bottom - top))
