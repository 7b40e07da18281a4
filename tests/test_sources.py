"""Annotated lists, CelebA and the choice of a source, on images made here."""

import os

import numpy as np
import pytest
from ml_collections import ConfigDict
from PIL import Image

from landmarks_jax import config as configuration
from landmarks_jax.configs import base
from landmarks_jax.data import cutting, framing
from landmarks_jax.data.sources import celeba, folder, registry, synthetic
from landmarks_jax.data.sources.photos import source_digest
from landmarks_jax.system.errors import ConfigError, DataError
from tests import datasets


@pytest.fixture(autouse=True)
def _cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))


def save(path, size=(12, 10), color=(200, 100, 50), **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, color).save(path, **options)
    return path


def names(source):
    return [source.name(i) for i in range(len(source))]


def test_a_landmarks_table_gives_its_photos_in_its_order(tmp_path):
    for name in ("a.jpg", "sub/b.jpg", "c.jpg"):
        save(tmp_path / name)
    table = tmp_path / "points.csv"
    table.write_text("file,x1,y1,x2,y2\nsub/b.jpg,1,2,3.5,4\na.jpg,5,6,7,8\n")
    source = registry.open_labelled(str(table))
    assert names(source) == ["sub/b.jpg", "a.jpg"]
    assert source.num_points == 2
    assert source.points(0).tolist() == [[1, 2], [3.5, 4]]
    assert source.points(0).dtype == np.float32
    (tmp_path / "skip.txt").write_text("b\n")  # whose label is then not checked
    table.write_text("file,x1,y1,x2,y2\nsub/b.jpg,0,0,-1,-1\na.jpg,5,6,7,8\n")
    other = folder.FolderPhotos([str(tmp_path)], [str(tmp_path / "skip.txt")], str(table))
    assert other.points(0).tolist() == [[5, 6], [7, 8]]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("file,x1,y1\na.jpg,1\n", r"points.csv:2: 2 cells, the header has 3"),
        ("file,x1,y1\na.jpg,1,two\n", r"points.csv:2: 'two' is not a number"),
        ("file,x1,y1\na.jpg,1,inf\n", r"points.csv:2: 'inf' is not a number"),
        ("file,x1,y1\na.jpg,1_00,1\n", r"points.csv:2: '1_00' is not a number"),
        ("file,x1,y1\na.jpg,\uff11,1\n", r"points.csv:2: '\uff11' is not a number"),
        ("file,x1,y1\na.jpg,1,1e39\n", r"points.csv:2: 1e39 is too large"),
        (
            "file,x1,y1\na.jpg,1,1\na.jpg,1e38,1\n",
            r"points.csv:3: point 1 at \(1e\+38, 1\) is far outside its photo of 12 x 10 pixels",
        ),
        ("file,x1,y1\na.jpg,-25,1\n", r"points.csv:2: point 1 at \(-25, 1\) is far outside"),
        ("file,x1,y1\na.jpg,5000,5000\n", r"points.csv:2: point 1 at \(5000, 5000\) is far"),
        ("file,x1,y1\na.jpg,-1,-1\n", r"points.csv:2: point 1 at \(-1, -1\) stands for a missing"),
        (
            "file,x1,y1,x2,y2\na.jpg,0,1,1,0\na.jpg,3,4,0,0.0\n",
            r"points.csv:3: point 2 at \(0, 0\) stands for a missing point; label it or leave",
        ),
        ('file,x1,y1\n"a.jpg,1,1\n', r"points.csv:2: not a line of CSV"),
        ("file,x1,y1,\na.jpg,1,1,\n", r"points.csv:1: the header must be file,x1,y1"),
        ("file,x1,y1\n\nnone.jpg,1,2\n", r"points.csv:3: no such file: .*none.jpg"),
        ("file,x,y\na.jpg,1,2\n", r"points.csv:1: the header must be file,x1,y1"),
        ("a.jpg,1,2\n", r"points.csv:1: the header must be"),
        ("file,x1,y1\n", r"points.csv: no photo is listed"),
        ("", r"points.csv: no photo is listed"),
        (
            "file,x1,y1\nbad.jpg,1,2\n",
            r"bad.jpg: cannot be read .* in the list of annotated photos",
        ),
        ("file,x1,y1\nrotated.png,1,2\n", r"rotated.png: .* EXIF orientation is 6"),
    ],
)
def test_mistakes_in_a_landmarks_table_are_named(text, message, tmp_path):
    save(tmp_path / "a.jpg")
    (tmp_path / "bad.jpg").write_bytes(b"bad")
    exif = Image.Exif()
    exif[0x0112] = 6  # rotated by 90 degrees
    save(tmp_path / "rotated.png", exif=exif)
    (tmp_path / "points.csv").write_text(text)
    with pytest.raises(DataError, match=message):
        registry.open_labelled(str(tmp_path / "points.csv"))


def data_config(**fields):
    defaults = {"source": "folder", "roots": (), "exclude": (), "landmarks": "", "max_photos": 0}
    sizes = {"split": "all", "num_synthetic": 7, "synthetic_seed": 1, "canvas_size": 32}
    return ConfigDict(defaults | sizes | fields)


def test_open_source_follows_the_config(tmp_path):
    root = datasets.celeba(tmp_path, (3, 0, 0))
    assert len(registry.open_source(data_config(roots=(str(root),)))) == 3
    assert registry.open_source(data_config(source="celeba", roots=(str(root),))).num_points == 5
    faces = registry.open_source(data_config(source="synthetic"))
    assert (len(faces), faces.num_points, faces.photo(0).shape) == (7, 5, (32, 32, 3))
    assert "7 photos" in faces.summary


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"source": "celeba"},
            r"config.data.roots = \(\): source 'celeba' needs the folder of img",
        ),
        ({"source": "mtfl"}, r"config.data.landmarks = ''"),
        ({"source": "prepared"}, r"photos are needed"),
        ({"source": "pts"}, r"config.data.roots = \(\): source 'pts' needs folders"),
        (
            {"source": "mafl", "roots": ("a",)},
            r"needs CelebA's folder and the folder of MAFL's lists",
        ),
        (
            {"source": "folder", "split": "test"},
            r"config.data.split = 'test': must be one of all for source 'folder'",
        ),
        (
            {"source": "aflw", "split": "validation", "roots": (".",)},
            r"'validation': must be one of all, train, test",
        ),
        (
            {"source": "celeba", "roots": (".",), "max_photos": 9},
            r"config.data.max_photos = 9: must be 0 with config.data.source = 'celeba', which does",
        ),
        (
            {"source": "pts", "roots": (".",), "landmarks": "a.csv"},
            r"config.data.landmarks = 'a.csv': must be '' with config.data.source = 'pts'",
        ),
    ],
)
def test_open_source_names_the_field_that_cannot_work(fields, message):
    with pytest.raises(ConfigError, match=message):
        registry.open_source(data_config(**fields))


def test_a_source_is_added_by_one_entry(monkeypatch):
    class OneFace(synthetic.SyntheticFaces):
        pass

    def open_config(data):
        return OneFace(1, 1, data.canvas_size)

    monkeypatch.setitem(registry.SOURCES, "one", registry.Entry(open_config, ("test",)))
    config = base.get_config()
    config.data.source, config.data.split = "one", "test"
    configuration.validate(config)
    assert isinstance(registry.open_source(config.data), OneFace)
    with pytest.raises(ConfigError, match="must be one of all, test for source 'one'"):
        registry.open_source(data_config(source="one", split="train"))
    config.data.source = "two"
    with pytest.raises(ConfigError, match=r"must be one of synthetic, .*, one"):
        configuration.validate(config)


def test_open_labelled_needs_a_list(tmp_path):
    with pytest.raises(DataError, match=r"a folder without .pts files"):
        registry.open_labelled(str(tmp_path))
    (tmp_path / "a.mat").write_text("")
    with pytest.raises(DataError, match=r"a .csv table, TPS, COCO's .json"):
        registry.open_labelled(str(tmp_path / "a.mat"))


def test_load_views_is_in_order_and_names_a_broken_photo(tmp_path):
    source = celeba.CelebaPhotos(str(datasets.celeba(tmp_path, (3, 0, 0))))
    frame = framing.Framing(20, 16, "box")
    views, points = cutting.load_views(source, frame)
    assert views.shape == (3, 16, 16, 3)
    for i in range(3):
        canvas, on_canvas = frame.cut(source.photo(i), source.points(i))
        np.testing.assert_array_equal(views[i], canvas[2:18, 2:18])
        np.testing.assert_array_equal(points[i], on_canvas * (20 / 16))
    (tmp_path / celeba.FOLDER / "000002.jpg").write_bytes(b"broken since")
    with pytest.raises(DataError, match=r"000002.jpg: cannot be read as an image"):
        cutting.load_views(source, frame)
    os.remove(tmp_path / celeba.LANDMARKS)
    os.remove(tmp_path / celeba.FOLDER / "000002.jpg")
    with pytest.raises(ConfigError, match="crop = 'box' needs annotated points and 2 photos of"):
        cutting.load_views(celeba.CelebaPhotos(str(tmp_path)), frame)


def test_digest_follows_the_list_of_photos_and_not_its_place(tmp_path):
    for parent in ("one", "two"):
        for name in ("a.jpg", "b.jpg"):
            save(tmp_path / parent / "photos" / name)
    first, second = (
        source_digest(folder.FolderPhotos([str(tmp_path / parent / "photos")]))
        for parent in ("one", "two")
    )
    assert first == second
    save(tmp_path / "two" / "photos" / "c.jpg")
    assert source_digest(folder.FolderPhotos([str(tmp_path / "two" / "photos")])) != first
