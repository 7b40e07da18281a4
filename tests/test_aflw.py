"""AFLW in the layout of aflw_release-2, its .mat files written by SciPy."""

import os
from pathlib import Path

import numpy as np
import pytest
from scipy import io

from landmarks_jax.data.sources import aflw
from landmarks_jax.system.errors import DataError
from tests import datasets


@pytest.fixture(autouse=True)
def _cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture(name="root")
def release(tmp_path) -> Path:
    return datasets.aflw(tmp_path / "aflw_release-2")


def test_rows_and_columns_become_x_and_y(root):
    train, test = aflw.AflwFaces(str(root), "train"), aflw.AflwFaces(str(root), "test")
    assert (len(train), len(test), train.num_points) == (6, 4, 5)
    assert train.name(3) == "train/1/image00003_103.jpg"
    content = io.loadmat(root / "aflw_train_keypoints.mat")
    for i in range(6):
        rows, columns = content["gt"][i].T
        np.testing.assert_allclose(train.points(i)[:, 0], columns, rtol=1e-6)
        np.testing.assert_allclose(train.points(i)[:, 1], rows, rtol=1e-6)
        height, width = content["hw"][i]
        assert train.photo(i).shape == (height, width, 3)
        # The first two points are the eyes: above the mouth, left and right.
        x, y = train.points(i).T
        assert x[0] < x[2] < x[1]
        assert max(y[:2]) < y[2] < min(y[3:])
    both = aflw.AflwFaces(str(root))
    assert [both.name(i) for i in (0, 6)] == [train.name(0), test.name(0)]
    assert "scaled" not in train.summary


def test_points_follow_photos_stored_in_another_size(root):
    before = aflw.AflwFaces(str(root), "train").points(1)
    path = root / "output" / "train" / "1" / "image00001_101.jpg"
    datasets.save(path, (118, 82))  # twice 59 x 41
    source = aflw.AflwFaces(str(root), "train")
    np.testing.assert_allclose((source.points(1) + 0.5) / 2 - 0.5, before, rtol=1e-5)
    assert "1 photos of other sizes than annotated, points scaled" in source.summary


def test_one_face_and_photos_to_leave_out(tmp_path):
    root = datasets.aflw(tmp_path / "one", train=1, test=2)
    assert len(aflw.AflwFaces(str(root), "train")) == 1
    (tmp_path / "skip.txt").write_text("image00000_100.jpg\n")
    assert len(aflw.AflwFaces(str(root), "test", [str(tmp_path / "skip.txt")])) == 1


def mat(root: Path, **content) -> None:
    known = io.loadmat(root / "aflw_train_keypoints.mat")
    content = {name: known[name] for name in ("gt", "hw")} | content
    io.savemat(
        root / "aflw_train_keypoints.mat",
        {name: value for name, value in content.items() if value is not None},
    )


def write(root: Path, data: bytes) -> None:
    (root / "aflw_train_keypoints.mat").write_bytes(data)


def points(value: float = np.nan) -> np.ndarray:
    gt = np.ones((6, 5, 2))
    gt[4, 2, 1] = value
    return gt


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda r: write(r, b"no matlab file"), r"keypoints.mat: cannot be read as a MATLAB file"),
        (lambda r: write(r, b""), r"keypoints.mat: cannot be read as a MATLAB file"),
        (
            lambda r: os.truncate(r / "aflw_train_keypoints.mat", 200),
            r"keypoints.mat: cannot be read as a MATLAB file",
        ),
        (lambda r: mat(r, gt=None), r"keypoints.mat: has no variable 'gt'"),
        (lambda r: mat(r, hw="size"), r"keypoints.mat: hw: is not numeric"),
        (lambda r: mat(r, gt=np.ones((6, 21, 3))), r"gt: is 6 x 21 x 3, must be N x 5 x 2"),
        (lambda r: mat(r, gt=points()), r"gt: row 5 has a number that is not finite"),
        (lambda r: mat(r, gt=points(1e30)), r"gt, row 5: point 3 at \(1e\+30, 1\) is far outside"),
        (lambda r: mat(r, gt=np.ones((5, 5, 2))), r"gt has 5 faces, .*images.txt lists 6"),
        (lambda r: mat(r, hw=np.ones((7, 2))), r"hw has 7 faces, .*images.txt lists 6"),
        (
            lambda r: mat(r, hw=np.zeros((6, 2))),
            r"hw, row 1 \(.*aflw_train_images.txt:1\): not the size",
        ),
        (
            lambda r: (r / "output/train/1/image00003_103.jpg").unlink(),
            r"aflw_train_images.txt:4: no such file: .*image00003_103.jpg",
        ),
        (lambda r: (r / "aflw_train_images.txt").write_text("\n"), r"images.txt: no photo is list"),
        (
            lambda r: (r / "aflw_train_images.txt").unlink(),
            r"images.txt: no such file. Needed: .*aflw_release-2.zip.* under output/",
        ),
        (lambda r: (r / "aflw_train_keypoints.mat").unlink(), r"keypoints.mat: no such file. Need"),
        (lambda r: (r / "output").rename(r / "photos"), r"output: no such folder. Needed: "),
        (
            lambda r: (r / "output/train/1/image00003_103.jpg").write_bytes(b"damaged"),
            r"image00003_103.jpg: cannot be read .* in the list of annotated photos",
        ),
    ],
)
def test_mistakes_are_named(damage, message, root):
    damage(root)
    with pytest.raises(DataError, match=message) as error:
        aflw.AflwFaces(str(root), "train")
    assert "\n" not in str(error.value)


def test_a_file_of_matlab_7_3_is_named(root):
    # Such files are HDF5 behind a MATLAB head of 512 bytes.
    head = b"MATLAB 7.3 MAT-file".ljust(124) + b"\x00\x02IM"
    write(root, head.ljust(512, b"\0") + b"\x89HDF\r\n\x1a\n")
    with pytest.raises(DataError, match=r"keypoints.mat: cannot be read .*HDF"):
        aflw.AflwFaces(str(root), "train")
