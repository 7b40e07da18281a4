"""Videos and cameras: known frames, rotated and truncated files, smoothing, Ctrl-C."""

import os
import signal
import struct
import threading
from fractions import Fraction
from pathlib import Path

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
from landmarks_jax.inference.media.result_files import Results
from landmarks_jax.inference.media.smoothing import OneEuro
from landmarks_jax.system.errors import DataError
from tests.detecting import noise, points, read_skipped, read_table
from tests.video_files import FRAMES, av, read_video, write_video


@pytest.fixture(scope="module")
def detector(landmark_detector):
    return landmark_detector


@pytest.fixture
def out(detector, monkeypatch, tmp_path):
    """The folder of results of the narrow detector, in batches of four views."""
    monkeypatch.setattr(run_detection, "load_detector", lambda name: detector)
    monkeypatch.setattr(view_batches, "batch_size", lambda: 4)
    return tmp_path / "out"


TS = {"codec": "mpeg2video", "pixels": "yuv420p"}


def run(out, *paths, boxes=None, **options):
    return run_detection.detect_files(
        "narrow", [str(p) for p in paths], out, Options(**options), boxes
    )


def test_every_frame_has_the_landmarks_of_the_detector(out, detector, tmp_path):
    path = write_video(tmp_path / "a.mkv", keep=[0, 1, 2, 4, 5, 6, 7, 8, 9])
    assert run(out, path, numbers=True, labelled=True, trails=3) == 0
    rows = read_table(out)
    numbers = [n for n in range(10) if n != 3]
    assert [row["frame"] for row in rows] == [str(i) for i in range(9)]
    np.testing.assert_allclose([float(row["time"]) for row in rows], np.array(numbers) / 10)
    expected = detector([FRAMES[n] for n in numbers])
    np.testing.assert_allclose([points(row) for row in rows], expected.landmarks, atol=1e-3)

    frames, times, rate, codec = read_video(out / "drawn" / "a.mkv")
    assert codec == ("h264" if "libx264" in av.codecs_available else "mpeg4")
    assert np.shape(frames) == (9, 48, 64, 3)
    np.testing.assert_allclose(times, np.array(numbers) / 10, atol=1e-3)
    assert rate == pytest.approx(9, abs=1.1)
    # The first frame's last landmark is drawn in its colour, up to compression.
    x, y = np.rint(points(rows[0])[2]).astype(int)
    red, green, blue = frames[0][y, x].astype(int)
    assert green > max(red, blue) + 60
    assert np.abs(frames[0].astype(int) - FRAMES[0]).mean() > 3


def test_time_continues_where_recordings_are_joined(tmp_path):
    parts = [
        write_video(tmp_path / f"{size}.ts", [noise(i, size, size) for i in range(4)], **TS)
        for size in (48, 64)
    ]
    (tmp_path / "joined.ts").write_bytes(b"".join(part.read_bytes() for part in parts))
    with videos.Reader(str(tmp_path / "joined.ts")) as reader:
        frames = [
            (video_frames.upright(frame.image).shape[0], frame.time) for frame in reader.frames()
        ]
    assert {size for size, _ in frames} == {48, 64}
    # A decoder may drop a frame at the joint, but no time.
    times = np.arange(len(frames)) / 10
    np.testing.assert_allclose([time for _, time in frames], times, atol=1e-3)


def test_a_time_in_a_name_is_not_a_protocol(out, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_video("file:2026-01-02T12:30:05.mkv", FRAMES[:2])
    assert run(Path("a:b"), "2026-01-02T12:30:05.mkv") == 0
    assert [row["file"] for row in read_table(Path("a:b"))] == ["2026-01-02T12:30:05.mkv"] * 2
    assert len(read_video(tmp_path / "a:b" / "drawn" / "2026-01-02T12:30:05.mkv")[0]) == 2


@pytest.mark.parametrize("codecs", [{"libx264"}, set()], ids=["h264", "mpeg4"])
@pytest.mark.parametrize(("width", "height"), [(64, 48), (63, 47)])
def test_annotated_videos_keep_size_and_rate(tmp_path, monkeypatch, codecs, width, height):
    if codecs - av.codecs_available:
        pytest.skip("this PyAV has no encoder of H.264")
    monkeypatch.setattr(av, "codecs_available", codecs)
    rate = Fraction(30000, 1001)
    frames = [noise(i // 4, width, height) for i in range(8)]
    with video_writer.Writer(tmp_path / "sub" / "a.mp4", rate) as writer:
        for i, frame in enumerate(frames):
            writer.write(frame, float(i / rate))
    drawn, _, average, codec = read_video(tmp_path / "sub" / "a.mp4")
    assert np.shape(drawn) == (8, height, width, 3)
    assert average == rate
    assert codec == ("h264" if codecs else "mpeg4")
    assert np.abs(np.asarray(drawn, int) - frames).mean() < 12


def quarter_turns(path):
    """Clockwise quarter turns of an MP4, from its track's header.

    ISO 14496-12: the matrix {a b u, c d v, x y w} shows (p, q) at (a p + c q + x, b p + d q + y).
    """
    data = path.read_bytes()
    start = data.index(b"tkhd") + 4 + 40  # version and flags, then 36 bytes
    a, b = struct.unpack(">ii", data[start : start + 8])
    return round(np.degrees(np.arctan2(b, a)) / 90) % 4


def test_rotated_videos_are_read_upright(out, detector, tmp_path):
    """As from a phone: stored sideways, with the rotation that shows it upright."""
    stored = noise(0, 64, 48)
    seen = set()
    for rotation in (90, 180, 270):
        path = tmp_path / f"{rotation}.mp4"
        write_video(path, [stored] * 2, codec="mpeg4", pixels="yuv420p", rotation=rotation)
        turns = quarter_turns(path)
        expected = np.rot90(stored, -turns)
        with videos.Reader(str(path)) as reader:
            frames = [video_frames.upright(frame.image) for frame in reader.frames()]
        assert np.shape(frames) == (2, *expected.shape)
        assert np.abs(frames[0].astype(int) - expected).mean() < 12
        folder = out / str(rotation)
        assert run(folder, path) == 0
        landmarks = points(read_table(folder)[0])
        np.testing.assert_allclose(landmarks, detector(frames[0]).landmarks, atol=1e-3)
        assert np.shape(read_video(folder / "drawn" / path.name)[0]) == (2, *expected.shape)
        seen.add(turns)
    assert seen == {1, 2, 3}


def test_a_truncated_video_keeps_its_readable_frames(out, detector, tmp_path, caplog):
    frames = [np.random.default_rng(i).integers(0, 256, (48, 64, 3), np.uint8) for i in range(10)]
    data = write_video(tmp_path / "whole.avi", frames).read_bytes()
    broken = tmp_path / "broken.avi"
    broken.write_bytes(data[: len(data) * 6 // 10])
    (tmp_path / "text.mp4").write_text("not a video")
    whole = write_video(tmp_path / "z.mkv", FRAMES[:2])
    assert run(out, broken, tmp_path / "text.mp4", whole) == 1
    rows = read_table(out)
    count = len(rows) - 2
    assert 4 <= count <= 6
    expected = detector(frames[:count]).landmarks
    np.testing.assert_allclose([points(row) for row in rows[:count]], expected, atol=1e-3)
    reasons = read_skipped(out)
    assert reasons.keys() == {str(broken), str(tmp_path / "text.mp4")}
    assert reasons[str(broken)].startswith(f"breaks off after {count} frames")
    assert "cannot be opened as a video" in reasons[str(tmp_path / "text.mp4")]
    assert "2 files failed, see" in caplog.text
    assert len(read_video(out / "drawn" / "broken.avi.mp4")[0]) == count


@pytest.mark.parametrize(
    ("ending", "codec"), [("webm", "libvpx"), ("mp4", "mpeg4"), ("mkv", "ffv1")]
)
def test_truncated_files_are_detected(tmp_path, ending, codec):
    """By an error, or by the duration in the header."""
    if codec not in av.codecs_available:
        pytest.skip(f"this PyAV has no {codec}")
    frames = [np.random.default_rng(i).integers(0, 256, (48, 64, 3), np.uint8) for i in range(30)]
    pixels = "bgr0" if codec == "ffv1" else "yuv420p"
    # The last frame is shown for long: not truncated.
    shown = [*range(20), 29]
    options = {"movflags": "faststart"} if ending == "mp4" else {}
    path = tmp_path / f"a.{ending}"
    write_video(path, frames, codec=codec, pixels=pixels, keep=shown, **options)
    data = path.read_bytes()
    for share, broken in ((1.0, False), (0.6, True)):
        path.write_bytes(data[: int(share * len(data))])
        with videos.Reader(str(path)) as reader:
            count = sum(1 for _ in reader.frames())
        assert (count < 21) == broken
        assert reader.problem.startswith(f"breaks off after {count} frames") == broken
        assert count > 5


def test_boxes_of_a_video_are_the_same_in_all_frames(out, detector, tmp_path):
    path = write_video(tmp_path / "a.mkv", FRAMES[:3])
    write_video(tmp_path / "b.mkv", FRAMES[:3])
    table = tmp_path / "boxes.csv"
    table.write_text(
        "file,x0,y0,x1,y1\na.mkv,0,0,40,40\na.mkv,90,0,99,9\na.mkv,20,5,64,48\nb.mkv,90,0,99,9\n"
    )
    assert run(out, path, tmp_path / "b.mkv", boxes=str(table), trails=2) == 1
    rows = read_table(out)
    places = [(row["frame"], row["box"]) for row in rows]
    assert places == [(str(f), str(b)) for f in range(3) for b in (0, 2)]
    pairs = [(frame, box) for frame in FRAMES[:3] for box in ([0, 0, 40, 40], [20, 5, 64, 48])]
    expected = detector([frame for frame, _ in pairs], [box for _, box in pairs])
    np.testing.assert_allclose([points(row) for row in rows], expected.landmarks, atol=1e-3)
    reasons = read_skipped(out)
    assert reasons[str(path)].startswith("box 1 is ")
    assert "outside its image, 64 x 48" in reasons[str(tmp_path / "b.mkv")]


def test_smoothed_points_stand_beside_the_raw_ones(out, detector, tmp_path):
    path = write_video(tmp_path / "a.mkv")
    assert run(out, path, smooth=True) == 0
    rows = read_table(out)
    raw = detector(FRAMES)
    np.testing.assert_allclose([points(row) for row in rows], raw.landmarks, atol=1e-3)
    left, top, right, bottom = detector.frame.view_rectangle((64, 48), np.zeros((0, 2)))
    smooth = OneEuro(np.sqrt((right - left) * (bottom - top)))
    expected = [smooth(p, i / 10) for i, p in enumerate(raw.landmarks)]
    np.testing.assert_allclose([points(row, "smooth_") for row in rows], expected, atol=1e-2)
    assert np.std(np.diff(expected, axis=0)) < np.std(np.diff(raw.landmarks, axis=0))
    assert "smooth_left_eye_x" in rows[0]


def test_one_euro_as_published():
    """Against the paper's algorithm, written for one coordinate."""
    rng = np.random.default_rng(0)
    times = np.cumsum(rng.uniform(0.02, 0.05, 40))
    xs = 10 * np.sin(times) + rng.normal(0, 0.1, 40)

    def alpha(cutoff, step):
        return 1 / (1 + (1 / (2 * np.pi * cutoff)) / step)

    expected, speed = [xs[0]], 0.0
    for i in range(1, 40):
        step = times[i] - times[i - 1]
        weight = alpha(1.0, step)
        speed = weight * (xs[i] - expected[-1]) / step + (1 - weight) * speed
        weight = alpha(1.0 + 10.0 * abs(speed) / 20, step)
        expected.append(weight * xs[i] + (1 - weight) * expected[-1])
    smooth = OneEuro(20.0)
    filtered = [smooth(np.array([[x, 7.0]]), t)[0] for x, t in zip(xs, times, strict=True)]
    np.testing.assert_allclose(filtered, np.stack([expected, np.full(40, 7.0)], -1))

    # Points that are not finite pass through and are forgotten.
    assert np.isnan(smooth(np.array([[np.nan, 7.0]]), times[-1] + 1)).any()
    np.testing.assert_allclose(smooth(np.array([[3.0, 7.0]]), times[-1] + 2), [[3.0, 7.0]])


def test_without_pyav_images_are_detected_and_videos_listed(out, tmp_path, monkeypatch):
    monkeypatch.setattr(videos, "is_missing", lambda: True)
    path = write_video(tmp_path / "a.mkv", FRAMES[:1])
    with pytest.raises(DataError, match=r"a\.mkv: videos and cameras need PyAV: install .*`video`"):
        run(out, path)
    with pytest.raises(DataError, match="need PyAV"):
        run_detection.detect_camera("narrow", "0", out, Options())
    assert not out.exists()
    Image.fromarray(FRAMES[0]).save(tmp_path / "b.png")
    assert run(out, tmp_path) == 1
    assert [Path(row["file"]).name for row in read_table(out)] == ["b.png"]
    assert "need PyAV" in read_skipped(out)[str(path)]


def test_whatever_pyav_opens_can_be_the_camera(out, detector, tmp_path, capsys):
    path = write_video(tmp_path / "a.mkv")
    assert run_detection.detect_camera("narrow", str(path), out, Options(), seconds=0.55) == 0
    rows = read_table(out)
    assert {row["file"] for row in rows} == {f"camera {path}"}
    assert [float(row["time"]) for row in rows] == [0, 0.1, 0.2, 0.3, 0.4, 0.5]
    np.testing.assert_allclose(
        [points(row) for row in rows], detector(FRAMES[:6]).landmarks, atol=1e-3
    )
    assert len(read_video(out / "drawn" / "camera.mp4")[0]) == 6
    assert "6 rows (6 frames" in capsys.readouterr().out


@pytest.mark.skipif("lavfi" not in av.formats_available, reason="this PyAV has no test source")
def test_ctrl_c_ends_a_camera_that_has_no_end(out, monkeypatch):
    add = Results.add

    def add_and_press(self, row):
        add(self, row)
        if self.rows == 5:
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(Results, "add", add_and_press)
    source = "testsrc=size=64x48:rate=10"
    assert run_detection.detect_camera("narrow", source, out, Options(), device="lavfi") == 0
    count = len(read_table(out))
    assert 5 <= count <= 5 + 20 * len(os.sched_getaffinity(0))
    frames, _, rate, _ = read_video(out / "drawn" / "camera.mp4")
    assert len(frames) == count
    assert rate == 10
    assert threading.active_count() < 20


@pytest.mark.parametrize("camera", ["97", "/dev/video97", "nowhere.mkv"])
def test_a_missing_camera_is_an_error(out, camera, monkeypatch):
    if "v4l2" not in ",".join(av.formats_available):
        pytest.skip("this PyAV has no cameras of Linux")
    monkeypatch.setattr("sys.platform", "linux")
    with pytest.raises(DataError, match=r"cannot be opened as a camera \(No such file"):
        run_detection.detect_camera("narrow", camera, out, Options())
    monkeypatch.setattr("sys.platform", "plan9")
    if camera != "nowhere.mkv":
        with pytest.raises(DataError, match="no numbers on plan9; name the source"):
            run_detection.detect_camera("narrow", camera, out, Options())


def test_a_camera_that_has_no_frame_yet_is_asked_again(tmp_path, monkeypatch):
    monkeypatch.setattr(videos, "_WAIT", 0.0)
    with videos.Reader(str(write_video(tmp_path / "a.mkv", FRAMES[:2])), live=True) as reader:
        container, asked = reader._container, []

        class Slow:
            streams = container.streams

            def demux(self, stream):
                asked.append(stream)
                if len(asked) < 3:
                    raise av.error.BlockingIOError(11, "Resource temporarily unavailable")
                return container.demux(stream)

            def close(self):
                container.close()

        reader._container = Slow()
        assert [frame.number for frame in reader.frames()] == [0, 1]
    assert len(asked) == 3
    assert reader.problem == ""
