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

from landmarks_jax.system import files
from landmarks_jax.system.errors import DataError, reason

INSTALL = "videos and cameras need PyAV: install the extra `video`, or `pip install av`"
# The address and device format of a numbered --camera, by system.
_CAMERAS = {"linux": ("/dev/video{}", "v4l2"), "darwin": ("{}", "avfoundation")}
_DEFAULT_RATE = Fraction(30)  # frames per second where a file or camera does not say
_MAX_RATE = 240
_WAIT = 0.005  # seconds before a camera without a new frame is asked again
# A file that ends this much before its header says is truncated: seconds, share of the duration.
_MISSING, _MISSING_SHARE = 1.0, 0.1
# Containers whose header gives the duration; for others PyAV guesses.
_WITH_DURATION = {"asf", "avi", "flv", "matroska", "mov"}


class Frame(NamedTuple):
    """A video frame.

    Attributes:
      number: frame number from 0.
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
    """A PyAV frame as uint8 RGB `[H, W, 3]`, rotated as the video's metadata says."""
    pixels = image.to_ndarray(format="rgb24")
    quarters = round(image.rotation / 90) % 4
    return np.ascontiguousarray(np.rot90(pixels, quarters)) if quarters else pixels


class Reader:
    """The frames of a video file, a camera, or anything else that PyAV opens.

    Attributes:
      live: whether it is a camera.
      frame_bytes: size of a decoded frame.
      rate: frames per second of a grid that contains all frames.
      total: the number of frames, None if unknown.
      problem: after the last frame, why the video ended early, or "".
    """

    def __init__(
        self,
        url: str,
        device: str | None = None,
        *,
        live: bool = False,
        seconds: float | None = None,
    ) -> None:
        """Opens the source.

        Args:
          url: a file, or the device format's name of a source.
          device: PyAV's name of the format, detected by default.
          live: whether it is a camera, which may end at any time.
          seconds: when to stop, by its own clock.

        Raises:
          DataError: it cannot be opened, or has no video stream.
        """
        import av  # noqa: PLC0415  (of the video extra)

        self._errors, self._no_frame_yet = av.FFmpegError, av.error.BlockingIOError
        try:
            self._container = av.open(url, format=device)
        except (av.FFmpegError, ValueError) as error:
            what = "camera" if live else "video"
            raise DataError(f"{url}: cannot be opened as a {what} ({reason(error)})") from error
        if not self._container.streams.video:
            self._container.close()
            raise DataError(f"{url}: has no video stream")
        self._stream = self._container.streams.video[0]
        self.live, self._limit = live, math.inf if seconds is None else seconds
        context = self._stream.codec_context
        self.frame_bytes = 3 * context.width * context.height
        self._duration = None if live else self._read_duration()
        self.rate = self._read_rate()
        self.problem = ""
        self.total = None if live else self._stream.frames or None
        if not live:
            self._stream.thread_type = "AUTO"

    def __enter__(self) -> "Reader":
        return self

    def __exit__(self, *error: object) -> None:
        self._container.close()

    def _read_rate(self) -> Fraction:
        base, average = self._stream.base_rate, self._stream.average_rate
        # From version 19 on PyAV has its own rationals, which do less than Python's.
        known = [Fraction(r.numerator, r.denominator) for r in (base, average) if r]
        rates = [rate for rate in known if 0 < rate <= _MAX_RATE]
        # MPEG-4 supports no finer grid.
        return max(rates, default=_DEFAULT_RATE).limit_denominator(1001)

    def _read_duration(self) -> float | None:
        """Duration in seconds by the file's header, None if it does not say."""
        stream = self._stream
        if not _WITH_DURATION & set(self._container.format.name.split(",")):
            return None
        if stream.duration and stream.time_base:
            return float(stream.duration * stream.time_base)
        try:  # as Matroska stores it
            hours, minutes, seconds = stream.metadata.get("DURATION", "").split(":")
            return 3600 * float(hours) + 60 * float(minutes) + float(seconds)
        except ValueError:
            return None

    def frames(self, stop: Callable[[], bool] = lambda: False) -> Iterator[Frame]:
        """Yields the frames in order, up to the end or to where the video is damaged.

        Args:
          stop: checked before each frame.
        """
        first: float | None = None
        number, now, end = 0, 0.0, 0.0
        period = 1 / float(self.rate)
        try:
            for image in self._images(stop):
                if stop():
                    return
                at = image.time if image.time is not None else number * period
                first = at if first is None else first
                if at - first < now - period:
                    first = at - end  # the clock was reset: recordings were joined here
                now = max(now, at - first)
                if now >= self._limit:
                    return
                yield Frame(number, now, image)
                number += 1
                end = now + max(period, _shown_for(image))
        except self._errors as error:
            self.problem = f"breaks off after {number} frames: {reason(error)}"
            return
        if not stop() and not self.live:
            self._check_end(number, end)

    def _images(self, stop: Callable[[], bool]) -> Iterator[Any]:
        while not stop():
            try:
                yield from self._container.decode(self._stream)
                return
            except self._no_frame_yet:
                if not self.live:
                    raise
                time.sleep(_WAIT)

    def _check_end(self, number: int, end: float) -> None:
        """Sets `problem` if the header promises more than `number` frames until `end` seconds."""
        if not number:
            self.problem = "has no frame that can be decoded"
            return
        if self._duration is None or number >= (self.total or number + 1):
            return
        if self._duration - end > min(_MISSING, _MISSING_SHARE * self._duration):
            seconds = f"{end:.1f} of {self._duration:.1f} seconds"
            self.problem = f"breaks off after {number} frames, {seconds}"


def open_camera(camera: str, device: str | None = None, seconds: float | None = None) -> Reader:
    """Opens a camera by its number, or anything that PyAV opens by its name.

    Args:
      camera: a number, a device such as /dev/video2, the address of a stream, or a file.
      device: PyAV's format; by default the system's own for a number or a device file.
      seconds: when to stop, by the camera's own clock.

    Raises:
      DataError: there is no such camera, or PyAV is missing.
    """
    if is_missing():
        raise DataError(INSTALL)
    if camera.isdecimal() or camera.startswith("/dev/"):
        address, default_device = _CAMERAS.get(sys.platform, ("{}", None))
        device = device or default_device
        if device is None:
            raise DataError(
                f"--camera {camera}: cameras have no numbers on {sys.platform}; name the source "
                "and its --camera_format"
            )
        camera = address.format(camera) if camera.isdecimal() else camera
    return Reader(camera, device, live=True, seconds=seconds)


class Writer:
    """A video file without sound: H.264 if this PyAV can encode it, else MPEG-4.

    The file appears at the end of the block, if all was well. A file that cannot be written ends
    nothing: see `problem`.
    """

    def __init__(self, path: Path, rate: Fraction) -> None:
        """Sets the path; the file is created with the first frame."""
        self._path, self._rate = path, rate
        self._container: Any = None
        self._stream: Any = None
        self._last = -1
        self._files = contextlib.ExitStack()
        self._failure: Exception | None = None

    @property
    def problem(self) -> str:
        """Why the file could not be written, or ""."""
        failure = self._failure
        if failure is None or isinstance(failure, DataError):
            return str(failure or "")
        return f"{self._path}: cannot be written ({reason(failure)})"

    def __enter__(self) -> "Writer":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._container is not None and self._failure is None and error is None:
            with self._noting():
                self._container.mux(self._stream.encode())
        with self._noting():
            error = error or self._failure  # which removes the file
            self._files.__exit__(type(error) if error else None, error, traceback)

    @contextlib.contextmanager
    def _noting(self) -> Iterator[None]:
        import av  # noqa: PLC0415  (of the video extra)

        try:
            yield
        except (av.FFmpegError, OSError, DataError) as failure:
            self._failure = self._failure or failure

    def write(self, pixels: np.ndarray, time: float) -> None:
        """Appends a frame, unless there is a problem.

        Args:
          pixels: `[H, W, 3]` uint8.
          time: seconds since the first frame, rounded to the next free point of the rate's grid.
        """
        if self._failure is not None:
            return
        import av  # noqa: PLC0415  (of the video extra)

        frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
        self._last = max(self._last + 1, round(time * self._rate))
        frame.pts, frame.time_base = self._last, 1 / self._rate
        with self._noting():
            if self._container is None:
                self._create(pixels.shape[1], pixels.shape[0])
            self._container.mux(self._stream.encode(frame))

    def _create(self, width: int, height: int) -> None:
        import av  # noqa: PLC0415  (of the video extra)

        h264 = "libx264" in av.codecs_available
        temporary = self._files.enter_context(files.new_path(self._path))
        self._container = self._files.enter_context(av.open(str(temporary.absolute()), "w"))
        # The fastest preset without visible loss: encoding must not take longer than detection.
        options = {"preset": "veryfast", "crf": "20"} if h264 else {}
        name = "libx264" if h264 else "mpeg4"
        self._stream = self._container.add_stream(name, rate=self._rate, options=options)
        self._stream.width, self._stream.height = width, height
        # H.264 halves the resolution of colour, which needs even sizes; odd ones keep all of it.
        self._stream.pix_fmt = "yuv444p" if h264 and (width % 2 or height % 2) else "yuv420p"
        if not h264:
            self._stream.bit_rate = int(width * height * self._rate / 4)


def _shown_for(image: Any) -> float:
    """Duration of a frame in seconds, 0 if unknown."""
    return float(image.duration * image.time_base) if image.duration and image.time_base else 0.0
