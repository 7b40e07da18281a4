"""Prepared canvases shrunk to a smaller view; different photos by number, and their targets."""

from pathlib import Path

import numpy as np
import pytest
from ml_collections import ConfigDict

from landmarks_jax.data import framing, loader, prepared, sampling
from landmarks_jax.data.box_canvas import BoxCanvas
from landmarks_jax.data.framing import Framing
from landmarks_jax.data.sources import registry
from landmarks_jax.system.errors import ConfigError
from tests import datasets

COUNT = 7


@pytest.fixture(name="photos")
def make_photos(tmp_path, monkeypatch) -> Path:
    """Seven photos of smooth noise with three points each, and their table."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    rng = np.random.default_rng(0)
    lines = ["file,x1,y1,x2,y2,x3,y3"]
    for i in range(COUNT):
        datasets.save(tmp_path / "photos" / f"{i}.png", (50 + i, 44), i)
        lines.append(",".join([f"photos/{i}.png", *map(str, rng.integers(5, 35, 6))]))
    (tmp_path / "points.csv").write_text("\n".join(lines))
    return tmp_path / "points.csv"


def write(photos, name, frame):
    prepared.prepare(registry.open_labelled(str(photos)), frame, photos.parent / name)
    return prepared.PreparedCanvases(photos.parent / name)


def halves(canvases):
    """Canvases at half their size: a triangle of weights 1, 3, 3, 1, across and then down."""
    size = canvases.shape[1]
    centers = 2 * np.arange(size // 2) + 1  # of the new pixels, in old ones
    weights = np.maximum(2 - np.abs(np.arange(size) + 0.5 - centers[:, None]), 0)
    weights /= weights.sum(1, keepdims=True)
    across = np.floor(np.einsum("ij,bhjc->bhic", weights, canvases) + 0.5)
    return np.floor(np.einsum("ij,bjwc->biwc", weights, across) + 0.5)


@pytest.mark.parametrize("crop", ["center", "tight"])
def test_larger_canvases_are_shrunk(photos, crop):
    made = write(photos, "made", Framing(40, 32, crop))
    before, points = np.array(made.canvases), made.points.copy()
    digest, summary = made.digest, made.summary
    made.fit(Framing(20, 16, crop))
    assert made.framing == Framing(20, 16, crop)
    assert made.canvases.shape == (COUNT, 20, 20, 3)
    assert made.canvases.dtype == np.uint8
    whole = (0.0, 0.0, 40.0, 40.0)
    for canvas, actual in zip(before, made.canvases, strict=True):
        np.testing.assert_array_equal(actual, framing.stretch(canvas, whole, 20))
    np.testing.assert_allclose(made.canvases, halves(before), atol=1)
    # Points are normalised, so they stay; and the photos are the same.
    np.testing.assert_array_equal(made.points, points)
    assert (made.digest, made.summary, len(made)) == (digest, summary, COUNT)
    # Close to what is cut at this size.
    direct = write(photos, "direct", Framing(20, 16, crop)).canvases
    assert np.abs(made.canvases.astype(int) - direct).mean() < 2


def test_canvases_of_the_right_size_stay_on_disk(photos):
    made = write(photos, "made", Framing(20, 16, "center"))
    made.fit(Framing(20, 16, "center"))
    assert isinstance(made.canvases, np.memmap)


@pytest.mark.parametrize(
    ("own", "required", "message"),
    [
        ((40, 32, "center"), (80, 64, "center"), "config.data.canvas_size = 80, .* with 40"),
        ((40, 32, "center"), (20, 18, "center"), "config.data.canvas_size = 20, .* with 40"),
        ((40, 32, "center"), (40, 30, "center"), "config.views.size = 30, .* with 32"),
        ((40, 32, "center"), (20, 16, "tight"), "config.data.crop = 'tight', .* with 'center'"),
        ((40, 32, "tight"), (20, 16, "center"), "config.data.crop = 'center', .* with 'tight'"),
        ((40, 32, "box"), (20, 16, "center"), "config.data.crop = 'center', .* with 'box'"),
        ((24, 40.0, 0.7, 0.04), (20, 16, "center"), "config.data.crop = 'center', .* with 'box'"),
        ((24, 40.0, 0.7, 0.04), (16, 40.0, 0.7, 0.04), "config.views.size = 16, .* with 24"),
    ],
)
def test_others_are_refused_before_anything_is_shrunk(own, required, message, photos, monkeypatch):
    own, required = (
        Framing(*frame) if isinstance(frame[-1], str) else BoxCanvas(*frame)
        for frame in (own, required)
    )
    made = write(photos, "made", own)
    monkeypatch.setattr(framing, "stretch", lambda *_: pytest.fail("shrunk"))
    with pytest.raises(ConfigError, match=message):
        made.fit(required)
    made.fit(own)
    assert made.framing == own


def config_of(photos, **data) -> ConfigDict:
    fields = {"source": "folder", "roots": (), "exclude": (), "landmarks": str(photos)}
    fields |= {
        "max_photos": 0,
        "split": "all",
        "crop": "center",
        "canvas_size": 20,
        "num_synthetic": 1,
        "synthetic_seed": 1,
        "resident": False,
    }
    return ConfigDict({"data": fields | data, "views": {"size": 16}})


def test_folders_of_several_sizes_are_one_set(photos):
    large = write(photos, "large", Framing(40, 32, "center"))
    right = write(photos, "right", Framing(20, 16, "tight"))
    roots = tuple(str(photos.parent / name) for name in ("large", "right", "large"))
    opened = loader.open_loader(config_of(photos, source="prepared", roots=roots))
    assert (len(opened), opened.num_different) == (3 * COUNT, 2 * COUNT)
    large.fit(Framing(20, 16, "center"))
    different = np.concatenate([large.canvases, right.canvases])
    places = np.array([13, 0, 7, 7, 6])
    np.testing.assert_array_equal(opened.canvases(places), different[places])
    np.testing.assert_array_equal(opened.canvases(opened.places[-COUNT:]), large.canvases)
    names = [f"photos/{i}.png" for i in range(COUNT)]
    assert opened.names() == names + names
    batch, rows = next(opened.batches(seed=1, batch_size=9)), sampling.batch_rows(1, 21, 9, 0)
    np.testing.assert_array_equal(batch["canvas"], different[rows % (2 * COUNT)])


def test_photos_by_number_are_cut_as_for_training(photos):
    opened = loader.open_loader(config_of(photos))
    assert opened.num_different == COUNT
    np.testing.assert_array_equal(opened.places, range(COUNT))
    expected, _ = datasets.canvases_of(
        registry.open_labelled(str(photos)), Framing(20, 16, "center")
    )
    places = np.array([6, 2, 2, 0])
    np.testing.assert_array_equal(opened.canvases(places), expected[places])
    assert opened.names() == [f"photos/{i}.png" for i in range(COUNT)]


@pytest.mark.parametrize("process", [{}, {"process_index": 1, "process_count": 2}])
def test_batches_have_targets_for_points_once_there_are_some(photos, process):
    write(photos, "one", Framing(20, 16, "center"))
    roots = (str(photos.parent / "one"),) * 2
    opened = loader.open_loader(config_of(photos, source="prepared", roots=roots))
    order = {"seed": 3, "batch_size": 6, "start_step": 2, **process}
    before = opened.batches(**order)
    opened.targets = np.random.default_rng(1).normal(size=(COUNT, 4, 2)).astype(np.float32)
    after = opened.batches(**order)
    for step in (2, 3, 4, 5):
        plain, batch = next(before), next(after)
        rows = sampling.batch_rows(3, 2 * COUNT, 6, step, **process)
        np.testing.assert_array_equal(batch["canvas"], plain["canvas"])
        np.testing.assert_array_equal(batch["points"], opened.targets[rows % COUNT])
        assert plain["points"].shape == (len(rows), 3, 2)
