"""MPII Human Pose: its .mat structure, written by SciPy as MATLAB wrote the official one."""

import hashlib
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from landmarks_jax.data import cutting, framing, prepared
from landmarks_jax.data.sources import mpii
from landmarks_jax.system.errors import ConfigError, DataError
from tests import datasets
from tests.datasets import mpii_person


@pytest.fixture(autouse=True)
def _cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))


IMAGES = (
    {"name": "000001.jpg", "people": [mpii_person(1), mpii_person(5, (0, 3, 9))], "apart": [2]},
    {"name": "000002.jpg", "people": [mpii_person(2)], "train": 0},
    {"name": "000003.jpg", "people": []},
    {"name": "000004.jpg", "people": [{"x1": 1, "y1": 1, "x2": 9, "y2": 9}, mpii_person(7)]},
)


def test_people_of_training_images_with_their_joints(tmp_path):
    source = mpii.MpiiPeople(str(datasets.mpii(tmp_path, IMAGES)))
    assert (len(source), source.num_points) == (3, 18)
    assert [source.name(i)[-10:] for i in range(3)] == ["000001.jpg", "000001.jpg", "000004.jpg"]
    assert "3 people of" in source.summary
    assert "1 without joints, head, centre or scale left out" in source.summary
    expected = np.array([[10 * j + 1, 5 * j + 1] for j in range(16)]) - 1  # pixels count from 1
    np.testing.assert_array_equal(source.people[0].joints, expected)
    few = source.people[1].joints
    assert np.flatnonzero(np.isfinite(few[:, 0])).tolist() == [0, 3, 9]
    np.testing.assert_array_equal(few[3], [34, 19])
    person = source.people[1]
    assert [p.apart for p in source.people] == [False, True, False]
    np.testing.assert_array_equal(person.center, [59, 79])
    assert person.scale == 1.5
    np.testing.assert_array_equal(person.head, [[19, 29], [49, 69]])


def test_the_photo_is_the_square_around_the_person(tmp_path):
    source = mpii.MpiiPeople(str(datasets.mpii(tmp_path, IMAGES)))
    # Scale 1.5: 562 pixels a side, about (59.5, 79.5 + 22.5) in edges.
    left, top, side = source.people[0].square
    assert side == 562
    assert abs(left + side / 2 - 59.5) <= 0.5
    assert abs(top + side / 2 - 102) <= 0.5
    photo = source.photo(0)
    assert photo.shape == (562, 562, 3)
    whole = np.asarray(Image.open(tmp_path / "images" / "000001.jpg"))
    np.testing.assert_array_equal(photo[-top : 160 - top, -left : 200 - left], whole)
    np.testing.assert_array_equal(photo[0, 0], whole[0, 0])  # the replicated border
    np.testing.assert_array_equal(photo[-1, -left + 7], whole[-1, 7])
    points = source.points(0)
    np.testing.assert_array_equal(points[:16], source.people[0].joints - [left, top])
    np.testing.assert_array_equal(points[16:], source.people[0].head - [left, top])
    assert points.dtype == np.float32


def test_prepared_people_keep_what_is_not_annotated(tmp_path):
    source = mpii.MpiiPeople(str(datasets.mpii(tmp_path, IMAGES)))
    frame = framing.Framing(24, 16, "center")
    prepared.prepare(source, frame, tmp_path / "prepared")
    read = prepared.PreparedCanvases(tmp_path / "prepared")
    assert read.num_points == mpii.NUM_POINTS
    for i in range(3):
        canvas, points = cutting.cut_photo(source, frame, i)
        np.testing.assert_array_equal(read.canvases[i], canvas)
        np.testing.assert_array_equal(read.points[i], points)
    assert np.isnan(read.points[1, 1]).all()


def videos(count=40):
    """A person in each of so many videos, the last two images of none."""
    images = [
        {"name": f"{i}.jpg", "people": [mpii_person(0)], "video": i} for i in range(1, count + 1)
    ]
    for image in images[-2:]:
        image["video"] = np.zeros((0, 0))
    return images


def test_a_split_is_held_out_by_video(tmp_path):
    images = videos()
    images.append({"name": "again.jpg", "people": [mpii_person(2)], "video": 18})
    root = str(datasets.mpii(tmp_path, images))
    splits = {
        split: {p.image for p in mpii.MpiiPeople(root, split).people}
        for split in ("all", "train", "validation")
    }
    assert splits["validation"] == {
        image["name"]
        for image in images
        for key in [image["name"] if np.size(image["video"]) == 0 else image["video"]]
        if int(hashlib.sha256(str(key).encode()).hexdigest(), 16) % 10 == 0
    }
    assert {"18.jpg", "again.jpg"} <= splits["validation"]
    assert splits["train"] == splits["all"] - splits["validation"]
    assert len(splits["all"]) == 41
    with pytest.raises(
        ConfigError, match=r"config\.data\.split = 'test': .* all, train, validation"
    ):
        mpii.MpiiPeople(root, "test")
    few = str(datasets.mpii(tmp_path / "few", IMAGES))
    with pytest.raises(DataError, match=r"none of the 3 people is in split 'validation'"):
        mpii.MpiiPeople(few, "validation")


def test_people_without_a_head_or_of_no_size_are_left_out(tmp_path):
    people = [mpii_person(0), mpii_person(0, x2=20, y2=30), mpii_person(0, scale=0)]
    root = datasets.mpii(tmp_path, [{"name": "1.jpg", "people": people}])
    source = mpii.MpiiPeople(str(root))
    assert len(source) == 1
    assert "2 without joints, head, centre or scale left out" in source.summary


def test_one_image_with_one_person_and_one_joint(tmp_path):
    # MATLAB's arrays of one element have no length of their own.
    image = {"name": "1.jpg", "people": [mpii_person(0, (6,))], "apart": [1]}
    source = mpii.MpiiPeople(str(datasets.mpii(tmp_path, [image])))
    assert len(source) == 1
    assert source.people[0].apart
    np.testing.assert_array_equal(source.people[0].joints[6], [59, 29])
    canvas, points = cutting.cut_photo(source, framing.Framing(24, 16, "center"), 0)
    assert canvas.shape == (24, 24, 3)
    left, top, side = source.people[0].square
    expected = [2 * (59.5 - left) / side - 1, 2 * (29.5 - top) / side - 1]
    np.testing.assert_allclose(points[6], expected, rtol=1e-5)


def test_photos_to_leave_out_need_not_be_there(tmp_path):
    root = datasets.mpii(tmp_path, IMAGES)
    (root / "images" / "000001.jpg").unlink()
    with pytest.raises(
        DataError, match=r"annolist\(1\).annorect\(1\): no such file: .*images/000001.jpg"
    ):
        mpii.MpiiPeople(str(root))
    (tmp_path / "skip.txt").write_text("000001.jpg\n")
    assert len(mpii.MpiiPeople(str(root), exclude=[str(tmp_path / "skip.txt")])) == 1


def one(**changes):
    return [{"name": "1.jpg", "people": [mpii_person(0, **changes)]}]


def joint(**changes):
    point = {"x": 1.0, "y": 2.0, "id": 3, "is_visible": 1} | changes
    return one(annopoints={"point": datasets.structs([point, {"x": 5, "y": 5, "id": 4}])})


@pytest.mark.parametrize(
    ("images", "fields", "message"),
    [
        (joint(id=16), {}, r"annolist\(1\).annorect\(1\): joint 16, must be from 0 to 15"),
        (joint(id=4), {}, r"annolist\(1\).annorect\(1\): joint 4 is annotated twice"),
        (joint(id=0.5), {}, r"joint 0.5, must be from 0 to 15"),
        (joint(x=np.nan), {}, r"annorect\(1\): joint 3: nan is not a number"),
        (
            joint(x=1e30),
            {},
            r"annolist\(1\).annorect\(1\): point 4 at \(1e\+30, 1\) is far outside",
        ),
        (joint(y="left"), {}, r"annorect\(1\): joint 3: left is not a number"),
        (one(scale="tall"), {}, r"annorect\(1\): tall is not a number"),
        (one(scale=1e9), {}, r"annorect\(1\): scale 1e\+09, must be at most 50"),
        (one(), {"img_train": np.array([[np.nan]])}, r"img_train\(1\): nan is not a number"),
        (one(scale=np.zeros((0, 0))), {}, r"no training image has a person with joints"),
        ([{"name": "1.jpg", "people": [mpii_person(0)], "video": "x"}], {}, r"vididx: x is not"),
        (one(), {"img_train": None}, r"RELEASE has no field 'img_train'"),
        (one(), {"single_person": None}, r"RELEASE has no field 'single_person'"),
        (one(), {"img_train": np.ones((1, 2))}, r"1 of annolist, 2 of img_train, 1 of single_per"),
        ([{"name": "../1.jpg", "people": [mpii_person(0)]}], {}, r"its image has no file name"),
    ],
)
def test_another_structure_is_named(images, fields, message, tmp_path):
    with pytest.raises(DataError, match=message):
        mpii.MpiiPeople(str(datasets.mpii(tmp_path, images, **fields)))


def damage(path: Path, size: int) -> None:
    os.truncate(path / mpii.ANNOTATIONS, size)


@pytest.mark.parametrize(
    ("action", "message"),
    [
        (lambda r: damage(r, 0), r"u12_1.mat: cannot be read as a MATLAB file"),
        (lambda r: damage(r, 900), r"u12_1.mat: cannot be read as a MATLAB file"),
        (lambda r: (r / mpii.ANNOTATIONS).unlink(), r"u12_1.mat: no such file. Needed: MPII .*zip"),
        (lambda r: (r / "images").rename(r / "photos"), r"images: no such folder. Needed: MPII"),
        (
            lambda r: (r / "images" / "000004.jpg").write_bytes(b"bad"),
            r"000004.jpg: cannot be read as an image",
        ),
    ],
)
def test_missing_and_damaged_files_are_named(action, message, tmp_path):
    action(datasets.mpii(tmp_path, IMAGES))
    with pytest.raises(DataError, match=message) as error:
        mpii.MpiiPeople(str(tmp_path))
    assert "\n" not in str(error.value)
