"""CelebA in the official layout and from TFDS, and MAFL's lists over it."""

import importlib.util
import io
import os
import shutil
import struct
from pathlib import Path

import numpy as np
import pytest
from ml_collections import ConfigDict

from landmarks_jax.data import cutting, framing, loader, prepared
from landmarks_jax.data.sources import celeba, celeba_tfds, mafl, registry
from landmarks_jax.data.sources.photos import source_digest
from landmarks_jax.system.errors import ConfigError, DataError
from tests import datasets
from tests.running import ROOT, command, finish, narrow

PARTS = (12, 3, 5)
RANGES = {"train": (1, 12), "validation": (13, 15), "test": (16, 20)}
REAL = ROOT / "data" / "celeba"


@pytest.fixture(autouse=True)
def _cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture(scope="module", name="official")
def official_layout(tmp_path_factory) -> Path:
    return datasets.celeba(tmp_path_factory.mktemp("official") / "celeba", PARTS)


def numbers(source) -> list[int]:
    return [int(source.name(i)[-10:-4]) for i in range(len(source))]


@pytest.mark.parametrize(
    ("split", "expected"),
    [
        ("all", range(1, 21)),
        ("train", range(1, 13)),
        ("validation", range(13, 16)),
        ("test", range(16, 21)),
    ],
)
def test_the_official_partition_chooses_photos(split, expected, official):
    source = celeba.CelebaPhotos(str(official), split=split)
    assert numbers(source) == list(expected)
    for i, number in enumerate(expected):
        assert source.points(i).ravel().tolist() == datasets.celeba_points(number)


def test_a_partition_comes_before_what_is_left_out(official, tmp_path):
    listed = datasets.mafl(tmp_path, [1], [2, 3, 17])
    exclude = [str(listed / "testing.txt")]
    assert numbers(celeba.CelebaPhotos(str(official), exclude)) == [1, *range(4, 17), 18, 19, 20]
    assert numbers(celeba.CelebaPhotos(str(official), exclude, "test")) == [16, 18, 19, 20]


def link(official: Path, root: Path) -> Path:
    """The same photos with lists of their own."""
    root.mkdir()
    (root / "img_align_celeba").symlink_to(official / "img_align_celeba")
    for name in (celeba.LANDMARKS, celeba.PARTITION):
        (root / name).write_text((official / name).read_text())
    return root


def test_missing_photos_of_the_list_are_counted(official, tmp_path):
    root = link(official, tmp_path / "more")
    lines = (root / celeba.LANDMARKS).read_text().splitlines()
    more = ["21", *lines[1:], "000021.jpg 1 2 3 4 5 6 7 8 9 10"]
    (root / celeba.LANDMARKS).write_text("\n".join(more))
    summary = celeba.CelebaPhotos(str(root)).summary
    assert summary.startswith(f"20 photos of {root}, 5 points each; 1 photos of ")
    (root / celeba.LANDMARKS).unlink()
    without = celeba.CelebaPhotos(str(root), split="train")
    assert (len(without), without.num_points) == (12, 0)
    assert "no points (list_landmarks_align_celeba.txt is missing)" in without.summary


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        (celeba.PARTITION, "000001.jpg 0\n000002.jpg\n", r"partition.txt:2: must be a photo and 0"),
        (celeba.PARTITION, "000001.jpg 3\n", r"partition.txt:1: must be a photo and 0, 1 or 2"),
        (celeba.PARTITION, "000001.jpg 0\n", r"partition.txt: does not name 19 photos: .*000002"),
        (celeba.LANDMARKS, "2\nh\n1.jpg 1 2 3 4 5 6 7 8 9 0\n", r"lists 1 photos, its first"),
        (celeba.LANDMARKS, "\u00b2\nh\n", r"celeba.txt:1: the first line must be the number"),
        (
            celeba.LANDMARKS,
            "1\nh\n1.jpg 1 2 3 4 5 6 7 8 9 0\n",
            r"no points for 12 photos: ",
        ),
        (
            celeba.LANDMARKS,
            "3\nh\n1.jpg 1 2 3\n",
            r"celeba.txt:3: 3 numbers after",
        ),
        (celeba.LANDMARKS, "name x y\n", r"celeba.txt:1: the first line must be the number"),
        (
            celeba.LANDMARKS,
            "2\nh\n000001.jpg 1 2 3 4 5 6 7 8 9 0\n000001.jpg 1 2 3 4 5 6 7 8 9 0\n",
            r"celeba.txt:4: 000001.jpg is listed a second time",
        ),
    ],
)
def test_mistakes_in_the_lists_are_named(name, text, message, official, tmp_path):
    root = link(official, tmp_path / "wrong")
    (root / name).write_text(text)
    with pytest.raises(DataError, match=message):
        celeba.CelebaPhotos(str(root), split="train")


def test_missing_files_are_named_with_their_origin(official, tmp_path):
    root = link(official, tmp_path / "bare")
    (root / celeba.PARTITION).unlink()
    for action in (
        lambda: celeba.CelebaPhotos(str(root), split="test"),
        lambda: celeba.CelebaPhotos(str(tmp_path / "none")),
    ):
        with pytest.raises(DataError, match=r"no such f.*mmlab.*unpacked as img_align_celeba/0"):
            action()


@pytest.mark.skipif(not REAL.is_dir(), reason=f"no CelebA photos at {REAL}")
def test_the_real_photos_without_mafls_test_photos(monkeypatch):
    monkeypatch.setattr(celeba.photo_files, "inspect", lambda files, _: [fine(f) for f in files])
    listed = ROOT / "data" / "mafl" / "testing.txt"
    source = celeba.CelebaPhotos(str(REAL), [str(listed)])
    assert (len(source), source.num_points) == (5_965, 0)
    assert "34 photos left out by the 1,000 ids" in source.summary
    canvas, _ = cutting.cut_photo(source, framing.Framing(160, 128, "center"), 0)
    assert canvas.shape == (160, 160, 3)
    assert source.photo(0).shape == (218, 178, 3)


def fine(_):
    """A verdict without decoding, which takes a while for thousands of photos."""
    return celeba.photo_files.Verdict("", 1)


# MAFL.


def test_mafl_has_its_lists_photos_in_their_order(official, tmp_path):
    lists = datasets.mafl(tmp_path, [7, 3, 20], [2, 18])
    fit = mafl.MaflFaces(str(official), str(lists), "train")
    score = mafl.MaflFaces(str(official), str(lists), "test")
    assert (numbers(fit), numbers(score)) == ([7, 3, 20], [2, 18])
    assert fit.points(2).ravel().tolist() == datasets.celeba_points(20)
    assert numbers(mafl.MaflFaces(str(official), str(lists))) == [7, 3, 20, 2, 18]
    skip = tmp_path / "skip.txt"
    skip.write_text("000003\n")
    rest = mafl.MaflFaces(str(official), str(lists), "train", exclude=[str(skip)])
    assert numbers(rest) == [7, 20]


def test_three_photos_are_left_out_as_the_released_code_does(official, tmp_path):
    root = tmp_path / "celeba"
    ids = (3, 31524, 179577, 139803)
    for number in ids:
        datasets.save(root / "img_align_celeba" / f"{number:06d}.jpg", (178, 218), number)
    lines = ["4", datasets.COLUMNS, *(f"{n:06d}.jpg {datasets.CELEBA_POINTS[0]}" for n in ids)]
    (root / celeba.LANDMARKS).write_text("\n".join(lines))
    lists = datasets.mafl(tmp_path, ids, ids)
    assert numbers(mafl.MaflFaces(str(root), str(lists), "train")) == list(ids)
    released = mafl.MaflFaces(str(root), str(lists), "train", as_released=True)
    assert numbers(released) == [3]
    assert "without the three" in released.summary


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("000001.jpg\n000021.jpg\n", r"training.txt:2: no such file: .*/000021.jpg"),
        ("000001.jpg 5\n", r"training.txt:1: must be one photo of CelebA such as 000001.jpg"),
        ("1.jpg\n", r"training.txt:1: must be one photo of CelebA"),
        ("000001.jpg\n\n000001.jpg\n", r"training.txt:3: 000001.jpg is listed a second time"),
        ("", r"training.txt: no photo is listed"),
    ],
)
def test_mistakes_in_mafls_lists_are_named(text, message, official, tmp_path):
    (tmp_path / "training.txt").write_text(text)
    with pytest.raises(DataError, match=message):
        mafl.MaflFaces(str(official), str(tmp_path), "train")


def test_mafl_names_what_it_needs(official, tmp_path):
    with pytest.raises(
        DataError, match=r"training.txt: no such file. Needed: MAFL's lists .*TCDCN"
    ):
        mafl.MaflFaces(str(official), str(tmp_path), "train")
    lists = datasets.mafl(tmp_path / "lists", [1], [2])
    with pytest.raises(ConfigError, match=r"data.split = 'validation': must be one of all, "):
        mafl.MaflFaces(str(official), str(lists), "validation")
    root = link(official, tmp_path / "bare")
    (root / celeba.LANDMARKS).unlink()
    with pytest.raises(DataError, match=r"align_celeba.txt: no such file. Needed: CelebA"):
        mafl.MaflFaces(str(root), str(lists), "train")


# TFDS.


def build(official: Path, data_dir: Path) -> Path:
    """`celeb_a` as TFDS's own builder writes it from the official files."""
    import tensorflow_datasets as tfds  # noqa: PLC0415
    from tensorflow_datasets.datasets.celeb_a import (  # noqa: PLC0415
        celeb_a_dataset_builder as builders,
    )

    attributes = data_dir / "attributes.txt"
    data_dir.mkdir()
    photos = sorted((official / "img_align_celeba").iterdir())
    flags = " ".join("-1" for _ in builders.ATTR_HEADINGS)
    lines = [str(len(photos)), " ".join(builders.ATTR_HEADINGS)]
    attributes.write_text("\n".join(lines + [f"{p.name} {flags}" for p in photos]) + "\n")
    identity = data_dir / "identity.txt"
    values = " ".join("7" for _ in builders.IDENTITY_HEADINGS)
    identity.write_text("".join(f"{p.name} {values}\n" for p in photos))

    class Downloaded:
        """What the builder asks of its download manager: the official files."""

        downloaded_size = 0

        def download(self, requested):
            files = {
                "img_align_celeba": official / "img_align_celeba",
                "list_eval_partition": official / celeba.PARTITION,
                "list_attr_celeba": attributes,
                "landmarks_celeba": official / celeba.LANDMARKS,
                "identity_celeba": identity,
            }
            return {name: files[name] for name in requested}

        def iter_archive(self, folder):
            return [
                (f"img_align_celeba/{path.name}", io.BytesIO(path.read_bytes()))
                for path in sorted(folder.iterdir())
            ]

    # As `tfds build celeb_a` does, less the download.
    builder = builders.Builder(data_dir=str(data_dir))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(builder, "_make_download_manager", lambda **_: Downloaded())
        config = tfds.download.DownloadConfig(num_shards=2, try_download_gcs=False)
        builder.download_and_prepare(download_config=config)
    return data_dir


@pytest.fixture(scope="module", name="records")
def tfds_form(official, tmp_path_factory) -> Path:
    """The same photos in TFDS's form."""
    if importlib.util.find_spec("tensorflow_datasets") is None:
        if os.environ.get("CI") == "true":
            pytest.fail("tensorflow-datasets is missing: install the extra `train`")
        pytest.skip("tensorflow-datasets is not installed (extra `train`)")
    return build(official, tmp_path_factory.mktemp("tfds") / "data")


@pytest.fixture(name="small")
def small_ranges(monkeypatch):
    monkeypatch.setattr(celeba_tfds, "RANGES", RANGES)


def shards(records: Path) -> list[Path]:
    return sorted((records / "celeb_a" / "2.1.0").glob("*.tfrecord*"))


@pytest.mark.usefixtures("small")
def test_records_are_the_official_photos_under_their_names(official, records):
    assert len(shards(records)) == 6  # two of each split
    source = celeba_tfds.CelebaRecords(str(records))
    photos = celeba.CelebaPhotos(str(official))
    assert [source.name(i) for i in range(20)] == [photos.name(i) for i in range(20)]
    for i in range(20):
        np.testing.assert_array_equal(source.photo(i), photos.photo(i))
        np.testing.assert_array_equal(source.points(i), photos.points(i))
    assert source.points(0).dtype == np.float32
    # A run from one may go on from the other.
    assert source_digest(source) == source_digest(photos)


@pytest.mark.usefixtures("small")
def test_mafls_test_photos_are_left_out_of_the_records(records, tmp_path):
    lists = datasets.mafl(tmp_path, [1], [2, 9, 14, 20])
    data = {"roots": (str(records),), "exclude": (str(lists / "testing.txt"),), "source": "celeb_a"}
    source = registry.open_source(ConfigDict(dict(data, landmarks="", max_photos=0, split="all")))
    assert numbers(source) == [n for n in range(1, 21) if n not in (2, 9, 14, 20)]
    assert "4 photos left out by the 4 ids" in source.summary
    train = registry.open_source(ConfigDict(dict(data, landmarks="", max_photos=0, split="train")))
    assert numbers(train) == [n for n in range(1, 13) if n not in (2, 9)]


@pytest.mark.usefixtures("small")
def test_records_are_read_without_tensorflow(records):
    code = f"""
import sys
from landmarks_jax.data.sources import celeba_tfds
celeba_tfds.RANGES = {RANGES}
source = celeba_tfds.CelebaRecords({str(records)!r})
print(len(source), source.photo(3).shape, "tensorflow" in sys.modules)
"""
    status, out, err = finish(command(code=code))
    assert status == 0, err
    assert out.strip() == "20 (218, 178, 3) False"


@pytest.mark.usefixtures("small")
def test_records_in_another_order_are_refused(records, monkeypatch):
    from tensorflow_datasets.core import hashing  # noqa: PLC0415

    class Other(hashing.Hasher):
        def __init__(self, salt):
            super().__init__(f"{salt} of another version")

    monkeypatch.setattr(hashing, "Hasher", Other)
    with pytest.raises(DataError, match=r"not in TFDS's order .*photos cannot be told apart"):
        celeba_tfds.CelebaRecords(str(records))


def cut_short(folder: Path) -> None:
    path = shards(folder)[-1]
    os.truncate(path, path.stat().st_size - 1)


def append(folder: Path) -> None:
    with shards(folder)[0].open("ab") as file:
        file.write(b"more")


def long_record(folder: Path) -> None:
    with shards(folder)[0].open("rb+") as file:
        file.write(struct.pack("<Q", 2**40))


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (cut_short, r"validation.tfrecord-00001-of-00002: is truncated; build celeb_a again"),
        (append, r"test.tfrecord-00000-of-00002: has more than its \d records"),
        (long_record, r"test.tfrecord-00000-of-00002: is truncated"),
        (lambda d: shards(d)[0].unlink(), r"tfrecord-00000-of-00002: cannot be read .*No such"),
        (
            lambda d: (d / "celeb_a" / "2.1.0" / "dataset_info.json").write_text("{"),
            r"2.1.0: TFDS cannot read it",
        ),
        (lambda d: shutil.rmtree(d / "celeb_a" / "2.1.0"), r"celeb_a: no version in it. Needed"),
        (lambda d: shutil.rmtree(d / "celeb_a"), r"no such folder. Needed: .*`tfds build celeb_a"),
    ],
)
def test_damaged_records_are_refused(damage, message, records, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(records, copy)
    damage(copy)
    with pytest.raises(DataError, match=message) as error:
        celeba_tfds.CelebaRecords(str(copy))
    assert "\n" not in str(error.value)


def test_records_of_another_number_are_refused(records):
    with pytest.raises(DataError, match=r"12 records of split 'train', CelebA has 162,770"):
        celeba_tfds.CelebaRecords(str(records))


@pytest.mark.usefixtures("small")
def test_batches_and_canvases_are_those_of_the_official_files(official, records, tmp_path):
    """The records, the photos and the prepared form of the records: byte for byte the same."""
    config = narrow(data__crop="box", data__source="celeba", data__roots=(str(official),))
    streamed = loader.open_loader(config).batches(seed=1, batch_size=8)
    config.data.source, config.data.roots = "celeb_a", (str(records),)
    prepared.prepare(
        registry.open_source(config.data), loader.framing_of(config), tmp_path / "prepared"
    )
    read = loader.open_loader(config).batches(seed=1, batch_size=8)
    config.data.source, config.data.roots = "prepared", (str(tmp_path / "prepared"),)
    kept = loader.open_loader(config).batches(seed=1, batch_size=8)
    for _ in range(3):
        for one, two, three in zip(
            *(batch.values() for batch in (next(streamed), next(read), next(kept))), strict=True
        ):
            np.testing.assert_array_equal(one, two)
            np.testing.assert_array_equal(one, three)
