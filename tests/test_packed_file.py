"""The packed file: a round trip, and every kind of damage refused in one line."""

import json
import os
import pickle
import re
from dataclasses import replace

import flax.traverse_util
import jax
import numpy as np
import pytest
import safetensors
import safetensors.numpy

from landmarks_jax.inference import api, packed_file
from landmarks_jax.inference.linear_map import LinearMap
from landmarks_jax.system.errors import WeightsError
from tests.packing import scene


@pytest.fixture(scope="module")
def data(packed):
    """The bytes of a good file."""
    return packed_file.to_bytes(packed)


def flat(variables) -> dict[str, np.ndarray]:
    return flax.traverse_util.flatten_dict(dict(variables), sep="/")


def opened(path) -> tuple[dict[str, str], dict[str, np.ndarray]]:
    """Texts and arrays of a file, as any reader of safetensors sees them."""
    with safetensors.safe_open(path, framework="numpy") as file:
        return dict(file.metadata()), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


def forge(path, data, *, arrays=None, sign=True, **texts):
    """Writes a file with changed arrays (None removes one) or texts; `sign`: with its checksum."""
    path.write_bytes(data)
    old_texts, old_arrays = opened(path)
    new_texts = {**old_texts, **texts}
    new_arrays = {**old_arrays, **(arrays or {})}
    new_arrays = {name: array for name, array in new_arrays.items() if array is not None}
    if sign:
        new_texts["sha256"] = packed_file._digest(new_texts, new_arrays)
    path.write_bytes(safetensors.numpy.save(new_arrays, new_texts))


def refusal(path) -> str:
    """The message of the error that a file raises."""
    with pytest.raises(WeightsError) as error:
        packed_file.read(path)
    message = str(error.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    assert len(message) < len(str(path)) + 250
    return message.removeprefix(f"{path}: ")


def test_a_float32_round_trip_is_exact(packed, tmp_path):
    packed_file.write(tmp_path / "a", packed)
    back = packed_file.read(tmp_path / "a")
    assert back.config.to_dict() == {
        "compute_dtype": "float32",
        "data": {"canvas_size": 20, "crop": "center"},
        "model": {
            "detector": "hourglass", "num_landmarks": 3, "beta": 10.0,
            "detector_channels": 8, "hourglass_depth": 1,
        },
        "views": {"size": 16},
    }  # fmt: skip
    assert back.summary == packed.summary
    jax.tree.map(np.testing.assert_array_equal, back.variables, dict(packed.variables))
    assert {array.dtype for array in flat(back.variables).values()} == {np.dtype(np.float32)}
    for name, array in vars(packed.regressor).items():
        np.testing.assert_array_equal(getattr(back.regressor, name), array)
    points = np.random.default_rng(0).normal(size=(4, 3, 2))
    np.testing.assert_array_equal(back.regressor(points), packed.regressor(points))


def test_float16_halves_the_kernels_and_nothing_else(packed, landmark_detector, data, tmp_path):
    packed_file.write(tmp_path / "half", packed, "float16")
    back = packed_file.read(tmp_path / "half")
    weights = flat(packed.variables)
    saved = 0
    for name, array in flat(back.variables).items():
        halved = name.endswith("/kernel")
        expected = weights[name].astype(np.float16) if halved else weights[name]
        np.testing.assert_array_equal(array, expected)
        assert array.dtype == np.float32
        saved += 2 * array.size * halved
    assert saved > 5_000
    # The header holds types and offsets, so it differs by a few bytes.
    assert len(data) - (tmp_path / "half").stat().st_size == pytest.approx(saved, abs=512)
    for name, array in vars(packed.regressor).items():
        np.testing.assert_array_equal(getattr(back.regressor, name), array)

    images = [scene(128, 128, seed) for seed in range(4)]
    whole = landmark_detector(images)
    half = api.LandmarkDetector(back)(images)
    assert whole.landmarks.std(0).max() > 1
    np.testing.assert_allclose(half.landmarks, whole.landmarks, atol=0.05)  # pixels of 128
    np.testing.assert_allclose(half.confidence, whole.confidence, atol=0.01)


def test_the_file_is_plain_safetensors_with_its_format_and_version(packed, data, tmp_path):
    (tmp_path / "a").write_bytes(data)
    texts, arrays = opened(tmp_path / "a")
    assert texts.keys() == {"format", "version", "config", "summary", "sha256"}
    assert (texts["format"], texts["version"]) == ("landmarks_jax.detector", "1")
    assert json.loads(texts["summary"]) == packed.summary
    np.testing.assert_array_equal(
        arrays["params/stem/kernel"], packed.variables["params"]["stem"]["kernel"]
    )
    # A matrix in Fortran order is stored by its values, whatever its strides.
    assert not packed.regressor.matrix.flags.c_contiguous
    np.testing.assert_array_equal(arrays["regressor/matrix"], packed.regressor.matrix)


def test_without_a_regressor_and_in_float64(packed, narrow_config, tmp_path):
    assert packed_file.inference_config(narrow_config()).compute_dtype == "float32"
    half = packed_file.inference_config(narrow_config(compute_dtype="bfloat16"))
    assert half.compute_dtype == "bfloat16"
    wide = jax.tree.map(lambda array: array.astype(np.float64), dict(packed.variables))
    packed_file.write(tmp_path / "a", replace(packed, variables=wide, regressor=None, summary={}))
    back = packed_file.read(str(tmp_path / "a"))
    assert back.regressor is None
    assert back.summary == {}
    jax.tree.map(np.testing.assert_array_equal, back.variables, dict(packed.variables))


DAMAGES = {
    "empty": lambda data: b"",
    "truncated header": lambda data: data[:100],
    "truncated data": lambda data: data[:-1000],
    "one byte short": lambda data: data[:-1],
    "one byte long": lambda data: data + b"\0",
    "data flipped": lambda data: data[:-500] + bytes([data[-500] ^ 1]) + data[-499:],
    "config flipped": lambda data: data.replace(b'\\"center\\"', b'\\"centre\\"'),
    "number flipped": lambda data: data.replace(b'\\"beta\\": 10.0', b'\\"beta\\": 11.0'),
    "summary flipped": lambda data: data.replace(b"20.0", b"20.1"),
    "name flipped": lambda data: data.replace(b"params/stem/bias", b"params/stem/bIas"),
    "a text": lambda data: b"x1,y1\n3,4\n",
    "a long text": lambda data: b"<html>not found</html>\n" * 10_000,
    "an image": lambda data: b"\x89PNG\r\n\x1a\n" + bytes(5000),
    "a pickle": lambda data: pickle.dumps({"params": [1, 2]}),
    "zeros": lambda data: bytes(5000),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_refused_in_one_line(damage, data, tmp_path):
    path = tmp_path / "damaged.safetensors"
    damaged = DAMAGES[damage](data)
    assert damaged != data
    path.write_bytes(damaged)
    message = refusal(path)
    assert re.match(r"damaged \(wrong checksum\)|cannot be read as a packed detector", message)


def test_a_flipped_bit_anywhere_is_detected(data, tmp_path):
    path = tmp_path / "a"
    rng = np.random.default_rng(0)
    header = 8 + int.from_bytes(data[:8], "little")
    places = [*range(8), *rng.integers(8, header, 150), *rng.integers(header, len(data), 50)]
    for place in places:
        damaged = bytearray(data)
        damaged[place] ^= 1 << int(rng.integers(8))
        path.write_bytes(damaged)
        refusal(path)


def test_other_files_are_refused(data, tmp_path):
    path = tmp_path / "a.safetensors"
    assert "no such file" in refusal(path)
    assert "is a folder" in refusal(tmp_path)
    safetensors.numpy.save_file({"weight": np.zeros((2, 2), np.float32)}, path)
    assert "not a packed detector" in refusal(path)
    forge(path, data, format="another.format")
    assert "not a packed detector" in refusal(path)
    forge(path, data, version="2", sign=False)
    assert "has version 2, and this landmarks_jax reads up to 1" in refusal(path)
    forge(path, data, version="two")
    assert "cannot be read" in refusal(path)
    forge(path, data, summary=json.dumps({"scores": "better"}), sign=False)
    assert "checksum" in refusal(path)


@pytest.mark.parametrize(
    ("arrays", "problem"),
    [
        ({"params/stem/kernel": None}, "params/stem/kernel is missing"),
        # Flax would silently initialise missing statistics to 0 and 1.
        ({"batch_stats/last_norm/var": None}, "batch_stats/last_norm/var is missing"),
        (
            {"params/tail/bias": np.zeros(3, np.float32)},
            "params/tail/bias is not part of its detector",
        ),
        ({"params/head/bias": np.zeros(4, np.float32)}, "(4,), its detector needs (3,)"),
        ({"batch_stats/last_norm/var": np.ones(1, np.float32)}, "(1,), its detector needs (8,)"),
        ({"params/head/bias": np.full(3, np.nan, np.float32)}, "params/head/bias is not finite"),
        ({"regressor/matrix": np.zeros((4, 8))}, "(4, 8), its detector needs (4, 6)"),
        ({"regressor/x_origin": np.full(6, np.inf)}, "regressor/x_origin is not finite"),
        ({"regressor/y_origin": np.zeros(6)}, "(6,), its detector needs (4,)"),
        ({"regressor/y_origin": None}, "cannot be read"),
        ({"regressor/scale": np.zeros(1)}, "cannot be read"),
    ],
)
def test_arrays_that_do_not_fit_are_named(arrays, problem, data, tmp_path):
    forge(tmp_path / "a", data, arrays=arrays)
    assert problem in refusal(tmp_path / "a")


@pytest.mark.parametrize(
    ("name", "value", "problem"),
    [
        ("views.size", 18, "its config cannot work"),
        ("views.size", 0, "config.views.size = 0: must be a whole number from 8 to 4096"),
        ("data.crop", "middle", "its config cannot work"),
        ("data.canvas_size", 400, "its config cannot work"),
        ("model.num_landmarks", "three", "must be a whole number"),
        ("model.num_landmarks", 4, "its detector needs"),
        ("model.hourglass_depth", 2, "its config cannot work"),
    ],
)
def test_configs_that_do_not_fit_are_refused(name, value, problem, data, tmp_path):
    section, field = name.split(".")
    (tmp_path / "a").write_bytes(data)
    config = json.loads(opened(tmp_path / "a")[0]["config"])
    config[section][field] = value
    forge(tmp_path / "a", data, config=json.dumps(config))
    assert problem in refusal(tmp_path / "a")
    del config[section][field]
    forge(tmp_path / "a", data, config=json.dumps(config))
    assert "cannot be read" in refusal(tmp_path / "a")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("config", "[]"),
        ("config", "3"),
        ("config", "{"),
        ("config", '{"model": 3}'),
        ("summary", "3"),
        ("summary", "{"),
    ],
)
def test_malformed_texts_are_refused(name, text, data, tmp_path):
    forge(tmp_path / "a", data, **{name: text})
    assert "cannot be read" in refusal(tmp_path / "a")


def changed(packed, name, value):
    """The detector with one array filled with a value, or without the array."""
    arrays = {key: array.copy() for key, array in flat(packed.variables).items()}
    if value is None:
        del arrays[name]
    else:
        arrays[name][..., 0] = value
    return replace(packed, variables=flax.traverse_util.unflatten_dict(arrays, sep="/"))


@pytest.mark.parametrize(
    ("name", "value", "problem"),
    [
        ("params/head/kernel", np.nan, "params/head/kernel is not finite"),
        ("batch_stats/last_norm/var", np.inf, "var is not finite"),
        ("params/head/kernel", 1e5, "head/kernel has values that are not finite in float16"),
        ("params/head/kernel", None, "params/head/kernel is missing"),
    ],
)
def test_invalid_weights_are_not_written(name, value, problem, packed, tmp_path):
    path = tmp_path / "a.safetensors"
    path.write_text("what was there")
    with pytest.raises(WeightsError, match=f"^{re.escape(str(path))}: [^\n]*{problem}"):
        packed_file.write(path, changed(packed, name, value), "float16")
    assert path.read_text() == "what was there"
    assert os.listdir(tmp_path) == [path.name]


def test_large_values_fit_in_float32(packed, tmp_path):
    big = changed(packed, "params/head/bias", 1e5)
    packed_file.write(tmp_path / "a", big, "float16")
    assert packed_file.read(tmp_path / "a").variables["params"]["head"]["bias"][0] == 1e5
    packed_file.write(tmp_path / "a", changed(packed, "params/head/kernel", 1e5), "float32")


def test_a_regressor_that_does_not_fit_is_not_written(packed, tmp_path):
    wrong = replace(packed, regressor=LinearMap(np.zeros((4, 8)), np.zeros(8), np.zeros(4)))
    with pytest.raises(WeightsError, match=r"matrix has shape \(4, 8\)"):
        packed_file.write(tmp_path / "a", wrong)
    unnamed = replace(packed, summary={"point_names": ["left eye"]})
    with pytest.raises(WeightsError, match=r"regressor/matrix has shape"):
        packed_file.write(tmp_path / "a", unnamed)
    with pytest.raises(ValueError, match="precision 'int8': must be one of float32, float16"):
        packed_file.write(tmp_path / "a", packed, "int8")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("failing", ["replace", "fsync"])
def test_a_file_is_written_atomically(failing, packed, tmp_path, monkeypatch):
    path = tmp_path / "deep" / "a.safetensors"
    packed_file.write(path, packed)
    data = path.read_bytes()

    def fail(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, failing, fail)
        line = f"^{re.escape(str(path))}: cannot be written \\(No space left on device\\)$"
        with pytest.raises(WeightsError, match=line):
            packed_file.write(path, replace(packed, summary={}))
    assert path.read_bytes() == data
    assert os.listdir(path.parent) == [path.name]
    packed_file.write(path, replace(packed, summary={}))
    assert packed_file.read(path).summary == {}


def test_paths_that_cannot_be_written_are_named(packed, tmp_path):
    (tmp_path / "file").write_text("")
    (tmp_path / "folder").mkdir()
    for path in (tmp_path / "file" / "a", tmp_path / "folder"):
        with pytest.raises(WeightsError, match=f"^{re.escape(str(path))}: cannot be written"):
            packed_file.write(path, packed)
    assert sorted(os.listdir(tmp_path)) == ["file", "folder"]
