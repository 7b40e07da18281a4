"""Convolutions as functions, in forms that are fast on CPUs and GPUs.

Values and gradients are those of the plain convolutions (`tests/test_layers.py`); for the speed of
each form see docs/performance.md.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp


def round_up(channels: int, multiple: int) -> int:
    """The smallest multiple of `multiple` that is at least `channels`."""
    return -(-channels // multiple) * multiple


def pad_end(x: jax.Array, axis: int, size: int) -> jax.Array:
    """Appends zeros along one axis, up to `size`."""
    pads = [(0, 0)] * x.ndim
    pads[axis] = (0, size - x.shape[axis])
    return jnp.pad(x, pads) if size > x.shape[axis] else x


def space_to_depth(x: jax.Array, side: int = 2) -> jax.Array:
    """Folds cells of n x n pixels into channels: `[B, nh, nw, C]` to `[B, h, w, n^2 C]`.

    The new channels are in the order row, column, C.
    """
    b, h, w, c = x.shape
    x = x.reshape(b, h // side, side, w // side, side, c).transpose(0, 1, 3, 2, 4, 5)
    return x.reshape(b, h // side, w // side, side * side * c)


def depth_to_space(x: jax.Array, side: int = 2) -> jax.Array:
    """Unfolds channels into cells of n x n pixels: the inverse of `space_to_depth`."""
    b, h, w, c = x.shape
    x = x.reshape(b, h, w, side, side, c // side**2).transpose(0, 1, 3, 2, 4, 5)
    return x.reshape(b, side * h, side * w, c // side**2)


@partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def convolve(x: jax.Array, kernel: jax.Array, padding: int, stride: int = 1) -> jax.Array:
    """Convolution of `[B, H, W, I]` with `[k, k, I, O]`, `padding` zeros on each side."""
    return _convolve(x, kernel, padding, stride)


def _convolve(x: jax.Array, kernel: jax.Array, padding: int, stride: int) -> jax.Array:
    return jax.lax.conv_general_dilated(
        x,
        kernel,
        (stride, stride),
        [(padding, padding)] * 2,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )


def _convolve_forward(
    x: jax.Array, kernel: jax.Array, padding: int, stride: int
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return _convolve(x, kernel, padding, stride), (x, kernel)


def _convolve_backward(
    padding: int, stride: int, residuals: tuple[jax.Array, jax.Array], dy: jax.Array
) -> tuple[jax.Array, jax.Array]:
    x, kernel = residuals
    # On a CPU the gradient of the kernel reads both transposed. Without the barriers XLA recomputes
    # the operations before them, such as batch norm, within that transposition.
    x, dy = jax.lax.optimization_barrier(x), jax.lax.optimization_barrier(dy)
    to_x = jax.linear_transpose(lambda x: _convolve(x, kernel, padding, stride), x)
    to_kernel = jax.linear_transpose(lambda kernel: _convolve(x, kernel, padding, stride), kernel)
    return *to_x(dy), *to_kernel(dy)


convolve.defvjp(_convolve_forward, _convolve_backward)


def convolve_7x7(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Convolution of `[B, 4h, 4w, I]` with `[7, 7, I, O]` and padding 3, folded.

    With cells of 4 x 4 pixels folded into channels it is a 3 x 3 convolution from 16I to 16O
    channels whose kernel is the plain one at sixteen offsets. That triples the arithmetic, but
    three input or output channels at full resolution leave a CPU's lanes and a tensor core empty
    (docs/performance.md).
    """
    _, _, i, o = kernel.shape
    # Output phase p reads rows p - 3 ... p + 3 of its cell; the cells -1, 0 and 1 begin at row -4.
    phases = [
        jnp.pad(kernel, ((p + 1, 4 - p), (q + 1, 4 - q), (0, 0), (0, 0)))
        for p in range(4)
        for q in range(4)
    ]
    folded = jnp.stack(phases, 3).reshape(3, 4, 3, 4, i, 16 * o).transpose(0, 2, 1, 3, 4, 5)
    cells = convolve(space_to_depth(x, 4), folded.reshape(3, 3, 16 * i, 16 * o), 1)
    return depth_to_space(cells, 4)


def _by_platform(
    cpu: Callable[[jax.Array, jax.Array], jax.Array],
    default: Callable[[jax.Array, jax.Array], jax.Array],
) -> Callable[[jax.Array, jax.Array], jax.Array]:
    """A bilinear function with two implementations, chosen for the device it is compiled for.

    Its gradient is chosen too. Left to autodiff, each form would keep what the other's gradient
    needs.
    """

    @jax.custom_vjp
    def run(x: jax.Array, kernel: jax.Array) -> jax.Array:
        y: jax.Array = jax.lax.platform_dependent(x, kernel, cpu=cpu, default=default)
        return y

    def forward(x: jax.Array, kernel: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
        return run(x, kernel), (x, kernel)

    def backward(inputs: tuple[jax.Array, jax.Array], dy: jax.Array) -> Any:
        def gradient_of(function: Any) -> Callable[..., Any]:
            return lambda x, kernel, dy: jax.vjp(function, x, kernel)[1](dy)

        return jax.lax.platform_dependent(
            *inputs, dy, cpu=gradient_of(cpu), default=gradient_of(default)
        )

    run.defvjp(forward, backward)
    return run


def folded_4x4_stride_2(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Convolution of `[B, 2h, 2w, I]` with `[4, 4, I, O]`, stride 2 and padding 1, folded.

    Output row `m` reads the padded rows `2m` to `2m + 3`, which are two cells of two rows: with the
    cells folded into channels it is a 2 x 2 convolution with stride 1 and the same arithmetic. Its
    gradient then has no zeros between the rows, which convolutions on a CPU would multiply by.
    """
    _, _, i, o = kernel.shape
    x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    folded = kernel.reshape(2, 2, 2, 2, i, o).transpose(0, 2, 1, 3, 4, 5)
    return convolve(space_to_depth(x), folded.reshape(2, 2, 4 * i, o), 0)


def strided_4x4(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """The same, as cuDNN does it: nothing is copied to be folded."""
    return convolve(x, kernel, 1, 2)


def folded_transposed(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Transposed 4 x 4 convolution with stride 2 and padding 1, to twice the size, folded.

    Output rows `2m - 1` and `2m` both read input rows `m - 1` and `m`: through kernel rows 2 and 0,
    and through 3 and 1 (columns alike). So a 2 x 2 convolution of the padded input gives all four
    phases, which are then interleaved; the outermost rows, of the padding, are dropped.

    Args:
      x: `[B, h, w, I]`.
      kernel: `[4, 4, I, O]`; entry `[r, c]` is the share of an input in the output at row offset
        `r - 1`.

    Returns:
      `[B, 2h, 2w, O]`.
    """
    _, _, i, o = kernel.shape
    # Kernel row 2 - 2 * tap + phase is what `phase` takes from input row `m - 1 + tap`.
    taps = kernel.reshape(2, 2, 2, 2, i, o)[::-1, :, ::-1].transpose(0, 2, 4, 1, 3, 5)
    x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    y = depth_to_space(convolve(x, taps.reshape(2, 2, i, 4 * o), 0))
    return y[:, 1:-1, 1:-1]


@jax.custom_vjp
def strided_transposed(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """The same as the gradient of a convolution with stride 2, which cuDNN has kernels for.

    So are its gradients, a convolution and the gradient of that one's kernel; what autodiff makes
    of it XLA does not recognise.
    """
    b, h, w, _ = x.shape
    y = jax.ShapeDtypeStruct((b, 2 * h, 2 * w, kernel.shape[3]), x.dtype)
    transpose = jax.linear_transpose(lambda y: _convolve(y, kernel.swapaxes(2, 3), 1, 2), y)
    return transpose(x)[0]


def _strided_transposed_forward(
    x: jax.Array, kernel: jax.Array
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return strided_transposed(x, kernel), (x, kernel)


def _strided_transposed_backward(
    residuals: tuple[jax.Array, jax.Array], dy: jax.Array
) -> tuple[jax.Array, jax.Array]:
    x, kernel = residuals
    kernel = kernel.swapaxes(2, 3)
    to_kernel = jax.linear_transpose(lambda kernel: _convolve(dy, kernel, 1, 2), kernel)
    return _convolve(dy, kernel, 1, 2), to_kernel(x)[0].swapaxes(2, 3)


strided_transposed.defvjp(_strided_transposed_forward, _strided_transposed_backward)

convolve_4x4_stride_2 = _by_platform(folded_4x4_stride_2, strided_4x4)
convolve_transposed = _by_platform(folded_transposed, strided_transposed)
