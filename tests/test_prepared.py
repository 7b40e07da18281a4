"""The prepared form: its content, damage, and reading it without TensorFlow."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from ml_collections import ConfigDict
from PIL import Image

from landmarks_jax.data import framing, loader, prepared, sampling
from landmarks_jax.data.box_canvas import BoxCanvas
from landmarks_jax.data.sources import registry
from landmarks_jax.data.sources.photos import source_digest
from landmarks_jax.system.errors import ConfigError, DataError
from tests import datasets
from tests.running import call

FRAME = BoxCanvas(16, 40.0, 0.7, 0.04)  # canvases of 36 pixels
VIEWS = {"size": 16, "rotation_limit": 40.0, "margin": 0.7, "margin_std": 0.04}


@pytest.fixture(name="photos")
def make_photos(tmp_path, monkeypatch) -> Path:
    """Nine photos of noise with three points each, and their table."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    rng = np.random.default_rng(0)
    lines = ["file,x1,y1,x2,y2,x3,y3"]
    (tmp_path / "photos").mkdir()
    for i in range(9):
        pixels = rng.integers(0, 256, (40 + i, 50, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / "photos" / f"{i}.png")
        lines.append(",".join([f"photos/{i}.png", *map(str, rng.integers(5, 35, 6))]))
    (tmp_path / "points.csv").write_text("\n".join(lines))
    return tmp_path / "points.csv"


def config_of(photos: Path, **data) -> ConfigDict:
    fields = {"source": "folder", "roots": (), "exclude": (), "landmarks": str(photos)}
    fields |= {
        "max_photos": 0,
        "split": "all",
        "crop": "box",
        "canvas_size": 20,
        "num_synthetic": 1,
        "synthetic_seed": 1,
        "resident": False,
    }
    return ConfigDict({"data": fields | data, "views": VIEWS})


def write(photos: Path) -> Path:
    out = photos.parent / "deep" / "prepared"
    prepared.prepare(registry.open_labelled(str(photos)), FRAME, out)
    return out


def test_prepared_canvases_are_those_of_the_photos(photos):
    source = registry.open_labelled(str(photos))
    canvases, points = datasets.canvases_of(source, FRAME)
    out = write(photos)
    actual = prepared.PreparedCanvases(out)
    assert isinstance(actual.canvases, np.memmap)
    np.testing.assert_array_equal(actual.canvases, canvases)
    np.testing.assert_array_equal(actual.points, points)
    names = json.loads((Path(out) / "names.json").read_text())
    assert names == [source.name(i) for i in range(9)]
    assert actual.digest == source_digest(source)
    assert (actual.framing, actual.num_points, len(actual)) == (FRAME, 3, 9)
    assert "9 photos of" in actual.summary


def test_photos_without_points_can_be_prepared(photos):
    frame = framing.Framing(12, 8, "tight")
    source = registry.open_source(
        config_of(photos, landmarks="", roots=(str(photos.parent / "photos"),)).data
    )
    prepared.prepare(source, frame, photos.parent / "out")
    batch = next(
        loader.PreparedLoader([prepared.PreparedCanvases(photos.parent / "out")]).batches(
            seed=0, batch_size=4
        )
    )
    assert (batch["canvas"].shape, batch["points"].shape) == ((4, 12, 12, 3), (4, 0, 2))
    with pytest.raises(ConfigError, match="annotated points"):
        prepared.prepare(source, FRAME, photos.parent / "box")


def test_batches_follow_the_order(photos):
    actual = prepared.PreparedCanvases(write(photos))
    share = {"process_index": 1, "process_count": 2}
    batches = loader.PreparedLoader([actual]).batches(seed=4, batch_size=6, start_step=3, **share)
    for step in (3, 4, 5):
        rows, batch = sampling.batch_rows(4, 9, 6, step, **share), next(batches)
        np.testing.assert_array_equal(batch["canvas"], actual.canvases[rows])
        np.testing.assert_array_equal(batch["points"], actual.points[rows])


READ_BATCHES = """
import sys
sys.modules["tensorflow"] = sys.modules["tensorflow_datasets"] = None
import numpy as np
from ml_collections import ConfigDict
from landmarks_jax.data import loader
views = {"size": 16, "rotation_limit": 40.0, "margin": 0.7, "margin_std": 0.04}
config = ConfigDict({"data": {"source": "prepared", "roots": (sys.argv[1],), "crop": "box",
                              "canvas_size": 20, "resident": False, "exclude": ()},
                     "views": views})
batches = loader.open_loader(config).batches(seed=2, batch_size=4, start_step=1)
batches = [next(batches) for _ in range(5)]
np.savez(sys.argv[2], **{k: np.stack([b[k] for b in batches]) for k in ("canvas", "points")})
assert "jax" not in sys.modules
"""


def test_without_tensorflow_the_batches_equal_the_pipelines(photos):
    if importlib.util.find_spec("tensorflow") is None:
        pytest.skip("the pipeline needs the extra `train`")
    copy = photos.parent / "batches.npz"
    command = [sys.executable, "-W", "error", "-c", READ_BATCHES, str(write(photos)), str(copy)]
    subprocess.run(command, check=True, timeout=60)
    read = np.load(copy)
    from_photos = loader.open_loader(config_of(photos))
    batches = from_photos.batches(seed=2, batch_size=4, start_step=1)
    for i in range(5):
        batch = next(batches)
        np.testing.assert_array_equal(read["canvas"][i], batch["canvas"])
        np.testing.assert_array_equal(read["points"][i], batch["points"])


def test_photo_and_prepared_loaders_have_the_same_attributes(photos):
    first = loader.open_loader(config_of(photos))
    second = loader.open_loader(config_of(photos, source="prepared", roots=(str(write(photos)),)))
    assert (len(first), first.num_points, first.digest) == (9, 3, second.digest)
    assert first.digest == source_digest(registry.open_labelled(str(photos)))
    assert (len(second), second.num_points) == (9, 3)
    with pytest.raises(ConfigError, match=r"resident = True: needs .* 'prepared', not 'folder'"):
        loader.open_loader(config_of(photos, resident=True))
    with pytest.raises(ConfigError, match="needs its folders"):
        loader.open_loader(config_of(photos, source="prepared"))


@pytest.mark.parametrize(
    ("made", "required", "message"),
    [
        ((20, 16, "box"), (22, 16, "box"), r"config.data.canvas_size = 22, .* prepared with 20"),
        ((20, 16, "box"), (20, 14, "box"), r"config.views.size = 14, .* was prepared with 16"),
        ((20, 16, "box"), (20, 16, "tight"), r"config.data.crop = 'tight', .* with 'box'"),
        ((16, 40.0, 0.7, 0.04), (20, 16, "tight"), r"config.data.crop = 'tight', .* with 'box'"),
        ((20, 16, "center"), (16, 40.0, 0.7, 0.04), r"config.data.crop = 'box', .* with 'center'"),
        ((16, 40.0, 0.7, 0.04), (12, 40.0, 0.7, 0.04), r"config.views.size = 12, .* with 16"),
        ((16, 40.0, 0.7, 0.04), (16, 30.0, 0.7, 0.04), r"config.views.rotation_limit = 30.0, but"),
        ((16, 40.0, 0.7, 0.04), (16, 40.0, 0.8, 0.04), r"config.views.margin = 0.8, .* with 0.7"),
        ((16, 40.0, 0.7, 0.04), (16, 40.0, 0.7, 0.0), r"config.views.margin_std = 0.0, but"),
        ((16, 40.0, 0.7, 0.04), (20, 16, "box"), "evaluation cuts its own, so name the list"),
    ],
)
def test_another_framing_names_the_field(made, required, message, photos):
    made, required = (
        framing.Framing(*frame) if isinstance(frame[-1], str) else BoxCanvas(*frame)
        for frame in (made, required)
    )
    prepared.prepare(registry.open_labelled(str(photos)), made, photos.parent / "made")
    actual = prepared.PreparedCanvases(photos.parent / "made")
    actual.require(made)
    assert actual.framing == made
    with pytest.raises(ConfigError, match=message):
        actual.require(required)


def flip_a_byte(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def edit_manifest(path: Path, **fields) -> None:
    manifest = json.loads(path.read_text())
    path.write_text(json.dumps(manifest | fields))


def drop_from_manifest(path: Path, field: str) -> None:
    manifest = json.loads(path.read_text())
    path.write_text(json.dumps({name: manifest[name] for name in manifest if name != field}))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda d: flip_a_byte(d / "canvases.npy"), r"canvases.npy: damaged \(checksum\)"),
        (lambda d: flip_a_byte(d / "points.npy"), r"points.npy: damaged"),
        (lambda d: flip_a_byte(d / "names.json"), r"names.json: damaged"),
        (lambda d: os.truncate(d / "canvases.npy", 5000), r"canvases.npy: damaged"),
        (lambda d: (d / "points.npy").unlink(), r"points.npy: missing"),
        (lambda d: (d / "manifest.json").unlink(), r"manifest.json is missing"),
        (lambda d: os.truncate(d / "manifest.json", 50), r"manifest.json: damaged"),
        (lambda d: edit_manifest(d / "manifest.json", format_version=2), r"format version 2"),
        (lambda d: edit_manifest(d / "manifest.json", sha256={}), r"manifest.json: damaged"),
        (
            lambda d: drop_from_manifest(d / "manifest.json", "margin_std"),
            r"damaged \('margin_std'",
        ),
        (lambda d: edit_manifest(d / "manifest.json", count=8), r"\(9, 36, 36, 3\), not uint8"),
    ],
)
def test_damage_is_named_in_one_line(damage, message, photos):
    out = write(photos)
    damage(out)
    with pytest.raises(DataError, match=message) as error:
        prepared.PreparedCanvases(out)
    assert "\n" not in str(error.value)


def test_an_existing_folder_is_not_touched(photos):
    out = write(photos)
    before = (out / "manifest.json").stat().st_mtime_ns
    with pytest.raises(DataError, match="exists already"):
        write(photos)
    assert (out / "manifest.json").stat().st_mtime_ns == before


def test_the_command_prepares_a_config(photos):
    settings = {"source": "folder", "landmarks": photos, "crop": "box", "canvas_size": 20}
    flags = [f"--config.data.{field}={value}" for field, value in settings.items()]
    views = {"size": 16, "scale_std": 0, "shift_std": 0}
    flags += [f"--config.views.{field}={value}" for field, value in views.items()]
    out = photos.parent / "out"
    arguments = ["prepare", "--config=base", *flags, "--config.model.hourglass_depth=1"]
    code, _, err = call(*arguments, f"--out={out}")
    assert code == 0, err
    assert prepared.PreparedCanvases(out).framing == FRAME
    code, _, err = call(*arguments, f"--out={out}")
    assert code == 2
    assert err.splitlines()[-1].startswith(f"error: {out}: exists already")


def test_several_folders_are_one_set_and_one_listed_twice_counts_twice(photos):
    folder = (str(photos.parent / "photos"),)
    source = registry.open_source(config_of(photos, landmarks="", roots=folder).data)
    roots = {}
    for crop in ("center", "tight"):
        roots[crop] = str(photos.parent / crop)
        prepared.prepare(source, framing.Framing(20, 16, crop), roots[crop])
    config = config_of(
        photos, source="prepared", crop="center", roots=(roots["center"], *[roots["tight"]] * 2)
    )
    opened = loader.open_loader(config)
    center, tight = (prepared.PreparedCanvases(roots[crop]) for crop in ("center", "tight"))
    expected = np.concatenate([center.canvases, tight.canvases, tight.canvases])
    assert (len(opened), opened.num_points) == (27, 0)
    batches = opened.batches(seed=5, batch_size=9, start_step=2)
    for step in (2, 3, 4):
        batch = next(batches)
        np.testing.assert_array_equal(
            batch["canvas"], expected[sampling.batch_rows(5, 27, 9, step)]
        )
        assert batch["points"].shape == (9, 0, 2)
    assert opened.digest != center.digest
    assert opened.summary == f"{center.summary}; {tight.summary} (2 times)"


def test_several_folders_of_box_views_keep_their_points(photos):
    source, roots = registry.open_labelled(str(photos)), []
    for name in ("one", "two"):
        roots.append(str(photos.parent / name))
        prepared.prepare(source, FRAME, roots[-1])
    opened = loader.open_loader(config_of(photos, source="prepared", roots=tuple(roots)))
    assert (len(opened), opened.num_points) == (18, 3)
    canvases, points = datasets.canvases_of(source, FRAME)
    batch, rows = next(opened.batches(seed=1, batch_size=12)), sampling.batch_rows(1, 18, 12, 0) % 9
    np.testing.assert_array_equal(batch["canvas"], canvases[rows])
    np.testing.assert_array_equal(batch["points"], points[rows])
    two = photos.with_name("two.csv")
    two.write_text("\n".join(line.rpartition(",")[0].rpartition(",")[0]
                             for line in photos.read_text().splitlines()))  # fmt: skip
    prepared.prepare(registry.open_labelled(str(two)), FRAME, photos.parent / "fewer")
    roots[1] = str(photos.parent / "fewer")
    with pytest.raises(ConfigError, match=r"same points of every photo, but .*one has 3, .* has 2"):
        loader.open_loader(config_of(photos, source="prepared", roots=tuple(roots)))


def test_photos_to_leave_out_must_be_left_out_when_photos_are_prepared(photos):
    """A list that is not here was applied where the photos were prepared."""
    out, other = write(photos), photos.with_name("other.txt")
    other.write_text("11.png\n")
    exclude = str(photos.with_name("no.txt")), str(other)
    config = config_of(photos, source="prepared", roots=(str(out),), exclude=exclude)
    assert len(loader.open_loader(config)) == 9
    other.write_text("3.jpg\nelsewhere/5.png\n")
    with pytest.raises(ConfigError, match=r"exclude: names 2 of the 9 prepared photos.*set it to"):
        loader.open_loader(config)


@pytest.mark.parametrize(
    ("points", "message"),
    [
        ("8,9,8,9,8,9", r"photos/4.png: the box of its points is 0 x 0 pixels"),
        ("8,9,8,9,8.5,9", r"4.png: .* 0.5 x 0 pixels.* \(and 1 more\); .*config.data.exclude"),
    ],
)
def test_points_without_a_box_are_refused_before_the_first_photo_is_cut(
    points, message, photos, monkeypatch
):
    lines = photos.read_text().splitlines()
    lines[5] = f"photos/4.png,{points}"
    if "more" in message:
        lines[8] = f"photos/7.png,{points}"
    photos.write_text("\n".join(lines))
    source = registry.open_labelled(str(photos))
    monkeypatch.setattr(source, "photo", lambda _: pytest.fail("decoded"))
    with pytest.raises(DataError, match=message):
        loader.PhotoLoader(source, FRAME)
    with pytest.raises(DataError, match=message):
        prepared.prepare(source, FRAME, photos.parent / "out")
    loader.PhotoLoader(source, framing.Framing(20, 16, "center"))


def test_folders_that_do_not_match_are_refused(photos):
    folder = (str(photos.parent / "photos"),)
    plain = registry.open_source(config_of(photos, landmarks="", roots=folder).data)
    labelled = registry.open_labelled(str(photos))
    made = {}
    for name, source, frame in (
        ("center", plain, framing.Framing(20, 16, "center")),
        ("tight", plain, framing.Framing(20, 16, "tight")),
        ("box", labelled, FRAME),
        ("small", plain, framing.Framing(18, 16, "center")),
    ):
        made[name] = str(photos.parent / name)
        prepared.prepare(source, frame, made[name])
    for names, crop, message in (
        (("tight",), "center", "config.data.crop = 'center'"),
        (("center", "box"), "center", "config.data.crop = 'center'"),
        (("box", "tight"), "box", "config.data.crop = 'box'"),
        (("center", "small"), "center", "config.data.canvas_size = 20"),
        ((), "center", "needs its folders"),
    ):
        roots = tuple(made[name] for name in names)
        with pytest.raises(ConfigError, match=message):
            loader.open_loader(config_of(photos, source="prepared", crop=crop, roots=roots))
