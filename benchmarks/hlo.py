"""The text of a compiled program: its kernels, what each moves and computes, and its scopes.

The entry computation of a program for a GPU is a list of kernels. Bytes are counted from the shapes
of what each reads and writes; of an operand that a fusion only slices, what it takes.
"""

import functools
import math
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import NamedTuple

_BYTES = {
    "pred": 1,
    "s8": 1,
    "u8": 1,
    "bf16": 2,
    "f16": 2,
    "s32": 4,
    "u32": 4,
    "f32": 4,
    "s64": 8,
    "u64": 8,
    "f64": 8,
}
_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{$")
_INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%?([\w.\-]+) = (\(.*?\)|\S+) ([\w\-]+)\((.*)$")
_SCOPE = re.compile(r"metadata=\{[^}]*op_name=\"([^\"]*)\"")
_ARRAY = re.compile(r"(\w+)\[([\d,]*)\]")
_NAME = re.compile(r"%([\w.\-]+)")
# Neither of these is a kernel.
_FREE = {"parameter", "constant", "get-tuple-element", "tuple", "bitcast", "partition-id"}
_SLICES = {"slice", "dynamic-slice", "gather"}
# What these make of their operand's elements needs all of them.
_NEED_ALL = {"reduce", "scatter", "concatenate", "pad", "dot", "tuple", "broadcast", "custom-call"}
CONVOLUTION = "convolution"


class Kernel(NamedTuple):
    """A kernel of a program.

    Attributes:
      kind: `CONVOLUTION`, or XLA's name, such as "fusion" or "copy".
      bytes: read and written.
      macs: multiply-adds of a convolution, otherwise 0.
    """

    kind: str
    bytes: float
    macs: float


class _Instruction(NamedTuple):
    name: str
    shape: str
    operation: str
    operands: list[str]
    line: str


def kernels(text: str) -> list[Kernel]:
    """The kernels of a compiled program, in order.

    Args:
      text: `jax.stages.Compiled.as_text()`.

    Raises:
      ValueError: the text has no entry computation.
    """
    computations, entry = _read(text)
    shapes = {instruction.name: instruction.shape for instruction in computations[entry]}
    return [
        _kernel(instruction, shapes, computations)
        for instruction in computations[entry]
        if instruction.operation not in _FREE
    ]


def scopes(text: str) -> dict[str, str]:
    """Instruction -> where it was traced, such as `jvp(Generator)/residual1/conv1/...`.

    Also by the name of the kernel that a GPU has for the instruction: `loop_add_fusion_3` for
    `loop_add_fusion.3`.
    """
    pairs = ((_INSTRUCTION.match(line), _SCOPE.search(line)) for line in text.splitlines())
    found = {instruction[1]: scope[1] for instruction, scope in pairs if instruction and scope}
    by_kernel = {re.sub(r"[^A-Za-z0-9_]", "_", name): scope for name, scope in found.items()}
    return by_kernel | found


def _read(text: str) -> tuple[dict[str, list[_Instruction]], str]:
    computations: dict[str, list[_Instruction]] = defaultdict(list)
    current = entry = ""
    for line in text.splitlines():
        if start := _COMPUTATION.match(line):
            current = start[2]
            entry = current if start[1] else entry
        elif current and (found := _INSTRUCTION.match(line)):
            name, shape, operation, rest = found.groups()
            # A parameter's number stands where operands do.
            inside = rest.split(")", 1)[0]
            operands = [inside] if operation == "parameter" else _NAME.findall(inside)
            computations[current].append(_Instruction(name, shape, operation, operands, line))
    if not entry:
        raise ValueError("the text of a compiled program has an entry computation; this has none")
    return computations, entry


def _kernel(
    instruction: _Instruction,
    shapes: dict[str, str],
    computations: dict[str, list[_Instruction]],
) -> Kernel:
    called = re.search(r"calls=%?([\w.\-]+)", instruction.line)
    body = computations[called[1]] if called else []
    moved: float = _size(instruction.shape)
    for number, operand in enumerate(instruction.operands):
        moved += _size(shapes[operand]) * (_share(body, number) if body else 1.0)
    operands = [shapes[operand] for operand in instruction.operands]
    macs = _conv_macs(instruction.line, instruction.shape, operands)
    return Kernel(CONVOLUTION if macs else instruction.operation, moved, macs)


def _arrays(shape: str) -> Iterator[tuple[str, list[int]]]:
    for kind, sides in _ARRAY.findall(shape):
        yield kind, [int(side) for side in sides.split(",") if side]


def _size(shape: str) -> int:
    """Bytes of an array, or of all arrays of a tuple."""
    return sum(_BYTES.get(kind, 0) * math.prod(sides) for kind, sides in _arrays(shape))


def _elements(shape: str) -> int:
    return sum(math.prod(sides) for _, sides in _arrays(shape))


def _share(body: Sequence[_Instruction], number: int) -> float:
    """The share of an operand's elements that a fusion needs."""
    users = defaultdict(list)
    for instruction in body:
        for operand in instruction.operands:
            users[operand].append(instruction)
    parameter = next(
        instruction
        for instruction in body
        if instruction.operation == "parameter" and instruction.operands == [str(number)]
    )
    whole = _elements(parameter.shape)

    @functools.cache
    def needed(name: str) -> int:
        total = 0
        for user in users[name]:
            if user.operation in _SLICES:
                total += _elements(user.shape)
            elif user is body[-1] or user.operation in _NEED_ALL or _elements(user.shape) != whole:
                return whole
            else:  # element by element; what becomes of the result decides
                total += needed(user.name)
        return min(total, whole)

    return (needed(parameter.name) if users[parameter.name] else whole) / max(whole, 1)


def _conv_macs(line: str, shape: str, operands: Sequence[str]) -> float:
    """Multiply-adds of a convolution of cuDNN or one of its gradients; 0 for anything else."""
    target = re.search(r'custom_call_target="__cudnn\$conv(\w*)"', line)
    if not target:
        return 0.0
    made, *inputs = (next(_arrays(text))[1] for text in (shape, *operands))
    # Kernels have their outputs first; what each output of the plain convolution sums is the rest.
    if target[1] == "BackwardFilter":
        kernel, outputs = made, inputs[1]
    else:
        kernel, outputs = inputs[1], inputs[0] if target[1] == "BackwardInput" else made
    return math.prod(outputs) * math.prod(kernel[1:])
