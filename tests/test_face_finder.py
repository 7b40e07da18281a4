"""Faces are found and framed; `landmarks-jax export` fits the frame."""

import time

import numpy as np
import pytest
from PIL import Image

from benchmarks import scenes
from landmarks_jax.inference import api, face_finder, packed_file
from landmarks_jax.inference.face_finder import FaceFrame
from landmarks_jax.system.errors import DataError
from tests import grace, packing
from tests.running import call

pytest.importorskip("cv2", reason="the extra `faces` is not installed")

FRAME = FaceFrame(0.1, -0.2, 1.5)


def test_views_around_boxes():
    """A box of 40 x 10 has the area of a square of 20."""
    views = FRAME.views(np.array([[100.0, 50.0, 140.0, 60.0]]))
    # centre (120, 55) + 20 * (0.1, -0.2), half a side of 15
    np.testing.assert_allclose(views, [[107, 36, 137, 66]])
    assert FRAME.views(np.zeros((0, 4))).shape == (0, 4)


def test_a_frame_is_the_median_over_photos():
    rng = np.random.default_rng(0)
    corner = rng.uniform(0, 100, (11, 2))
    boxes = np.concatenate([corner, corner + rng.uniform(20, 90, (11, 2))], 1)
    views = FRAME.views(boxes)
    views[::4] += 30  # three of eleven lie elsewhere
    np.testing.assert_allclose(FaceFrame.fit(boxes, views), FRAME)


def test_iou():
    box = np.array([0.0, 0.0, 10.0, 10.0])
    assert face_finder.iou(box, box) == 1
    assert face_finder.iou(box, box + np.array([5, 0, 5, 0])) == pytest.approx(50 / 150)
    assert face_finder.iou(box, box + 10) == 0


@pytest.mark.parametrize("side", [50, 200, 600, 3000])
def test_a_face_of_any_size_is_found(side):
    scale = side / 600
    photo = np.asarray(grace.portrait().resize((round(512 * scale), side)))
    found = face_finder.find_faces(photo)
    assert found.boxes.shape == (1, 4)
    assert 0.6 < found.scores[0] <= 1
    left, top, right, bottom = found.boxes[0] / scale
    # The face, without hair and hat: the points lie well inside, the chin is at 330.
    assert 170 < left < 200
    assert 100 < top < 150
    assert 330 < right < 370
    assert 310 < bottom < 350


def test_no_face_is_found_in_textures_and_noise():
    rng = np.random.default_rng(1)
    for image in (
        np.asarray(scenes.texture(rng, (600, 400))),
        rng.integers(0, 256, (300, 300, 3), np.uint8),
        np.full((40, 3, 3), 128, np.uint8),
        np.zeros((1, 1, 3), np.uint8),
    ):
        found = face_finder.find_faces(image)
        assert found.boxes.shape == (0, 4)
        assert found.scores.shape == (0,)


def test_narrow_images():
    """Of less than 64 pixels a side, OpenCV would read memory that nobody has written."""
    rng = np.random.default_rng(2)
    for height, width in [(4, 320), (31, 640), (1, 2000), (320, 31), (65, 32)] * 2:
        image = rng.integers(0, 256, (height, width, 3), np.uint8)
        assert face_finder.find_faces(image).boxes.shape == (0, 4)
    strip = np.full((60, 800, 3), 128, np.uint8)
    strip[:, 500:551] = np.asarray(grace.portrait().resize((51, 60)))
    ((left, top, right, bottom),) = face_finder.find_faces(strip).boxes
    assert 515 < left < right < 540
    assert 5 < top < bottom < 37


def test_all_faces_of_a_group_get_their_points():
    detector = api.load_detector("faces")
    group = grace.group()
    assert len(group.faces) == 5
    landmarks = detector(group.image, detector.find_faces(group.image).boxes)
    assert landmarks.landmarks.shape == (5, 10, 2)
    found = face_finder.find_faces(group.image).points
    for points in group.points:
        distances = np.linalg.norm(found - points, axis=-1).mean(1)
        assert distances.min() < 0.15 * np.linalg.norm(points[0] - points[1])
        distances = np.linalg.norm(landmarks.labelled - points, axis=-1).mean(1)
        eyes = np.linalg.norm(points[0] - points[1])
        # By hand a point is good to about 5 %; the map is of other photos.
        assert distances.min() < 0.15 * eyes
        assert np.sort(distances)[1] > eyes  # the other faces are elsewhere


def test_no_faces_no_landmarks(packed):
    detector = api.LandmarkDetector(packing.of_faces(packed))
    image = np.full((50, 60, 3), 128, np.uint8)
    landmarks = detector(image, detector.find_faces(image).boxes)
    assert landmarks.landmarks.shape == (0, 3, 2)
    assert landmarks.labelled.shape == (0, 2, 2)


def test_several_parts_of_a_single_image(packed):
    detector = api.LandmarkDetector(packed)
    image = packing.scene(60, 80)
    boxes = np.array([[0, 0, 40, 40], [10, 5, 70, 55]])
    both = detector(image, boxes)
    for index, box in enumerate(boxes):
        np.testing.assert_allclose(both.landmarks[index], detector(image, box).landmarks, atol=1e-4)


def test_detectors_of_other_things_and_batches_are_refused(packed):
    detector = api.LandmarkDetector(packed)
    with pytest.raises(DataError, match="does not say how its views lie around faces"):
        detector.find_faces(packing.scene(20, 20))
    of_faces = api.LandmarkDetector(packing.of_faces(packed))
    with pytest.raises(DataError, match="takes a single image; call it for each"):
        of_faces.find_faces([packing.scene(20, 20)] * 2)


def test_export_learns_what_to_view_from_photos(packed_path, tmp_path):
    """The photos are squares whose centre and side are known in units of the found face."""
    face = np.asarray(grace.portrait())
    boxes = face_finder.find_faces(face).boxes
    photos = tmp_path / "photos"
    photos.mkdir()
    rng = np.random.default_rng(0)
    for i in range(10):
        jitter = FaceFrame(*(np.array([0.05, 0.1, 1.6]) + rng.uniform(-0.02, 0.02, 3)))
        view = jitter.views(boxes)[0].round().astype(int).tolist()
        grace.portrait().crop(view).save(photos / f"{i:02d}.png")
    Image.fromarray(packing.scene(40, 40)).save(photos / "nobody.png")
    Image.fromarray(np.concatenate([face, face], 1)).save(photos / "two.png")
    out = tmp_path / "new.safetensors"
    arguments = ("export", f"--detector={packed_path}", f"--out={out}")
    code, _, err = call(*arguments, f"--face_photos={photos}")
    assert code == 0, err
    stored = packed_file.read(out).summary["face_frame"]
    assert stored["photos"] == 10
    np.testing.assert_allclose(FaceFrame.of({"face_frame": stored}), (0.05, 0.1, 1.6), atol=0.03)
    for i in range(1, 10):
        (photos / f"{i:02d}.png").unlink()
    code, _, err = call(*arguments, f"--face_photos={photos}")
    assert code == 2
    assert "--face_photos: one face is found in 1 of the 3 photos, 10 are needed" in err


def test_finding_faces_of_a_group_is_fast():
    start = time.perf_counter()
    face_finder.find_faces(grace.group().image)
    assert time.perf_counter() - start < 3
