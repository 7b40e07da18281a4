"""Strips metadata from image files: damaged or large, it would keep Pillow from their pixels.

The rule for which way up an image is shown, the same in `inference/browser/page/metadata.js`: the
EXIF orientation of JPEG, PNG, WebP and TIFF, where it is what the standard asks for, one SHORT from
1 to 8; in AVIF its own properties (irot, imir). XMP does not count, as in browsers.
"""

import bisect
import io
import re
import struct
import zlib
from collections.abc import Sequence
from typing import IO, Any

ORIENTATION = 0x0112  # the EXIF tag
SHORT = 3  # the type of its value
UPRIGHT = 1
_JPEG = b"\xff\xd8\xff"
_PNG = b"\x89PNG\r\n\x1a\n"
_AVIF = (b"ftypavif", b"ftypavis", b"ftypmif1", b"ftypmsf1")
_EXIF = b"Exif\0\0"
# Application segments that say how colours are stored, and the shortest that libjpeg reads.
_JPEG_COLORS = ((b"JFIF\0", 14), (b"Adobe", 12))
# An entry of an AVIF file's list of items, versions 2 and 3, up to the type of the item.
_AVIF_EXIF = re.compile(rb"(infe(?:\x02.{7}|\x03.{9}))Exif", re.DOTALL)
_BLOCK = 1 << 20


def strip(file: IO[bytes]) -> tuple[IO[bytes], bytes]:
    """Strips the metadata of a JPEG, PNG or AVIF file; other files stay as they are.

    Args:
      file: an image file at its beginning. It must stay open.

    Returns:
      A file with the same pixels, and its first EXIF block, `b""` if there is none. The EXIF block
      of a WebP or AVIF file is in the `info` of the image that Pillow opens.

    Raises:
      OSError: a PNG is truncated, or the checksum of a critical chunk or of the transparency is
        wrong. Pillow would decode such pixels without an error.
    """
    head = file.read(12)
    file.seek(0)
    if head.startswith(_JPEG):
        cuts, exif = _find_in_jpeg(file)
    elif head.startswith(_PNG):
        cuts, exif = _find_in_png(file)
    elif head[4:] in _AVIF:
        return io.BytesIO(_AVIF_EXIF.sub(rb"\1skip", file.read())), b""
    else:
        return file, b""
    file.seek(0)
    return (io.BufferedReader(_Remainder(file, cuts)) if cuts else file), exif


def orientation(exif: bytes) -> int:
    """The orientation that an EXIF block gives, from 1 to 8; 1 if it gives none or is damaged."""
    tiff = exif.removeprefix(_EXIF)
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(tiff[:4])
    if order is None:
        return UPRIGHT
    try:
        (start,) = struct.unpack_from(f"{order}I", tiff, 4)
        (count,) = struct.unpack_from(f"{order}H", tiff, start)
        for entry in range(start + 2, start + 2 + 12 * count, 12):
            tag, kind, number, value = struct.unpack_from(f"{order}HHIH", tiff, entry)
            if tag == ORIENTATION:
                return value if (kind, number) == (SHORT, 1) and 1 <= value <= 8 else UPRIGHT
    except struct.error:  # truncated
        pass
    return UPRIGHT


def _find_in_jpeg(file: IO[bytes]) -> tuple[list[tuple[int, int]], bytes]:
    """The ranges of metadata before the pixels, and the first EXIF block."""
    cuts: list[tuple[int, int]] = []
    exif = b""
    at = 2
    while True:
        file.seek(at)
        start = file.read(4)
        if len(start) < 4 or start[0] != 0xFF:
            break  # damaged: left to Pillow
        marker, length = start[1], 2 + int.from_bytes(start[2:], "big")
        if marker == 0xFF:  # a filler
            at += 1
            continue
        if not 0xC0 <= marker <= 0xFE or 0xD0 <= marker <= 0xDA or length < 4:
            break  # pixels begin
        if 0xE0 <= marker <= 0xEF or marker == 0xFE:
            data = file.read(length - 4)
            if marker == 0xE1 and data.startswith(_EXIF):
                exif = exif or data
            if not any(data.startswith(name) and len(data) >= n for name, n in _JPEG_COLORS):
                cuts.append((at, at + length))
        at += length
    return cuts, exif


def _find_in_png(file: IO[bytes]) -> tuple[list[tuple[int, int]], bytes]:
    """The ranges of all chunks that do not change pixels, and the first EXIF block."""
    cuts: list[tuple[int, int]] = []
    exif = b""
    at = len(_PNG)
    kind = b""
    while kind != b"IEND":
        file.seek(at)
        start = file.read(8)
        if len(start) < 8:
            raise OSError("truncated PNG file")
        length, kind = int.from_bytes(start[:4], "big"), start[4:]
        end = at + 12 + length
        if kind[0] & 0x20 and kind != b"tRNS":  # ancillary
            if kind == b"eXIf" and not exif:
                exif = _read_chunk(file, kind, length) or b""
            cuts.append((at, end))
        elif _read_chunk(file, kind, length) is None:
            raise OSError(f"broken PNG file (wrong checksum of {kind!r})")
        at = end
    return cuts, exif


def _read_chunk(file: IO[bytes], kind: bytes, length: int) -> bytes | None:
    """The beginning of a chunk's data, or None if its checksum is wrong."""
    first = data = file.read(min(length, _BLOCK))
    checksum = zlib.crc32(kind)
    while data:
        checksum = zlib.crc32(data, checksum)
        length -= len(data)
        data = file.read(min(length, _BLOCK))
    expected = file.read(4)
    if length or len(expected) < 4:
        raise OSError("truncated PNG file")
    return first if checksum == int.from_bytes(expected, "big") else None


class _Remainder(io.RawIOBase):
    """What remains of a file without some ranges, read from the file itself."""

    def __init__(self, file: IO[bytes], cuts: Sequence[tuple[int, int]]) -> None:
        """Takes the ranges `(start, end)` to leave out, in order."""
        self._file = file
        size = file.seek(0, io.SEEK_END)
        starts = [0, *(min(end, size) for _, end in cuts)]
        ends = [*(min(start, size) for start, _ in cuts), size]
        self._ranges = [pair for pair in zip(starts, ends, strict=True) if pair[0] < pair[1]]
        self._places = [0]  # where each range begins in this file, and the last one ends
        for start, end in self._ranges:
            self._places.append(self._places[-1] + end - start)
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        origin = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._places[-1]}[whence]
        self._at = max(0, origin + offset)
        return self._at

    def readinto(self, buffer: Any) -> int:
        number = bisect.bisect_right(self._places, self._at) - 1
        if number == len(self._ranges):
            return 0  # the end
        start, end = self._ranges[number]
        start += self._at - self._places[number]
        self._file.seek(start)
        data = self._file.read(min(len(buffer), end - start))
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)
