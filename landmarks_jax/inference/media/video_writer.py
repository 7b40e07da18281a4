"""Annotated videos, written by PyAV (extra `video`), which is imported late."""

import contextlib
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from landmarks_jax.system import files
from landmarks_jax.system.errors import DataError, reason

# Times are rounded to at most 1/65,535 of a second: MPEG-4 has no finer clock.
_MAX_TICKS = 65_535


class Writer:
    """A video file without sound: H.264 if this PyAV can encode it, else MPEG-4.

    The file appears at the end of the block, if all was well. A file that cannot be written ends
    nothing: see `problem`.

    Attributes:
      end: seconds from the first frame to the end of the last, 0 for what the rate says.
    """

    def __init__(self, path: Path, rate: Fraction) -> None:
        """Sets the path and about how many frames a second there will be.

        The file is created with the first frame.
        """
        self._path, self._rate = path, rate
        # A clock that has all times of a constant rate, and others as well as MPEG-4 can.
        steps = max(1, _MAX_TICKS // rate.numerator)
        self._ticks = min(_MAX_TICKS, steps * rate.numerator)
        self._container: Any = None
        self._stream: Any = None
        self.end = 0.0
        self._last = -1  # the time of the last frame, in ticks
        self._packet: Any = None  # the last encoded one, to be written when the next one is
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
                self._mux(None)
                # All others are shown until the next.
                left = round(self.end * self._ticks) - self._last
                self._packet.duration = left if left > 0 else round(self._ticks / self._rate)
                self._container.mux(self._packet)
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

    def write(self, pixels: np.ndarray, time: float, aspect: Fraction = Fraction(1)) -> None:
        """Appends a frame, unless there is a problem.

        Args:
          pixels: `[H, W, 3]` uint8.
          time: seconds since the first frame, later than that of the frame before.
          aspect: width of a pixel relative to its height, that of the first frame for all.
        """
        if self._failure is not None:
            return
        import av  # noqa: PLC0415  (of the video extra)

        frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
        self._last = max(self._last + 1, round(time * self._ticks))
        frame.pts, frame.time_base = self._last, Fraction(1, self._ticks)
        with self._noting():
            if self._container is None:
                self._create(pixels.shape[1], pixels.shape[0], aspect)
            self._mux(frame)

    def _mux(self, frame: Any) -> None:
        for packet in self._stream.encode(frame):
            if self._packet is not None:
                self._container.mux(self._packet)
            self._packet = packet

    def _create(self, width: int, height: int, aspect: Fraction) -> None:
        import av  # noqa: PLC0415  (of the video extra)

        h264 = "libx264" in av.codecs_available
        temporary = self._files.enter_context(files.new_path(self._path))
        self._container = self._files.enter_context(av.open(str(temporary.absolute()), "w"))
        # The fastest preset without visible loss: encoding must not take longer than detection.
        # With B-frames, a video of variable frame rate would end before its last frames do.
        h264_options = {"preset": "veryfast", "crf": "20", "bf": "0"}
        # Not by bit rate, for which MPEG-4 would take each tick of the clock for a frame.
        options = h264_options if h264 else {"qmin": "5", "qmax": "5"}
        name = "libx264" if h264 else "mpeg4"
        self._stream = self._container.add_stream(name, rate=self._rate, options=options)
        self._stream.width, self._stream.height = width, height
        self._stream.codec_context.time_base = Fraction(1, self._ticks)
        self._stream.codec_context.sample_aspect_ratio = aspect
        # H.264 halves the resolution of colour, which needs even sizes; odd ones keep all of it.
        self._stream.pix_fmt = "yuv444p" if h264 and (width % 2 or height % 2) else "yuv420p"
