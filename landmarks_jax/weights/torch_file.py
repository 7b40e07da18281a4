"""State dicts in PyTorch's files, read without PyTorch and without running what they hold.

Both of its formats are a pickle, which can call anything, and the bytes of the tensors:

    zip       since PyTorch 1.6: `NAME/data.pkl`, and `NAME/data/KEY` for each storage
    legacy    before: five pickles (magic number, version, system, object, keys of the storages),
              then for each storage the number of its elements and their bytes

The pickle is read here with the few names that a state dict needs, each standing for a function of
this file. Any other name is refused before it is looked up.
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

from landmarks_jax.system.errors import WeightsError

_MAGIC = 0x1950A86A20F9469CFC6C
_VERSION = 1001
# What is pickled is names and shapes; a pickle that claims to be larger is none of a state dict.
_MOST_PICKLED = 64 * 2**20
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
    """Stands for one of PyTorch's types of storages."""

    code: str


class _Storage(NamedTuple):
    """A run of numbers in the file."""

    key: str
    dtype: np.dtype
    length: int

    @property
    def nbytes(self) -> int:
        """Its size in the file."""
        return self.length * self.dtype.itemsize


class _Tensor:
    """A tensor that is not read yet: a strided look at a storage."""

    __slots__ = ("offset", "shape", "storage", "strides")

    def __init__(self, storage: Any, offset: Any, shape: Any, strides: Any) -> None:
        """Checks that all of it lies in the storage, whatever the file says."""
        numbers = (offset, *shape, *strides)
        if not isinstance(storage, _Storage) or len(shape) != len(strides):
            raise ValueError("a tensor without a storage of its own")
        if not all(isinstance(number, int) and number >= 0 for number in numbers):
            raise ValueError("a tensor of impossible sizes")
        size = math.prod(shape)
        last = offset + sum((n - 1) * stride for n, stride in zip(shape, strides, strict=True))
        if size > storage.length or (size and last >= storage.length):
            raise ValueError("a tensor that reaches beyond its storage")
        self.storage, self.offset, self.shape, self.strides = storage, offset, shape, strides

    def __setstate__(self, state: Any) -> None:
        """Forgets what old files say of a parameter besides its numbers."""

    def of(self, flat: np.ndarray) -> np.ndarray:
        """The tensor as an array of its own, out of its storage's numbers."""
        size = flat.itemsize
        strides = [size * stride for stride in self.strides]
        view = np.lib.stride_tricks.as_strided(flat[self.offset :], self.shape, strides)
        return np.array(view)


class _RebuildTensor:
    """Stands for PyTorch's functions that make a tensor of a storage."""

    __slots__ = ()  # a pickle can set attributes of what it names

    def __call__(self, storage: Any, offset: Any, shape: Any, strides: Any, *_: Any) -> _Tensor:
        return _Tensor(storage, offset, tuple(shape), tuple(strides))


class _RebuildParameter:
    """Stands for what makes a parameter of a tensor."""

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
    """The pickle names something that a state dict has no need of."""


class _Unpickler(pickle.Unpickler):
    """Reads one pickle.

    Attributes:
      storages: those that it speaks of, by key.
    """

    def __init__(self, file: io.BufferedIOBase) -> None:
        super().__init__(file)
        self.storages: dict[str, _Storage] = {}

    def find_class(self, module: str, name: str) -> Any:
        """What a name of the pickle stands for."""
        if (module, name) not in _ALLOWED:
            raise _RefusedError(f"{module}.{name}")
        return _ALLOWED[module, name]

    def persistent_load(self, pid: Any) -> _Storage:
        """A storage, of which the pickle holds type, key and length."""
        kind, of, key, _, length, *part = pid
        if kind != "storage" or not isinstance(of, _Type) or any(p is not None for p in part):
            raise ValueError("a storage of an unknown kind")
        if not isinstance(key, str) or not isinstance(length, int) or length < 0:
            raise ValueError("a storage of impossible size")
        storage = _Storage(key, np.dtype(of.code), length)
        if self.storages.setdefault(key, storage) != storage:
            raise ValueError(f"the storage {key} is of two kinds")
        return storage


def read_state_dict(path: str | os.PathLike[str], prefix: str = "") -> dict[str, np.ndarray]:
    """Reads the tensors of a state dict.

    Files saved from several GPUs have `module.` before every name; it is taken off. A file that
    keeps the state dict under the name `state_dict`, beside other things, is read as well.

    Args:
      path: the file.
      prefix: only tensors whose names begin so are read.

    Returns:
      Arrays of their own by name, in the file's order.

    Raises:
      WeightsError: the file is missing or damaged, holds no state dict, or wants to call anything.
    """
    path = Path(path)
    if not os.path.isfile(path):
        raise WeightsError(f"{path}: no such file of PyTorch")
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
            f"{path}: wants to call {error}, which no state dict needs; nothing was run. Where you "
            "trust the file, load it with PyTorch and save its state_dict() alone"
        ) from None
    except Exception as error:  # whatever pickle, zipfile and NumPy raise for damaged bytes
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise WeightsError(f"{path}: is no file of PyTorch, or damaged ({reason})") from error
    raise WeightsError(f"{path}: is no file of PyTorch")


def _read_zip(file: io.BufferedReader, path: Path, prefix: str) -> dict[str, np.ndarray]:
    with zipfile.ZipFile(file) as archive:
        roots = [name for name in archive.namelist() if name.split("/")[1:] == ["data.pkl"]]
        if len(roots) != 1:
            raise ValueError("no data.pkl in the archive")
        if archive.getinfo(roots[0]).file_size > _MOST_PICKLED:
            raise ValueError("its data.pkl is too large")
        root = roots[0].removesuffix("data.pkl")
        with contextlib.suppress(KeyError):  # written since PyTorch 2.1
            if archive.read(f"{root}byteorder") != b"little":
                raise ValueError("big-endian numbers")
        content = _Unpickler(io.BytesIO(archive.read(roots[0]))).load()

        def read(storage: _Storage) -> bytes:
            name = f"{root}data/{storage.key}"
            if archive.getinfo(name).file_size != storage.nbytes:
                raise ValueError(f"{name} is not of {storage.nbytes} bytes")
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
            raise ValueError(f"the storage {key} has {length} numbers, not {storage.length}")
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
                raise ValueError("cut short")
            arrays[name] = tensor.of(np.frombuffer(data, tensor.storage.dtype))
    return arrays


def _tensors(content: Any, path: Path) -> dict[str, _Tensor]:
    """The tensors of a state dict by name, without the `module.` of several GPUs."""
    if isinstance(content, dict) and isinstance(dict.get(content, "state_dict"), dict):
        content = content["state_dict"]
    # `dict.items`: a pickle can put attributes of its own before a dictionary's methods.
    entries = dict(dict.items(content)) if isinstance(content, dict) else {}
    if not entries:
        raise WeightsError(f"{path}: holds no state dict")
    for name, value in entries.items():
        if not isinstance(name, str) or not isinstance(value, _Tensor):
            raise WeightsError(f"{path}: holds no state dict ({str(name)[:80]!r} is no tensor)")
    several = all(name.startswith("module.") for name in entries)
    return {name.removeprefix("module.") if several else name: t for name, t in entries.items()}
