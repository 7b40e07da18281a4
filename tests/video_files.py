"""Videos for the tests, written and read by PyAV."""

from fractions import Fraction
from pathlib import Path

import pytest

from tests.detecting import noise

av = pytest.importorskip("av", reason="the extra `video` is not installed")

FRAMES = [noise(i, 64, 48) for i in range(10)]


def write_video(
    path,
    frames=FRAMES,
    *,
    codec="ffv1",
    pixels="bgr0",
    rate=10,
    keep=True,
    times=None,
    rotation=0,
    matrix=None,
    aspect=None,
    group=None,
    format=None,
    **options,
):
    """Writes a video; FFV1 in `bgr0` and QuickTime RLE in `rgb24` are lossless.

    Args:
      path: the file.
      frames: `[H, W, 3]` uint8 each.
      codec: PyAV's name.
      pixels: the codec's pixel format.
      rate: frames per second.
      keep: numbers of the frames to write.
      times: seconds of each frame, in 1/60,000; by default as the rate says.
      rotation: degrees, counter-clockwise.
      matrix: a, b, c, d of the display matrix, instead of `rotation`.
      aspect: width of a pixel relative to its height.
      group: frames from one key frame to the next.
      format: PyAV's name of the container, if not that of the path.
      **options: of the container.
    """
    coding = {} if group is None else {"g": str(group), "bf": "0"}
    with av.open(str(path), "w", format=format, options=options) as file:
        stream = file.add_stream(codec, rate=rate, options=coding)
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = pixels
        if times is not None:
            stream.codec_context.time_base = Fraction(1, 60_000)
        if aspect is not None:
            stream.codec_context.sample_aspect_ratio = aspect
        if matrix is not None:
            a, b, c, d = (round(65_536 * value) for value in matrix)
            stream.set_display_matrix([a, b, 0, c, d, 0, 0, 0, 1 << 30])
        elif rotation:
            stream.set_display_rotation(rotation)
        for number, frame in enumerate(frames):
            if keep is True or number in keep:
                image = av.VideoFrame.from_ndarray(frame, format="rgb24")
                image.pts, image.time_base = number, Fraction(1) / rate
                if times is not None:
                    image.pts, image.time_base = round(60_000 * times[number]), Fraction(1, 60_000)
                file.mux(stream.encode(image))
        file.mux(stream.encode())
    return path


def read_video(path):
    """The frames of a video, the time of each, its rate and codec."""
    with av.open(str(path)) as file:
        stream = file.streams.video[0]
        decoded = list(file.decode(stream))
        frames = [image.to_ndarray(format="rgb24") for image in decoded]
        return frames, [i.time for i in decoded], stream.average_rate, stream.codec_context.name


def zero_packets(path: Path, numbers, share: float = 1.0) -> None:
    """Overwrites the last `share` of packets of a video by zeros."""
    with av.open(str(path)) as file:
        packets = [bytes(packet) for packet in file.demux(video=0) if packet.size]
    data = path.read_bytes()
    for number in numbers:
        packet = packets[number]
        assert data.count(packet) == 1
        kept = len(packet) - round(share * len(packet))
        data = data.replace(packet, packet[:kept] + bytes(len(packet) - kept))
    path.write_bytes(data)


def copy_video(
    source, path, change=lambda number, packet: packet, *, cover=None, marked=True, format=None
):
    """Copies packets of a video to another file, changed by `change(number, packet)`.

    `cover` is a JPEG, which becomes the first stream; if it is not marked as a cover, it is the
    default one.
    """
    with av.open(str(source)) as old, av.open(str(path), "w", format=format) as new:
        stream = old.streams.video[0]
        picture = None
        if cover is not None:
            picture = new.add_stream("mjpeg", rate=10)
            picture.width, picture.height, picture.pix_fmt = 32, 32, "yuvj420p"
            kinds = av.stream.Disposition
            picture.disposition = kinds.attached_pic if marked else kinds.default
        copied = new.add_stream_from_template(stream)
        if not marked:
            copied.disposition = 0
        if picture is not None:
            packet = av.Packet(cover)
            packet.pts = packet.dts = 0
            packet.time_base, packet.stream, packet.is_keyframe = Fraction(1), picture, True
            new.mux(packet)
        for number, packet in enumerate(p for p in old.demux(stream) if p.size):
            changed = change(number, packet)
            changed.stream = copied
            new.mux(changed)
    return path
