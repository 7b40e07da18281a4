"""The export command as a user meets it: from a run, from a packed file, and what it refuses."""

import os
import re

import jax
import numpy as np
import pytest
from PIL import Image

from landmarks_jax.data.framing import stretch
from landmarks_jax.evaluation import run_evaluation, symmetry
from landmarks_jax.inference import graph_export, packed_file
from landmarks_jax.inference.detector import ViewDetector
from landmarks_jax.inference.export_formats import FORMATS, ExportFormat
from landmarks_jax.system.errors import DataError
from landmarks_jax.training import checkpoints, run_folder
from tests.detecting import load, noise
from tests.running import call, finished_run


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return finished_run(tmp_path_factory.mktemp("run"))


def export(out, *arguments):
    """Writes a file with the command; returns what it prints."""
    code, printed, err = call("export", f"--out={out}", *arguments)
    assert code == 0, err
    return printed


def refused(out, *arguments):
    """The one line with which the command refuses."""
    code, printed, err = call("export", f"--out={out}", *arguments)
    assert (code, printed) == (2, ""), arguments
    assert re.fullmatch("error: .*\n", err)
    return err


@pytest.fixture(scope="module")
def detector_file(run, tmp_path_factory):
    """The run, packed by the command itself, with its card."""
    out = tmp_path_factory.mktemp("packed") / "small.safetensors"
    photos = "--photos=Synthetic faces, drawn while training."
    printed = export(out, f"--workdir={run}", f"--card={out.with_suffix('.md')}", photos)
    assert printed.startswith(f"{out}: packed, float32, ")
    assert printed.endswith(" MiB: views of 16 pixels, 3 landmarks, 5 labelled points\n")
    return out


def test_a_run_is_packed_with_its_regressor_and_scores(run, detector_file):
    """What `pack_run` gives, see its tests."""
    packed = packed_file.read(detector_file)
    config = run_folder.read_config(run)
    trained = run_evaluation.trained_variables(checkpoints.restore(run, config).state)
    jax.tree.map(np.testing.assert_array_equal, dict(packed.variables), trained)
    assert packed.config == packed_file.inference_config(config)
    assert packed.num_labelled == len(packed.summary["point_names"]) == 5
    assert packed.summary["provenance"]["command"].startswith("landmarks-jax export --out=")
    assert packed.summary["provenance"]["steps"] == 4
    (score,) = packed.summary["scores"]
    assert (score["fit"]["faces"], score["score"]["faces"]) == (12, 8)


def test_the_card_is_written_beside_it(detector_file):
    card = detector_file.with_suffix(".md").read_text()
    assert card.startswith("# The detector small\n")
    assert "- Synthetic faces, drawn while training.\n" in card


def test_a_packed_file_is_converted(detector_file, tmp_path):
    out = tmp_path / "new" / "half.safetensors"
    export(out, f"--detector={detector_file}", "--precision=float16")
    whole, half = packed_file.read(detector_file), packed_file.read(out)
    assert half.summary == whole.summary

    def check(full, rounded):
        expected = np.float32(np.float16(full)) if full.ndim == 4 else full
        np.testing.assert_array_equal(rounded, expected)

    jax.tree.map(check, dict(whole.variables), dict(half.variables))
    np.testing.assert_array_equal(half.regressor.matrix, whole.regressor.matrix)

    graph = tmp_path / "half.stablehlo"
    line = export(graph, f"--detector={out}", "--format=stablehlo", "--noregressor")
    assert "stablehlo, float32" in line
    assert line.endswith("3 landmarks, 0 labelled points\n")
    exported = jax.export.deserialize(bytearray(graph.read_bytes()))
    assert set(exported.call(np.zeros((1, 16, 16, 3), np.uint8))) == {"landmarks", "confidence"}


def test_a_run_without_labelled_faces(run, tmp_path):
    config = run_folder.read_config(run).unlock()
    config.eval.protocols, config.eval.aflw = ("aflw-995",), "/no/aflw"
    missing = tmp_path / "run"
    run_folder.claim(missing, config, run_folder.Record("", "", {}))
    out = tmp_path / "out.safetensors"
    assert re.search(
        r"/no/aflw/training\.txt.*--noregressor packs without", refused(out, f"--workdir={missing}")
    )
    assert not out.exists()
    export(out, f"--workdir={run}", "--noregressor", "--landmarks=2,0", "--names=a,b")
    content = packed_file.read(out)
    assert content.regressor is None
    assert content.summary["landmark_names"] == ["a", "b"]
    assert content.summary["mirror"]["photos"] == 64
    assert (content.summary["scores"], content.summary["point_names"]) == ([], [])


@pytest.mark.slow
def test_landmarks_that_mirror_each_other_are_looked_for(run, packed_path, tmp_path, monkeypatch):
    out, photos = tmp_path / "out", tmp_path / "photos"
    photos.mkdir()
    for seed in range(12):
        Image.fromarray(noise(seed)).save(photos / f"{seed}.png")
        if seed == 8:
            refusal = refused(out, f"--detector={packed_path}", f"--mirror_photos={photos}")
            assert f"9 photos of {photos}: 10 photos are needed" in refusal
    export(out, f"--detector={packed_path}", f"--mirror_photos={photos}")
    content = packed_file.read(out)
    mirror = content.summary.pop("mirror")
    assert content.summary == packed_file.read(packed_path).summary
    views = np.stack([load_view(photos / f"{seed}.png") for seed in sorted(range(12), key=str)])
    detect = ViewDetector(content.config, content.variables)
    mirrored = detect(views[:, :, ::-1].copy()) * [-1, 1]
    assert mirror == {"photos": 12, "pairs": symmetry.pairs_of(detect(views), mirrored)}

    # Without the run's photos it is packed all the same.
    def fail(config):
        raise DataError("photos/: no such folder")

    monkeypatch.setattr(symmetry, "photos_of_run", fail)
    code, _, err = call("export", f"--out={out}", f"--workdir={run}", "--noregressor")
    assert code == 0
    assert "mirror each other were looked for: photos/: no such folder; give other" in err
    assert "mirror" not in packed_file.read(out).summary


def load_view(path):
    """The view of 16 pixels of a canvas of 20."""
    return stretch(load(path), (3, 4, 27, 36), 16)


def test_wrong_command_lines_are_refused_with_one_line(run, detector_file, tmp_path):
    damaged = tmp_path / "damaged.safetensors"
    data = bytearray(detector_file.read_bytes())
    data[-1] ^= 1
    damaged.write_bytes(data)
    out = tmp_path / "out"
    workdir, detector = f"--workdir={run}", "--detector=faces"
    cases = {
        (): "exactly one of --workdir",
        (workdir, detector): "exactly one of --workdir",
        (detector, "--noregressor", "--protocol=synthetic"): "that --noregressor leaves out",
        (workdir, "--noregressor", "--protocol=synthetic"): "--noregressor",
        (workdir, "--score=a.csv"): "--fit and --score",
        (workdir, "--fit=a.csv"): "a.csv: no list of annotated photos",
        (detector, "--fit=a.csv"): "a.csv: no list of annotated photos",
        (detector, f"--card={tmp_path}/./out"): "also the file of --out",
        (detector, "--format=tflite"): "packed|stablehlo|onnx",
        (detector, "--precision=int8"): "float32|float16",
        (workdir, "--names=a,b"): "--names: 2 names for 3 landmarks",
        (workdir, "--landmarks=0,3"): "landmarks 0,3: must be of its 3",
        (f"--workdir={tmp_path / 'none'}",): "config.json: no such file",
        (f"--detector={tmp_path / 'none'}",): "no such file",
        (f"--detector={damaged}",): "damaged.safetensors: damaged (wrong checksum)",
    }
    for arguments, part in cases.items():
        assert part in refused(out, *arguments)
        assert not out.exists()
    assert "--out" in call("export", detector)[2]


def count(packed, _):
    return b"%d" % packed.config.model.num_landmarks


def test_a_new_format_is_one_entry(packed_path, tmp_path, monkeypatch):
    form = ExportFormat("the number of landmarks", f"{__name__}:count")
    monkeypatch.setitem(FORMATS, "count", form)
    assert "count: the number of landmarks" in " ".join(call("export", "--help")[1].split())
    export(tmp_path / "out", f"--detector={packed_path}", "--format=count")
    assert (tmp_path / "out").read_bytes() == b"3"


def test_a_file_is_written_atomically(detector_file, tmp_path, monkeypatch):
    out = tmp_path / "out.stablehlo"
    out.write_bytes(b"before")
    source = f"--detector={detector_file}"

    def breaks(*_):
        raise KeyboardInterrupt

    for name in ("os.replace", "os.fsync"):
        with monkeypatch.context() as patch:
            patch.setattr(name, breaks)
            patch.setattr(graph_export, "to_stablehlo", lambda *_: b"after")
            code, *_ = call("export", f"--out={out}", source, "--format=stablehlo")
        assert code == 130
        assert [path.name for path in tmp_path.iterdir()] == ["out.stablehlo"]
        assert out.read_bytes() == b"before"
    assert "cannot be written" in refused(detector_file / "below", source)
    os.mkfifo(tmp_path / "pipe")
    assert "pipe: cannot be written" in refused(tmp_path / "pipe", source)
    assert (tmp_path / "pipe").is_fifo()
