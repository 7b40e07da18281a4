"""Points that follow a known warp: closed forms, and the points that refinement keeps."""

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from landmarks_jax import geometry
from landmarks_jax.cli import presets
from landmarks_jax.system.errors import ConfigError
from landmarks_jax.tasks import self_training
from landmarks_jax.training import feature_maps, following, start_points, targets
from landmarks_jax.training.refiner import Refiner


def test_the_share_is_1_for_points_that_move_and_0_for_those_that_stay():
    rng = np.random.default_rng(0)
    points = rng.uniform(-0.5, 0.5, (40, 4, 2)).astype(np.float32)
    to_view = np.asarray(
        geometry.similarity(
            rng.normal(0, 0.2, 40).astype(np.float32),
            rng.uniform(0.9, 1.1, 40).astype(np.float32),
            rng.normal(0, 0.1, (40, 2)).astype(np.float32),
        )
    )
    # Independently: the point of the warped view that the map takes to the point.
    inverse = np.linalg.inv(to_view[:, :, :2].astype(np.float64))
    expected = np.einsum("nij,nkj->nki", inverse, points - to_view[:, None, :, 2])
    moved = points.copy()
    moved[:, 0] = expected[:, 0]
    moved[:, 2] = (points + expected)[:, 2] / 2
    moved[:, 3] = 2 * points[:, 3] - expected[:, 3]
    shares = following.share_followed(points, moved, to_view)
    np.testing.assert_allclose(shares, [1, 0, 0.75, -3], atol=1e-5)


def test_a_point_outside_of_every_warped_view_has_no_share():
    away = np.tile(np.array([[1, 0, 5], [0, 1, 0]], np.float32), (3, 1, 1))
    points = np.zeros((3, 1, 2), np.float32)
    np.testing.assert_array_equal(following.share_followed(points, points, away), [0.0])


def test_places_at_the_border_of_the_warped_view_do_not_count():
    points = np.array([[[0.5, 0.0]], [[0.5, 0.0]]], np.float32)
    moved = points + np.float32([0.3, 0.0])
    shift = np.array([[[1, 0, -0.3], [0, 1, 0]], [[1, 0, -0.45], [0, 1, 0]]], np.float32)
    # Both belong to the right, by 0.3 and 0.45; the second would have to be at 0.95.
    np.testing.assert_allclose(following.share_followed(points, moved, shift), [1.0], atol=1e-6)
    moved[1] = points[1]
    np.testing.assert_allclose(following.share_followed(points, moved, shift), [1.0], atol=1e-6)


def test_warped_views_show_the_canvas_where_the_maps_say():
    size, canvas = 64, 80
    place = np.array([0.2, -0.1])  # in the undistorted view
    x, y = ((place * size / canvas + 1) * canvas - 1) / 2
    rows, columns = np.mgrid[:canvas, :canvas]
    blob = 255 * np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / 18)
    canvases = np.repeat(np.repeat(blob[None, :, :, None], 3, -1), 6, 0).astype(np.uint8)
    warped = following.warper(size, canvas, seed=3)(canvases, 0)
    assert warped.images.dtype == np.uint8
    for image, to_view in zip(warped.images, warped.to_view, strict=True):
        row, column = ndimage.center_of_mass(image[..., 0].astype(float))
        found = (2 * np.array([column, row]) + 1) / size - 1
        np.testing.assert_allclose(to_view[:, :2] @ found + to_view[:, 2], place, atol=0.01)
    assert np.abs(warped.to_view - np.eye(2, 3)).max(0)[:, 2].min() > 0.02  # they are moved
    later = following.warper(size, canvas, seed=3)(canvases[2:], 2)
    np.testing.assert_array_equal(later.to_view, warped.to_view[2:])


def colours(_):
    """The mean colour of cells of 4 x 4 pixels, and its squares, as features."""

    def activate(images):
        count, size = len(images), images.shape[1] // 4
        cells = images.reshape(count, size, 4, size, 4, 3).mean((2, 4)) / 255
        return {"fine": jnp.asarray(np.concatenate([cells, cells**2], -1))}

    return activate


@pytest.fixture(name="config")
def make_config(tmp_path, monkeypatch):
    """The preset `folder` on a square that lies about the middle of 48 grey photos.

    Every place of the square has its own colour, and features are colours.
    """
    monkeypatch.setattr(feature_maps, "histograms", colours)
    rng = np.random.default_rng(0)
    ramp = np.linspace(0, 255, 36).astype(np.uint8)
    square = np.stack([*np.meshgrid(ramp, ramp), np.full((36, 36), 255, np.uint8)], -1)
    (tmp_path / "photos").mkdir()
    for index in range(48):
        photo = np.full((64, 64, 3), 90, np.uint8)
        left, top = rng.integers(9, 20, 2)
        photo[top : top + 36, left : left + 36] = square
        Image.fromarray(photo).save(tmp_path / "photos" / f"{index:02d}.png")
    config = presets.load("folder").copy_and_resolve_references()
    with config.unlocked():
        config.data.roots = (str(tmp_path / "photos"),)
        config.model.num_landmarks = 3
        config.targets.merge = (3,)
        config.targets.grid = 4
        config.targets.view_size = 64
        config.targets.taps = ("fine",)
        config.targets.keep = 4
        config.targets.num_fit = 32  # the others are refined afterwards
    return config


def test_points_that_stay_behind_are_dropped_and_the_others_are_as_before(config):
    start = start_points.first(config)
    schedule = targets.schedule(config, later=False)
    refiner = Refiner(config)
    every = refiner.run(start, schedule)
    kept = refiner.run(start, schedule, keep=4)
    assert every.points.shape[1] == 16
    assert kept.points.shape[1] == 4
    gaps = np.abs(every.points[:, :, None] - kept.points[:, None]).max((0, 3))  # [16, kept]
    assert (gaps.min(0) < 1e-5).all()
    assert np.isnan(every.followed).all()
    assert (kept.followed > 0.8).all()
    assert set(gaps.argmin(0)) == {5, 6, 9, 10}  # of the grid's 16, those on the square


@pytest.mark.parametrize(
    ("field", "value", "rule"),
    [
        ("merge", (), "0 with config.targets.mirror, or without config.targets.merge"),
        ("mirror", True, "0 with config.targets.mirror, or without config.targets.merge"),
        ("merge", (9, 2), "0, or at least 9, the largest of config.targets.merge"),
    ],
)
def test_fields_that_it_does_not_go_with(config, field, value, rule):
    with config.unlocked():
        config.targets[field] = value
    with pytest.raises(ConfigError, match=rf"config.targets.keep = 4: must be {rule}"):
        self_training.check_targets(config)
