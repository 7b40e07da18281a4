"""PyTorch's files read without PyTorch and without running their code."""

import importlib.util
import os

import numpy as np
import pytest

from landmarks_jax.system.errors import WeightsError
from landmarks_jax.weights.torch_file import read_state_dict
from tests.pickling import (
    NUMBERS,
    ORDERED,
    REBUILD,
    build,
    call,
    legacy,
    name,
    of,
    pickled,
    storage,
    tensor,
    zipped,
)
from tests.running import ROOT

needs_torch = pytest.mark.skipif(
    importlib.util.find_spec("torch") is None, reason="PyTorch is not installed"
)
STORED = ROOT / "tests" / "published"

FORMATS = pytest.mark.parametrize("form", [zipped, legacy])


def read(path, content, **keywords):
    path.write_bytes(content)
    return read_state_dict(path, **keywords)


@FORMATS
def test_tensors_follow_offset_and_strides(tmp_path, form):
    state = {
        "whole": tensor(),
        "transposed": tensor((3, 2), (1, 3)),
        "column": tensor((2,), (3,), 1),
        "number": tensor((), (), 4),
        "none": tensor((0, 3), (3, 1), 6),
    }
    actual = read(tmp_path / "x.pth", form(state))
    assert list(actual) == list(state)
    whole = NUMBERS.reshape(2, 3)
    expected = (whole, whole.T, whole[:, 1], NUMBERS[4], whole[:0])
    for array, values in zip(actual.values(), expected, strict=True):
        assert array.dtype == np.float32
        assert array.shape == values.shape
        np.testing.assert_array_equal(array, values)
    assert actual["whole"].flags.writeable
    assert not np.shares_memory(actual["whole"], actual["transposed"])


@FORMATS
def test_the_prefix_of_several_gpus_is_removed_if_all_names_have_it(tmp_path, form):
    path = tmp_path / "x.pth"
    both = {"module.a.b": tensor(), "module.c": tensor()}
    assert list(read(path, form(both))) == ["a.b", "c"]
    assert list(read(path, form({**both, "d": tensor()}))) == ["module.a.b", "module.c", "d"]
    assert list(read(path, form(both), prefix="a.")) == ["a.b"]


@FORMATS
def test_a_state_dict_within_a_dictionary(tmp_path, form):
    other = {"step": tensor(), "epoch": 3, "lr": [1, None, True]}
    content = {"optimizer": other, "state_dict": {"a": tensor()}}
    assert list(read(tmp_path / "x.pth", form(content))) == ["a"]


@FORMATS
def test_parameters_of_old_files(tmp_path, form):
    old = call(name("torch._utils", "_rebuild_tensor"), storage(), 0, (6,), (1,))
    parameter = build(call(name("torch.nn.parameter", "Parameter"), old, True), (True, {}))
    state = build(ORDERED + b"(" + of("a") + parameter + b"u", {"_metadata": ORDERED})
    np.testing.assert_array_equal(read(tmp_path / "x.pth", form(state))["a"], NUMBERS)


@pytest.mark.parametrize(
    ("kind", "dtype"),
    [
        ("DoubleStorage", "<f8"),
        ("HalfStorage", "<f2"),
        ("LongStorage", "<i8"),
        ("BoolStorage", "?"),
    ],
)
@FORMATS
def test_number_types(tmp_path, form, kind, dtype):
    data = NUMBERS.astype(dtype)
    actual = read(tmp_path / "x.pth", form({"a": tensor(kind=kind)}, data))["a"]
    assert actual.dtype == np.dtype(dtype)
    np.testing.assert_array_equal(actual.ravel(), data)


CALLS = {
    "a shell": call(name("os", "system"), "touch ran"),
    "a shell, by its other name": call(name("posix", "system"), "touch ran"),
    "code": call(name("builtins", "eval"), "open('ran', 'w')"),
    "getattr": call(name("builtins", "getattr"), name("os", "path"), "join"),
    "a pickle within": call(name("torch.storage", "_load_from_bytes"), "x"),
    "a part of an allowed name": call(name("collections", "OrderedDict.fromkeys"), ()),
    "another name of an allowed module": call(name("collections", "namedtuple"), "a", "b"),
    "numpy": call(name("numpy", "load"), "x"),
}


@pytest.mark.parametrize("made", CALLS.values(), ids=CALLS)
@FORMATS
def test_nothing_in_a_file_runs(tmp_path, monkeypatch, form, made):
    monkeypatch.chdir(tmp_path)
    for content in ({"a": tensor(), "b": made}, made):
        with pytest.raises(WeightsError, match=r"would call \w+\.\w.*nothing was run") as error:
            read(tmp_path / "x.pth", form(content))
        assert "\n" not in str(error.value)
    assert os.listdir() == ["x.pth"]


def test_a_file_cannot_change_its_reader(tmp_path):
    path = tmp_path / "x.pth"
    before = read(path, zipped({"a": tensor()}))["a"]
    slots = (None, {"__call__": 1, "__defaults__": (), "__class__": ORDERED})
    for instance in (
        REBUILD,
        name("torch", "FloatStorage"),
        name("torch.nn.parameter", "Parameter"),
        name("collections", "OrderedDict"),
        storage(),
    ):
        for state in ({"code": "<f8", "__call__": 1}, slots):
            with pytest.raises(WeightsError):
                read(path, zipped({"a": tensor(), "b": build(instance, state)}))
    shadowed = build(ORDERED + b"(" + of("a") + tensor() + b"u", {"items": REBUILD, "get": 1})
    for content in ({"a": tensor()}, shadowed):
        np.testing.assert_array_equal(read(path, zipped(content))["a"], before)


WRONG = {
    "beyond its storage": tensor((2, 3), (4, 1)),
    "beyond its storage, from an offset": tensor(offset=1),
    "more than its storage": tensor((10**6, 6), (0, 1)),
    "more than there can be": tensor((10**30,), (0,)),
    "before its storage": tensor(offset=-1),
    "backwards": tensor((2, 3), (-3, 1), 3),
    "strides missing": tensor((2, 3), (1,)),
    "no numbers": tensor(("a", "b"), (3, 1)),
    "longer than the file says": tensor(length=7),
    "of another type": tensor(kind="DoubleStorage"),
    "of an unknown type": tensor(kind="QInt8Storage"),
    "not there": tensor(key="1"),
    "a part of another": tensor(view=(("0", 0, 6),)),
    "no storage": call(REBUILD, "x", 0, (2, 3), (3, 1)),
    "a string": of("x"),
    "a number": of(5),
    "a type": name("torch", "FloatStorage"),
}


@pytest.mark.parametrize("made", WRONG.values(), ids=WRONG)
@FORMATS
def test_invalid_tensors_are_refused(tmp_path, form, made):
    path = tmp_path / "x.pth"
    with pytest.raises(WeightsError) as error:
        read(path, form({"good": tensor(), "wrong": made}))
    assert str(error.value).startswith(f"{path}: ")
    assert "\n" not in str(error.value)


FILES = {
    "empty": b"",
    "text": b"version https://git-lfs.github.com/spec/v1\n",
    "another archive": b"PK\x03\x04" + bytes(40),
    "another pickle": pickled({"a": 1}),
    "another magic number": legacy({"a": tensor()}, magic=1),
    "no dictionary": zipped([1]),
    "an empty dictionary": zipped({}),
    "numbers for names": zipped({1: tensor()}),
    "big-endian": zipped({"a": tensor()}, byteorder="big"),
    "big-endian, legacy": legacy({"a": tensor()}, little=False),
    "an archive without a pickle": zipped({"a": tensor()}).replace(b"data.pkl", b"data.txt"),
}


@pytest.mark.parametrize("content", FILES.values(), ids=FILES)
def test_other_files_are_refused(tmp_path, content):
    path = tmp_path / "x.pth"
    with pytest.raises(WeightsError, match=r"not a PyTorch file|has no state dict") as error:
        read(path, content)
    assert str(path) in str(error.value)


def test_missing_files_and_folders(tmp_path):
    problems = {tmp_path / "none.pth": "no such file", tmp_path: "a folder, not a regular file"}
    for path, problem in problems.items():
        with pytest.raises(WeightsError, match=problem):
            read_state_dict(path)


@pytest.mark.parametrize("file", ["core.pth", "fan.pth"])
def test_files_truncated_anywhere_are_refused(tmp_path, file):
    whole = (STORED / file).read_bytes()
    for length in {*range(0, 40, 3), *range(0, len(whole), len(whole) // 40), len(whole) - 1}:
        with pytest.raises(WeightsError):
            read(tmp_path / "x.pth", whole[:length])


def test_damaged_numbers_are_refused(tmp_path):
    content = bytearray(zipped({"a": tensor()}))
    content[content.index(NUMBERS.tobytes()) + 5] ^= 1
    with pytest.raises(WeightsError, match="CRC"):
        read(tmp_path / "x.pth", bytes(content))


@needs_torch
@pytest.mark.parametrize("new", [True, False], ids=["zip", "legacy"])
def test_files_of_pytorch(tmp_path, new):
    import torch  # noqa: PLC0415

    base = torch.randn(4, 5, 6)
    state = torch.nn.Sequential(torch.nn.Conv2d(2, 3, 3), torch.nn.BatchNorm2d(3)).state_dict()
    state |= {
        "transposed": base.permute(2, 0, 1),
        "slice": base[1:3, :, ::2],
        "double": base.double(),
        "half": base.half(),
        "parameter": torch.nn.Parameter(base),
        "empty": torch.zeros(0, 3),
    }
    torch.save(state, tmp_path / "x.pth", _use_new_zipfile_serialization=new)
    actual = read_state_dict(tmp_path / "x.pth")
    assert list(actual) == list(state)
    for key, tensor_ in state.items():
        expected = tensor_.detach().numpy()
        assert actual[key].dtype == expected.dtype
        np.testing.assert_array_equal(actual[key], expected)


@needs_torch
@FORMATS
def test_pytorch_reads_our_pickles(tmp_path, form):
    import torch  # noqa: PLC0415

    more, view = ({"version": "3"}, ()) if form is zipped else ({}, (None,))
    (tmp_path / "x.pth").write_bytes(form({"a": tensor(view=view)}, **more))
    actual = torch.load(tmp_path / "x.pth", weights_only=True)
    np.testing.assert_array_equal(actual["a"].numpy(), NUMBERS.reshape(2, 3))
