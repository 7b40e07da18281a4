"""User images to views, and points of views back to pixels of the images."""

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from landmarks_jax.data import decoding
from landmarks_jax.data.framing import Framing, Rectangle, stretch
from landmarks_jax.system.errors import DataError, reason

_CHANNELS = (1, 3, 4)
_MAX_BOX = 4  # times the image; beyond the image its border is replicated before the resize
# Of an image or of the viewed part; Pillow refuses larger files. Needs about 1.3 GB.
_MAX_PIXELS = 178_956_970


def as_images(images: Any) -> tuple[list[np.ndarray], bool]:
    """Converts an image, a batch or a list of images to a list of uint8 `[H, W, 3]`.

    Args:
      images: an image `[H, W]` or `[H, W, C]`, a batch `[B, H, W, C]`, or a sequence of images of
        any sizes, as NumPy, JAX or Pillow. C is 3, 1 (grey) or 4 (RGBA, composited over white).
        uint8, or floating in [0, 1], which is rounded to 8 bits. The EXIF orientation of Pillow
        images is ignored; Pillow itself applies that of TIFFs.

    Returns:
      The images, possibly read-only, and whether `images` was a single image.

    Raises:
      DataError: there is no image, or one is invalid; the message names it by its index.
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
    if isinstance(image, str | bytes | os.PathLike):
        raise DataError(
            f"{name} is a {type(image).__name__}, not pixels; read files with "
            "landmarks_jax.data.decoding.decode"
        )
    if isinstance(image, Image.Image):
        try:
            return np.asarray(decoding.to_rgb(image))
        except Exception as error:  # a lazily read file: Pillow's readers raise anything
            raise DataError(f"{name}: cannot be read as an image ({reason(error)})") from error
    try:
        pixels = np.asarray(image)
    except ValueError as error:
        raise DataError(f"{name}: its rows differ in length") from error
    if pixels.dtype == object:
        raise DataError(
            f"{name} is a {type(image).__name__}: must be an array of pixels, a Pillow image, or a "
            "list of those"
        )
    return pixels


def _as_rgb(pixels: np.ndarray, name: str) -> np.ndarray:
    if pixels.ndim not in (2, 3) or (pixels.ndim == 3 and pixels.shape[2] not in _CHANNELS):
        raise DataError(
            f"{name} has shape {list(pixels.shape)}: must be [H, W], or [H, W, C] with C = 1 "
            "(grey), 3 (RGB) or 4 (RGBA)"
        )
    if 0 in pixels.shape:
        raise DataError(f"{name} has shape {list(pixels.shape)}: it has no pixels")
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
    # By name: JAX's bfloat16 is not a subtype of NumPy's floating.
    if not np.issubdtype(pixels.dtype, np.floating) and pixels.dtype.name != "bfloat16":
        raise DataError(
            f"{name} is of type {pixels.dtype}: must be uint8, or floating in [0, 1]; divide other "
            "integers by their maximum"
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
    if width * height > _MAX_PIXELS:
        raise DataError(
            f"{what} has {width:g} x {height:g} pixels: at most {_MAX_PIXELS / 1e6:.0f} million "
            "are supported; shrink the image, or give a smaller box"
        )


def view_rectangles(
    images: Sequence[np.ndarray], boxes: Any, single: bool, frame: Framing
) -> list[Rectangle]:
    """The part of each image that its view shows.

    Args:
      images: `[H, W, 3]` each.
      boxes: `[B, 4]` x0, y0, x1, y1 in pixel edges: 0, 0, W, H is the whole image; for a single
        image `[4]`, or `[n, 4]` for n parts of it. They may reach beyond it. None selects what
        training would have viewed.
      single: whether the user gave a single image rather than a batch.
      frame: how training cut its views.

    Raises:
      DataError: a box is missing or invalid.
    """
    if boxes is None:
        if frame.crop == "box":
            raise DataError(
                "this detector was trained on views cut around annotated points: it needs boxes, "
                "x0 y0 x1 y1 for each image"
            )
        no_points = np.zeros((0, 2))
        rectangles = [frame.view_rectangle(image.shape[1::-1], no_points) for image in images]
        for i, (left, top, right, bottom) in enumerate(rectangles):
            name = "the image" if single else f"image {i}"
            _check_area(right - left, bottom - top, f"the viewed part of {name}")
        return rectangles
    array = _as_boxes(boxes, len(images), single)
    viewed = [images[0]] * len(array) if single else images
    pairs = enumerate(zip(array, viewed, strict=True))
    return [box_rectangle(box, image, f"box {i}") for i, (box, image) in pairs]


def box_rectangle(box: np.ndarray, image: np.ndarray, name: str) -> Rectangle:
    """The part of an image `[H, W, 3]` that a box `[4]` names.

    Raises:
      DataError: the box does not fit the image; the message begins with `name`.
    """
    (left, top, right, bottom), (height, width) = box.tolist(), image.shape[:2]
    name = f"{name} is {box.tolist()}"
    if not (np.isfinite(box).all() and right - left >= 1 and bottom - top >= 1):
        raise DataError(f"{name}: must be x0 y0 x1 y1 with x1 - x0 and y1 - y0 at least 1 pixel")
    if left >= width or top >= height or right <= 0 or bottom <= 0:
        raise DataError(f"{name}: lies outside its image, {width} x {height}")
    if max(right - left, bottom - top) > _MAX_BOX * max(width, height):
        raise DataError(f"{name}: is over {_MAX_BOX} times its image, {width} x {height}")
    _check_area(right - left, bottom - top, f"{name}: the viewed part")
    return left, top, right, bottom


def _as_boxes(boxes: Any, count: int, single: bool) -> np.ndarray:
    shape = (
        "must be [4] or [n, 4], x0 y0 x1 y1"
        if single
        else f"must be [{count}, 4], x0 y0 x1 y1 each"
    )
    try:
        array = np.asarray(boxes, np.float64)
    except (ValueError, TypeError) as error:
        raise DataError(f"boxes are not an array of numbers: {shape}") from error
    if single and array.shape == (4,):
        array = array[None]
    if array.shape != ((*array.shape[:1], 4) if single else (count, 4)):
        raise DataError(f"boxes have shape {list(array.shape)}: {shape}")
    return array


def to_views(
    images: Sequence[np.ndarray], rectangles: Sequence[Rectangle], view_size: int
) -> np.ndarray:
    """Resizes a rectangle of each image to a view: `[B, S, S, 3]` uint8, by `framing.stretch`."""
    views = np.zeros((len(rectangles), view_size, view_size, 3), np.uint8)
    for view, image, part in zip(views, images, rectangles, strict=True):
        view[:] = stretch(image, part, view_size)
    return views


def from_view(points: np.ndarray, rectangles: Sequence[Rectangle]) -> np.ndarray:
    """Maps points `[B, Q, 2]`, normalised to the views, to pixels of the images, float32."""
    corners = np.asarray(rectangles, np.float64).reshape(-1, 1, 4)
    low, high = corners[..., :2], corners[..., 2:]
    return ((points + 1.0) / 2.0 * (high - low) + low - 0.5).astype(np.float32)
