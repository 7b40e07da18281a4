"""Exported graphs, each run by its own runtime, against the jitted function."""

import dataclasses
import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

from landmarks_jax.data import framing
from landmarks_jax.data.sources import registry
from landmarks_jax.data.sources.synthetic import SyntheticFaces
from landmarks_jax.inference import detector, graph_export, packed_file
from landmarks_jax.inference.export_formats import FORMATS
from landmarks_jax.inference.precision import PRECISIONS
from landmarks_jax.system.errors import ConfigError, WeightsError
from tests import matrix_products
from tests.running import ROOT

VIEWS = np.random.default_rng(0).integers(0, 256, (3, 16, 16, 3), np.uint8)
NAMES = ("landmarks", "confidence", "labelled")
POINTS = ["left eye", "right eye"]
DOCUMENT = ROOT / "docs" / "detector.md"
SHIPPED = sorted((ROOT / "landmarks_jax" / "inference" / "pretrained").glob("*.safetensors"))
# Tolerance of float32, where a view spans -1 to 1.
EXACT = 1e-5


def find_onnx():
    """Skips where the extra `export` is missing, but never where the checks run."""
    missing = [m for m in ("jax2onnx", "onnx", "onnxruntime") if not importlib.util.find_spec(m)]
    if missing and os.environ.get("CI") == "true":
        pytest.fail(f"{missing} missing: install the extra `test`")
    if missing:
        pytest.skip(f"{missing} not installed (extra `test`)")


def jitted(packed, views=VIEWS):
    """The outputs of the jitted function; the linear map in float64."""
    outputs = detector.ViewDetector(packed.config, packed.variables).find(views)
    return {**outputs, "labelled": packed.regressor(outputs["landmarks"])}


def halved(packed):
    """The detector with its kernels rounded to float16 by NumPy."""

    def rounded(array):
        return np.float32(np.float16(array)) if np.ndim(array) == 4 else array

    return dataclasses.replace(packed, variables=jax.tree.map(rounded, packed.variables))


@pytest.fixture(scope="module")
def expected(packed):
    return {"float32": jitted(packed), "float16": jitted(halved(packed))}


@pytest.fixture(scope="module")
def onnx_files(packed):
    find_onnx()
    return {precision: graph_export.to_onnx(packed, precision) for precision in PRECISIONS}


@pytest.fixture(scope="module")
def stablehlo_files(packed):
    return {p: graph_export.to_stablehlo(packed, p) for p in PRECISIONS}


ALONE = """
import sys
for name in ("landmarks_jax", "flax", "ml_collections"):
    sys.modules[name] = None
from pathlib import Path
import jax, jax.export, numpy as np
views, results = np.load("views.npy"), {}
for precision in ("float32", "float16"):
    graph = jax.export.deserialize(Path(precision).read_bytes())
    print(graph.platforms, graph.in_avals)
    for count in (1, 3)[precision == "float16" :]:
        for name, array in graph.call(views[:count]).items():
            results[f"{precision} {count} {name}"] = array
np.savez("results.npz", **results)
"""


def test_stablehlo_runs_in_a_process_without_this_package(stablehlo_files, expected, tmp_path):
    for precision, graph in stablehlo_files.items():
        (tmp_path / precision).write_bytes(graph)
    np.save(tmp_path / "views.npy", VIEWS)
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    alone = subprocess.run(
        [sys.executable, "-c", ALONE],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert alone.returncode == 0, alone.stderr
    assert (
        alone.stdout.splitlines() == ["('cpu', 'cuda', 'tpu') (ShapedArray(uint8[b,16,16,3]),)"] * 2
    )
    with np.load(tmp_path / "results.npz") as results:
        assert len(results) == 3 * 3
        for key, array in results.items():
            precision, count, name = key.split()
            output = expected[precision][name][: int(count)]
            assert (array.shape, array.dtype) == (output.shape, np.float32)
            np.testing.assert_allclose(array, output, atol=EXACT, err_msg=key)
    assert len(stablehlo_files["float16"]) < len(stablehlo_files["float32"])


@pytest.mark.parametrize("precision", PRECISIONS)
def test_onnx_runs_in_its_runtime(onnx_files, expected, precision):
    import onnxruntime  # noqa: PLC0415

    session = onnxruntime.InferenceSession(
        onnx_files[precision], providers=["CPUExecutionProvider"]
    )
    views = session.get_inputs()[0]
    assert (views.name, views.type, views.shape) == ("views", "tensor(uint8)", ["b", 16, 16, 3])
    outputs = {output.name: output for output in session.get_outputs()}
    shapes = {"landmarks": ["b", 3, 2], "confidence": ["b", 3], "labelled": ["b", 2, 2]}
    assert {name: output.shape for name, output in outputs.items()} == shapes
    assert {output.type for output in outputs.values()} == {"tensor(float)"}
    for count in (1, 3):
        for name, array in zip(NAMES, session.run(NAMES, {"views": VIEWS[:count]}), strict=True):
            output = expected[precision][name][:count]
            np.testing.assert_allclose(array, output, atol=EXACT, err_msg=name)
    assert session.get_modelmeta().custom_metadata_map == {
        "format": "landmarks_jax.graph",
        "version": "1",
        "view_size": "16",
        "canvas_size": "20",
        "landmark_names": "[]",
        "crop": "center",
        "num_landmarks": "3",
        "point_names": json.dumps(POINTS),
        "weights": precision,
    }


OLDEST = """
import numpy as np, onnxruntime
print(onnxruntime.__version__)
session = onnxruntime.InferenceSession("float32", providers=["CPUExecutionProvider"])
names = [output.name for output in session.get_outputs()]
np.savez("results.npz", **dict(zip(names, session.run(names, {"views": np.load("views.npy")}))))
"""


def test_onnx_files_state_the_ir_version_of_their_operators(onnx_files):
    import onnx  # noqa: PLC0415

    for content in onnx_files.values():
        model = onnx.load_from_string(content)
        opset = {entry.domain: entry.version for entry in model.opset_import}
        assert (model.ir_version, opset[""]) == (8, 17)


@pytest.mark.slow
def test_onnx_runs_in_the_oldest_runtime_stated(onnx_files, expected, tmp_path):
    """Where it installs: it has no wheels for Python 3.12 and later."""
    (tmp_path / "float32").write_bytes(onnx_files["float32"])
    np.save(tmp_path / "views.npy", VIEWS)
    python = tmp_path / "venv" / "bin" / "python"

    def run(*command):
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        return done.returncode, done.stdout, done.stderr

    assert run(sys.executable, "-m", "venv", "venv")[0] == 0
    packages = ("onnxruntime==1.15.*", "numpy<2")
    code, _, err = run(python, "-m", "pip", "install", "-q", "--only-binary=:all:", *packages)
    if code:
        pytest.skip(f"onnxruntime 1.15 does not install: {err.strip().splitlines()[-1]}")
    code, version, err = run(python, "-c", OLDEST)
    assert code == 0, err
    assert version.startswith("1.15.")
    with np.load(tmp_path / "results.npz") as results:
        assert set(results) == set(NAMES)
        for name, array in results.items():
            np.testing.assert_allclose(array, expected["float32"][name], atol=EXACT, err_msg=name)


def test_views_differ_and_float16_costs_little(expected):
    """The comparisons above are not vacuous, and float16 loses as little as documented."""
    full, half = expected["float32"]["landmarks"], expected["float16"]["landmarks"]
    assert np.std(full, 0).min() > 1e-3
    # In pixels of the view, which spans -1 to 1.
    assert 1e-6 < np.abs(half - full).max() * 16 / 2 < 0.05


def test_onnx_keeps_its_kernels_in_the_precision(onnx_files, packed):
    import onnx  # noqa: PLC0415

    kernels = sum(a.size for a in jax.tree.leaves(dict(packed.variables)) if np.ndim(a) == 4)

    def num_stored(precision, kind):
        model = onnx.load_from_string(onnx_files[precision])
        onnx.checker.check_model(model, full_check=True)
        return sum(np.prod(a.dims) for a in model.graph.initializer if a.data_type == kind)

    single, half = onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16
    assert num_stored("float32", half) == 0
    assert num_stored("float16", half) == kernels
    assert num_stored("float32", single) - num_stored("float16", single) == kernels


def test_a_bfloat16_detector_is_exported_in_float32(packed, expected):
    config = packed.config.copy_and_resolve_references().unlock()
    config.compute_dtype = "bfloat16"
    function = graph_export.view_function(dataclasses.replace(packed, config=config.lock()))
    outputs = jax.jit(function)(VIEWS)
    for name in NAMES:
        np.testing.assert_allclose(outputs[name], expected["float32"][name], atol=EXACT)


def test_points_keep_full_precision_on_a_gpu(packed):
    text = jax.jit(graph_export.view_function(packed)).lower(VIEWS).as_text()
    assert "stablehlo.dot_general" in text
    assert matrix_products.rounded(text) == []


def test_without_a_regressor_there_are_no_labelled_points(packed):
    function = graph_export.view_function(dataclasses.replace(packed, regressor=None))
    assert set(jax.eval_shape(function, VIEWS)) == {"landmarks", "confidence"}


def test_formats_are_encoded_by_their_functions(packed, monkeypatch):
    assert list(FORMATS) == ["packed", "stablehlo", "onnx"]
    encoders = (
        (packed_file, "to_bytes"),
        (graph_export, "to_stablehlo"),
        (graph_export, "to_onnx"),
    )
    for form, (module, name) in zip(FORMATS.values(), encoders, strict=True):
        monkeypatch.setattr(module, name, lambda *arguments, name=name: (name, *arguments))
        assert form.encode(packed, "float16") == (name, packed, "float16")


def test_weights_that_do_not_fit_are_refused(packed):
    wide = jax.tree.map(lambda a: np.asarray(a) * 1e6, packed.variables)
    wide = dataclasses.replace(packed, variables=wide)
    for convert in (graph_export.to_stablehlo, graph_export.to_onnx):
        with pytest.raises(WeightsError, match="not finite in float16"):
            convert(wide, "float16")


def test_a_missing_converter_is_named(packed, monkeypatch):
    monkeypatch.setitem(sys.modules, "jax2onnx", None)
    with pytest.raises(ConfigError, match="ONNX export needs jax2onnx: install the extra `export`"):
        graph_export.to_onnx(packed)


def code_of(document):
    """The programs around the graphs, which the document describes from the resize on."""
    _, _, text = document.read_text().partition("## The resize")
    return re.findall(r"```python\n(.*?)```", text, re.DOTALL)


def test_the_documented_resize_is_that_of_the_detector():
    names = {}
    exec(code_of(DOCUMENT)[0], names)
    rng = np.random.default_rng(2)
    image = rng.integers(0, 256, (41, 57, 3), np.uint8)
    rectangles = [
        (0, 0, 57, 41),  # shrinks
        (5.7, 4.1, 51.3, 36.9),  # part of it
        (20.25, 10.5, 26.5, 15.0),  # grows
        (-9.3, 12.2, 30.1, 60.7),  # reaches beyond two sides
        (-40, -40, 97, 81),  # and beyond all
        (56.2, 40.1, 90.0, 70.0),  # hardly touches it
    ]
    # Wide and tall: Pillow alone would choose its order by the shape of the image.
    for part in (image, np.ascontiguousarray(image[:, :15])):
        for rectangle in rectangles:
            if rectangle[0] >= part.shape[1]:
                continue
            own = framing.stretch(part, rectangle, 16).astype(int)
            documented = names["resize"](part, rectangle, 16)
            assert np.abs(documented - own).max() <= 1, rectangle
            assert (documented != own).mean() < 0.005, rectangle


def test_the_documented_programs_equal_the_detector(
    landmark_detector, onnx_files, stablehlo_files, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(3)
    Image.fromarray(rng.integers(0, 256, (30, 44, 3), np.uint8)).save("photo.jpg")
    Path("detector.onnx").write_bytes(onnx_files["float32"])
    Path("detector.stablehlo").write_bytes(stablehlo_files["float32"])
    names = {}
    for block in code_of(DOCUMENT):
        exec(block, names)
    landmarks = landmark_detector(names["image"]).landmarks
    # Single grey levels move the points of random weights by as much.
    np.testing.assert_allclose(names["pixels"], landmarks, atol=0.05)
    assert names["labels"] == POINTS
    for name in NAMES:
        np.testing.assert_allclose(names["from_jax"][name], names["outputs"][name], atol=EXACT)


def photos(view_size):
    """Views of real photos if they are at hand, else of synthetic faces."""
    listed = ROOT / "data" / "aflw" / "dev_score.txt"
    source = registry.open_labelled(str(listed)) if listed.is_file() else SyntheticFaces(0, 48, 80)
    return np.stack(
        [
            framing.stretch(photo, (0, 0, *photo.shape[1::-1]), view_size)
            for photo in (source.photo(i) for i in range(48))
        ]
    )


@pytest.mark.slow
@pytest.mark.parametrize("path", SHIPPED, ids=lambda p: p.stem)
def test_every_export_of_a_shipped_detector_on_photos(path):
    find_onnx()
    import onnxruntime  # noqa: PLC0415

    packed = packed_file.read(path)
    views = photos(packed.config.views.size)
    expected = jitted(packed, views)
    pixel = packed.config.views.size / 2
    for precision, most, mean in (
        ("float32", EXACT, EXACT),
        ("float16", 0.1 / pixel, 0.01 / pixel),
    ):
        graph = jax.export.deserialize(bytearray(graph_export.to_stablehlo(packed, precision)))
        session = onnxruntime.InferenceSession(
            graph_export.to_onnx(packed, precision), providers=["CPUExecutionProvider"]
        )
        for outputs in (
            graph.call(views),
            dict(zip(NAMES, session.run(NAMES, {"views": views}), strict=True)),
        ):
            for name in ("landmarks", "labelled"):
                off = np.abs(np.asarray(outputs[name]) - expected[name])
                assert off.max() < most, (precision, name)
                assert off.mean() < mean, (precision, name)
            off = np.abs(np.asarray(outputs["confidence"]) - expected["confidence"])
            # It jumps where the distance of a cell is close to 1.5.
            assert np.quantile(off, 0.99) < (1e-4 if precision == "float32" else 0.02)
