"""Images from the command line: against the detector itself, and what can go wrong."""

import dataclasses
import os
import re
import signal
import struct
import threading
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from landmarks_jax.data import decoding
from landmarks_jax.inference import face_finder, packed_file
from landmarks_jax.inference.media import detection, run_detection, view_batches
from landmarks_jax.inference.media.detection import Options
from landmarks_jax.inference.media.inputs import find_inputs
from landmarks_jax.inference.media.result_files import Results
from landmarks_jax.system import parallel
from landmarks_jax.system.errors import DataError, UserError, WeightsError
from landmarks_jax.system.palette import byte_colors
from tests import packing
from tests.detecting import (
    BAD_EXIF,
    STORED,
    confidence,
    labelled,
    load,
    noise,
    points,
    read_skipped,
    read_table,
    save_bad_exif,
    save_rotated,
)
from tests.running import call


@pytest.fixture(scope="module")
def detector(landmark_detector):
    return landmark_detector


@pytest.fixture
def detect(detector, monkeypatch, tmp_path):
    """`detect_files` in batches of four with the narrow detector."""
    monkeypatch.setattr(run_detection, "load_detector", lambda name: detector)
    monkeypatch.setattr(view_batches, "batch_size", lambda: 4)

    def run(*arguments, boxes=None, out=tmp_path / "out", **options):
        names = [str(argument) for argument in arguments]
        boxes = None if boxes is None else str(boxes)
        return run_detection.detect_files("narrow", names, out, Options(**options), boxes)

    return run


def save(path: Path, pixels: np.ndarray, **options: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **options)
    return path


def check_row(row, expected):
    """A row against the detector's own output for one image."""
    np.testing.assert_allclose(points(row), expected.landmarks, atol=1e-3)
    np.testing.assert_allclose(confidence(row), expected.confidence, atol=1e-3)
    for name, point in zip(packing.POINT_NAMES, expected.labelled, strict=True):
        np.testing.assert_allclose(labelled(row, name), point, atol=1e-3)


def test_a_folder_of_images_of_many_kinds(detect, detector, tmp_path, capsys, caplog):
    folder = tmp_path / "photos"
    made = {f"{i}.png": noise(i, 30 + i, 40) for i in range(5)}
    for name, pixels in made.items():
        save(folder / name, pixels)
    made["sub/grey.bmp"] = noise(5)[..., 0]
    made["sub/clear.webp"] = np.concatenate([noise(6), noise(7)[..., :1]], 2)
    save(folder / "sub" / "grey.bmp", made["sub/grey.bmp"])
    save(folder / "sub" / "clear.webp", made["sub/clear.webp"], lossless=True, exact=True)
    # Stored sideways: tag 6 says that its first row is the right-hand side.
    exif = Image.Exif()
    exif[0x0112] = 6
    save(folder / "rotated.png", np.rot90(noise(8)), exif=exif)
    made["rotated.png"] = noise(8)
    save(folder / ".hidden" / "x.png", noise(9))
    (folder / "notes.txt").write_text("not an image")

    caplog.set_level("INFO")
    assert detect(folder, numbers=True, labelled=True) == 0
    assert "1 files in folders that are neither images nor videos" in caplog.text
    rows = read_table(tmp_path / "out")
    assert [row["file"] for row in rows] == sorted(str(folder / name) for name in made)
    spread = np.std([points(row) for row in rows], 0)
    assert spread.max() > 0.5  # else swapped images would not be noticed
    for row in rows:
        assert (row["frame"], row["time"], row["box"]) == ("", "", "")
        check_row(row, detector(made[os.path.relpath(row["file"], folder)]))
    assert read_skipped(tmp_path / "out") == {}
    drawn = tmp_path / "out" / "drawn"
    names = {str(path.relative_to(drawn)) for path in drawn.rglob("*.*")}
    assert names == {name + (".png" if name.startswith("sub") else "") for name in made}
    assert load(drawn / "rotated.png").shape == (40, 30, 3)
    assert "landmarks.csv: 8 rows (8 files" in capsys.readouterr().out


def test_images_of_every_orientation_and_format(detect, detector, tmp_path):
    image, folder = noise(8), tmp_path / "photos"
    folder.mkdir()
    for ending in (".png", ".jpg", ".webp", ".avif", ".tif"):
        for tag in STORED:
            save_rotated(folder / f"{tag}{ending}", image, tag)
        if ending != ".tif":
            for name, exif in BAD_EXIF.items():
                save_bad_exif(folder / f"{name}{ending}", image, exif)
    save_rotated(folder / "lzw.tif", image, 7, compression="tiff_lzw")
    Image.fromarray(image).save(folder / "two.tif", tiffinfo={0x0128: 2})
    entries = [struct.pack("<HHIHH", 0x0128, 3, *values) for values in ((1, 2, 0), (2, 2, 2))]
    tiff = (folder / "two.tif").read_bytes()
    assert tiff.count(entries[0]) == 1
    (folder / "two.tif").write_bytes(
        tiff.replace(*entries)
    )  # two units of resolution: Pillow warns
    Image.fromarray(image[..., 0].astype(np.int32) * 8_000_000).save(folder / "32.tif")
    assert detect(folder, draw=False) == 1
    rows = read_table(tmp_path / "out")
    assert len(rows) == 8 * 5 + len(BAD_EXIF) * 4 + 2
    expected = detector(image)
    for row in rows:
        lossy = row["file"].endswith((".jpg", ".avif"))
        tolerance = 0.05 if lossy else 1e-3
        np.testing.assert_allclose(points(row), expected.landmarks, atol=tolerance)
    [(path, why)] = read_skipped(tmp_path / "out").items()
    assert path == str(folder / "32.tif")
    assert "32-bit integer pixels have no agreed white" in why


def test_images_without_a_view_do_not_wait_for_one(detector):
    read = []

    def cuts():
        for number in range(10):
            read.append(number)
            yield view_batches.without_views(detector, number, "")

    cut, landmarks = next(view_batches.locate(detector, cuts(), 4))
    assert (cut.source, landmarks, len(read)) == (0, None, 4)


@pytest.mark.parametrize("kept", [0, 1 << 20])
def test_drawn_images_have_the_landmarks_colours(detect, tmp_path, monkeypatch, kept):
    """Whether the pixels were kept or the image was read again."""
    monkeypatch.setattr(detection, "_KEPT_BYTES", kept)
    pixels = noise(0, 300, 200)
    path = save(tmp_path / "a.png", pixels)
    assert detect(path) == 0
    (row,) = read_table(tmp_path / "out")
    drawn = load(tmp_path / "out" / "drawn" / "a.png")
    assert drawn.shape == pixels.shape
    x, y = np.rint(points(row)[2]).astype(int)  # the last one lies on top
    assert tuple(drawn[y, x]) == byte_colors(3)[2]
    np.testing.assert_array_equal(drawn[:5], pixels[:5])
    np.testing.assert_array_equal(load(path), pixels)


def test_without_drawing_there_is_no_drawn_folder(detect, tmp_path):
    save(tmp_path / "a.jpg", noise(0))
    assert detect(tmp_path / "a.jpg", draw=False) == 0
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [
        ".lock",
        "landmarks.csv",
        "landmarks.jsonl",
        "skipped.csv",
    ]


def huge_png(path: Path) -> None:
    """A PNG whose header says 20,000 x 20,000 pixels."""
    data = bytearray(save(path, noise(0)).read_bytes())
    data[16:24] = struct.pack(">II", 20_000, 20_000)
    data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    path.write_bytes(data)


def test_unreadable_files_are_listed_and_the_others_detected(detect, detector, tmp_path, caplog):
    folder = tmp_path / "photos"
    good = [save(folder / f"{name}.png", noise(i)) for i, name in enumerate("ace")]
    whole = save(folder / "b.jpg", noise(3, 200, 200)).read_bytes()
    (folder / "b.jpg").write_bytes(whole[: len(whole) // 2])
    (folder / "d.png").write_text("not an image")
    (folder / "empty.jpg").touch()
    huge_png(folder / "huge.png")
    os.symlink(folder / "nowhere", folder / "link.png")
    assert detect(folder) == 1
    rows = read_table(tmp_path / "out")
    assert [row["file"] for row in rows] == [str(path) for path in good]
    for i, row in enumerate(rows):
        check_row(row, detector(noise(i)))
    reasons = read_skipped(tmp_path / "out")
    expected = {
        "b.jpg": "truncated",
        "d.png": "cannot identify",
        "empty.jpg": "cannot identify",
        "huge.png": "400000000 pixels. exceeds limit",
        "link.png": "a link to a missing file",
    }
    assert reasons.keys() == {str(folder / name) for name in expected}
    for name, reason in expected.items():
        assert re.search(reason, reasons[str(folder / name)]), reasons
    assert "5 files failed, see" in caplog.text
    assert str(folder / "b.jpg") in caplog.text
    assert "and 2 more" in caplog.text


def test_a_named_file_is_read_whatever_its_extension(detect, tmp_path):
    save(tmp_path / "a.png", noise(0)).rename(tmp_path / "photo")
    (tmp_path / "notes.txt").write_text("not an image")
    assert detect(tmp_path / "photo", tmp_path / "notes.txt") == 1
    assert [row["file"] for row in read_table(tmp_path / "out")] == [str(tmp_path / "photo")]
    assert (tmp_path / "out" / "drawn" / "photo.png").exists()


def search(*arguments, drawn="none"):
    inputs, note = find_inputs([str(a) for a in arguments], Path(drawn))
    return [(item.path, item.drawn.as_posix()) for item in inputs], note


def test_globs_and_folders_keep_their_structure_and_overwrite_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = "p/a.bmp p/a.bmp.png p/[1].png p/.h.png p/q/a.png p/q/v.avi p/q/n.txt r/a.jpg r/a.png"
    for name in names.split():
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).touch()
    every = ["p/[1].png", "p/a.bmp", "p/a.bmp.png", "p/q/a.png", "p/q/v.avi"]
    places = ["[1].png", "a.bmp.png", "_a.bmp.png", "q/a.png", "q/v.avi.mp4"]
    note = "skipped: 1 files in folders that are neither images nor videos"
    assert search("p") == (list(zip(every, places, strict=True)), note)
    # Files of several folders: mirrored below their common parent.
    assert search("*/a.???") == (
        [("p/a.bmp", "p/a.bmp.png"), ("r/a.jpg", "r/a.jpg"), ("r/a.png", "r/a.png")],
        "",
    )
    assert search("p/[1].png", "p/[!a]*.png")[0] == [("p/[1].png", "[1].png")]
    assert [path for path, _ in search("p/**/*.png")[0]] == [
        *("p/[1].png", "p/a.bmp.png", "p/q/a.png")
    ]
    files, note = search("p", "p/a.bmp", "r/../p/a.bmp")
    assert len(files) == 5
    assert "2 files named more than once" in note
    # Drawings of an earlier run are not inputs.
    files, note = search(".", drawn="r")
    assert not [path for path, _ in files if path.startswith("./r")]
    assert "2 files in r, the folder of drawings" in note
    Path("link").symlink_to("r")
    files, note = search("p", "link", drawn="r")
    assert "2 files in r, the folder of drawings" in note
    assert len(files) == 5


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("nowhere.png", "nowhere.png: no such file or folder"),
        ("*.tiff", "no match as a glob"),
        ("empty", "no images and no videos"),
    ],
)
def test_inputs_that_match_nothing(detect, tmp_path, monkeypatch, argument, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=message):
        detect(argument)
    assert not (tmp_path / "out").exists()


def test_boxes_are_rows_of_their_own(detect, detector, tmp_path, caplog):
    folder = tmp_path / "photos"
    for i in range(4):
        save(folder / f"{i}.png", noise(i, 60, 50))
    table = folder / "boxes.csv"
    boxes = {0: [[5, 5, 40, 45]], 2: [[-3, 0, 30, 50.5], [20, 10, 60, 50]]}
    lines = ["file,x0,y0,x1,y1", "2.png,-3,0,30,50.5", "", "0.png,5,5,40,45"]
    lines += [f"{folder / '2.png'}, 20,10,60,50", "boxes.csv,0,0,1,1", "3.png,99,0,120,20"]
    table.write_text("\n".join(lines) + "\n")
    caplog.set_level("INFO")
    assert detect(folder, boxes=table) == 1
    assert "1 listed files are not inputs" in caplog.text
    assert "skipped: 1 files without a box" in caplog.text
    rows = read_table(tmp_path / "out")
    assert [(row["file"][-5:], row["box"]) for row in rows] == [
        ("0.png", "0"),
        ("2.png", "0"),
        ("2.png", "1"),
    ]
    expected = [detector(noise(i, 60, 50), box) for i in boxes for box in boxes[i]]
    for row, one in zip(rows, expected, strict=True):
        check_row(row, one)
    reasons = read_skipped(tmp_path / "out")
    assert reasons[str(folder / "1.png")] == "no box"
    assert "outside its image, 60 x 50" in reasons[str(folder / "3.png")]
    # Files without a box are not failures.
    assert detect(folder / "0.png", folder / "1.png", boxes=table) == 0
    # A box that does not fit takes no other of its image with it.
    table.write_text("file,x0,y0,x1,y1\n2.png,70,0,80,9\n2.png,20,10,60,50\n2.png,0,0,999,9\n")
    assert detect(folder / "2.png", boxes=table) == 1
    (row,) = read_table(tmp_path / "out")
    assert row["box"] == "1"
    check_row(row, detector(noise(2, 60, 50), [20, 10, 60, 50]))
    (reason,) = read_skipped(tmp_path / "out").values()
    assert re.fullmatch(
        r"box 0 is .* outside its image, 60 x 50; box 2 is .* over 4 times.*", reason
    )
    assert (tmp_path / "out" / "drawn" / "2.png").is_file()


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["file,x,y,w,h", "0.png,1,2,3,4"], r":1: the header must be file,x0,y0,x1,y1"),
        (["file,x0,y0,x1,y1", "0.png,1,2,3"], r":2: 4 cells, the header has 5"),
        (["file,x0,y0,x1,y1", "0.png,1,2,3,4", "0.png,1,2,x,4"], r":3: 'x' is not a number"),
        (["file,x0,y0,x1,y1", "0.png,1,2,nan,4"], r":2: 'nan' is not a number"),
        (["file,x0,y0,x1,y1", "0.png,1,2,1e300,4"], r":2: 1e300 is too large"),
        (["file,x0,y0,x1,y1", f"0.png,1,2,3,{'4' * 200_000}"], r":2: not a line of CSV"),
        (["file,x0,y0,x1,y1", "0.png,3,2,3,4"], r":2: the box must have x0 < x1"),
        (["file,x0,y0,x1,y1", "9.png,1,2,3,4"], r":2: no such file: .*9\.png"),
        (["file,x0,y0,x1,y1"], r"no box is listed"),
        ([], r"the header must be"),
        (["file,x0,y0,x1,y1", "1.png,1,2,3,4"], r"no box for any of the 1 inputs"),
    ],
)
def test_malformed_boxes_are_named_by_their_line(detect, tmp_path, lines, message):
    for i in range(2):
        save(tmp_path / f"{i}.png", noise(i))
    table = tmp_path / "boxes.csv"
    table.write_text("".join(f"{line}\n" for line in lines))
    with pytest.raises(DataError, match=f"^{re.escape(str(table))}.*{message}"):
        detect(tmp_path / "0.png", boxes=table)


def test_impossible_requests_are_refused_before_anything_is_written(
    narrow_config, filled, tmp_path
):
    photo, out = save(tmp_path / "a.png", noise(0)), tmp_path / "out"
    boxed = tmp_path / "boxed.safetensors"
    packed = packing.make(narrow_config, filled, data__crop="box")
    packed_file.write(boxed, dataclasses.replace(packed, regressor=None, summary={}))
    for boxes in (None, "whole"):
        with pytest.raises(DataError, match="needs --boxes FILE, with files instead of a camera"):
            run_detection.detect_files(str(boxed), [str(photo)], out, Options(), boxes)
    with pytest.raises(DataError, match="has no regressor to labelled points"):
        run_detection.detect_files(str(boxed), [str(photo)], out, Options(labelled=True))
    with pytest.raises(WeightsError, match="cannot be read as a packed detector"):
        run_detection.detect_files(str(photo), [str(photo)], out, Options())
    assert not out.exists()


def test_a_detector_of_box_views_around_faces_may_find_them(
    narrow_config, filled, tmp_path, monkeypatch
):
    photo, boxed = save(tmp_path / "a.png", noise(0)), tmp_path / "boxed.safetensors"
    packed = packing.make(narrow_config, filled, data__crop="box")
    packed_file.write(boxed, packing.of_faces(packed))
    for missing, boxes, ways in (
        (True, None, r"--boxes find \(finding faces needs .*\), or --boxes FILE, with files"),
        (False, "whole", "--boxes find, or --boxes FILE, with files"),
    ):
        monkeypatch.setattr(face_finder, "is_missing", lambda missing=missing: missing)
        with pytest.raises(DataError, match=f"needs {ways}"):
            run_detection.detect_files(str(boxed), [str(photo)], tmp_path / "o", Options(), boxes)


def test_a_folder_that_cannot_be_written_is_an_error(detect, tmp_path):
    photo = save(tmp_path / "a.png", noise(0))
    with pytest.raises(UserError, match=r"--out .*a\.png: cannot be written"):
        detect(photo, out=photo)
    # A drawing that cannot be written is a failure of that image alone.
    (tmp_path / "out" / "drawn" / "a.png").mkdir(parents=True)
    assert detect(photo, save(tmp_path / "b.png", noise(1))) == 1
    assert len(read_table(tmp_path / "out")) == 2
    assert (
        "a.png: cannot be written (a folder, not a regular file)"
        in read_skipped(tmp_path / "out")[str(photo)]
    )


@pytest.mark.skipif(os.name != "posix", reason="names of files are bytes on POSIX")
def test_names_that_are_not_utf8_are_written_unchanged(detect, tmp_path):
    path = tmp_path / os.fsdecode(b"caf\xe9.png")
    try:
        save(path, noise(0))
    except OSError:
        pytest.skip("this file system requires UTF-8")
    assert detect(path) == 0
    assert b"caf\xe9.png,,," in (tmp_path / "out" / "landmarks.csv").read_bytes()


def test_memory_does_not_grow_with_the_number_of_files(detect, tmp_path, monkeypatch):
    monkeypatch.setattr(parallel, "num_threads", lambda: 1)
    photo = save(tmp_path / "photo.png", noise(0))
    folder = tmp_path / "many"
    folder.mkdir()
    for i in range(300):
        os.symlink(photo, folder / f"{i:03d}.png")
    counts = {"read": 0, "written": 0}
    lock, in_flight = threading.Lock(), []
    decode, add = decoding.decode, Results.add

    def counted_decode(path):
        with lock:
            counts["read"] += 1
        return decode(path)

    def counted_add(self, row):
        add(self, row)
        counts["written"] += 1
        in_flight.append(counts["read"] - counts["written"])

    monkeypatch.setattr(decoding, "decode", counted_decode)
    monkeypatch.setattr(Results, "add", counted_add)
    assert detect(folder) == 0
    assert counts == {"read": 300, "written": 300}
    assert max(in_flight) <= 2 * 17 + 4  # two windows of 16 and a batch


def test_a_signal_ends_a_run_and_keeps_its_results(detect, tmp_path, monkeypatch, capsys):
    for i in range(12):
        save(tmp_path / "photos" / f"{i:02d}.png", noise(i))
    add = Results.add

    def add_and_raise(self, row):
        add(self, row)
        if self.rows == 5:
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(Results, "add", add_and_raise)
    assert detect(tmp_path / "photos") == 130
    assert len(read_table(tmp_path / "out")) == 5
    assert "5 of 12 files" in capsys.readouterr().out


def test_the_command(packed_path, detector, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save(tmp_path / "a.png", noise(0))
    (tmp_path / "bad.png").write_text("not an image")
    code, out, err = call("detect", str(packed_path), "*.png", "--out=out")
    assert code == 1, err
    assert "landmarks.csv: 1 rows (2 files" in out
    assert re.fullmatch(r"1 files failed, see .*skipped.csv: bad\.png .*\n", err)
    check_row(read_table(tmp_path / "out")[0], detector(noise(0)))
    failures = {
        ("bad.png", "*.png", "--out=out2"): "cannot be read as a packed detector",
        (str(packed_path), "--out=out2"): "give DETECTOR and INPUT",
        (str(packed_path), "*.png"): "--out",
        (str(packed_path), "*.png", "--out=out2", "--seconds=3"): "go with --camera",
        (str(packed_path), "--out=out2", "--camera=0", "--boxes=x"): "--boxes FILE goes with files",
    }
    for arguments, message in failures.items():
        code, out, err = call("detect", *arguments)
        assert (code, out) == (2, "")
        assert re.fullmatch(f"error: .*{message}.*\n", err)
    assert not (tmp_path / "out2").exists()
