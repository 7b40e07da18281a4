"""Videos as people have them: mirrored, damaged, of variable frame rate, with cover art."""

import io
import itertools
from fractions import Fraction

import numpy as np
import pytest
from PIL import Image

from landmarks_jax.inference.media import (
    run_detection,
    video_frames,
    video_writer,
    videos,
    view_batches,
)
from landmarks_jax.inference.media.job import Options
from tests.detecting import noise, points, read_skipped, read_table
from tests.video_files import FRAMES, av, copy_video, read_video, write_video, zero_packets

LOSSLESS = {"codec": "qtrle", "pixels": "rgb24"}


@pytest.fixture
def detector(landmark_detector, monkeypatch):
    monkeypatch.setattr(run_detection, "load_detector", lambda name: landmark_detector)
    monkeypatch.setattr(view_batches, "batch_size", lambda: 4)
    return landmark_detector


def run(out, *paths):
    return run_detection.detect_files("narrow", [str(path) for path in paths], out, Options())


def read(path):
    """The frames of a video, and what is wrong with it."""
    with videos.Reader(str(path)) as reader:
        return list(reader.frames()), reader.problem


def duration(path):
    """Seconds that a video lasts, by its header."""
    with av.open(str(path)) as file:
        stream = file.streams.video[0]
        return float(stream.duration * stream.time_base)


def shown(stored, matrix):
    """ISO 14496-12: `a b c d` shows the stored pixel (p, q) at (a p + c q, b p + d q)."""
    a, b, c, d = matrix
    q, p = np.indices(stored.shape[:2])
    x, y = a * p + c * q, b * p + d * q
    image = np.zeros((np.ptp(y) + 1, np.ptp(x) + 1, 3), np.uint8)
    image[y - y.min(), x - x.min()] = stored
    return image


def test_all_eight_display_matrices_are_applied(detector, tmp_path):
    """`ffmpeg -display_hflip`, a phone held sideways, a mirrored front camera."""
    signs = list(itertools.product((1, -1), repeat=2))
    matrices = [(a, 0, 0, d) for a, d in signs] + [(0, b, c, 0) for b, c in signs]
    paths = [tmp_path / f"{number}.mov" for number in range(8)]
    for path, matrix in zip(paths, matrices, strict=True):
        write_video(path, FRAMES[:1], matrix=matrix, aspect=Fraction(16, 11), **LOSSLESS)
    assert run(tmp_path / "out", *paths) == 0
    rows = read_table(tmp_path / "out")
    for path, matrix, row in zip(paths, matrices, rows, strict=True):
        expected = shown(FRAMES[0], matrix)
        (frame,), problem = read(path)
        np.testing.assert_array_equal(video_frames.upright(frame.image), expected)
        assert problem == ""
        np.testing.assert_allclose(points(row), detector(expected).landmarks, atol=1e-3)
        # The drawn video is upright as it is stored, and as wide on the screen as the original.
        with av.open(str(tmp_path / "out" / "drawn" / path.name)) as file:
            drawn = next(file.decode(video=0))
            assert (drawn.height, drawn.width, 3) == expected.shape
            assert "DISPLAYMATRIX" not in drawn.side_data
            sideways = matrix[0] == 0
            ratio = Fraction(11, 16) if sideways else Fraction(16, 11)
            assert file.streams.video[0].sample_aspect_ratio == ratio


def test_other_display_matrices_are_named(detector, tmp_path):
    slanted = write_video(tmp_path / "a.mov", FRAMES[:2], matrix=(0.8, 0.6, -0.6, 0.8), **LOSSLESS)
    scaled = write_video(tmp_path / "b.mov", FRAMES[:2], matrix=(0, 2, -2, 0), **LOSSLESS)
    assert run(tmp_path / "out", slanted, scaled) == 1
    rows = read_table(tmp_path / "out")
    assert [row["file"] for row in rows] == [str(slanted)] * 2 + [str(scaled)] * 2
    images = [*FRAMES[:2], *(shown(frame, (0, 1, -1, 0)) for frame in FRAMES[:2])]
    np.testing.assert_allclose([points(r) for r in rows], detector(images).landmarks, atol=1e-3)
    reasons = read_skipped(tmp_path / "out")
    assert reasons.keys() == {str(slanted)}
    assert reasons[str(slanted)].startswith("shown as stored: its display matrix is neither")


def test_frames_keep_their_own_times(detector, tmp_path):
    """Ten at 30 a second, ten at 3, which the header states for all: no grid of a rate has them."""
    times = [i / 30 for i in range(10)] + [(1 + i) / 3 for i in range(10)]
    path = write_video(
        tmp_path / "a.mkv", FRAMES * 2, codec="mpeg4", pixels="yuv420p", times=times, rate=3
    )
    mp4 = copy_video(path, tmp_path / "a.mp4")
    assert run(tmp_path / "out", mp4, path) == 0
    rows = read_table(tmp_path / "out")
    assert len(rows) == 40
    for name in ("a.mkv", "a.mp4"):
        np.testing.assert_allclose(
            [float(row["time"]) for row in rows if row["file"].endswith(name)], times, atol=6e-4
        )
        np.testing.assert_allclose(
            read_video(tmp_path / "out" / "drawn" / name)[1], times, atol=1.1e-3
        )
    assert duration(tmp_path / "out" / "drawn" / "a.mp4") == pytest.approx(duration(mp4), abs=1e-3)


@pytest.mark.parametrize("codec", ["libx264", "mpeg4"])
def test_drawn_videos_have_a_fine_clock(tmp_path, monkeypatch, codec):
    if codec not in av.codecs_available:
        pytest.skip(f"this PyAV has no {codec}")
    monkeypatch.setattr(av, "codecs_available", {codec})
    times = [0.0, 0.00123, 0.5, 0.50123, 3.0]
    with video_writer.Writer(tmp_path / "a.mp4", Fraction(30)) as writer:
        for number, time in enumerate(times):
            writer.write(FRAMES[number], time, Fraction(16, 11))
        writer.end = 5.0
    assert writer.problem == ""
    frames, found, _, name = read_video(tmp_path / "a.mp4")
    np.testing.assert_allclose(found, times, atol=1e-5)
    assert name == ("h264" if codec == "libx264" else codec)
    assert np.abs(np.asarray(frames, int) - FRAMES[:5]).mean() < 12
    assert duration(tmp_path / "a.mp4") == pytest.approx(5, abs=1e-3)
    with av.open(str(tmp_path / "a.mp4")) as file:
        assert file.streams.video[0].sample_aspect_ratio == Fraction(16, 11)


def test_cover_art_is_not_the_video(detector, tmp_path):
    cover = io.BytesIO()
    Image.fromarray(noise(99, 320, 320)).save(cover, "JPEG")
    path = write_video(tmp_path / "base.mp4", codec="mpeg4", pixels="yuv420p")
    named = [
        copy_video(path, tmp_path / f"cover.{ending}", cover=cover.getvalue(), marked=marked)
        for ending, marked in (("mp4", True), ("mkv", False))  # attached; a track of one frame
    ]
    song = tmp_path / "song.mp4"
    with av.open(str(song), "w") as file:
        audio = file.add_stream("aac", rate=44_100)
        picture = file.add_stream("mjpeg", rate=1)
        picture.width, picture.height, picture.pix_fmt = 320, 320, "yuvj420p"
        picture.disposition = av.stream.Disposition.attached_pic
        packet = av.Packet(cover.getvalue())
        packet.pts, packet.time_base, packet.stream = 0, Fraction(1), picture
        file.mux(packet)
        samples = np.zeros((2, 1024), np.float32)
        sound = av.AudioFrame.from_ndarray(samples, format="fltp", layout="stereo")
        sound.sample_rate = 44_100
        file.mux(audio.encode(sound))
        file.mux(audio.encode())
    assert run(tmp_path / "out", *named, song) == 1
    rows = read_table(tmp_path / "out")
    assert [row["file"] for row in rows] == [str(name) for name in named for _ in range(10)]
    expected = detector(read_video(path)[0]).landmarks
    for start in (0, 10):
        found = [points(row) for row in rows[start : start + 10]]
        np.testing.assert_allclose(found, expected, atol=1e-3)
    reasons = read_skipped(tmp_path / "out")
    assert reasons == {str(song): "has no video stream, only cover art"}


@pytest.mark.parametrize(
    ("ending", "codec"),
    [("mkv", "mpeg4"), ("webm", "libvpx"), ("mp4", "mpeg4"), ("flv", "flv"), ("wmv", "mpeg4")],
)
def test_the_clock_of_a_file_may_start_elsewhere(tmp_path, ending, codec):
    """At three seconds; all frames are there, or the last ones are missing."""
    if codec not in av.codecs_available:
        pytest.skip(f"this PyAV has no {codec}")
    frames = [np.random.default_rng(i).integers(0, 256, (48, 64, 3), np.uint8) for i in range(30)]
    path = tmp_path / f"a.{ending}"
    times = [3 + i / 10 for i in range(30)]
    options = {"movflags": "faststart"} if ending == "mp4" else {}
    write_video(path, frames, codec=codec, pixels="yuv420p", times=times, **options)
    found, problem = read(path)
    np.testing.assert_allclose([frame.time for frame in found], np.arange(30) / 10, atol=1e-3)
    assert problem == ""
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 6 // 10])
    found, problem = read(path)
    assert 10 < len(found) < 25
    # FLV does not say how long the video is, WMV not if the file is shorter than it says.
    start = {"flv": "", "wmv": "damaged: 1 of "}
    assert problem.startswith(start.get(ending, f"breaks off after {len(found)} frames"))


@pytest.mark.parametrize(
    ("ending", "codec", "pixels"),
    [
        ("mp4", "libx264", "yuv420p"),
        ("avi", "mjpeg", "yuvj420p"),
        ("webm", "libvpx-vp9", "yuv420p"),
        ("avi", "mpeg4", "yuv420p"),
        ("mp4", "libx265", "yuv420p"),
    ],
)
def test_a_damaged_packet_costs_its_frame(detector, tmp_path, ending, codec, pixels):
    """In the middle, and where decoding in frame threads would lose the frames behind it."""
    if codec not in av.codecs_available:
        pytest.skip(f"this PyAV has no {codec}")
    frames = [np.roll(noise(0, 64, 48), i, 1) for i in range(30)]
    path = tmp_path / f"a.{ending}"
    write_video(path, frames, codec=codec, pixels=pixels, group=10)
    zero_packets(path, [7, 28])
    assert run(tmp_path / "out", path) == 1
    rows = read_table(tmp_path / "out")
    found, problem = read(path)
    # HEVC decodes no frame between a damaged one and the next key frame.
    numbers = [*range(7), *range(10, 28)] if codec == "libx265" else sorted({*range(30)} - {7, 28})
    np.testing.assert_allclose([float(r["time"]) for r in rows], np.array(numbers) / 10, atol=1e-3)
    assert problem == f"damaged: {30 - len(numbers)} of 30 frames"
    assert read_skipped(tmp_path / "out") == {str(path): problem}
    drawn = read_video(tmp_path / "out" / "drawn" / (path.name + ".mp4" * (ending != "mp4")))
    assert len(drawn[0]) == len(rows)
    with videos.open_camera(str(path)) as camera:
        assert len(list(camera.frames())) == len(rows)
    pixels = video_frames.upright(found[10].image).astype(int)
    assert np.abs(pixels - frames[numbers[10]]).mean() < 15


@pytest.mark.parametrize(("codec", "share", "lost"), [("libx265", 0.5, 3), ("libsvtav1", 1, 1)])
def test_damage_that_decoders_do_not_report_is_counted(tmp_path, codec, share, lost):
    if codec not in av.codecs_available:
        pytest.skip(f"this PyAV has no {codec}")
    frames = [np.roll(noise(0, 64, 48), i, 1) for i in range(30)]
    path = write_video(tmp_path / "a.mp4", frames, codec=codec, pixels="yuv420p", group=10)
    zero_packets(path, [7], share)
    found, problem = read(path)
    assert (len(found), problem) == (30 - lost, f"damaged: {lost} of 30 frames")


def test_frames_of_a_damaged_packet_are_counted(tmp_path):
    """Part of the frame is there: it is concealed by what was there before, and shown."""
    path = write_video(tmp_path / "a.mp4", codec="mpeg4", pixels="yuv420p", group=1)
    zero_packets(path, [7], share=0.5)
    frames, problem = read(path)
    assert (len(frames), problem) == (10, "damaged: 1 of 10 frames")


def test_a_video_without_a_frame_is_listed(detector, tmp_path):
    path = write_video(tmp_path / "a.avi", FRAMES[:2], codec="mjpeg", pixels="yuvj420p")
    zero_packets(path, [0, 1])
    assert run(tmp_path / "out", path) == 1
    assert read_table(tmp_path / "out") == []
    assert read_skipped(tmp_path / "out") == {str(path): "has no frame that can be decoded"}


def test_a_packet_without_data_is_no_frame(detector, tmp_path):
    """It repeats the frame before, as in Theora of a still; other containers have no such packets.

    It gets no row; the frame before it is shown for longer.
    """

    def empty(number, packet):
        if number in (0, 1, 5):
            return packet
        other = av.Packet()
        other.pts, other.dts, other.time_base = packet.pts, packet.dts, packet.time_base
        return other

    path = write_video(tmp_path / "a.mkv", group=1)
    copy_video(path, tmp_path / "b.mp4", empty, format="nut")
    with av.open(str(tmp_path / "b.mp4")) as file:
        sizes = [packet.size > 0 for packet in file.demux(video=0)]
        assert sizes == [number in (0, 1, 5) for number in range(11)]  # and one at the end
    assert run(tmp_path / "out", tmp_path / "b.mp4") == 0
    rows = read_table(tmp_path / "out")
    assert [float(row["time"]) for row in rows] == [0, 0.1, 0.5]
    expected = detector([FRAMES[i] for i in (0, 1, 5)]).landmarks
    np.testing.assert_allclose([points(row) for row in rows], expected, atol=1e-3)
    assert duration(tmp_path / "out" / "drawn" / "b.mp4") == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("bits", [8, 10])
@pytest.mark.parametrize("space", [1, 6])
def test_colors_are_those_of_the_standard(tmp_path, space, bits, full):
    """ITU-R BT.709 and BT.601, in limited and full range."""
    red, blue = {1: (0.2126, 0.0722), 6: (0.299, 0.114)}[space]
    colors = np.random.default_rng(0).integers(0, 256, (3, 4, 3)) / 255
    luma = colors @ [red, 1 - red - blue, blue]
    chroma = [
        (colors[..., 2] - luma) / (2 * (1 - blue)),
        (colors[..., 0] - luma) / (2 * (1 - red)),
    ]
    step, most = 1 << (bits - 8), (1 << bits) - 1
    planes = [luma * most] if full else [(16 + 219 * luma) * step]
    planes += [128 * step + plane * (most if full else 224 * step) for plane in chroma]
    image = av.VideoFrame(64, 48, "yuv420p10le" if bits == 10 else "yuv420p")
    for values, plane in zip(planes, image.planes, strict=True):
        blocks = np.rint(values).clip(0, most).repeat(plane.height // 3, 0)
        array = blocks.repeat(plane.width // 4, 1).astype(np.uint16 if bits == 10 else np.uint8)
        rows = np.zeros((plane.height, plane.line_size // array.itemsize), array.dtype)
        rows[:, : plane.width] = array
        plane.update(rows.tobytes())
    image.colorspace, image.color_range, image.pts = space, 1 + full, 0
    with av.open(str(tmp_path / "a.mkv"), "w") as file:
        stream = file.add_stream("ffv1", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, image.format.name
        context = stream.codec_context
        context.colorspace, context.color_range = space, 1 + full
        file.mux(stream.encode(image))
        file.mux(stream.encode())
    (frame,), _ = read(tmp_path / "a.mkv")
    found = video_frames.upright(frame.image)[8::16, 8::16]
    np.testing.assert_allclose(found, 255 * colors, atol=4)
