"""Videos and cameras, read by PyAV (extra `video`), which is imported late."""

import functools
import importlib.util
import itertools
import math
import sys
import time
from collections.abc import Callable, Iterator
from fractions import Fraction
from typing import Any

from landmarks_jax.inference.media import video_streams
from landmarks_jax.inference.media.video_frames import Frame, orientation
from landmarks_jax.system.errors import DataError, reason

INSTALL = "videos and cameras need PyAV: install the extra `video`, or `pip install 'av>=18'`"
# The address and device format of a numbered --camera, by system.
_CAMERAS = {"linux": ("/dev/video{}", "v4l2"), "darwin": ("{}", "avfoundation")}
_WAIT = 0.005  # seconds before a camera without a new frame is asked again
# A file that ends this much before its header says is truncated: seconds, share of the duration.
_MISSING, _MISSING_SHARE = 1.0, 0.1
# Formats in which each packet is a frame, whose decoders do not report all damage.
_ONE_EACH = {"av1", "hevc"}
_UNKNOWN_MATRIX = (
    "shown as stored: its display matrix is neither a quarter turn nor a mirror image; points are "
    "in pixels of the stored frames"
)


def is_missing() -> bool:
    """Whether PyAV is not installed."""
    return importlib.util.find_spec("av") is None


class Reader:
    """The frames of a video file, a camera, or anything else that PyAV opens.

    Attributes:
      live: whether it is a camera.
      frame_bytes: size of a decoded frame.
      rate: frames per second, about.
      total: the number of frames, None if unknown.
      end: seconds from the first frame to the end of the last.
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

        self._av_errors, self._no_frame_yet = av.FFmpegError, av.error.BlockingIOError
        self._connect = functools.partial(av.open, url, format=device)
        try:
            self._container = self._connect()
        except (av.FFmpegError, ValueError) as error:
            what = "camera" if live else "video"
            raise DataError(f"{url}: cannot be opened as a {what} ({reason(error)})") from error
        try:
            self._stream = video_streams.find(self._container)
        except DataError as error:
            self._container.close()
            raise DataError(f"{url}: {error}") from error
        self.live, self._limit = live, math.inf if seconds is None else seconds
        context = self._stream.codec_context
        self.frame_bytes = 3 * context.width * context.height
        self.rate = video_streams.rate(self._stream)
        self.total = None if live else self._stream.frames or None
        self._aspect = video_streams.aspect(self._stream)
        self._ending = self._unknown_matrix = ""
        self._error: Exception | None = None
        self._number = self._lost = self._corrupt = self._failures = 0
        self._repeated: int | None = None  # time of the last packet that repeats a frame
        self.end = 0.0

    def __enter__(self) -> "Reader":
        return self

    def __exit__(self, *error: object) -> None:
        self._container.close()

    @property
    def problem(self) -> str:
        """After the last frame: why the video ended early, or what is wrong with it, or ""."""
        lost = max(self._lost, self._failures) if self._failures else 0
        damage = ""
        if self._number and (count := lost + self._corrupt):
            damage = f"damaged: {count:,} of {self._number + lost:,} frames"
        return "; ".join(filter(None, (self._ending, damage, self._unknown_matrix)))

    def frames(self, stop: Callable[[], bool] = lambda: False) -> Iterator[Frame]:
        """Yields the frames in order, without those that cannot be decoded: see `problem`.

        Args:
          stop: checked before each frame.
        """
        first = origin = None
        now, period = 0.0, 1 / float(self.rate)
        time_base = float(self._stream.time_base)
        try:
            for image in self._images(stop):
                if stop():
                    return
                at = self._number * period if image.pts is None else image.pts * time_base
                if first is None:
                    first = origin = at
                if at - first < now - period:
                    first = at - self.end  # the clock was reset: recordings were joined here
                now = max(now, at - first)
                if now >= self._limit:
                    return
                yield Frame(self._number, now, image, self._aspect_of(image))
                self._number += 1
                self._corrupt += image.is_corrupt
                self.end = now + ((image.duration or 0) * time_base or period)
            if first is not None and self._repeated is not None:
                self.end = max(self.end, self._repeated * time_base - first + period)
        except self._av_errors as error:  # the file could not be opened again
            self._error = error
        if self._error is not None:
            self._ending = f"breaks off after {self._number} frames: {reason(self._error)}"
        elif not stop() and not self.live:
            self._check_end(origin)

    def _aspect_of(self, image: Any) -> Fraction:
        """The aspect of an upright frame's pixels; notes if it cannot be made upright."""
        to_upright = orientation(image)
        if to_upright is None:
            self._unknown_matrix = _UNKNOWN_MATRIX
            return self._aspect
        return 1 / self._aspect if to_upright.transpose else self._aspect

    def _images(self, stop: Callable[[], bool]) -> Iterator[Any]:
        """Yields the decoded images in order.

        Frame threads are fast, but with them PyAV loses errors, and good frames behind a damaged
        one. A damaged file is therefore read again without them, from its start: a decoder needs
        the frames before.
        """
        done = 0
        for threads in ("SLICE",) if self.live else ("AUTO", "SLICE"):
            self._stream.thread_type = threads
            for image in itertools.islice(self._decode(stop, threads == "SLICE"), done, None):
                done += 1
                yield image
            if not self._lost or threads == "SLICE" or stop():
                return
            self._container.close()
            self._container = self._connect()
            self._stream = video_streams.find(self._container)
            self._error = None

    def _decode(self, stop: Callable[[], bool], skip_damaged: bool) -> Iterator[Any]:
        """Decodes the open container, up to damage unless that is to be skipped."""
        packets = images = 0
        start: int | None = None  # time of the first key frame
        for packet in itertools.chain(self._packets(stop), [None]):
            if packet is not None and not packet.is_discard:
                if start is None and packet.is_keyframe:
                    start = packet.pts
                # What is shown before it needs frames from before the recording: no damage.
                if start is None or packet.pts is None or packet.pts >= start:
                    packets += 1
            try:
                decoded = self._stream.decode(packet)
            except self._av_errors as error:
                self._lost = max(1, packets - images)
                if not skip_damaged:
                    return
                self._failures += 1
                if isinstance(error, self._no_frame_yet):  # it takes no packet any more
                    self._stream.codec_context.flush_buffers()
                continue
            for image in decoded:
                images += 1
                yield image
        self._lost = max(0, packets - images)
        if self._lost and self._stream.codec_context.codec.canonical_name in _ONE_EACH:
            self._failures = max(self._failures, 1)

    def _packets(self, stop: Callable[[], bool]) -> Iterator[Any]:
        """Yields the packets with data; those without only repeat a frame, as FFmpeg has it."""
        while not stop():
            try:
                for packet in self._container.demux(self._stream):
                    if packet.size:
                        yield packet
                    elif (shown := packet.dts if packet.pts is None else packet.pts) is not None:
                        self._repeated = shown
                return
            except self._av_errors as error:
                if not self.live or not isinstance(error, self._no_frame_yet):
                    self._error = error
                    return
                time.sleep(_WAIT)

    def _check_end(self, origin: float | None) -> None:
        """Notes if the header promises a later end.

        Args:
          origin: the time of the first frame on the file's clock, None if there is none.
        """
        if origin is None:
            self._ending = "has no frame that can be decoded"
            return
        duration = video_streams.duration(self._stream)
        if duration is None or self._number >= (self.total or self._number + 1):
            return
        end = self.end + max(0.0, origin - video_streams.start(self._stream))
        if duration - end > min(_MISSING, _MISSING_SHARE * duration):
            seconds = f"{end:.1f} of {duration:.1f} seconds"
            self._ending = f"breaks off after {self._number} frames, {seconds}"


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
