"""Pictures as callers have them, into views as the detector wants them, and points back."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from landmarks_jax.data import decoding
from landmarks_jax.data.framing import Framing, Rectangle, stretch
from landmarks_jax.errors import DataError

_CHANNELS = (1, 3, 4)
# Beyond the picture its border is repeated, pixel by pixel, before it is shrunk.
_LARGEST_BOX = 4


def as_list(images: Any) -> tuple[list[np.ndarray], bool]:
    """One picture, a batch or a list of pictures as a list of `[H, W, 3]` uint8.

    Args:
      images: a picture `[H, W]` or `[H, W, C]`, a batch `[B, H, W, C]`, or a sequence of pictures
        of any sizes; NumPy, JAX or Pillow. C is 3, or 1 (grey) or 4 (RGBA, shown over white).
        uint8, or floating in [0, 1], which is rounded to 8 bits.

    Returns:
      The pictures, and whether just one was given, not in a batch.

    Raises:
      DataError: there is no picture, or one cannot be meant as a picture; it is named by its place.
    """
    if isinstance(images, Image.Image):
        return [_as_rgb(images, "the image")], True
    if not isinstance(images, Sequence):
        images = np.asarray(images)
        if images.ndim < 4:
            return [_as_rgb(images, "the image")], True
    if len(images) == 0:
        raise DataError("no images: the batch is empty")
    return [_as_rgb(image, f"image {i}") for i, image in enumerate(images)], False


def _as_rgb(image: Any, name: str) -> np.ndarray:
    if isinstance(image, str | bytes):
        raise DataError(f"{name} is a text; read files with landmarks_jax.data.decoding.decode")
    if isinstance(image, Image.Image):
        return np.asarray(decoding.to_rgb(image))
    pixels = np.asarray(image)
    if pixels.ndim not in (2, 3) or (pixels.ndim == 3 and pixels.shape[2] not in _CHANNELS):
        raise DataError(
            f"{name} has the shape {list(pixels.shape)}: must be [H, W], or [H, W, C] with C = 1 "
            "(grey), 3 (RGB) or 4 (RGBA)"
        )
    if 0 in pixels.shape:
        raise DataError(f"{name} has the shape {list(pixels.shape)}: it has no pixels")
    pixels = _as_bytes(pixels, name)
    if pixels.ndim == 2 or pixels.shape[2] == 1:
        return np.repeat(pixels.reshape(*pixels.shape[:2], 1), 3, 2)
    if pixels.shape[2] == 3:
        return pixels
    return np.asarray(decoding.to_rgb(Image.fromarray(pixels)))


def _as_bytes(pixels: np.ndarray, name: str) -> np.ndarray:
    if pixels.dtype == np.uint8:
        return pixels
    # By kind: JAX's bfloat16 is no subtype of NumPy's floating.
    if not np.issubdtype(pixels.dtype, np.floating) and pixels.dtype.name != "bfloat16":
        raise DataError(
            f"{name} is of type {pixels.dtype}: must be uint8, or floating in [0, 1]; divide other "
            "integers by their white"
        )
    low, high = float(pixels.min()), float(pixels.max())
    if not (np.isfinite(low) and np.isfinite(high)):
        raise DataError(f"{name} has pixels that are NaN or infinite")
    if low < -1e-3 or high > 1 + 1e-3:
        raise DataError(
            f"{name} is floating from {low:g} to {high:g}: must be in [0, 1]; divide bytes by 255"
        )
    return np.rint(np.clip(pixels.astype(np.float32), 0, 1) * 255).astype(np.uint8)


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
        return [frame.view_rectangle(image.shape[1::-1], nothing) for image in images]
    given = np.asarray(boxes, np.float64)
    if single and given.shape == (4,):
        given = given[None]
    if given.shape != (len(images), 4):
        raise DataError(f"boxes have the shape {list(given.shape)}: must be [{len(images)}, 4]")
    for i, (box, image) in enumerate(zip(given, images, strict=True)):
        left, top, right, bottom = box
        height, width = image.shape[:2]
        if not (np.isfinite(box).all() and left < right and top < bottom):
            raise DataError(f"box {i} is {box.tolist()}: must be x0 < x1, y0 < y1, in pixels")
        if left >= width or top >= height or right <= 0 or bottom <= 0:
            raise DataError(
                f"box {i} is {box.tolist()}: lies outside its image, {width} x {height}"
            )
        if max(right - left, bottom - top) > _LARGEST_BOX * max(width, height):
            raise DataError(
                f"box {i} is {box.tolist()}: is over {_LARGEST_BOX} times its image, "
                f"{width} x {height}"
            )
    return [(float(a), float(b), float(c), float(d)) for a, b, c, d in given]


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
