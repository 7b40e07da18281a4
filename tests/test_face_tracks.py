"""Faces keep their ids from frame to frame."""

import numpy as np
import pytest

from landmarks_jax.inference import face_finder
from landmarks_jax.inference.media.face_tracks import FaceTracker


@pytest.mark.parametrize("front", [0, 1])
@pytest.mark.parametrize("apart", [0, 15, 30])
def test_tracks_that_cross(front, apart):
    """Where boxes overlap much, only that in front is found, as by the finder."""
    tracker = FaceTracker()
    rng = np.random.default_rng(0)
    size, seen = np.array([0, 0, 60, 60]), []
    for frame in range(200):
        places = [(2.0 * frame, 0.0), (400.0 - 2 * frame, apart)]
        boxes = [np.array((*place, *place)) + size + rng.normal(0, 1, 4) for place in places]
        kept = [0, 1]
        if face_finder.iou(*boxes) > 0.3:
            kept = [front]
        ids = tracker.update(np.array([boxes[i] for i in kept]))
        seen += [(i, track) for i, track in zip(kept, ids, strict=True) if len(kept) == 2]
    assert set(seen) == {(0, 0), (1, 1)}


def test_tracks():
    tracker = FaceTracker()
    box = np.array([0.0, 0.0, 20.0, 20.0])
    assert tracker.update(np.stack([box, box + 100])) == [0, 1]
    assert tracker.update(np.stack([box + 101, box + 2])) == [1, 0]
    assert tracker.update(np.zeros((0, 4))) == []
    assert tracker.update((box + 104)[None]) == [1]
    assert tracker.update(np.stack([box + 50, box + 4])) == [2, 0]
    for _ in range(40):
        tracker.update(np.zeros((0, 4)))
    assert tracker.ids == set()
    assert tracker.update(box[None]) == [3]
