"""Packed files with a valid checksum and nonsense inside: WeightsError in a line, or harmless."""

import copy
import json
import os

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

from landmarks_jax.inference import card, graph_export, packed_file
from landmarks_jax.inference.browser import site
from landmarks_jax.inference.linear_map import LinearMap
from landmarks_jax.models.detectors import build_detector
from landmarks_jax.system.errors import WeightsError
from tests.packing import SCORE
from tests.running import narrow
from tests.test_card import SUMMARY

ODD = (
    None, True, False, 0, 1, -1, 2**70, 1.5, -0.0, float("nan"), float("inf"), "", " ", "x", "1",
    "\ud800", "a\nb", "../x", "json", "hourglass", [], [[]], {}, {"": 0}, ["a", "a"], [None],
)  # fmt: skip


@pytest.fixture(scope="module")
def good(filled):
    """The content of a good file, of the quickest detector: config, summary, arrays."""
    config = packed_file.inference_config(narrow(model__detector="tests.tiny_detector"))
    variables = filled(build_detector(config), (1, 16, 16, 3), use_running_average=True)
    regressor = LinearMap(np.ones((4, 6)), np.zeros(6), np.ones(4))
    packed = packed_file.PackedDetector(
        config, variables, regressor, {**SUMMARY, "scores": [SCORE]}
    )
    arrays = safetensors.numpy.load(packed_file.to_bytes(packed))
    return config.to_dict(), packed.summary, arrays


def outcome(path, config, summary, arrays, **texts):
    """Writes a file with its right checksum; returns the error of reading it, "" if it is read."""
    texts = {
        "format": packed_file.FORMAT,
        "version": "1",
        "config": config if isinstance(config, str) else json.dumps(config),
        "summary": summary if isinstance(summary, str) else json.dumps(summary),
        **texts,
    }
    texts["sha256"] = packed_file._digest(texts, arrays)
    path.write_bytes(safetensors.numpy.save(arrays, texts))
    try:
        packed = packed_file.read(path)
    except WeightsError as error:
        message = str(error)
        assert message.startswith(f"{path}: "), message
        assert "\n" not in message
        assert len(message) < len(str(path)) + 260
        return message.removeprefix(f"{path}: ")
    # What is read can be used: no user of it meets what it did not expect.
    packed_file.to_bytes(packed)
    card.to_markdown(packed, "x").encode()
    json.dumps(site.describe(packed, "x", True), allow_nan=False).encode()
    graph_export.metadata(packed)
    ",".join(packed.summary.get("point_names", ())).encode()
    return ""


def test_the_good_file_is_read(good, tmp_path):
    assert outcome(tmp_path / "a", *good) == ""


def mirror(*pairs):
    """What a summary says of landmarks that mirror each other."""
    keys = ("first", "second", "distance", "swapped")
    return {"photos": 9, "pairs": [dict(zip(keys, (*pair, 0.1, 0), strict=True)) for pair in pairs]}


DEEP = "[" * 100_000 + "]" * 100_000


@pytest.mark.parametrize(
    ("texts", "problem"),
    [
        ({"config": DEEP}, "JSON of too many levels"),
        ({"summary": DEEP}, "JSON of too many levels"),
        ({"summary": '{"mine": [[[[[[[[[1]]]]]]]]]}'}, "more than 8 levels"),
        ({"summary": '{"mine": 1e999}'}, "not a finite number"),
        ({"summary": '{"mine": "\\ud800"}'}, "surrogates not allowed"),
        ({"summary": "{}"}, "regressor/matrix"),
        ({"version": "-1"}, "version '-1' is none"),
        ({"version": "0"}, "version '0' is none"),
        ({"version": "1_0"}, "version '1_0' is none"),
        ({"version": " 1"}, "version ' 1' is none"),
        ({"version": "\uff11"}, "is none"),
        ({"version": "9" * 9_000}, "is none"),
        ({"version": "2"}, "has version 2, and this landmarks_jax reads up to 1"),
        ({"more": ""}, "its texts must be config, format, sha256, summary, version"),
    ],
)
def test_texts_that_cannot_be(texts, problem, good, tmp_path):
    config, summary, arrays = good
    texts = {"config": json.dumps(config), "summary": json.dumps(summary), **texts}
    if texts["summary"] == "{}":
        arrays = {**arrays, "regressor/matrix": np.ones((8, 6))}
    assert problem in outcome(tmp_path / "a", arrays=arrays, **texts)


@pytest.mark.parametrize(
    ("field", "value", "problem"),
    [
        ("model.beta", float("nan"), "config.model.beta = nan: must be from"),
        ("model.beta", -1.0, "config.model.beta = -1.0: must be from"),
        ("model.beta", True, "config.model.beta = True: must be from"),
        ("model.num_landmarks", 3.0, "config.model.num_landmarks = 3.0: must be a whole number"),
        ("model.num_landmarks", 10**30, "must be a whole number from 1 to 1000"),
        ("model.detector", "json", "the module has no STRIDE"),
        ("model.detector", "landmarks_jax.models.none", "must be a module with a detector"),
        ("model.detector", ["hourglass"], "import that first"),
        ("model.mine", 1, "config.model.mine is not part of its detector"),
        ("compute_dtype", "float64", "compute_dtype must be one of float32, bfloat16"),
        ("compute_dtype", [], "compute_dtype must be one of float32, bfloat16"),
        ("data.crop", {}, "its config cannot work"),
        ("views", 3, "config.data.canvas_size is missing"),
    ],
)
def test_configs_that_cannot_be(field, value, problem, good, tmp_path):
    config = copy.deepcopy(good[0])
    section, _, name = field.rpartition(".")
    (config[section] if section else config)[name] = value
    if field == "views":
        del config["data"]["canvas_size"]
    assert problem in outcome(tmp_path / "a", config, *good[1:])


@pytest.mark.parametrize(
    ("field", "value", "problem"),
    [
        ("point_names", ["a"], "regressor/matrix has shape (4, 6), its detector needs (2, 6)"),
        ("point_names", ["left eye", "left_eye"], "must be different names, of printable"),
        ("point_names", ["a", "b\n"], "must be different names, of printable"),
        ("point_names", "ab", "summary.point_names must be a list"),
        ("landmark_names", ["a", "b"], "summary.landmark_names has 2 names, not one for each"),
        (
            "landmark_names",
            ["a", "b", "a"],
            "summary.landmark_names and summary.point_names must be",
        ),
        ("landmark_names", ["a", "b", "heel"], "must be different names, of printable"),
        ("mirror", {"photos": 9}, "summary.mirror.pairs is missing"),
        ("mirror", mirror((0, 1), (2, 1)), "pairs must be different numbers from 0 to 2"),
        ("mirror", mirror((0, 3)), "pairs must be different numbers from 0 to 2"),
        ("mirror", mirror((0, -1)), "pairs must be different numbers from 0 to 2"),
        ("photos", 3, "summary.photos must be a text"),
        ("notes", [1], "summary.notes[0] must be a text"),
        ("trained_on", {"source": "x"}, "summary.trained_on.crop is missing"),
        ("provenance", {**SUMMARY["provenance"], "steps": 1.5}, "steps must be a whole number"),
        ("face_frame", {"finder": "x", "photos": 12, "x": 0, "y": 0}, "face_frame.side is missing"),
        (
            "face_frame",
            {"finder": "x", "photos": 12, "x": 0, "y": 0, "side": 0.01},
            "summary.face_frame.side must be from 0.1 to 10",
        ),
        ("scores", [{"forward": 12.5}], "summary.scores[0].confidence is missing"),
        ("scores", [{**SCORE, "forward": "1"}], "summary.scores[0].forward must be a number"),
        (
            "scores",
            [{**SCORE, "groups": [{**SCORE["groups"][0], "forward": None}]}],
            "summary.scores[0].groups[0].forward must be a number",
        ),
    ],
)
def test_summaries_that_cannot_be(field, value, problem, good, tmp_path):
    config, summary, arrays = good
    assert problem in outcome(tmp_path / "a", config, {**summary, field: value}, arrays)


@pytest.mark.parametrize(
    ("name", "change", "problem"),
    [
        ("params/conv1/kernel", lambda a: a.astype(np.int8), "of type int8, must be float32 or"),
        ("params/conv1/kernel", lambda a: a.astype(np.float64), "must be float32 or float16"),
        ("params/conv1/kernel", lambda a: a.astype(ml_dtypes.bfloat16), "bfloat16"),
        ("params/head/bias", lambda a: a.astype(np.float16), "of type float16, must be float32"),
        ("params/head/bias", lambda a: a.astype(bool), "of type bool"),
        ("batch_stats/norm/var", lambda a: -a, "batch_stats/norm/var is a negative variance"),
        ("regressor/matrix", lambda a: a.astype(np.float32), "must be float64"),
        ("regressor/y_origin", lambda a: a[:0], "regressor/matrix has shape"),
        ("regressor/y_origin", lambda a: a[0:1].reshape(()), "regressor/matrix has shape"),
        ("params/head", lambda _: np.zeros((), np.float32), "params/head is not part of"),
        ("params/head/bias/x", lambda _: np.zeros(3, np.float32), "bias/x is not part of"),
        ("", lambda _: np.zeros(3, np.float32), "is not part of its detector"),
    ],
)
def test_arrays_that_cannot_be(name, change, problem, good, tmp_path):
    config, summary, arrays = good
    summary = {**summary, "point_names": []}
    arrays = {**arrays, name: change(arrays.get(name))}
    assert problem in outcome(tmp_path / "a", config, summary, arrays)


def places(value, place=()):
    """The places of all parts of a JSON value."""
    yield place
    if isinstance(value, dict | list):
        for key in value if isinstance(value, dict) else range(len(value)):
            yield from places(value[key], (*place, key))


def mutated(value, rng):
    """A copy of a JSON value with something odd at a random place: in its stead, or beside it."""
    value = copy.deepcopy(value)
    every = list(places(value))[1:]
    *above, last = every[rng.integers(len(every))]
    part = value
    for key in above:
        part = part[key]
    odd = copy.deepcopy(ODD[rng.integers(len(ODD))])
    action = rng.integers(4)
    if action == 0:
        del part[last]
    elif action == 1 and isinstance(part, dict):
        part[str(odd)] = part.pop(last)
    else:
        part[last] = odd
    return value


def test_random_nonsense_is_refused_or_harmless(good, tmp_path):
    config, summary, arrays = good
    rng = np.random.default_rng(0)
    read = 0
    for i in range(150):
        new = config, summary
        for _ in range(1 + i % 3):
            new = (mutated(new[0], rng), new[1]) if i % 2 else (new[0], mutated(new[1], rng))
        read += outcome(tmp_path / "a", *new, arrays) == ""
    assert read > 0  # further fields of the summary do no harm


def test_random_headers_are_refused_in_a_line(good, tmp_path):
    """Bytes of the header of a file, changed: safetensors refuses them, or the checksum does."""
    path = tmp_path / "a"
    outcome(path, *good)
    data = path.read_bytes()
    size = 8 + int.from_bytes(data[:8], "little")
    rng = np.random.default_rng(1)
    for _ in range(100):
        damaged = bytearray(data)
        for place in rng.integers(0, size, rng.integers(1, 9)):
            damaged[place] = rng.choice(list(b'0123456789{}[]",:\\-e\x00\xff'))
        if bytes(damaged) == data:
            continue
        path.write_bytes(damaged)
        with pytest.raises(WeightsError) as raised:
            packed_file.read(path)
        assert "\n" not in str(raised.value)


def test_a_pipe_is_named(tmp_path):
    os.mkfifo(tmp_path / "a")
    with pytest.raises(WeightsError, match="a: a named pipe, not a regular file"):
        packed_file.read(tmp_path / "a")
