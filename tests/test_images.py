"""Images in every form, the viewed part of them, and points back in their pixels."""

import io
import math
import tracemalloc
from collections import deque

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from landmarks_jax.data import decoding
from landmarks_jax.data.framing import Framing
from landmarks_jax.inference import images
from landmarks_jax.system.errors import DataError
from tests import packing

CENTER = Framing(20, 16, "center")
NO_POINTS = np.zeros((0, 2))


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


RGB, OTHER = noise(6, 5, 3), noise(4, 9, 3, seed=1)
WHITE = np.full((3, 2, 3), 255, np.uint8)


@pytest.mark.parametrize(
    ("form", "expected", "single"),
    [
        (RGB, [RGB], True),
        (Image.fromarray(RGB), [RGB], True),
        (jnp.asarray(RGB), [RGB], True),
        (RGB[None], [RGB], False),
        (np.stack([RGB, RGB[::-1]]), [RGB, RGB[::-1]], False),
        (jnp.stack([RGB, RGB[::-1]]), [RGB, RGB[::-1]], False),
        ([RGB], [RGB], False),
        ([RGB, OTHER], [RGB, OTHER], False),
        ((jnp.asarray(RGB), Image.fromarray(OTHER)), [RGB, OTHER], False),
        (deque([OTHER, RGB]), [OTHER, RGB], False),
        (RGB[:, ::-1], [RGB[:, ::-1]], True),
    ],
)
def test_every_form_of_images(form, expected, single):
    listed, is_single = images.as_images(form)
    assert is_single is single
    assert len(listed) == len(expected)
    for image, pixels in zip(listed, expected, strict=True):
        assert image.dtype == np.uint8
        np.testing.assert_array_equal(image, pixels)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.longdouble])
def test_floats_are_the_bytes_over_255(dtype):
    levels = np.arange(256, dtype=np.uint8).reshape(16, 16)
    floats = levels.astype(dtype) / dtype(255)
    (image,), single = images.as_images(floats)
    assert single
    np.testing.assert_array_equal(image, np.repeat(levels[..., None], 3, 2))
    (image,), _ = images.as_images(jnp.asarray(floats, jnp.bfloat16))
    assert np.abs(image[..., 0].astype(int) - levels).max() <= 1  # it has eight bits
    # A slight overshoot, as from a resize, is allowed.
    (image,), _ = images.as_images(np.array([[-5e-4, 1 + 5e-4]], dtype))
    assert image[0, :, 0].tolist() == [0, 255]


@pytest.mark.parametrize(
    ("pixels", "mode"),
    [
        (noise(6, 5), "L"),
        (noise(6, 5, 1)[..., 0], "L"),
        (noise(6, 5, 3), "RGB"),
        (noise(6, 5, 4), "RGBA"),
        (noise(6, 5, 2), "LA"),
    ],
)
def test_grey_and_transparent_images_equal_their_files(pixels, mode, tmp_path):
    pillow = Image.fromarray(pixels, mode) if mode == "LA" else Image.fromarray(pixels)
    assert pillow.mode == mode
    pillow.save(tmp_path / "a.png")
    expected, _ = decoding.decode(tmp_path / "a.png")
    forms = [pillow]
    if mode != "LA":
        forms += [pixels, pixels.astype(np.float32) / 255]
    if mode == "L":
        forms += [pixels[..., None], [pixels]]
    for form in forms:
        (image,), _ = images.as_images(form)
        assert image.shape == (6, 5, 3)
        np.testing.assert_array_equal(image, expected)


def truncated() -> Image.Image:
    """A JPEG that Pillow opens but cannot read to its end."""
    whole = io.BytesIO()
    Image.fromarray(noise(64, 64, 3)).save(whole, "jpeg")
    return Image.open(io.BytesIO(whole.getvalue()[:1500]))


def spoiled(value: float) -> np.ndarray:
    pixels = np.full((3, 2, 3), 0.5)
    pixels[1, 1, 1] = value
    return pixels


HUGE = np.broadcast_to(np.zeros(4, np.uint8), (20_000, 20_000, 4))


@pytest.mark.parametrize(
    ("form", "message"),
    [
        ([], "no images: the batch is empty"),
        ((), "no images: the batch is empty"),
        (np.zeros((0, 4, 4, 3), np.uint8), "no images: the batch is empty"),
        (np.zeros((0, 4, 3), np.uint8), "the image has shape [0, 4, 3]: it has no pixels"),
        ([RGB, np.zeros((4, 0), np.uint8)], "image 1 has shape [4, 0]: it has no pixels"),
        (Image.new("RGB", (0, 5)), "the image has shape [5, 0, 3]: it has no pixels"),
        (Image.new("I", (3, 2)), "the image: cannot be read as an image (32-bit integer pixels"),
        (spoiled(np.nan), "the image has pixels that are NaN or infinite"),
        ([RGB, spoiled(np.inf)], "image 1 has pixels that are NaN or infinite"),
        (jnp.asarray(spoiled(-np.inf)), "the image has pixels that are NaN or infinite"),
        (RGB.astype(np.float32), "must be in [0, 1]; divide bytes by 255"),
        (spoiled(1.01), "the image is floating from 0.5 to 1.01: must be in [0, 1]"),
        (spoiled(-0.2), "the image is floating from -0.2 to 0.5: must be in [0, 1]"),
        (noise(4, 5, 2), "the image has shape [4, 5, 2]: must be [H, W], or [H, W, C]"),
        (noise(3, 40, 50), "the image has shape [3, 40, 50]: must be [H, W], or"),
        (noise(2, 4, 5, 5), "image 0 has shape [4, 5, 5]: must be [H, W], or"),
        (noise(2, 2, 4, 5, 3), "image 0 has shape [2, 4, 5, 3]: must be [H, W], or"),
        ([RGB, RGB[None]], "image 1 has shape [1, 6, 5, 3]: must be [H, W], or"),
        (np.uint8(3), "the image has shape []: must be [H, W], or"),
        (RGB.astype(np.int64), "the image is of type int64: must be uint8, or floating"),
        (RGB.astype(np.uint16), "divide other integers by their maximum"),
        (RGB > 9, "the image is of type bool: must be uint8, or floating"),
        (RGB.astype(complex), "the image is of type complex128: must be uint8, or"),
        ("photo.jpg", "the image is a str, not pixels; read files with landmarks_jax.data.dec"),
        (["photo.jpg"], "image 0 is a str, not pixels; read files with"),
        ("", "the image is a str, not pixels"),
        (b"\xff\xd8", "the image is a bytes, not pixels"),
        (None, "the image is a NoneType: must be an array of pixels, a Pillow image, or a list"),
        ([RGB, None], "image 1 is a NoneType: must be an array of pixels"),
        ((image for image in [RGB]), "the image is a generator: must be an array of pixels"),
        ([[[1, 2], [3]]], "image 0: its rows differ in length"),
        (Image.new("F", (2, 2)), "the image: cannot be read as an image (32-bit float pixels"),
        (truncated(), "the image: cannot be read as an image (image file is truncated"),
        (HUGE, "the image has 20000 x 20000 pixels: at most 179 million are supported"),
        ([HUGE[..., 0].astype(bool)[:9, :9].astype(float), HUGE], "image 1 has 20000 x 20000"),
    ],
)
def test_invalid_images_are_named(form, message):
    with pytest.raises(DataError) as refused:
        images.as_images(form)
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)
    assert len(str(refused.value)) < 250


def test_a_path_is_not_an_image(tmp_path):
    with pytest.raises(DataError, match=r"the image is a \w*Path, not pixels"):
        images.as_images(tmp_path / "a.jpg")


def test_the_default_rectangle_is_that_of_training():
    batch = [noise(100, 200, 3), noise(50, 30, 3)]
    rectangles = images.view_rectangles(batch, None, False, CENTER)
    np.testing.assert_allclose(rectangles, [(20, 10, 180, 90), (3, 5, 27, 45)])
    tight = images.view_rectangles(batch, None, False, Framing(20, 16, "tight"))
    assert tight == [(0, 0, 200, 100), (0, 0, 30, 50)]
    with pytest.raises(DataError, match="needs boxes, x0 y0 x1 y1 for each image"):
        images.view_rectangles(batch, None, False, Framing(20, 16, "box"))


def test_boxes_are_used_unchanged():
    batch = [noise(100, 200, 3), noise(50, 30, 3)]
    boxes = [(20, 10.5, 180, 90), (-5, -6, 35, 45)]
    for form in (boxes, np.array(boxes), jnp.array(boxes), np.float16(boxes)):
        for crop in ("center", "box"):
            assert images.view_rectangles(batch, form, False, Framing(20, 16, crop)) == boxes
    for form in (boxes[0], np.array(boxes[:1])):
        assert images.view_rectangles(batch[:1], form, True, CENTER) == boxes[:1]


@pytest.mark.parametrize(
    ("boxes", "message"),
    [
        (np.zeros((3, 4)), "boxes have shape [3, 4]: must be [2, 4], x0 y0 x1 y1 each"),
        ([0, 0, 9, 9], "boxes have shape [4]: must be [2, 4]"),
        (np.zeros((2, 5)), "boxes have shape [2, 5]: must be [2, 4]"),
        ([], "boxes have shape [0]: must be [2, 4]"),
        ("box", "boxes are not an array of numbers: must be [2, 4]"),
        ([[0, 0, 9, 9], [0, 0, 9]], "boxes are not an array of numbers: must be [2, 4]"),
        ([None, [0, 0, 9, 9]], "boxes are not an array of numbers"),
        ([(0, 0, 9, 9), (0, 0, np.nan, 9)], "box 1 is [0.0, 0.0, nan, 9.0]: must be x0 y0 x1 y1"),
        ([(0, -np.inf, 9, 9)] * 2, "box 0 is [0.0, -inf, 9.0, 9.0]: must be"),
        ([(9, 0, 2, 9)] * 2, "box 0 is [9.0, 0.0, 2.0, 9.0]: must be x0 y0 x1 y1 with"),
        ([(2, 2, 9, 2.5)] * 2, "x1 - x0 and y1 - y0 at least 1 pixel"),
        ([(0, 0, 9, 9), (30, 0, 39, 9)], "box 1 is [30.0, 0.0, 39.0, 9.0]: lies outside its image"),
        ([(-9, 0, 0, 9)] * 2, "lies outside its image, 40 x 50"),
        ([(0, -9, 9, 0)] * 2, "lies outside its image, 40 x 50"),
        ([(0, 50, 9, 60)] * 2, "lies outside its image, 40 x 50"),
        ([(-100, 0, 101, 9)] * 2, "box 0 is [-100.0, 0.0, 101.0, 9.0]: is over 4 times its image"),
        ([(0, 0, 1e30, 1e30)] * 2, "is over 4 times its image, 40 x 50"),
        ([(-1e308, 0, 1e308, 9)] * 2, "is over 4 times its image"),
    ],
)
def test_invalid_boxes_are_named(boxes, message):
    batch = [noise(50, 40, 3), noise(50, 30, 3)]
    with pytest.raises(DataError) as refused:
        images.view_rectangles(batch, boxes, False, CENTER)
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)


def test_huge_views_are_refused_and_a_small_box_costs_little():
    huge = np.broadcast_to(np.array([9, 8, 7], np.uint8), (20_000, 20_000, 3))
    with pytest.raises(
        DataError, match="viewed part of the image has 16000 x 16000 pixels: at most"
    ):
        images.view_rectangles([huge], None, True, CENTER)
    with pytest.raises(
        DataError, match=r"box 1 is .*: the viewed part has 15000 x 20000 pixels: at mos"
    ):
        images.view_rectangles([RGB, huge], [(0, 0, 5, 6), (0, 0, 15e3, 20e3)], False, CENTER)
    tracemalloc.start()
    try:
        (image,), _ = images.as_images(huge)
        (grey,), _ = images.as_images(huge[..., 0])
        assert grey.shape == image.shape
        rectangles = images.view_rectangles([image, grey], [(-9, -9, 491, 491)] * 2, False, CENTER)
        tall = images.view_rectangles([image], (50, 0, 60, 20_000), True, CENTER)
        views = images.to_views([image, grey, image], [*rectangles, *tall], 16)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 8e6
    np.testing.assert_array_equal(views[[0, 2]], np.broadcast_to([9, 8, 7], (2, 16, 16, 3)))
    np.testing.assert_array_equal(views[1], np.full((16, 16, 3), 9))


INSIDE = (slice(1, -1), slice(1, -1))


@pytest.mark.parametrize("size", [(218, 178), (40, 60), (9, 7), (16, 16), (1, 1)])
def test_views_are_those_of_training(size):
    photo = noise(*size, 3)
    for crop in ("center", "tight"):
        frame = Framing(80, 64, crop)
        canvas, _ = frame.cut(photo, NO_POINTS)
        views = images.to_views([photo], images.view_rectangles([photo], None, True, frame), 64)
        assert views.dtype == np.uint8
        difference = np.abs(views[0].astype(int) - frame.central_view(canvas))
        # The canvas of the tight crop continues the photo, whose outermost pixels then count more.
        assert difference[INSIDE if crop == "tight" else ...].max() <= 1


def test_a_box_is_the_image_cropped_by_hand():
    photo = noise(60, 80, 3)
    box, rows, columns = (21, 13, 71, 53), slice(13, 53), slice(21, 71)
    (view,) = images.to_views([photo], [box], 16)
    cropped = Image.fromarray(photo[rows, columns]).resize((16, 16), Image.Resampling.BILINEAR)
    # Cropped by hand, the outermost pixels do not see their surroundings.
    np.testing.assert_array_equal(view[INSIDE], np.asarray(cropped)[INSIDE])
    around = Image.fromarray(photo).resize((16, 16), Image.Resampling.BILINEAR, box=box)
    np.testing.assert_array_equal(view, around)
    whole = Image.fromarray(photo).resize((16, 16), Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(images.to_views([photo], [(0, 0, 80, 60)], 16)[0], whole)


@pytest.mark.parametrize(
    "box", [(-20, -10, 90, 75), (-30.5, -20, 10, 10.25), (65, 40, 110, 90), (-9, 20, 50, 50)]
)
def test_beyond_an_image_its_border_is_repeated(box):
    photo = noise(60, 80, 3)
    left, top, right, bottom = box
    # As far as the box, and inside the image as far as the filter.
    room = [max(0, -math.floor(top)), max(0, math.ceil(bottom) - 60)]
    side = [max(0, -math.floor(left)), max(0, math.ceil(right) - 80)]
    padded = Image.fromarray(np.pad(photo, (room, side, (0, 0)), "edge"))
    shifted = (left + side[0], top + room[0], right + side[0], bottom + room[0])
    expected = padded.resize((16, 16), Image.Resampling.BILINEAR, box=shifted)
    np.testing.assert_array_equal(images.to_views([photo], [box], 16)[0], expected)


def test_points_of_views_in_pixels():
    rectangles = [(0, 0, 200, 100), (20.5, 10, 40.5, 90)]
    points = np.array([[[-1, -1], [1, 1], [0, 0]]] * 2, np.float32)
    pixels = images.from_view(points, rectangles)
    assert pixels.dtype == np.float32
    expected = [
        [[-0.5, -0.5], [199.5, 99.5], [99.5, 49.5]],
        [[20, 9.5], [40, 89.5], [30, 49.5]],
    ]
    np.testing.assert_array_equal(pixels, expected)
    # Pixel i of a view as large as the part lies on pixel i of the part.
    centers = (2 * np.arange(20) + 1) / 20 - 1
    pixels = images.from_view(np.stack([centers, centers], -1)[None], [(30, 70, 50, 90)])
    np.testing.assert_allclose(pixels[0, :, 0], np.arange(30, 50), atol=1e-5)
    np.testing.assert_allclose(pixels[0, :, 1], np.arange(70, 90), atol=1e-5)


@pytest.mark.parametrize("size", [(300, 200), (61, 97)])
@pytest.mark.parametrize("box", [None, (0.1, 0.2, 0.9, 0.95), (-0.2, 0.1, 1.1, 1.3)])
def test_a_blob_is_found_where_it_was_drawn(size, box):
    height, width = size
    center = np.array([width * 0.45, height * 0.55])
    grid = np.stack(np.meshgrid(np.arange(width), np.arange(height)), -1)
    bump = np.exp(-((grid - center) ** 2).sum(-1) / (2 * (height / 12) ** 2))
    photo = (255 * bump).round().astype(np.uint8)
    boxes = None if box is None else np.array(box) * [width, height, width, height]
    (image,), single = images.as_images(photo)
    rectangles = images.view_rectangles([image], boxes, single, CENTER)
    weight = images.to_views([image], rectangles, 64)[0, ..., 0].astype(float)
    weight /= weight.sum()
    centers = (2 * np.arange(64) + 1) / 64 - 1
    point = np.array([[[(weight.sum(0) * centers).sum(), (weight.sum(1) * centers).sum()]]])
    pixels = images.from_view(point, rectangles)[0, 0]
    assert np.abs(pixels - center).max() < 0.002 * max(size)


def test_a_scene_of_any_size_gives_the_same_view():
    sizes = [(64, 64), (300, 200), (90, 160), (1000, 700)]
    batch = [packing.scene(*size) for size in sizes]
    views = images.to_views(batch, images.view_rectangles(batch, None, False, CENTER), 16)
    assert views[0].std() > 20
    assert np.abs(views.astype(int) - views[0]).max() <= 4
