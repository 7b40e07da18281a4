"""The one way a picture file becomes pixels: for training, preparing and evaluation alike."""

import io
import os

import numpy as np
from PIL import Image

from landmarks_jax.system.errors import DataError

_ORIENTATION = 0x0112  # the EXIF tag
_UPRIGHT = 1
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def to_rgb(image: Image.Image) -> Image.Image:
    """Any Pillow picture in mode RGB.

    Transparent parts are shown over white, as a page would show them. 16-bit grey is scaled from
    [0, 65535]. Of several frames the first is taken. Grey of 32-bit floats is refused: nothing
    says which value is white.
    """
    if image.mode == "F":
        raise ValueError("32-bit float pixels have no agreed white; save it as 8 or 16 bit")
    if image.mode == "I" or image.mode.startswith("I;16"):
        wide = np.clip(np.asarray(image).astype(np.int64), 0, 65535)
        return Image.fromarray(((wide + 128) // 257).astype(np.uint8)).convert("RGB")
    if image.mode in {"RGBA", "LA", "PA", "La", "RGBa"} or "transparency" in image.info:
        layer = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")
    return image.convert("RGB")


def decode(path: str | os.PathLike[str], upright: bool = True) -> tuple[np.ndarray, int]:
    """Reads one picture file whole; a truncated file is an error.

    Args:
      path: the file.
      upright: turn the picture as its EXIF orientation says. Labels count the pixels of the file
        as stored, so labelled sources do not turn (and refuse photos that would need it).

    Returns:
      `[H, W, 3]` uint8 RGB, and the EXIF orientation of the file (1: stored upright).

    Raises:
      DataError: the file is missing, no picture, or damaged.
    """
    return _decode(path, str(path), upright)


def decode_bytes(data: bytes, name: str, upright: bool = True) -> tuple[np.ndarray, int]:
    """`decode` of a file's content; `name` is what messages call it."""
    return _decode(io.BytesIO(data), name, upright)


def _decode(
    file: str | os.PathLike[str] | io.BytesIO, name: str, upright: bool
) -> tuple[np.ndarray, int]:
    try:
        with Image.open(file) as image:
            orientation = int(image.getexif().get(_ORIENTATION, _UPRIGHT))
            if orientation not in _TURNS:  # some cameras write 0
                orientation = _UPRIGHT
            picture = to_rgb(image)
        if upright and orientation != _UPRIGHT:
            picture = picture.transpose(_TURNS[orientation])
        return np.asarray(picture), orientation
    except (
        Exception
    ) as error:  # Pillow's readers raise anything: OSError, SyntaxError, struct.error
        reason = " ".join(str(error).replace(name, "").split()) or type(error).__name__
        raise DataError(f"{name}: cannot be read as a picture ({reason})") from error
