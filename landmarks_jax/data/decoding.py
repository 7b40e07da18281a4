"""Decodes image files, for training, preparing, evaluation and detection alike."""

import contextlib
import io
import os
from collections.abc import Iterator
from typing import IO

import numpy as np
from PIL import Image, TiffImagePlugin, UnidentifiedImageError

from landmarks_jax.data import metadata
from landmarks_jax.system import files
from landmarks_jax.system.errors import DataError, reason

GREY = (0.299, 0.587, 0.114)  # weights of red, green and blue
_ROTATIONS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_SIDEWAYS = (5, 6, 7, 8)  # orientations that exchange width and height


def to_rgb(image: Image.Image) -> Image.Image:
    """Converts a Pillow image to RGB.

    Transparent pixels are composited over white. 16-bit grey is scaled from [0, 65535]. Of several
    frames the first is used.

    Raises:
      ValueError: the image is grey with 32 bits, for which no value is known to be white.
    """
    # Pillow reads 16-bit PGM as 32 bits, from 0 to 65535.
    if image.mode == "F" or (image.mode == "I" and image.format != "PPM"):
        kind = "float" if image.mode == "F" else "integer"
        raise ValueError(f"32-bit {kind} pixels have no agreed white; save it as 8 or 16 bit")
    if image.mode == "I" or image.mode.startswith("I;16"):
        values = np.clip(np.asarray(image).astype(np.int64), 0, 65535)
        return Image.fromarray(((values + 128) // 257).astype(np.uint8)).convert("RGB")
    if image.mode in {"RGBA", "LA", "PA", "La", "RGBa"} or "transparency" in image.info:
        layer = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")
    return image.convert("RGB")


def decode(
    path: str | os.PathLike[str], upright: bool = True, side: int | None = None
) -> tuple[np.ndarray, int]:
    """Decodes an image file.

    Args:
      path: the file.
      upright: rotate the image as its EXIF orientation says. Annotated points are in pixels of the
        stored image, so annotated sources do not rotate (and refuse photos that would need it).
      side: decode a JPEG faster, at the smallest of 1/8, 1/4, 1/2 and 1 of its size at which it has
        so many pixels a side.

    Returns:
      `[H, W, 3]` uint8 RGB, and the EXIF orientation of the file (1: stored upright).

    Raises:
      DataError: the file is missing, not an image, or damaged, such as truncated.
    """
    with _opened(path) as file:
        return _decode(file, str(path), upright, side)


def read_size(path: str | os.PathLike[str], upright: bool = True) -> tuple[int, int]:
    """Width and height of an image, from its file's header; arguments and errors as of `decode`."""
    with _opened(path) as file, _named(str(path)):
        stripped, exif = metadata.strip(file)
        with Image.open(stripped) as image:
            width, height = image.size  # of a TIFF, Pillow's size is upright
            orientation = metadata.orientation(exif or image.info.get("exif", b""))
    if upright and orientation in _SIDEWAYS:
        return height, width
    return width, height


def decode_bytes(data: bytes, name: str, upright: bool = True) -> tuple[np.ndarray, int]:
    """Decodes the bytes of an image file; `name` is used in messages."""
    return _decode(io.BytesIO(data), name, upright)


@contextlib.contextmanager
def _opened(path: str | os.PathLike[str]) -> Iterator[IO[bytes]]:
    if problem := files.not_regular(path):
        raise _unreadable(str(path), problem)
    try:
        # Given the name, Pillow would map some formats into memory: the process would die of a file
        # that is cut off while it is read.
        with open(path, "rb") as file:
            yield file
    except OSError as error:
        raise _unreadable(str(path), reason(error)) from error


@contextlib.contextmanager
def _named(name: str) -> Iterator[None]:
    """Turns what Pillow's readers raise into errors that name the image."""
    try:
        yield
    except UnidentifiedImageError as error:  # whose text names the Python object
        raise _unreadable(name, "cannot identify its format") from error
    # Many kinds: OSError, SyntaxError, struct.error
    except Exception as error:
        raise _unreadable(name, reason(error)) from error


def _decode(
    file: IO[bytes], name: str, upright: bool, side: int | None = None
) -> tuple[np.ndarray, int]:
    with _named(name):
        file, exif = metadata.strip(file)
        with Image.open(file) as image:
            if side is not None:
                image.draft(None, (side, side))
            if isinstance(image, TiffImagePlugin.TiffImageFile):
                stored, orientation = _decode_tiff(image)
                rgb = to_rgb(stored)
            else:
                orientation = metadata.orientation(exif or image.info.get("exif", b""))
                rgb = to_rgb(image)
        if upright and orientation != metadata.UPRIGHT:
            rgb = rgb.transpose(_ROTATIONS[orientation])
        return np.asarray(rgb), orientation


def _decode_tiff(image: TiffImagePlugin.TiffImageFile) -> tuple[Image.Image, int]:
    """The pixels of a TIFF as stored, and its orientation."""
    tags = image.tag_v2
    orientation = metadata.UPRIGHT
    if tags.tagtype.get(metadata.ORIENTATION) == metadata.SHORT:
        value = tags.get(metadata.ORIENTATION)
        orientation = value if value in _ROTATIONS else metadata.UPRIGHT
    bits = tags.get(TiffImagePlugin.BITSPERSAMPLE, (1,))[0]
    white_is_zero = tags.get(TiffImagePlugin.PHOTOMETRIC_INTERPRETATION) == 0
    # Pillow would rotate the pixels as it decodes them, by these tags, or those that XMP adds.
    exif = image.getexif()
    for tag in list(exif):
        del exif[tag]
    stored = image.copy()  # whose size is that of the pixels, not of the rotated image
    if stored.mode.startswith("I;16"):  # Pillow decodes neither 12 bits to 16 nor white as 0
        values = np.asarray(stored).astype(np.float64) * (65535 / (2**bits - 1))
        values = np.rint(65535 - values if white_is_zero else values)
        stored = Image.fromarray(values.astype(np.uint16))
    return stored, orientation


def _unreadable(name: str, why: str) -> DataError:
    return DataError(f"{name}: cannot be read as an image ({why})")
