"""Tracks faces in videos: the same person keeps the same id from frame to frame."""

import dataclasses

import numpy as np

from landmarks_jax.inference.face_finder import iou

_MIN_IOU = 0.1  # of a face and the box that its track predicts
_MAX_MISSED = 30  # frames without the face, after which its track ends
_NEWEST = 0.3  # weight of the newest step in a track's velocity


@dataclasses.dataclass
class _Track:
    """A face's last box `[4]`, its velocity `[4]` in pixels a frame, and frames without it."""

    box: np.ndarray
    velocity: np.ndarray
    missed: int = 0

    def predict(self) -> np.ndarray:
        return self.box + (self.missed + 1) * self.velocity

    def update(self, box: np.ndarray, *, alone: bool) -> None:
        if alone:  # else part of the face may be hidden, or the box be of somebody who crosses
            step = (box[:2] + box[2:] - self.box[:2] - self.box[2:]) / 2 / (self.missed + 1)
            self.velocity = (1 - _NEWEST) * self.velocity + _NEWEST * np.tile(step, 2)
        self.box, self.missed = box, 0


class FaceTracker:
    """Assigns faces to tracks, largest IoU with a predicted box first (constant velocity)."""

    def __init__(self) -> None:
        self._tracks: dict[int, _Track] = {}
        self._next = 0

    @property
    def ids(self) -> set[int]:
        """The ids of tracks that may still go on."""
        return set(self._tracks)

    def update(self, boxes: np.ndarray) -> list[int]:
        """The ids, from 0, of a frame's faces with the boxes `[n, 4]`; frames come in order."""
        predicted = {i: track.predict() for i, track in self._tracks.items()}
        pairs = [
            (iou(box, other), index, i)
            for index, box in enumerate(boxes)
            for i, other in predicted.items()
        ]
        assigned: dict[int, int] = {}  # by the face's index
        for shared, index, i in sorted(pairs, reverse=True):
            if shared >= _MIN_IOU and index not in assigned and i not in assigned.values():
                assigned[index] = i
                alone = sum(other > 0 for other, face, _ in pairs if face == index) == 1
                self._tracks[i].update(boxes[index], alone=alone)
        for i in predicted.keys() - set(assigned.values()):
            self._tracks[i].missed += 1
            if self._tracks[i].missed > _MAX_MISSED:
                del self._tracks[i]
        for index in range(len(boxes)):
            if index not in assigned:
                assigned[index] = self._next
                self._tracks[self._next] = _Track(boxes[index], np.zeros(4))
                self._next += 1
        return [assigned[index] for index in range(len(boxes))]
