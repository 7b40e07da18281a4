"""Faces keep their numbers from frame to frame of a video."""

import dataclasses

import numpy as np

from landmarks_jax.inference.face_finder import overlap

_LEAST = 0.1  # intersection over union of a face and where its track expects it
_PATIENCE = 30  # frames that a track goes on without its face
_NEWEST = 0.3  # weight of the newest step in a track's velocity


@dataclasses.dataclass
class _Track:
    """A face's last box `[4]`, its velocity `[4]` in pixels a frame, and frames without it."""

    box: np.ndarray
    velocity: np.ndarray
    missed: int = 0

    def expected(self) -> np.ndarray:
        return self.box + (self.missed + 1) * self.velocity

    def move(self, box: np.ndarray, *, alone: bool) -> None:
        if alone:  # else part of the face may be hidden, or the box be of somebody who crosses
            step = (box[:2] + box[2:] - self.box[:2] - self.box[2:]) / 2 / (self.missed + 1)
            self.velocity = (1 - _NEWEST) * self.velocity + _NEWEST * np.tile(step, 2)
        self.box, self.missed = box, 0


class FaceTracker:
    """Numbers faces by how much they overlap where those of earlier frames are expected."""

    def __init__(self) -> None:
        self._tracks: dict[int, _Track] = {}
        self._next = 0

    @property
    def numbers(self) -> set[int]:
        """The numbers of faces that may still come back."""
        return set(self._tracks)

    def number(self, boxes: np.ndarray) -> list[int]:
        """The numbers of a frame's faces with the boxes `[n, 4]`; frames come in order."""
        expected = {number: track.expected() for number, track in self._tracks.items()}
        overlaps = [
            (overlap(box, place), index, number)
            for index, box in enumerate(boxes)
            for number, place in expected.items()
        ]
        found: dict[int, int] = {}  # by the face's index
        for shared, index, number in sorted(overlaps, reverse=True):
            if shared >= _LEAST and index not in found and number not in found.values():
                found[index] = number
                alone = sum(other > 0 for other, i, _ in overlaps if i == index) == 1
                self._tracks[number].move(boxes[index], alone=alone)
        for number in expected.keys() - set(found.values()):
            self._tracks[number].missed += 1
            if self._tracks[number].missed > _PATIENCE:
                del self._tracks[number]
        for index in range(len(boxes)):
            if index not in found:
                found[index] = self._next
                self._tracks[self._next] = _Track(boxes[index], np.zeros(4))
                self._next += 1
        return [found[index] for index in range(len(boxes))]
