"""MPII Human Pose: its .mat structure, written by SciPy as MATLAB wrote the official one."""

import os
from pathlib import Path

import numpy as np
import pytest

from landmarks_jax.data import framing, mpii, sources
from landmarks_jax.errors import DataError
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
    assert (len(source), source.num_points) == (3, 16)
    assert [source.name(i)[-10:] for i in range(3)] == ["000001.jpg", "000001.jpg", "000004.jpg"]
    assert "3 people of" in source.summary
    assert "1 without joints, head, centre or scale left out" in source.summary
    expected = np.array([[10 * j + 1, 5 * j + 1] for j in range(16)]) - 1  # pixels count from 1
    np.testing.assert_array_equal(source.points(0), expected)
    few = source.points(1)
    assert np.flatnonzero(np.isfinite(few[:, 0])).tolist() == [0, 3, 9]
    np.testing.assert_array_equal(few[3], [34, 19])
    person = source.people[1]
    # Even joints are marked as hidden; neck (8) and head (9) have no mark.
    assert np.flatnonzero(person.visible).tolist() == [3, 9]
    assert np.flatnonzero(source.people[0].visible).tolist() == [1, 3, 5, 7, 8, 9, 11, 13, 15]
    assert [p.apart for p in source.people] == [False, True, False]
    np.testing.assert_array_equal(person.center, [59, 79])
    assert person.scale == 1.5
    assert person.head_size == pytest.approx(0.6 * 50)  # a box of 30 x 40
    assert source.photo(0).shape == (160, 200, 3)


def test_one_image_with_one_person_and_one_joint(tmp_path):
    # MATLAB's arrays of one element have no length of their own.
    image = {"name": "1.jpg", "people": [mpii_person(0, (6,))], "apart": [1]}
    source = mpii.MpiiPeople(str(datasets.mpii(tmp_path, [image])))
    assert len(source) == 1
    assert source.people[0].apart
    np.testing.assert_array_equal(source.points(0)[6], [59, 29])
    canvas, points = sources.cut_photo(source, framing.Framing(16, 16, "tight"), 0)
    assert canvas.shape == (16, 16, 3)
    np.testing.assert_allclose(points[6], [2 * 59.5 / 200 - 1, 2 * 29.5 / 160 - 1], rtol=1e-6)


def test_photos_to_leave_out_need_not_be_there(tmp_path):
    root = datasets.mpii(tmp_path, IMAGES)
    (root / "images" / "000001.jpg").unlink()
    with pytest.raises(
        DataError, match=r"annolist\(1\).annorect\(1\): no such photo .*images/000001.jpg"
    ):
        mpii.MpiiPeople(str(root))
    (tmp_path / "skip.txt").write_text("000001.jpg\n")
    assert len(mpii.MpiiPeople(str(root), [str(tmp_path / "skip.txt")])) == 1


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
        (joint(y="left"), {}, r"annorect\(1\): joint 3: left is not a number"),
        (one(scale="tall"), {}, r"annorect\(1\): tall is not a number"),
        (one(scale=np.zeros((0, 0))), {}, r"no training image has a person with joints"),
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
            r"000004.jpg: cannot be read as a picture",
        ),
    ],
)
def test_missing_and_damaged_files_are_named(action, message, tmp_path):
    action(datasets.mpii(tmp_path, IMAGES))
    with pytest.raises(DataError, match=message) as error:
        mpii.MpiiPeople(str(tmp_path))
    assert "\n" not in str(error.value)
