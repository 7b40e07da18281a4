"""Computes on the first device what a training step is made of, and compares with the processor.

python -m benchmarks.gpu_check

Prints the platform and the device. Exits with 1, and a line that says what, where a result differs
or cannot be computed: a library that is missing there shows only when something is compiled.
"""

import functools
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from landmarks_jax.models import convolutions
from landmarks_jax.system.errors import reason


class Case(NamedTuple):
    """A calculation.

    Attributes:
      name: what it is.
      function: of the shapes' arrays; returns a tree of arrays.
      shapes: of its inputs.
      dtype: of its inputs.
      tolerance: of its results, as a share of the largest.
    """

    name: str
    function: Callable[..., Any]
    shapes: tuple[tuple[int, ...], ...]
    dtype: Any
    tolerance: float


def _with_gradients(stride: int) -> Callable[..., Any]:
    def loss(x: jax.Array, kernel: jax.Array) -> tuple[jax.Array, jax.Array]:
        y = convolutions.convolve(x, kernel, kernel.shape[0] // 2, stride)
        return (y.astype(jnp.float32) ** 2).mean(), y

    return jax.value_and_grad(loss, (0, 1), has_aux=True)


# The lowest maps of the hourglass are 2 x 2, where XLA exchanges a convolution's operands.
CASES = (
    Case("arithmetic", lambda x: (x + 1, jnp.tanh(x), jnp.sqrt(x * x)), ((4,),), np.float32, 1e-5),
    Case(
        "a product in full precision",
        functools.partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST),
        ((64, 512), (512, 64)),
        np.float32,
        1e-5,
    ),
    *(
        Case(name, _with_gradients(stride), (maps, kernel), jnp.bfloat16, 0.05)
        for name, stride, maps, kernel in (
            ("a 3 x 3 convolution of 2 x 2 maps", 1, (64, 2, 2, 256), (3, 3, 256, 128)),
            ("a 3 x 3 convolution", 1, (8, 32, 32, 64), (3, 3, 64, 64)),
            ("a 7 x 7 convolution of images", 2, (8, 128, 128, 3), (7, 7, 3, 64)),
        )
    ),
)


def wrong(case: Case, device: jax.Device, reference: jax.Device) -> str | None:
    """What is wrong with a calculation on a device, None where nothing is."""
    rng = np.random.default_rng(0)
    inputs = [rng.normal(size=shape).astype(case.dtype) for shape in case.shapes]
    results = []
    for place in (reference, device):
        try:
            result = jax.jit(case.function)(*jax.device_put(inputs, place))
            results.append([np.asarray(leaf, np.float32) for leaf in jax.tree.leaves(result)])
        except Exception as error:  # XLA and the vendor's libraries have no common class
            return f"{case.name}: {type(error).__name__}: {reason(error)}"
    for expected, actual in zip(*results, strict=True):
        difference = np.abs(actual - expected).max() / np.abs(expected).max()
        if not difference <= case.tolerance:
            return f"{case.name}: differs from the processor's by {difference:.2g} of the largest"
    return None


def main() -> int:
    """Prints the device; returns 1 where it computes something wrong."""
    device = jax.devices()[0]
    print(device.platform, device.device_kind, flush=True)
    for case in CASES:
        text = wrong(case, device, jax.devices("cpu")[0])
        if text is not None:
            print(text, file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
