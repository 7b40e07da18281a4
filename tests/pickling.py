"""PyTorch's files by hand, opcode by opcode: no pickler would write what must be refused."""

import io
import pickle
import zipfile

import numpy as np


def name(module, attribute):
    return f"c{module}\n{attribute}\n".encode()


def of(value):
    match value:
        case bytes():
            made = value  # opcodes already
        case tuple():
            made = b"(" + b"".join(map(of, value)) + b"t"
        case list():
            made = b"](" + b"".join(map(of, value)) + b"e"
        case dict():
            made = b"}(" + b"".join(of(part) for pair in value.items() for part in pair) + b"u"
        case bool() | None:
            made = {True: b"\x88", False: b"\x89", None: b"N"}[value]
        case int():
            data = pickle.encode_long(value)
            made = b"\x8a" + bytes([len(data)]) + data
        case str():
            made = b"X" + len(value.encode()).to_bytes(4, "little") + value.encode()
    return made


def call(function, *arguments):
    return function + of(arguments) + b"R"


def build(instance, state):
    return instance + of(state) + b"b"


def pickled(value):
    return b"\x80\x02" + of(value) + b"."


def storage(key="0", length=6, kind="FloatStorage", view=()):
    return of(("storage", name("torch", kind), key, "cpu", length, *view)) + b"Q"


REBUILD = name("torch._utils", "_rebuild_tensor_v2")
ORDERED = call(name("collections", "OrderedDict"))


def tensor(shape=(2, 3), strides=(3, 1), offset=0, **of_storage):
    return call(REBUILD, storage(**of_storage), offset, shape, strides, False, ORDERED)


NUMBERS = np.arange(6, dtype="<f4")


def zipped(content, data=NUMBERS, **others):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("any/data.pkl", pickled(content))
        archive.writestr("any/data/0", data.tobytes())
        for entry, text in others.items():
            archive.writestr(f"any/{entry}", text)
    return file.getvalue()


def legacy(content, data=NUMBERS, magic=0x1950A86A20F9469CFC6C, little=True, keys=("0",)):
    start = pickled(magic) + pickled(1001)
    system = pickled({"protocol_version": 1001, "little_endian": little, "type_sizes": {}})
    numbers = len(data).to_bytes(8, "little") + data.tobytes()
    return start + system + pickled(content) + pickled(list(keys)) + numbers
