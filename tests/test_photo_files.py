"""Scanning folders: what is used, left out and cached."""

import logging

import pytest
from PIL import Image

from landmarks_jax.data import decoding, lists, photo_files
from landmarks_jax.data.sources import folder, photos, registry
from landmarks_jax.system.errors import ConfigError, DataError
from tests.detecting import make_odd


@pytest.fixture(autouse=True)
def _cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))


def save(path, size=(12, 10), color=(200, 100, 50), **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, color).save(path, **options)
    return path


def make_folder(root):
    save(root / "b.jpg")
    save(root / "sub" / "a.PNG")
    save(root / ".hidden.jpg")
    save(root / ".thumbs" / "c.jpg")
    (root / "notes.txt").write_text("hello")
    (root / ".DS_Store").write_bytes(b"0")
    (root / "corrupt.jpg").write_bytes(b"not an image")
    (root / "gone.jpg").symlink_to(root / "nowhere.jpg")
    return root


def names(source):
    return [source.name(i) for i in range(len(source))]


def test_a_folder_uses_what_can_be_read_and_lists_what_is_left_out(tmp_path):
    source = folder.FolderPhotos([str(make_folder(tmp_path / "pets"))])
    assert names(source) == ["pets/b.jpg", "pets/sub/a.PNG"]
    assert source.num_points == 0
    assert source.points(1).shape == (0, 2)
    assert source.photo(1)[0, 0].tolist() == [200, 100, 50]
    assert "2 photos of" in source.summary
    assert "2 unreadable images left out" in source.summary
    assert "corrupt.jpg (cannot be read as an image (cannot identify" in source.summary
    assert "1 files that are not images left out: notes.txt" in source.summary


def test_folders_take_what_files_take(tmp_path):
    names = ["a.apng", "b.avif", "c.jp2", "d.mpo", "e.pgm", "f.tiff", "g.webp"]
    for name in names:
        save(tmp_path / "p" / name)
    found, note = photo_files.usable_files([str(tmp_path / "p")])
    assert [file.name for file in found] == [f"p/{name}" for name in names]
    assert note == ""
    assert Image.registered_extensions().keys() >= photo_files.IMAGES


def test_each_file_is_decoded_once_until_it_changes(tmp_path, monkeypatch):
    root = str(make_folder(tmp_path / "pets"))
    decoded = []
    real = decoding.decode
    monkeypatch.setattr(decoding, "decode", lambda path: decoded.append(path) or real(path))
    first, _ = photo_files.usable_files([root])
    assert len(decoded) == 4
    assert photo_files.usable_files([root])[0] == first
    assert len(decoded) == 6  # the two that could not be read are looked at again
    save(tmp_path / "pets" / "corrupt.jpg")
    assert len(photo_files.usable_files([root])[0]) == 3
    assert len(decoded) == 8


def test_a_damaged_or_unwritable_cache_does_no_harm(tmp_path, monkeypatch, caplog):
    root = str(make_folder(tmp_path / "pets"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    expected = photo_files.usable_files([root])
    (kept,) = (tmp_path / "cache" / "landmarks_jax").iterdir()
    content = kept.read_text()
    for damaged in (content[:20], content.replace("[12, 10]", "[12, 11]")):
        assert damaged != content
        kept.write_text(damaged)
        assert photo_files.usable_files([root]) == expected
        assert kept.read_text() == content
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with caplog.at_level(logging.WARNING):
        assert photo_files.usable_files([root]) == expected


def test_what_is_no_regular_file_is_listed_and_left_out(tmp_path):
    root = make_folder(tmp_path / "pets")
    (root / "gone.jpg").unlink()
    expected = make_odd(root)
    found, note = photo_files.usable_files([str(root)])
    assert [file.name for file in found] == ["pets/b.jpg", "pets/sub/a.PNG"]
    assert f"{len(expected) + 1} unreadable images left out" in note  # and corrupt.jpg
    listed, _ = photo_files.list_images(str(root))
    verdicts = photo_files.inspect(listed, str(root))
    problems = {file.name: verdict.problem for file, verdict in zip(listed, verdicts, strict=True)}
    for name, problem in expected.items():
        assert problem in problems[f"pets/{name}"]
    # Named in a list it is an error; so is a list that is none.
    table = tmp_path / "points.csv"
    table.write_text("file,x1,y1\npets/pipe.jpg,1,2\n")
    with pytest.raises(DataError, match=r"points\.csv:2: a named pipe, not a regular file: .*pipe"):
        folder.FolderPhotos((), landmarks=str(table))
    with pytest.raises(DataError, match=r"pipe\.jpg: the list cannot be read \(a named pipe"):
        folder.FolderPhotos([str(root)], [str(root / "pipe.jpg")])
    with pytest.raises(DataError, match=r"pipe\.jpg: no list of annotated photos \(a named pipe"):
        registry.open_labelled(str(root / "pipe.jpg"))
    with pytest.raises(DataError, match=r"pipe\.jpg: a named pipe, not a regular file\. Needed: x"):
        photos.need_file(str(root / "pipe.jpg"), "x")


def test_a_photo_that_changes_or_vanishes_is_named(tmp_path):
    for name in "abc":
        save(tmp_path / "p" / f"{name}.png")
    source = folder.FolderPhotos([str(tmp_path / "p")])
    save(tmp_path / "p" / "a.png", size=(13, 10))
    (tmp_path / "p" / "b.png").unlink()
    with pytest.raises(DataError, match=r"a\.png: has changed since this program started$"):
        source.photo(0)
    with pytest.raises(DataError, match=r"b\.png: cannot be read as an image \(no such file\)$"):
        source.photo(1)
    assert source.photo(2).shape == (10, 12, 3)


def test_folders_keep_their_names_whatever_links_lead_to_them(tmp_path):
    save(tmp_path / "p" / "real" / "a.png")
    (tmp_path / "p" / "also").symlink_to("real")
    (tmp_path / "p" / "real" / "up").symlink_to("..")
    assert [photo.name for photo in photo_files.list_images(str(tmp_path / "p"))[0]] == [
        "p/real/a.png"
    ]


def test_files_of_overlapping_roots_and_links_are_used_once(tmp_path):
    root = make_folder(tmp_path / "pets")
    (root / "loop").symlink_to(root)
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "again.jpg").symlink_to(root / "b.jpg")
    save(tmp_path / "more" / "new.jpg")
    roots = [str(root), str(root / "sub"), str(tmp_path / "more")]
    actual, note = photo_files.usable_files(roots)
    assert [file.name for file in actual] == ["pets/b.jpg", "pets/sub/a.PNG", "more/new.jpg"]
    assert "2 files found twice" in note


@pytest.mark.parametrize("kind", ["missing", "empty", "corrupt"])
def test_a_folder_of_nothing_is_an_error(kind, tmp_path):
    root = tmp_path / "photos"
    if kind != "missing":
        root.mkdir()
    if kind == "corrupt":
        (root / "a.jpg").write_bytes(b"x")
    with pytest.raises(DataError, match=r"photos: no (such file or folder|usable image)") as error:
        folder.FolderPhotos([str(root)])
    assert "\n" not in str(error.value)
    with pytest.raises(ConfigError, match=r"config.data.roots = \(\)"):
        folder.FolderPhotos([])


def test_lists_leave_photos_out_by_name_or_stem(tmp_path):
    for i in range(5):
        save(tmp_path / "p" / f"{i:06d}.png")
    ids = tmp_path / "test.txt"
    ids.write_text("000001.jpg\n\n000003\nfolder/000004.png\n999999.jpg\n")
    source = folder.FolderPhotos([str(tmp_path / "p")], [str(ids)])
    assert names(source) == ["p/000000.png", "p/000002.png"]
    assert "3 photos left out by the 4 ids of" in source.summary
    with pytest.raises(DataError, match=r"none.txt: the list cannot be read"):
        folder.FolderPhotos([str(tmp_path / "p")], [str(tmp_path / "none.txt")])
    ids.write_text("\n".join(f"{i:06d}" for i in range(5)))
    with pytest.raises(DataError, match="nothing is left of the 5 photos"):
        folder.FolderPhotos([str(tmp_path / "p")], [str(ids)])


@pytest.mark.parametrize(
    ("name", "expected"),
    [("000001.jpg", "000001"), ("a/b\\c.PNG", "c"), ("v1.5", "v1.5"), ("x.tar.png", "x.tar")],
)
def test_photo_id(name, expected):
    assert lists.photo_id(name) == expected
