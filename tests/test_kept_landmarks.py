"""Some of a detector's landmarks, and names for them, from the file to what is written."""

import csv
import json

import numpy as np
import pytest
from PIL import Image

from landmarks_jax import load_detector
from landmarks_jax.inference import card, graph_export, kept_landmarks, packed_file
from landmarks_jax.inference.browser import site
from landmarks_jax.models.detectors import kept_note, numbers_text
from landmarks_jax.system.errors import ConfigError
from tests.detecting import noise
from tests.running import call, narrow

NAMES = ("wing tip", "root")


@pytest.fixture(scope="module")
def named(packed_path, tmp_path_factory):
    """Landmarks 2 and 0 of the narrow detector, in that order, with names."""
    out = tmp_path_factory.mktemp("named") / "named.safetensors"
    code, printed, err = call(
        *("export", f"--detector={packed_path}", f"--out={out}", "--landmarks=2,0"),
        *("--noregressor", f"--names={','.join(NAMES)}"),
    )
    assert code == 0, err
    assert printed.endswith("2 landmarks, 0 labelled points\n")
    return out


def test_numbers_are_written_as_they_are_given():
    assert numbers_text((0, 3, 5, 6, 7, 8)) == "0,3,5:9"
    assert numbers_text(range(10)) == "0:10"
    assert numbers_text((2, 1, 0)) == "2,1,0"
    config = narrow(model__num_landmarks=50)
    assert kept_note(config, (0, 3, 5, 6, 7, 8)) == "landmarks 0, 3, 5 to 8 of 50"
    assert kept_note(config, range(10, 50)) == "landmarks 10 to 49 of 50"


def test_some_landmarks_are_those_of_the_whole_detector(named, landmark_detector):
    detector, photo = load_detector(named), noise(3)
    some, whole = detector(photo), landmark_detector(photo)
    np.testing.assert_allclose(some.landmarks, whole.landmarks[[2, 0]], atol=1e-3)
    np.testing.assert_allclose(some.confidence, whole.confidence[[2, 0]], atol=1e-5)
    assert (some.labelled, detector.landmark_names) == (None, NAMES)
    packed = packed_file.read(named)
    assert packed.summary["notes"] == ["landmarks 2, 0 of 3"]
    assert (packed.summary["scores"], packed.summary["point_names"]) == ([], [])
    assert "2 points discovered without labels: wing tip, root |" in card.to_markdown(packed, "a")
    assert graph_export.metadata(packed)["landmark_names"] == '["wing tip", "root"]'
    assert site.describe(packed, "a", False)["landmark_names"] == list(NAMES)


def test_a_part_keeps_its_names_until_it_gets_others(named):
    one = kept_landmarks.keep(packed_file.read(named), (1,))
    assert one.summary["landmark_names"] == ["root"]
    turned = kept_landmarks.keep(packed_file.read(named), (1, 0))
    assert turned.summary["landmark_names"] == ["root", "wing tip"]
    assert kept_landmarks.rename(one, ()) is one
    assert kept_landmarks.rename(one, ["a"]).summary["landmark_names"] == ["a"]
    for names, problem in ((["a", "b"], "2 names for 1 landmarks"), (["a\n"], "must be different")):
        with pytest.raises(ConfigError, match=problem):
            kept_landmarks.rename(one, names)


def test_names_are_in_tables_and_other_formats(named, tmp_path):
    photo, out = tmp_path / "a.png", tmp_path / "out"
    Image.fromarray(noise(3)).save(photo)
    code, _, err = call("detect", str(named), str(photo), f"--out={out}", "--nodraw")
    assert code == 0, err
    found = load_detector(named)(noise(3))
    (line,) = (out / "landmarks.jsonl").read_text().splitlines()
    row = json.loads(line)
    assert list(row["landmarks"]) == list(row["confidence"]) == list(NAMES)
    np.testing.assert_allclose(row["landmarks"]["root"], found.landmarks[1], atol=1e-3)
    with (out / "landmarks.csv").open(newline="") as file:
        header, cells = csv.reader(file)
    columns = ["wing_tip_x", "wing_tip_y", "wing_tip_c", "root_x", "root_y", "root_c"]
    assert header == ["file", "frame", "time", "box", *columns]
    values = dict(zip(header, cells, strict=True))
    assert [float(values[f"root_{axis}"]) for axis in "xy"] == row["landmarks"]["root"]
    assert float(values["wing_tip_c"]) == row["confidence"]["wing tip"]

    code, _, err = call(
        *("convert", "landmarks", f"--file={out / 'landmarks.jsonl'}"),
        f"--out={tmp_path / 'coco.json'}",
    )
    assert code == 0, err
    coco = json.loads((tmp_path / "coco.json").read_text())
    assert coco["categories"][0]["keypoints"] == list(NAMES)
    assert coco["annotations"][0]["score"] == pytest.approx(found.confidence.mean(), abs=1e-3)


def test_what_does_not_fit_is_refused_in_a_line(packed_path, named, tmp_path):
    out = tmp_path / "out"
    whole, part = f"--detector={packed_path}", f"--detector={named}"
    cases = {
        (whole, "--landmarks=0,1"): "is of all its landmarks; fit a new one (--fit FILE), or leave",
        (part, "--landmarks=0,2"): "landmarks 0,2: must be of its 2, numbered from 0 to 1",
        (part, "--landmarks=0,0:2"): "--landmarks 0,0:2: must be different numbers",
        (part, "--landmarks=0;1"): "--landmarks 0;1: must be different numbers",
        (part, "--landmarks=0:99999999"): "--landmarks 0:99999999: must be",
        (part, "--names=a b,a_b"): "--names: must be different, of printable",
        (whole, "--names=a,b,left_eye"): "summary.landmark_names and summary.point_names must be",
    }
    for arguments, problem in cases.items():
        code, printed, err = call("export", *arguments, f"--out={out}")
        assert (code, printed, err.count("\n")) == (2, "", 1), (arguments, err)
        assert problem in err
        assert not out.exists()
