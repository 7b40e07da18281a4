"""Reads state dicts from PyTorch's files without PyTorch and without running their code.

Both of its formats are a pickle, which can call anything, and the bytes of the tensors:

    zip       since PyTorch 1.6: `NAME/data.pkl`, and `NAME/data/KEY` for each storage
    legacy    before: five pickles (magic number, version, system, object, keys of the storages),
              then for each storage the number of its elements and their bytes

The unpickler here only knows the few names that a state dict needs, each mapped to a function of
this module. Any other name is rejected before it is looked up.
"""

import contextlib
import io
import math
import os
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from landmarks_jax.system import files
from landmarks_jax.system.errors import WeightsError, reason

_MAGIC = 0x1950A86A20F9469CFC6C
_VERSION = 1001
# The pickle of a state dict has only names and shapes, and is not larger.
_MAX_PICKLE = 64 * 2**20
_TYPES = {
    "FloatStorage": "<f4",
    "DoubleStorage": "<f8",
    "HalfStorage": "<f2",
    "LongStorage": "<i8",
    "IntStorage": "<i4",
    "ShortStorage": "<i2",
    "CharStorage": "|i1",
    "ByteStorage": "|u1",
    "BoolStorage": "|b1",
}


class _Type(NamedTuple):
    """One of PyTorch's storage types."""

    code: str


class _Storage(NamedTuple):
    """An array of numbers in the file."""

    key: str
    dtype: np.dtype
    length: int

    @property
    def nbytes(self) -> int:
        return self.length * self.dtype.itemsize


class _Tensor:
    """A tensor that is not read yet: a strided view of a storage."""

    __slots__ = ("offset", "shape", "storage", "strides")

    def __init__(self, storage: Any, offset: Any, shape: Any, strides: Any) -> None:
        """Checks that all of it lies in the storage."""
        numbers = (offset, *shape, *strides)
        if not isinstance(storage, _Storage) or len(shape) != len(strides):
            raise ValueError("a tensor without a storage")
        if not all(isinstance(number, int) and number >= 0 for number in numbers):
            raise ValueError("a tensor of invalid sizes")
        size = math.prod(shape)
        last = offset + sum((n - 1) * stride for n, stride in zip(shape, strides, strict=True))
        if size > storage.length or (size and last >= storage.length):
            raise ValueError("a tensor beyond its storage")
        self.storage, self.offset, self.shape, self.strides = storage, offset, shape, strides

    def __setstate__(self, state: Any) -> None:
        """Ignores the attributes that old files give a parameter."""

    def copy_from(self, flat: np.ndarray) -> np.ndarray:
        """The tensor as a new array, from its storage's numbers."""
        size = flat.itemsize
        strides = [size * stride for stride in self.strides]
        view = np.lib.stride_tricks.as_strided(flat[self.offset :], self.shape, strides)
        return np.array(view)


class _RebuildTensor:
    """PyTorch's functions that make a tensor from a storage."""

    __slots__ = ()  # a pickle can set attributes of the objects it names

    def __call__(self, storage: Any, offset: Any, shape: Any, strides: Any, *_: Any) -> _Tensor:
        return _Tensor(storage, offset, tuple(shape), tuple(strides))


class _RebuildParameter:
    """PyTorch's functions that make a parameter from a tensor."""

    __slots__ = ()

    def __call__(self, tensor: Any, *_: Any) -> Any:
        return tensor


_ALLOWED: Mapping[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): OrderedDict,
    ("torch._utils", "_rebuild_tensor"): _RebuildTensor(),
    ("torch._utils", "_rebuild_tensor_v2"): _RebuildTensor(),
    ("torch._utils", "_rebuild_parameter"): _RebuildParameter(),
    ("torch.nn.parameter", "Parameter"): _RebuildParameter(),
    **{("torch", name): _Type(code) for name, code in _TYPES.items()},
}


class _RefusedError(Exception):
    """The pickle has a name that no state dict needs."""


class _Unpickler(pickle.Unpickler):
    """Reads one pickle; `storages` are those it refers to, by key."""

    def __init__(self, file: io.BufferedIOBase) -> None:
        super().__init__(file)
        self.storages: dict[str, _Storage] = {}

    def find_class(self, module: str, name: str) -> Any:
        """Looks up a name of the pickle among the allowed ones."""
        if (module, name) not in _ALLOWED:
            raise _RefusedError(f"{module}.{name}")
        return _ALLOWED[module, name]

    def persistent_load(self, pid: Any) -> _Storage:
        """Makes a storage from its type, key and length."""
        kind, of, key, _, length, *part = pid
        if kind != "storage" or not isinstance(of, _Type) or any(p is not None for p in part):
            raise ValueError("a storage of an unknown kind")
        if not isinstance(key, str) or not isinstance(length, int) or length < 0:
            raise ValueError("a storage of invalid size")
        storage = _Storage(key, np.dtype(of.code), length)
        if self.storages.setdefault(key, storage) != storage:
            raise ValueError(f"storage {key} has two types")
        return storage


def read_state_dict(path: str | os.PathLike[str], prefix: str = "") -> dict[str, np.ndarray]:
    """Reads the tensors of a state dict.

    The prefix `module.` of files saved from several GPUs is removed. The state dict may also be the
    entry `state_dict` of a dictionary.

    Args:
      path: the file.
      prefix: only tensors whose names begin with it are read.

    Returns:
      New arrays by name, in the file's order.

    Raises:
      WeightsError: the file is missing or damaged, has no state dict, or would call a function.
    """
    path = Path(path)
    if problem := files.not_regular(path):
        raise WeightsError(f"{path}: {problem}")
    try:
        with path.open("rb") as file:
            first = file.peek(4)[:4]
            if first == b"PK\x03\x04":
                return _read_zip(file, path, prefix)
            if first[:1] == pickle.PROTO:
                return _read_legacy(file, path, prefix)
    except WeightsError:
        raise
    except _RefusedError as error:
        raise WeightsError(
            f"{path}: would call {error}, which no state dict needs; nothing was run. If you trust "
            "the file, load it with PyTorch and save only its state_dict()"
        ) from None
    except Exception as error:  # whatever pickle, zipfile and NumPy raise for damaged bytes
        raise WeightsError(f"{path}: not a PyTorch file, or damaged ({reason(error)})") from error
    raise WeightsError(f"{path}: not a PyTorch file")


def _read_zip(file: io.BufferedReader, path: Path, prefix: str) -> dict[str, np.ndarray]:
    with zipfile.ZipFile(file) as archive:
        roots = [name for name in archive.namelist() if name.split("/")[1:] == ["data.pkl"]]
        if len(roots) != 1:
            raise ValueError("no data.pkl in the archive")
        if archive.getinfo(roots[0]).file_size > _MAX_PICKLE:
            raise ValueError("its data.pkl is too large")
        root = roots[0].removesuffix("data.pkl")
        with contextlib.suppress(KeyError):  # written since PyTorch 2.1
            if archive.read(f"{root}byteorder") != b"little":
                raise ValueError("big-endian numbers")
        content = _Unpickler(io.BytesIO(archive.read(roots[0]))).load()

        def read(storage: _Storage) -> bytes:
            name = f"{root}data/{storage.key}"
            if archive.getinfo(name).file_size != storage.nbytes:
                raise ValueError(f"{name} does not have {storage.nbytes} bytes")
            return archive.read(name)

        return _arrays(_tensors(content, path), prefix, read)


def _read_legacy(file: io.BufferedReader, path: Path, prefix: str) -> dict[str, np.ndarray]:
    if (_Unpickler(file).load(), _Unpickler(file).load()) != (_MAGIC, _VERSION):
        raise ValueError("another pickle")
    if not _Unpickler(file).load()["little_endian"]:
        raise ValueError("big-endian numbers")
    unpickler = _Unpickler(file)
    tensors = _tensors(unpickler.load(), path)
    places = {}
    for key in _Unpickler(file).load():
        storage = unpickler.storages[key]
        length = int.from_bytes(file.read(8), "little")
        if length != storage.length:
            raise ValueError(f"storage {key} has {length} numbers, not {storage.length}")
        places[key] = file.tell()
        file.seek(storage.nbytes, os.SEEK_CUR)

    def read(storage: _Storage) -> bytes:
        file.seek(places[storage.key])
        return file.read(storage.nbytes)

    return _arrays(tensors, prefix, read)


def _arrays(
    tensors: Mapping[str, _Tensor], prefix: str, read: Callable[[_Storage], bytes]
) -> dict[str, np.ndarray]:
    arrays = {}
    for name, tensor in tensors.items():
        if name.startswith(prefix):
            data = read(tensor.storage)
            if len(data) != tensor.storage.nbytes:
                raise ValueError("truncated")
            arrays[name] = tensor.copy_from(np.frombuffer(data, tensor.storage.dtype))
    return arrays


def _tensors(content: Any, path: Path) -> dict[str, _Tensor]:
    """The tensors of a state dict by name."""
    if isinstance(content, dict) and isinstance(dict.get(content, "state_dict"), dict):
        content = content["state_dict"]
    # `dict.items`, because a pickle can shadow a dictionary's methods.
    entries = dict(dict.items(content)) if isinstance(content, dict) else {}
    if not entries:
        raise WeightsError(f"{path}: has no state dict")
    for name, value in entries.items():
        if not isinstance(name, str) or not isinstance(value, _Tensor):
            raise WeightsError(f"{path}: has no state dict ({str(name)[:80]!r} is not a tensor)")
    several = all(name.startswith("module.") for name in entries)
    return {name.removeprefix("module.") if several else name: t for name, t in entries.items()}
