"""Which stream of a container is its video, and what the file's header says about it."""

from fractions import Fraction
from typing import Any

from landmarks_jax.system.errors import DataError

_DEFAULT_RATE = Fraction(30)  # frames per second where a file or camera does not say
_MAX_RATE = 240
# Containers whose header gives the duration; for others PyAV guesses.
_WITH_DURATION = {"asf", "avi", "flv", "matroska", "mov"}
# Those whose duration counts from 0 on their clock, not from the first frame.
_FROM_ZERO = {"asf", "flv", "matroska"}


def find(container: Any) -> Any:
    """The stream that shows the video: no cover art, no preview; of several FFmpeg's choice.

    Raises:
      DataError: there is none.
    """
    from av.stream import Disposition  # noqa: PLC0415  (of the video extra)

    streams = container.streams.video
    if not streams:
        raise DataError("has no video stream")
    stills = Disposition.attached_pic | Disposition.timed_thumbnails
    moving = [stream for stream in streams if not stream.disposition & stills]
    if not moving:
        raise DataError("has no video stream, only cover art")
    known = [stream for stream in moving if stream.codec_context is not None]
    if not known:
        raise DataError("its video is in a format that this PyAV cannot decode")
    durations = [duration(stream) or 0.0 for stream in known]
    # Cover art that its container cannot mark is a video of one frame.
    long = [s for s, d in zip(known, durations, strict=True) if not d or 2 * d >= max(durations)]
    best = container.streams.best("video")
    return best if best in long else long[0]


def duration(stream: Any) -> float | None:
    """Duration of a stream in seconds by the file's header, None if it does not say."""
    if not _formats(stream) & _WITH_DURATION:
        return None
    if stream.duration and stream.time_base:
        return float(stream.duration * stream.time_base)
    try:  # as Matroska stores it
        hours, minutes, seconds = stream.metadata.get("DURATION", "").split(":")
        return 3600 * float(hours) + 60 * float(minutes) + float(seconds)
    except ValueError:
        return None


def start(stream: Any) -> float:
    """The time on the file's clock, in seconds, from which the duration counts."""
    if _formats(stream) & _FROM_ZERO or not stream.start_time:
        return 0.0
    return float(stream.start_time * stream.time_base)


def _formats(stream: Any) -> set[str]:
    """PyAV's names of the format of a stream's container."""
    return set(stream.container.format.name.split(","))


def rate(stream: Any) -> Fraction:
    """Frames per second of a stream, about."""
    rates = [_fraction(rate) for rate in (stream.base_rate, stream.average_rate)]
    return max((r for r in rates if 0 < r <= _MAX_RATE), default=_DEFAULT_RATE)


def aspect(stream: Any) -> Fraction:
    """Width of a stored pixel relative to its height, 1 if unknown."""
    return _fraction(stream.sample_aspect_ratio) or Fraction(1)


def _fraction(rational: Any) -> Fraction:
    """As Python's: from version 19 on PyAV has its own, which do less. 0 if unknown."""
    return Fraction(rational.numerator, rational.denominator) if rational else Fraction(0)
