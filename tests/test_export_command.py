"""The export command as a user meets it: from a run, from a packed file, and what it refuses."""

import os
import re

import jax
import numpy as np
import pytest

from landmarks_jax import objective
from landmarks_jax.cli import exporting
from landmarks_jax.evaluation import run_evaluation
from landmarks_jax.inference import detector, graph_export, packed_file
from landmarks_jax.system.errors import ConfigError, DataError, WeightsError, WorkdirError
from landmarks_jax.training import checkpoints, sharding
from landmarks_jax.training import state as states
from tests.running import command, finish, narrow


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run on embedded faces whose checkpoint is drawn: nothing is compiled or trained."""
    workdir = tmp_path_factory.mktemp("run")
    config = narrow()
    config.eval.num_fit, config.eval.num_score = 12, 10
    checkpoints.claim(
        workdir, config, data_digest="", weights_digest="", notes=["a note"], hardware=[]
    )
    mesh = sharding.make_mesh(jax.local_devices()[:1])
    like = states.abstract_state(config, objective.build_networks(config), mesh)
    rng = np.random.default_rng(0)

    def draw(leaf):
        drawn = rng.uniform(0.1, 0.5, leaf.shape).astype(leaf.dtype)
        return jax.device_put(drawn, leaf.sharding)

    with checkpoints.Checkpoints(workdir) as saved:
        saved.save(7, jax.tree.map(draw, like), 90.0)
    return workdir


@pytest.fixture(scope="module")
def detector_file(run, tmp_path_factory):
    """The run, packed by the command itself, with its card."""
    out = tmp_path_factory.mktemp("packed") / "small.safetensors"
    code, printed, err = finish(
        command(
            "export",
            f"--workdir={run}",
            f"--out={out}",
            f"--card={out.with_suffix('.md')}",
            "--photos=Embedded faces, drawn as training goes.",
        )
    )
    assert code == 0, err
    assert printed.startswith(f"{out}: packed, float32, ")
    assert printed.endswith(" MiB: views of 16 pixels, 3 landmarks, 5 labelled points\n")
    return out


def test_a_run_is_packed_with_its_regressor_and_scores(run, detector_file):
    content = packed_file.read(detector_file)
    config = checkpoints.read_config(run)
    trained = run_evaluation.trained_variables(run_evaluation.restore(run, config).state)
    jax.tree.map(np.testing.assert_array_equal, dict(content.variables), trained)
    assert content.config == packed_file.needed_fields(config)
    summary = content.summary
    assert summary["notes"] == ["a note"]
    assert summary["provenance"]["command"].startswith("landmarks-jax export --workdir=")
    assert (summary["provenance"]["steps"], summary["provenance"]["training_minutes"]) == (7, 1.5)
    assert len(summary["point_names"]) == 5
    (score,) = summary["scores"]
    assert (score["fit"]["faces"], score["score"]["faces"]) == (12, 10)

    # The error, by hand from the file.
    (protocol,) = run_evaluation.open_faces(config)
    views = detector.ViewDetector(content.config, content.variables)
    missed = content.regressor(views(protocol.score.views)) - protocol.score.points
    eyes = protocol.score.points[:, 0] - protocol.score.points[:, 1]
    error = 100 * np.linalg.norm(missed, axis=-1) / np.linalg.norm(eyes, axis=-1)[:, None]
    assert score["forward"] == pytest.approx(error.mean(), abs=1e-3)


def test_the_card_is_written_beside_it(detector_file):
    card = detector_file.with_suffix(".md").read_text()
    assert card.startswith("# The detector small\n")
    assert "- Embedded faces, drawn as training goes.\n" in card


def test_a_packed_file_is_converted(detector_file, tmp_path):
    out = tmp_path / "new" / "half.safetensors"
    exporting.export(out, detector=str(detector_file), precision="float16")
    whole, half = packed_file.read(detector_file), packed_file.read(out)
    assert half.summary == whole.summary

    def check(full, rounded):
        expected = np.float32(np.float16(full)) if full.ndim == 4 else full
        np.testing.assert_array_equal(rounded, expected)

    jax.tree.map(check, dict(whole.variables), dict(half.variables))
    np.testing.assert_array_equal(half.regressor.matrix, whole.regressor.matrix)

    graph = tmp_path / "half.stablehlo"
    line = exporting.export(graph, detector=str(out), form="stablehlo", regressor=False)
    assert "stablehlo, float32" in line
    assert line.endswith("3 landmarks, 0 labelled points")
    exported = jax.export.deserialize(bytearray(graph.read_bytes()))
    assert set(exported.call(np.zeros((1, 16, 16, 3), np.uint8))) == {"landmarks", "confidence"}


def test_a_run_without_labelled_faces(run, tmp_path):
    config = checkpoints.read_config(run).unlock()
    config.eval.protocols, config.eval.aflw = ("aflw-995",), "/no/aflw"
    missing = tmp_path / "run"
    checkpoints.claim(missing, config, data_digest="", weights_digest="", notes=[], hardware=[])
    out = tmp_path / "out.safetensors"
    with pytest.raises(DataError, match=r"/no/aflw/training\.txt.*--noregressor$"):
        exporting.export(out, workdir=str(missing))
    assert not out.exists()
    exporting.export(out, workdir=str(run), regressor=False)
    content = packed_file.read(out)
    assert content.regressor is None
    assert (content.summary["scores"], content.summary["point_names"]) == ([], [])


def test_what_does_not_go_together_is_refused(run, tmp_path):
    faces = {"protocol_names": ["synthetic"]}
    refusals = [
        ({}, ConfigError, "exactly one of --workdir"),
        ({"workdir": str(run), "detector": "faces"}, ConfigError, "exactly one of --workdir"),
        ({"detector": "faces", "faces": faces}, ConfigError, "go with --workdir"),
        ({"workdir": str(run), "regressor": False, "faces": faces}, ConfigError, "--noregressor"),
        ({"workdir": str(run), "faces": {"fit": "a.csv"}}, ConfigError, "--score"),
        ({"detector": "faces", "card_file": f"{tmp_path}/./out"}, ConfigError, "of --out"),
        ({"workdir": str(tmp_path)}, WorkdirError, "config.json"),
        ({"detector": str(tmp_path / "none")}, WeightsError, "no such file"),
    ]
    out = tmp_path / "out"
    for options, kind, part in refusals:
        with pytest.raises(kind, match=re.escape(part)) as refused:
            exporting.export(out, **options)
        assert "\n" not in str(refused.value)
        assert not out.exists()


def test_a_file_is_written_whole_or_not_at_all(detector_file, tmp_path, monkeypatch):
    out = tmp_path / "out.stablehlo"
    out.write_bytes(b"before")

    def breaks(*_):
        raise KeyboardInterrupt

    for name in ("os.replace", "os.fdopen"):
        with monkeypatch.context() as patch:
            patch.setattr(name, breaks)
            patch.setattr(graph_export, "to_stablehlo", lambda *_: b"after")
            with pytest.raises(KeyboardInterrupt):
                exporting.export(out, detector=str(detector_file), form="stablehlo")
        assert [path.name for path in tmp_path.iterdir()] == ["out.stablehlo"]
        assert out.read_bytes() == b"before"
    with pytest.raises(WeightsError, match="cannot be written"):
        exporting.export(detector_file / "below", detector=str(detector_file))
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(WeightsError, match="pipe: cannot be written"):
        exporting.export(tmp_path / "pipe", detector=str(detector_file))
    assert (tmp_path / "pipe").is_fifo()


def test_the_command_fails_with_one_line_and_a_code(detector_file, tmp_path):
    damaged = tmp_path / "damaged.safetensors"
    data = bytearray(detector_file.read_bytes())
    data[-1] ^= 1
    damaged.write_bytes(data)
    out = f"--out={tmp_path / 'out'}"
    cases = {
        (out,): "exactly one of --workdir",
        (out, f"--workdir={tmp_path}", f"--detector={damaged}"): "exactly one of --workdir",
        (out, f"--detector={damaged}", "--format=tflite"): "packed|stablehlo|onnx",
        (out, f"--detector={damaged}", "--precision=int8"): "float32|float16",
        (out, f"--detector={damaged}"): "damaged.safetensors: is damaged",
        (out, f"--workdir={tmp_path / 'none'}"): "config.json: no such file",
        (f"--detector={damaged}",): "--out",
    }
    started = {arguments: command("export", *arguments) for arguments in cases}
    for arguments, process in started.items():
        code, printed, err = finish(process)
        assert (code, printed) == (2, ""), arguments
        assert len(err.splitlines()) == 1, err
        assert err.startswith("error: ")
        assert cases[arguments] in err
    assert not (tmp_path / "out").exists()
