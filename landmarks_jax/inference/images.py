"""Pictures as callers have them, into views as the detector wants them, and points back."""

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from landmarks_jax.data import decoding
from landmarks_jax.data.framing import Framing, Rectangle, stretch
from landmarks_jax.system.errors import DataError

_CHANNELS = (1, 3, 4)
# Beyond the picture its border is repeated, pixel by pixel, before it is shrunk.
_LARGEST_BOX = 4
# Looked at at once; of a file Pillow refuses more. Some 1.3 GB are needed for as many.
_MOST_PIXELS = 178_956_970


def as_list(images: Any) -> tuple[list[np.ndarray], bool]:
    """One picture, a batch or a list of pictures as a list of `[H, W, 3]` uint8.

    Args:
      images: a picture `[H, W]` or `[H, W, C]`, a batch `[B, H, W, C]`, or a sequence of pictures
        of any sizes; NumPy, JAX or Pillow. C is 3, or 1 (grey) or 4 (RGBA, shown over white).
        uint8, or floating in [0, 1], which is rounded to 8 bits. Pillow's are taken as they are,
        not turned by their EXIF orientation.

    Returns:
      The pictures, perhaps read-only, and whether just one was given, not in a batch.

    Raises:
      DataError: there is no picture, or one cannot be meant as a picture; it is named by its place.
    """
    if not isinstance(images, Sequence) or isinstance(images, str | bytes):
        images = _as_array(images, "the image")
        if images.ndim < 4:
            return [_as_rgb(images, "the image")], True
    if len(images) == 0:
        raise DataError("no images: the batch is empty")
    names = [f"image {i}" for i in range(len(images))]
    return [_as_rgb(_as_array(*pair), pair[1]) for pair in zip(images, names, strict=True)], False


def _as_array(image: Any, name: str) -> np.ndarray:
    """What was given as an array of any shape."""
    if isinstance(image, str | bytes | os.PathLike):
        raise DataError(
            f"{name} is a {type(image).__name__} and not pixels; read files with "
            "landmarks_jax.data.decoding.decode"
        )
    if isinstance(image, Image.Image):
        try:
            return np.asarray(decoding.to_rgb(image))
        except Exception as error:  # a file that is read only now: Pillow's readers raise anything
            reason = " ".join(str(error).split()) or type(error).__name__
            raise DataError(f"{name}: cannot be read as a picture ({reason})") from error
    try:
        pixels = np.asarray(image)
    except ValueError as error:
        raise DataError(f"{name} is not one array: its rows differ in length") from error
    if pixels.dtype == object:
        raise DataError(
            f"{name} is a {type(image).__name__}: must be an array of pixels, a Pillow picture, "
            "or a list of those"
        )
    return pixels


def _as_rgb(pixels: np.ndarray, name: str) -> np.ndarray:
    if pixels.ndim not in (2, 3) or (pixels.ndim == 3 and pixels.shape[2] not in _CHANNELS):
        raise DataError(
            f"{name} has the shape {list(pixels.shape)}: must be [H, W], or [H, W, C] with C = 1 "
            "(grey), 3 (RGB) or 4 (RGBA)"
        )
    if 0 in pixels.shape:
        raise DataError(f"{name} has the shape {list(pixels.shape)}: it has no pixels")
    pixels = _as_bytes(pixels, name)
    if pixels.ndim == 2:
        pixels = pixels[..., None]
    if pixels.shape[2] == 4:
        _check_area(pixels.shape[1], pixels.shape[0], name)
        return np.asarray(decoding.to_rgb(Image.fromarray(pixels)))
    return np.broadcast_to(pixels, (*pixels.shape[:2], 3))


def _as_bytes(pixels: np.ndarray, name: str) -> np.ndarray:
    if pixels.dtype == np.uint8:
        return pixels
    # By kind: JAX's bfloat16 is no subtype of NumPy's floating.
    if not np.issubdtype(pixels.dtype, np.floating) and pixels.dtype.name != "bfloat16":
        raise DataError(
            f"{name} is of type {pixels.dtype}: must be uint8, or floating in [0, 1]; divide other "
            "integers by their white"
        )
    _check_area(pixels.shape[1], pixels.shape[0], name)
    low, high = float(pixels.min()), float(pixels.max())
    if not (np.isfinite(low) and np.isfinite(high)):
        raise DataError(f"{name} has pixels that are NaN or infinite")
    if low < -1e-3 or high > 1 + 1e-3:
        raise DataError(
            f"{name} is floating from {low:g} to {high:g}: must be in [0, 1]; divide bytes by 255"
        )
    scaled = pixels.astype(np.float32) * 255
    return np.clip(np.rint(scaled, out=scaled), 0, 255, out=scaled).astype(np.uint8)


def _check_area(width: float, height: float, what: str) -> None:
    if width * height > _MOST_PIXELS:
        raise DataError(
            f"{what} is of {width:g} x {height:g} pixels: at most {_MOST_PIXELS / 1e6:.0f} million "
            "can be looked at at once; shrink the image, or give a smaller part of it"
        )


def rectangles(
    images: Sequence[np.ndarray], boxes: Any, single: bool, frame: Framing
) -> list[Rectangle]:
    """The part of each picture that its view shows.

    Args:
      images: `[H, W, 3]` each.
      boxes: `[B, 4]` (or `[4]` with a single picture) x0, y0, x1, y1 in pixel edges: 0, 0, W, H is
        the whole picture. They may reach beyond it. None shows what training would have shown.
      single: whether one picture was given, not in a batch.
      frame: how training cut its views.

    Raises:
      DataError: a box is missing, or is none.
    """
    if boxes is None:
        if frame.crop == "box":
            raise DataError(
                "this detector was trained on views cut around annotated points: it needs boxes, "
                "x0 y0 x1 y1 for each image"
            )
        nothing = np.zeros((0, 2))
        shown = [frame.view_rectangle(image.shape[1::-1], nothing) for image in images]
    else:
        given = _as_boxes(boxes, len(images), single)
        for i, (box, image) in enumerate(zip(given, images, strict=True)):
            _check_box(box, image.shape[1::-1], f"box {i}")
        shown = [(float(a), float(b), float(c), float(d)) for a, b, c, d in given]
    for i, (left, top, right, bottom) in enumerate(shown):
        name = "the image" if single else f"image {i}"
        _check_area(right - left, bottom - top, f"what is looked at of {name}")
    return shown


def _as_boxes(boxes: Any, count: int, single: bool) -> np.ndarray:
    """Boxes `[B, 4]` float64."""
    wanted = "must be [4], x0 y0 x1 y1" if single else f"must be [{count}, 4], x0 y0 x1 y1 each"
    try:
        given = np.asarray(boxes, np.float64)
    except (ValueError, TypeError) as error:
        raise DataError(f"boxes are no array of numbers: {wanted}") from error
    if single and given.shape == (4,):
        given = given[None]
    if given.shape != (count, 4):
        raise DataError(f"boxes have the shape {list(given.shape)}: {wanted}")
    return given


def _check_box(box: np.ndarray, size: tuple[int, ...], name: str) -> None:
    (left, top, right, bottom), (width, height) = box.tolist(), size
    name = f"{name} is {box.tolist()}"
    if not (np.isfinite(box).all() and right - left >= 1 and bottom - top >= 1):
        raise DataError(f"{name}: must be x0 y0 x1 y1 in pixels, x1 and y1 at least 1 above")
    if left >= width or top >= height or right <= 0 or bottom <= 0:
        raise DataError(f"{name}: lies outside its image, {width} x {height}")
    if max(right - left, bottom - top) > _LARGEST_BOX * max(width, height):
        raise DataError(f"{name}: is over {_LARGEST_BOX} times its image, {width} x {height}")


def to_views(
    images: Sequence[np.ndarray], shown: Sequence[Rectangle], view_size: int
) -> np.ndarray:
    """Stretches the shown part of each picture to a view: `[B, S, S, 3]` uint8.

    Bilinear, antialiased where it shrinks, borders replicated: `framing.stretch`, the one resize
    before any form of the detector.
    """
    return np.stack(
        [stretch(image, part, view_size) for image, part in zip(images, shown, strict=True)]
    )


def from_view(points: np.ndarray, shown: Sequence[Rectangle]) -> np.ndarray:
    """Points `[B, Q, 2]` of the views' frames in pixels of the pictures.

    The centre of a picture's first pixel is 0, 0.
    """
    corners = np.asarray(shown, np.float64)[:, None]
    low, high = corners[..., :2], corners[..., 2:]
    return ((points + 1.0) / 2.0 * (high - low) + low - 0.5).astype(np.float32)
