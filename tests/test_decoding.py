"""Decoding: every mode of image, orientation, damage."""

import numpy as np
import pytest
from PIL import Image

from landmarks_jax.data import decoding
from landmarks_jax.system.errors import DataError


def oriented(path, tag):
    """A PNG of 3 x 2 pixels, its first pixel red, with an EXIF orientation."""
    pixels = np.zeros((2, 3, 3), np.uint8)
    pixels[0, 0] = (255, 0, 0)
    exif = Image.Exif()
    exif[0x0112] = tag
    Image.fromarray(pixels).save(path, exif=exif)
    return path


@pytest.mark.parametrize(
    ("mode", "value", "name", "expected"),
    [
        ("L", 90, "a.png", (90, 90, 90)),
        ("1", 1, "a.png", (255, 255, 255)),
        ("RGB", (1, 2, 3), "a.png", (1, 2, 3)),
        ("RGBA", (100, 0, 200, 0), "a.png", (255, 255, 255)),  # transparent: the white page
        ("RGBA", (100, 0, 200, 51), "a.png", (224, 204, 244)),  # 0.2 c + 0.8 x 255
        ("LA", (0, 102), "a.png", (153, 153, 153)),
        ("CMYK", (255, 0, 0, 0), "a.tif", (0, 255, 255)),
        ("I;16", 257 * 77, "a.png", (77, 77, 77)),
        ("I", 65535, "a.tif", (255, 255, 255)),
    ],
)
def test_every_mode_becomes_rgb(mode, value, name, expected, tmp_path):
    Image.new(mode, (4, 3), value).save(tmp_path / name)
    pixels, orientation = decoding.decode(tmp_path / name)
    assert (pixels.dtype, pixels.shape, orientation) == (np.uint8, (3, 4, 3), 1)
    np.testing.assert_array_equal(pixels, np.broadcast_to(np.uint8(expected), (3, 4, 3)))


def test_palettes_with_and_without_transparency(tmp_path):
    palette = Image.new("P", (2, 1))
    palette.putpalette([10, 20, 30, 40, 50, 60])
    palette.putpixel((1, 0), 1)
    palette.save(tmp_path / "plain.png")
    palette.save(tmp_path / "bytes.png", transparency=bytes([255, 0]))
    palette.save(tmp_path / "index.gif", transparency=1)
    assert decoding.decode(tmp_path / "plain.png")[0].tolist() == [[[10, 20, 30], [40, 50, 60]]]
    for name in ("bytes.png", "index.gif"):
        assert decoding.decode(tmp_path / name)[0].tolist() == [[[10, 20, 30], [255] * 3]]


# Where the stored first pixel is seen, (row, column), by the EXIF standard; 5 to 8 swap the sides.
ORIENTATIONS = {1: (0, 0), 2: (0, 2), 3: (1, 2), 4: (1, 0), 5: (0, 0), 6: (0, 1), 7: (2, 1)}


@pytest.mark.parametrize(("tag", "red"), [*ORIENTATIONS.items(), (8, (2, 0)), (0, (0, 0))])
def test_exif_orientation_is_applied_unless_points_are_in_stored_pixels(tag, red, tmp_path):
    path = oriented(tmp_path / "a.png", tag)
    pixels, orientation = decoding.decode(path)
    assert pixels.shape[:2] == ((3, 2) if tag > 4 else (2, 3))
    assert orientation == (tag or 1)
    assert np.argwhere(pixels[..., 0] == 255).tolist() == [list(red)]
    stored, _ = decoding.decode(path, upright=False)
    assert stored[0, 0, 0] == 255
    assert stored.shape == (2, 3, 3)


def test_truncated_damaged_and_float_images_are_errors(tmp_path):
    path = tmp_path / "a.jpg"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[:1500])
    with pytest.raises(DataError, match=r"a.jpg: cannot be read as an image \(.*truncated"):
        decoding.decode(path)
    # An end of zeros, as a crash leaves it: Pillow alone decodes it to black, or to other pixels.
    path = tmp_path / "a.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (9, 9, 3), np.uint8)).save(path)
    data = path.read_bytes()
    for damaged in (data[:200] + bytes(len(data) - 200), data[:150] + b"x" + data[151:]):
        path.write_bytes(damaged)
        with pytest.raises(DataError, match=r"a.png: cannot be read as an image \(.*broken"):
            decoding.decode(path)
    Image.new("F", (2, 2), 0.5).save(tmp_path / "f.tif")
    with pytest.raises(DataError, match="no agreed white"):
        decoding.decode(tmp_path / "f.tif")
    with pytest.raises(DataError, match="no such file"):
        decoding.decode(tmp_path / "none.png")
