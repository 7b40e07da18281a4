"""Crops: rectangles computed by hand, blobs that move with their points, the real AFLW check."""

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from landmarks_jax import geometry
from landmarks_jax.data import framing
from landmarks_jax.data.sources import registry
from landmarks_jax.system.errors import ConfigError, DataError

NO_POINTS = np.zeros((0, 2), np.float32)
DATA = Path(os.environ.get("LANDMARKS_JAX_DATA", Path(__file__).parents[2] / "shared" / "data"))


def noise(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)


@pytest.mark.parametrize(
    ("points", "size", "expected"),
    [
        # width 40, height 20, mean 30: margin int(21.0) = 21
        ([[50, 60], [90, 80], [70, 70]], (178, 218), (29, 39, 112, 102)),
        # width 33, height 36, mean 34.5: margin int(24.15) = 24; left and top are clipped
        ([[10.4, 20.6], [43.4, 56.6]], (80, 80), (0, 0, 68, 80)),
        # mean 10, small: margin 8; 12.5 and 31.5 are halves and round to even, 12 and 32
        ([[20.5, 30], [23.5, 47]], (100, 100), (12, 22, 33, 56)),
        # at the limit, mean 20 is not small: margin int(14.0) = 14
        ([[100, 100], [120, 120]], (400, 300), (86, 86, 135, 135)),
        # all points beyond the right border: one column of pixels remains
        ([[150, 10], [160, 20]], (100, 50), (99, 2, 100, 29)),
    ],
)
def test_box_rectangle_matches_numbers_computed_by_hand(points, size, expected):
    assert framing.box_rectangle(np.array(points, np.float32), size) == expected


@pytest.mark.parametrize(
    ("points", "size", "expected"),
    [
        ([[50, 60], [90, 80], [70, 70]], (178, 218), (29, 39, 111, 101)),
        ([[10.4, 20.6], [43.4, 56.6]], (80, 80), (0, 0, 67, 79)),
    ],
)
def test_half_open_boxes_are_slices(points, size, expected):
    """As the released code cuts them, `photo[39:101, 29:111]` for the first."""
    points = np.array(points, np.float32)
    assert framing.box_rectangle(points, size, half_open=True) == expected
    photo, (left, top, right, bottom) = noise(size[1], size[0]), expected
    view, _ = framing.Framing(64, 64, "box", half_open=True).cut(photo, points)
    whole = (0, 0, right - left, bottom - top)
    alone = framing.stretch(photo[top:bottom, left:right], whole, 64)
    # At its edge a filter sees the photo beyond the slice.
    np.testing.assert_array_equal(view[2:-2, 2:-2], alone[2:-2, 2:-2])


def test_a_half_open_box_is_not_empty():
    points = np.array([[150, 10], [160, 20]], np.float32)
    assert framing.box_rectangle(points, (100, 50), half_open=True) == (99, 2, 100, 28)


def test_rectangles_of_the_three_crops():
    points = np.array([[50, 60], [90, 80], [70, 70]], np.float32)
    center, tight, box = (framing.Framing(160, 128, crop) for crop in framing.CROPS)
    assert center.view_rectangle((200, 100), NO_POINTS) == pytest.approx((20, 10, 180, 90))
    assert center.canvas_rectangle((200, 100), NO_POINTS) == (0, 0, 200, 100)
    assert tight.view_rectangle((200, 100), NO_POINTS) == (0, 0, 200, 100)
    assert tight.canvas_rectangle((200, 100), NO_POINTS) == (-25, -12.5, 225, 112.5)
    # the box 29..112 x 39..102: centre (70.5, 70.5), halves 41.5 and 31.5, times 1.25
    assert box.canvas_rectangle((178, 218), points) == (18.625, 31.125, 122.375, 109.875)


@pytest.mark.parametrize("shape", [(218, 178), (40, 60), (80, 80), (1, 7)])
def test_center_canvas_is_pillows_stretch_of_the_whole_photo(shape):
    photo = noise(*shape)
    canvas, points = framing.Framing(80, 64, "center").cut(photo, NO_POINTS)
    expected = Image.fromarray(photo).resize((80, 80), Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(canvas, np.asarray(expected))
    assert points.shape == (0, 2)


def test_tight_view_of_an_unscaled_photo_is_the_photo_within_its_border():
    photo = noise(64, 64)
    frame = framing.Framing(80, 64, "tight")
    canvas, _ = frame.cut(photo, NO_POINTS)
    np.testing.assert_array_equal(canvas, np.pad(photo, ((8, 8), (8, 8), (0, 0)), "edge"))
    np.testing.assert_array_equal(frame.central_view(canvas[None]), photo[None])


def test_stretch_inside_a_photo_sees_the_pixels_around():
    photo = noise(50, 70)
    rectangle = (10.25, 5.5, 61.75, 43.0)
    box = Image.fromarray(photo).resize((16, 16), Image.Resampling.BILINEAR, box=rectangle)
    np.testing.assert_array_equal(framing.stretch(photo, rectangle, 16), np.asarray(box))


@pytest.mark.parametrize("crop", framing.CROPS)
@pytest.mark.parametrize(("canvas_size", "view_size"), [(80, 64), (160, 128), (64, 64), (36, 20)])
@pytest.mark.parametrize("size", [(178, 218), (300, 120)])
def test_a_blob_and_its_point_move_together(crop, canvas_size, view_size, size):
    width, height = size
    center = np.array([width * 0.45, height * 0.55])
    grid = np.stack(np.meshgrid(np.arange(width), np.arange(height)), -1)
    bump = np.exp(-((grid - center) ** 2).sum(-1) / (2 * 6.0**2))
    photo = np.repeat((255 * bump).round().astype(np.uint8)[..., None], 3, -1)
    around = center + np.array([[0, 0], [-25, -20], [30, 25]])
    frame = framing.Framing(canvas_size, view_size, crop)
    canvas, points = frame.cut(photo, around.astype(np.float32))
    assert canvas.shape == (canvas_size, canvas_size, 3)
    weight = canvas[..., 0] / canvas[..., 0].sum()
    positions = geometry.pixel_centers(canvas_size, np.float64)
    centroid = [(weight * positions).sum(), (weight * positions[:, None]).sum()]
    assert np.abs(centroid - points[0]).max() < 0.25 / canvas_size  # an eighth of a pixel
    view = frame.central_view(canvas)
    peak = np.unravel_index(view[..., 0].argmax(), view.shape[:2])[::-1]
    actual = geometry.to_pixels(frame.points_in_view(points[0]), (view_size, view_size))
    assert np.abs(np.array(peak) - actual).max() <= 1.0


@pytest.mark.parametrize(
    ("values", "field"),
    [
        ((81, 64, "center"), "config.data.canvas_size"),
        ((62, 64, "center"), "config.data.canvas_size"),
        ((322, 64, "tight"), "config.data.canvas_size"),
        ((80, 64, "middle"), "config.data.crop"),
    ],
)
def test_sizes_that_cannot_work_name_their_field(values, field):
    with pytest.raises(ConfigError, match=field):
        framing.Framing(*values)


def test_box_without_points_is_an_error():
    frame = framing.Framing(80, 64, "box")
    with pytest.raises(ConfigError, match=r"crop = 'box' needs annotated points and photos/"):
        frame.check_points(0, "photos/")
    with pytest.raises(DataError, match="finite points"):
        frame.cut(noise(20, 20), np.full((5, 2), np.nan, np.float32))
    framing.Framing(80, 64, "center").check_points(0, "photos/")


def test_mean_shape_of_aflw_scores_the_known_error(tmp_path, monkeypatch):
    if not (DATA / "aflw").is_dir():
        pytest.skip(f"no AFLW faces at {DATA}/aflw")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    fit, score = (_aflw_points(name) for name in ("training.txt", "testing.txt"))
    for crop, expected in (("tight", 24.1), ("box", 14.7)):
        assert (len(fit[crop]), len(score[crop])) == (2000, 995)
        eyes = np.linalg.norm(score[crop][:, 0] - score[crop][:, 1], axis=-1)
        errors = np.linalg.norm(score[crop] - fit[crop].mean(0), axis=-1).mean(1) / eyes
        assert round(100 * errors.mean(), 1) == expected, crop


def _aflw_points(name: str) -> dict[str, np.ndarray]:
    """The points of a list's faces in their views, by crop; they do not depend on the sizes."""
    source = registry.open_labelled(str(DATA / "aflw" / name))
    frames = {crop: framing.Framing(32, 16, crop) for crop in ("tight", "box")}
    points: dict[str, list[np.ndarray]] = {crop: [] for crop in frames}
    for i in range(len(source)):
        photo = source.photo(i)
        for crop, frame in frames.items():
            points[crop].append(frame.points_in_view(frame.cut(photo, source.points(i))[1]))
    return {crop: np.stack(rows) for crop, rows in points.items()}
