"""Videos and cameras, read and written by PyAV (extra `video`), which is imported late."""

import contextlib
import importlib.util
import math
import sys
import time
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import numpy as np

from landmarks_jax.system.errors import DataError

INSTALL = "videos and cameras need PyAV: install the extra `video`, or `pip install av`"
# What a number means for --camera: its address and the device format, by system.
_CAMERAS = {"linux": ("/dev/video{}", "v4l2"), "darwin": ("{}", "avfoundation")}
_RATE = Fraction(30)  # frames a second where a file or camera does not say
_FASTEST = 240
_WAIT = 0.005  # seconds, until a camera is asked again for its next frame
# A file that ends this much before its own header says so broke off: seconds, share of the whole.
_SHORT, _SHORT_SHARE = 1.0, 0.1
# Formats whose header says how long the video is; in others PyAV guesses.
_WRITTEN = {"asf", "avi", "flv", "matroska", "mov"}


class Frame(NamedTuple):
    """One frame of a video.

    Attributes:
      number: from 0.
      time: seconds since the first frame.
      image: PyAV's frame, as stored.
    """

    number: int
    time: float
    image: Any


def is_missing() -> bool:
    """Whether PyAV is not installed."""
    return importlib.util.find_spec("av") is None


def upright(image: Any) -> np.ndarray:
    """A PyAV frame as `[H, W, 3]` uint8 RGB, turned as the video's rotation says."""
    pixels = image.to_ndarray(format="rgb24")
    turns = round(image.rotation / 90) % 4
    return np.ascontiguousarray(np.rot90(pixels, turns)) if turns else pixels


class Reader:
    """The frames of a video file, a camera, or whatever else PyAV opens.

    Attributes:
      live: whether it is a camera.
      frame_bytes: of one decoded frame.
      rate: frames a second, of a grid on which all frames lie.
      total: how many frames there should be, None where nobody knows.
      problem: after the last frame, why it was not the last of the video; "" where it was.
    """

    def __init__(
        self,
        url: str,
        device: str | None = None,
        *,
        live: bool = False,
        seconds: float | None = None,
    ) -> None:
        """Opens it.

        Args:
          url: a file, or what a device format calls a source.
          device: PyAV's name of a format; None lets it see for itself.
          live: a camera, whose end is no break.
          seconds: after which to end, by its own clock.

        Raises:
          DataError: it cannot be opened, or has no pictures.
        """
        import av  # noqa: PLC0415  (of the video extra)

        self._errors, self._again = av.FFmpegError, av.error.BlockingIOError
        try:
            self._container = av.open(url, format=device)
        except (av.FFmpegError, ValueError) as error:
            what = "camera" if live else "video"
            raise DataError(f"{url}: cannot be opened as a {what} ({_reason(error)})") from error
        if not self._container.streams.video:
            self._container.close()
            raise DataError(f"{url}: has no video in it")
        self._stream = self._container.streams.video[0]
        self.live, self._limit = live, math.inf if seconds is None else seconds
        context = self._stream.codec_context
        self.frame_bytes = 3 * context.width * context.height
        self._length = None if live else self._seconds()
        self.rate = self._grid()
        self.problem = ""
        self.total = None if live else self._stream.frames or None
        if not live:
            self._stream.thread_type = "AUTO"

    def __enter__(self) -> "Reader":
        return self

    def __exit__(self, *error: object) -> None:
        self._container.close()

    def _grid(self) -> Fraction:
        base, average = self._stream.base_rate, self._stream.average_rate
        # From version 19 on PyAV has rationals of its own, which do less than Python's.
        known = [Fraction(r.numerator, r.denominator) for r in (base, average) if r]
        rates = [rate for rate in known if 0 < rate <= _FASTEST]
        # MPEG-4 takes no finer grid.
        return max(rates, default=_RATE).limit_denominator(1001)

    def _seconds(self) -> float | None:
        """How long the video is by its own header; None where that does not say."""
        stream = self._stream
        if not _WRITTEN & set(self._container.format.name.split(",")):
            return None
        if stream.duration and stream.time_base:
            return float(stream.duration * stream.time_base)
        try:  # Matroska's way
            hours, minutes, seconds = stream.metadata.get("DURATION", "").split(":")
            return 3600 * float(hours) + 60 * float(minutes) + float(seconds)
        except ValueError:
            return None

    def frames(self, stop: Callable[[], bool] = lambda: False) -> Iterator[Frame]:
        """Yields the frames in order, up to the end or to where the video breaks off.

        Args:
          stop: asked before each frame.
        """
        first: float | None = None
        number, now, end = 0, 0.0, 0.0
        try:
            for image in self._images(stop):
                if stop():
                    return
                at = image.time if image.time is not None else number / float(self.rate)
                first = at if first is None else first
                if at - first < now - 1 / float(self.rate):
                    first = at - end  # the clock was set back: here recordings were joined
                now = max(now, at - first)
                if now >= self._limit:
                    return
                yield Frame(number, now, image)
                number += 1
                end = now + max(1 / float(self.rate), _duration(image))
        except self._errors as error:
            self.problem = f"breaks off after {number} frames: {_reason(error)}"
            return
        if stop() or self.live:
            return
        if not number:
            self.problem = "has no frame that can be decoded"
        elif self._length is not None and number < (self.total or number + 1):
            missing = self._length - end
            if missing > min(_SHORT, _SHORT_SHARE * self._length):
                seen = f"{end:.1f} of {self._length:.1f} seconds"
                self.problem = f"breaks off after {number} frames, {seen}"

    def _images(self, stop: Callable[[], bool]) -> Iterator[Any]:
        while not stop():
            try:
                yield from self._container.decode(self._stream)
                return
            except self._again:
                if not self.live:
                    raise
                time.sleep(_WAIT)


def open_camera(camera: str, device: str | None = None, seconds: float | None = None) -> Reader:
    """Opens a camera by its number, or anything that PyAV opens by its name.

    Args:
      camera: a number, a device such as /dev/video2, the address of a stream, or a file.
      device: PyAV's format; by default the system's own for a number or a device file.
      seconds: after which to end, by the camera's own clock.

    Raises:
      DataError: there is no such camera, or PyAV is missing.
    """
    if is_missing():
        raise DataError(INSTALL)
    if camera.isdecimal() or camera.startswith("/dev/"):
        place, own = _CAMERAS.get(sys.platform, ("{}", None))
        if own is None and device is None:
            raise DataError(
                f"--camera {camera}: cameras have no numbers on {sys.platform}; name the source "
                "and its --camera_format"
            )
        device = device or own
        camera = place.format(camera) if camera.isdecimal() else camera
    return Reader(camera, device, live=True, seconds=seconds)


class Writer:
    """A video file: H.264 where this PyAV has an encoder, else MPEG-4; no sound."""

    def __init__(self, path: Path, rate: Fraction) -> None:
        """Names the file; it is made with the first frame."""
        self._path, self._rate = path, rate
        self._container: Any = None
        self._stream: Any = None
        self._last = -1

    def __enter__(self) -> "Writer":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._container is not None:
            with self._writing(), self._container:
                self._container.mux(self._stream.encode())

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        import av  # noqa: PLC0415  (of the video extra)

        try:
            yield
        except (av.FFmpegError, OSError) as error:
            raise DataError(f"{self._path}: cannot be written ({_reason(error)})") from error

    def write(self, pixels: np.ndarray, time: float) -> None:
        """Appends a frame.

        Args:
          pixels: `[H, W, 3]` uint8.
          time: seconds since the first frame; moved to the next free place of the rate's grid.

        Raises:
          DataError: it cannot be written.
        """
        import av  # noqa: PLC0415  (of the video extra)

        frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
        self._last = max(self._last + 1, round(time * self._rate))
        frame.pts, frame.time_base = self._last, 1 / self._rate
        with self._writing():
            if self._container is None:
                self._begin(pixels.shape[1], pixels.shape[0])
            self._container.mux(self._stream.encode(frame))

    def _begin(self, width: int, height: int) -> None:
        import av  # noqa: PLC0415  (of the video extra)

        h264 = "libx264" in av.codecs_available
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._container = av.open(str(self._path.absolute()), "w")
        # Encoding must not take longer than finding: the fastest setting that looks the same.
        options = {"preset": "veryfast", "crf": "20"} if h264 else {}
        name = "libx264" if h264 else "mpeg4"
        self._stream = self._container.add_stream(name, rate=self._rate, options=options)
        self._stream.width, self._stream.height = width, height
        # H.264 halves colour in pairs of pixels, so odd sizes keep all of it.
        self._stream.pix_fmt = "yuv444p" if h264 and (width % 2 or height % 2) else "yuv420p"
        if not h264:
            self._stream.bit_rate = int(width * height * self._rate / 4)


def _duration(image: Any) -> float:
    """How long a frame is shown, in seconds; 0 where nothing says."""
    return float(image.duration * image.time_base) if image.duration and image.time_base else 0.0


def _reason(error: Exception) -> str:
    return " ".join(str(getattr(error, "strerror", None) or error).split())
