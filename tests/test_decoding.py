"""Decoding: every mode of image, orientation, metadata, damage."""

import struct
import tracemalloc

import numpy as np
import pytest
from PIL import Image, TiffImagePlugin

from landmarks_jax.data import decoding
from landmarks_jax.system.errors import DataError
from tests.detecting import (
    BAD_EXIF,
    STORED,
    XMP,
    add_chunk,
    exif_entry,
    large_texts,
    noise,
    save_bad_exif,
    save_rotated,
)

LOSSY = {".avif": 4, ".jpg": 4}  # levels, at the best quality


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
        ("I;16", 257 * 77, "a.tif", (77, 77, 77)),
        ("I", 257 * 77, "a.pgm", (77, 77, 77)),
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


def test_truncated_damaged_and_missing_images_are_errors(tmp_path):
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
    with pytest.raises(DataError, match="no such file"):
        decoding.decode(tmp_path / "none.png")


@pytest.mark.parametrize(("mode", "value", "kind"), [("F", 0.5, "float"), ("I", 8, "integer")])
def test_32_bit_greys_are_errors(mode, value, kind, tmp_path):
    Image.new(mode, (2, 2), value).save(tmp_path / "a.tif")
    why = f"32-bit {kind} pixels have no agreed white; save it as 8 or 16 bit"
    with pytest.raises(DataError, match=why):
        decoding.decode(tmp_path / "a.tif")


@pytest.mark.parametrize(
    ("bits", "white_is_zero", "data", "expected"),
    [
        (12, False, bytes.fromhex("fff000080f00"), [255, 0, 8, 239]),  # 0xfff, 0, 0x80, 0xf00
        (16, True, struct.pack("<4H", 0, 65535, 257 * 9, 257 * 200), [255, 0, 246, 55]),
    ],
)
def test_tiffs_of_12_bits_and_of_white_as_0(bits, white_is_zero, data, expected, tmp_path):
    tags = {256: 4, 257: 1, 258: bits, 259: 1, 262: 1 - white_is_zero, 273: 8, 277: 1, 278: 1}
    tags[279] = len(data)
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    start = 8 + len(data)
    directory = struct.pack("<H", len(tags)) + entries + bytes(4)
    (tmp_path / "a.tif").write_bytes(b"II*\0" + struct.pack("<I", start) + data + directory)
    pixels, _ = decoding.decode(tmp_path / "a.tif")
    assert pixels[0, :, 0].tolist() == expected


TIFFS = ("raw", "packbits", "tiff_lzw", "tiff_adobe_deflate", "lzma", "jpeg")


@pytest.mark.parametrize(
    ("ending", "options"),
    [(ending, {}) for ending in (".png", ".jpg", ".webp", ".avif")]
    + [(".tif", {"compression": compression}) for compression in TIFFS],
)
def test_orientations_of_every_format(ending, options, tmp_path):
    image = noise(0)
    path = tmp_path / f"a{ending}"
    tolerance = 20 if options == {"compression": "jpeg"} else LOSSY.get(ending, 0)
    for tag in STORED:
        stored = save_rotated(path, image, tag, **options)
        for upright, expected in ((True, image), (False, stored)):
            pixels, orientation = decoding.decode(path, upright)
            assert orientation == tag
            np.testing.assert_allclose(pixels.astype(int), expected, rtol=0, atol=tolerance)


@pytest.mark.parametrize(
    ("mode", "compression"),
    [(mode, None) for mode in ("1", "L", "I;16", "P", "RGBA", "CMYK")] + [("1", "group4")],
)
def test_tiffs_of_every_mode_are_rotated_once(mode, compression, tmp_path):
    grey = noise(0)[..., 0]
    image = Image.fromarray(grey.astype(np.uint16) * 257 if mode == "I;16" else grey)
    if mode != "I;16":
        image = image.convert(mode)
    image.save(tmp_path / "upright.tif", compression=compression)
    expected, _ = decoding.decode(tmp_path / "upright.tif")
    stored = image.transpose(Image.Transpose.ROTATE_90)
    stored.save(tmp_path / "rotated.tif", compression=compression, tiffinfo={0x0112: 6})
    np.testing.assert_array_equal(decoding.decode(tmp_path / "rotated.tif")[0], expected)


@pytest.mark.parametrize("ending", [".png", ".jpg", ".webp", ".avif"])
def test_damaged_exif_and_orientations_of_other_types_count_as_upright(ending, tmp_path):
    image = noise(0)
    for name, exif in BAD_EXIF.items():
        save_bad_exif(tmp_path / f"a{ending}", image, exif)
        pixels, orientation = decoding.decode(tmp_path / f"a{ending}")
        assert orientation == 1, name
        error = np.abs(pixels.astype(int) - image).max()
        assert error <= LOSSY.get(ending, 0), name


@pytest.mark.parametrize(("kind", "value"), [(1, 6), (4, 6), (3, 0), (3, 9)])
def test_orientations_of_other_types_in_a_tiff_count_as_upright(kind, value, tmp_path):
    """BYTE and LONG, and values that are not from 1 to 8."""
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    tags[0x0112], tags.tagtype[0x0112] = value, kind
    image = noise(0)
    Image.fromarray(image).save(tmp_path / "a.tif", tiffinfo=tags)
    pixels, orientation = decoding.decode(tmp_path / "a.tif")
    assert orientation == 1
    np.testing.assert_array_equal(pixels, image)


@pytest.mark.parametrize("ending", [".png", ".jpg", ".webp", ".avif", ".tif"])
def test_an_orientation_in_xmp_alone_does_not_count(ending, tmp_path):
    image = noise(0)
    options = {"tiffinfo": {700: XMP}} if ending == ".tif" else {"xmp": XMP}
    if ending == ".png":  # Pillow 11 does not write it
        add_chunk(tmp_path / "a.png", image, b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + XMP)
    else:
        Image.fromarray(image).save(tmp_path / f"a{ending}", **options)
    assert b"tiff:Orientation" in (tmp_path / f"a{ending}").read_bytes()
    pixels, orientation = decoding.decode(tmp_path / f"a{ending}")
    assert (orientation, pixels.shape) == (1, image.shape)


def test_text_and_profiles_of_any_size_or_damage_do_not_matter_in_a_png(tmp_path):
    image = noise(0)
    path = tmp_path / "a.png"
    chunks = [
        *large_texts(),
        (b"iCCP", b"ICC\0\1"),
        (b"zTXt", b"Comment\0\7"),
        (b"pHYs", b""),
        (b"acTL", b""),
    ]
    for kind, data in chunks:
        add_chunk(path, image, kind, data)
        tracemalloc.start()
        pixels, _ = decoding.decode(path)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        np.testing.assert_array_equal(pixels, image, str(kind))
        assert peak < 4 << 20, kind
    add_chunk(path, image, b"tEXt", b"Comment\0hello", checksum=0)
    np.testing.assert_array_equal(decoding.decode(path)[0], image)


@pytest.mark.parametrize(
    "segment",
    [
        b"\xed" + b"Photoshop 3.0\0" + b"8BIM\4\4",
        b"\xe2" + b"ICC_PROFILE\0",
        b"\xe2" + b"MPF\0hello world",
        b"\xee" + b"Adobe",
        b"\xe0" + b"JFIF\0",
        b"\xe1" + b"Exif\0\0",
        b"\xfe" + b"a" * 60_000,
    ],
)
def test_damaged_metadata_does_not_matter_in_a_jpeg(segment, tmp_path):
    Image.fromarray(noise(0)).save(tmp_path / "a.jpg")
    expected, _ = decoding.decode(tmp_path / "a.jpg")
    jpeg = (tmp_path / "a.jpg").read_bytes()
    added = segment[:1] + struct.pack(">H", len(segment) + 1) + segment[1:]
    (tmp_path / "a.jpg").write_bytes(jpeg[:2] + b"\xff\xff" + added + jpeg[2:])
    np.testing.assert_array_equal(decoding.decode(tmp_path / "a.jpg")[0], expected)


def test_the_colours_of_a_jpeg_are_as_its_adobe_segment_says(tmp_path):
    path = tmp_path / "a.jpg"
    Image.new("RGB", (16, 16), (200, 40, 90)).save(path, keep_rgb=True, quality=100)
    components = b"R\x11\0G\x11\0B\x11\0", b"\3R\0G\0B\0"  # of the frame, and of the scan
    jpeg = path.read_bytes()
    for names in components:  # numbers, as of YCbCr
        assert jpeg.count(names) == 1
        jpeg = jpeg.replace(names, names.translate(bytes.maketrans(b"RGB", b"\1\2\3")))
    path.write_bytes(jpeg)
    assert decoding.decode(path)[0][0, 0].tolist() == [200, 40, 90]


def test_the_first_exif_block_counts_wherever_it_stands(tmp_path):
    image = noise(0)
    save_rotated(tmp_path / "6.jpg", image, 6)
    save_rotated(tmp_path / "3.jpg", image, 3)
    first, second = ((tmp_path / f"{tag}.jpg").read_bytes() for tag in (6, 3))
    exif = second[second.index(b"\xff\xe1") : second.index(b"\xff\xdb")]
    at = first.index(b"\xff\xdb")
    (tmp_path / "6.jpg").write_bytes(first[:at] + exif + first[at:])
    assert decoding.decode(tmp_path / "6.jpg")[1] == 6
    # After the pixels, as PNG allows; not if its checksum is wrong.
    exif = exif_entry(3, 1, b"\0\6")
    for checksum, expected in ((None, 6), (0, 1)):
        add_chunk(tmp_path / "6.png", image, b"eXIf", exif, checksum=checksum, before=b"IEND")
        assert decoding.decode(tmp_path / "6.png")[1] == expected
