"""Convolutions and batch norm with PyTorch's padding and initialisation, shared by the networks.

The 7 x 7 and the transposed convolutions are written so that XLA's CPU convolutions, and their
gradients, stay on a fast path; they compute exactly the plain maps.
"""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

Dtype = Any
Module = Callable[..., Any]


def at_least_float32(dtype: Dtype) -> Dtype:
    """Float32, or float64 where `dtype` is: for parameters, statistics and losses."""
    return jnp.promote_types(dtype, jnp.float32)


def uniform_fan_in(fan_in: int) -> Callable[..., jax.Array]:
    """Initialiser uniform in +-1/sqrt(fan_in), PyTorch's default for kernels and biases."""
    bound = float(1.0 / np.sqrt(fan_in))

    def init(key: jax.Array, shape: tuple[int, ...], dtype: Dtype = jnp.float32) -> jax.Array:
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return init


def space_to_depth(x: jax.Array) -> jax.Array:
    """Folds 2 x 2 cells into channels: `[B, 2h, 2w, C]` to `[B, h, w, 4C]` (row, column, C)."""
    b, h, w, c = x.shape
    x = x.reshape(b, h // 2, 2, w // 2, 2, c).transpose(0, 1, 3, 2, 4, 5)
    return x.reshape(b, h // 2, w // 2, 4 * c)


def depth_to_space(x: jax.Array) -> jax.Array:
    """Unfolds channels into 2 x 2 cells: the inverse of `space_to_depth`."""
    b, h, w, c = x.shape
    x = x.reshape(b, h, w, 2, 2, c // 4).transpose(0, 1, 3, 2, 4, 5)
    return x.reshape(b, 2 * h, 2 * w, c // 4)


def convolve(x: jax.Array, kernel: jax.Array, padding: int, stride: int = 1) -> jax.Array:
    """Convolution of `[B, H, W, I]` with `[k, k, I, O]`, `padding` zeros on each side."""
    return jax.lax.conv_general_dilated(
        x,
        kernel,
        (stride, stride),
        [(padding, padding)] * 2,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )


def convolve_7x7(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Convolution of `[B, 2h, 2w, I]` with `[7, 7, I, O]` and padding 3, folded.

    With 2 x 2 cells folded into channels it is a 5 x 5 convolution from 4I to 4O channels whose
    kernel is the plain one at four offsets. That doubles the arithmetic, but three input or output
    channels at full resolution leave a CPU's (and a tensor core's) lanes empty: it runs thrice as
    fast forward and back.
    """
    _, _, i, o = kernel.shape
    # Output phase p reads rows p - 3 ... p + 3 of its cell; the cells -2 ... 2 begin at row -4.
    phases = [
        jnp.pad(kernel, ((p + 1, 2 - p), (q + 1, 2 - q), (0, 0), (0, 0)))
        for p in range(2)
        for q in range(2)
    ]
    folded = jnp.stack(phases, 3).reshape(5, 2, 5, 2, i, 4 * o).transpose(0, 2, 1, 3, 4, 5)
    return depth_to_space(convolve(space_to_depth(x), folded.reshape(5, 5, 4 * i, 4 * o), 2))


def convolve_transposed(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Transposed 4 x 4 convolution with stride 2 and padding 1, to twice the size.

    Output row `2m` reads input rows `m - 1` and `m` through kernel rows 3 and 1, output row
    `2m + 1` reads `m` and `m + 1` through 2 and 0 (columns alike). So the four output phases are
    2 x 2 convolutions of the padded input: one matrix product of its 2 x 2 patches, interleaved.

    Args:
      x: `[B, h, w, I]`.
      kernel: `[4, 4, I, O]`; entry `[r, c]` is what one input adds at row offset `r - 1`.

    Returns:
      `[B, 2h, 2w, O]`.
    """
    b, h, w, i = x.shape
    o = kernel.shape[3]
    # Read backwards, kernel row 2 * tap + phase is what `phase` takes from input row `tap`.
    taps = kernel[::-1, ::-1].reshape(2, 2, 2, 2, i, o).transpose(0, 2, 4, 1, 3, 5)
    x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    corners = [x[:, r : r + h + 1, c : c + w + 1] for r in range(2) for c in range(2)]
    y = jnp.concatenate(corners, -1) @ taps.reshape(4 * i, 4 * o)
    y = y.reshape(b, h + 1, w + 1, 2, 2, o)
    rows = []
    for r in range(2):
        columns = [y[:, r : r + h, c : c + w, r, c] for c in range(2)]
        rows.append(jnp.stack(columns, 3))
    return jnp.stack(rows, 2).reshape(b, 2 * h, 2 * w, o)


class Conv(nn.Module):
    """Square convolution with PyTorch's padding and initialisation.

    Attributes:
      features: output channels.
      size: side of the kernel.
      stride: 1 or 2.
      padding: zeros on each side.
      use_bias: adds a bias.
      dtype: of the arithmetic; the parameters are at least float32.
    """

    features: int
    size: int = 3
    stride: int = 1
    padding: int = 1
    use_bias: bool = False
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps `[B, H, W, I]` to `[B, H / stride, W / stride, features]`."""
        inputs = x.shape[-1]
        init = uniform_fan_in(inputs * self.size**2)
        param_dtype = at_least_float32(self.dtype)
        shape = (self.size, self.size, inputs, self.features)
        kernel = self.param("kernel", init, shape, param_dtype)
        x, kernel = x.astype(self.dtype), kernel.astype(self.dtype)
        if (self.size, self.stride, self.padding) == (7, 1, 3):
            y = convolve_7x7(x, kernel)
        else:
            y = convolve(x, kernel, self.padding, self.stride)
        if self.use_bias:
            y = y + self.param("bias", init, (self.features,), param_dtype).astype(self.dtype)
        return y


class ConvTranspose(nn.Module):
    """Transposed 4 x 4 convolution, stride 2, padding 1, no bias: twice the size.

    Attributes:
      features: output channels.
      dtype: of the arithmetic; the parameters are at least float32.
    """

    features: int
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps `[B, h, w, I]` to `[B, 2h, 2w, features]`."""
        # PyTorch takes the fan of a transposed kernel over its outputs.
        init = uniform_fan_in(self.features * 16)
        shape = (4, 4, x.shape[-1], self.features)
        kernel = self.param("kernel", init, shape, at_least_float32(self.dtype))
        return convolve_transposed(x.astype(self.dtype), kernel.astype(self.dtype))


class BatchNorm(nn.Module):
    """Batch norm whose batch may hold several calls, each with statistics of its own.

    Attributes:
      use_running_average: normalise by the running statistics instead of the batch's.
      updates: the order in which the groups of the batch update the running statistics; the batch
        is cut into `max(updates) + 1` equal groups. `(0,)` is plain batch norm; `(0, 0, 1)` is two
        calls' statistics, of which the first counts twice.
      momentum: share of the running statistics that an update keeps.
      epsilon: added to the variance.
      dtype: of the output; statistics and parameters are at least float32.
    """

    use_running_average: bool
    updates: tuple[int, ...] = (0,)
    momentum: float = 0.9
    epsilon: float = 1e-5
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Normalises `[G * B, H, W, C]` over all axes but the last, group by group."""
        channels = x.shape[-1]
        dtype = at_least_float32(self.dtype)
        scale = self.param("scale", nn.initializers.ones, (channels,), dtype)
        bias = self.param("bias", nn.initializers.zeros, (channels,), dtype)
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, (channels,), dtype)
        running_var = self.variable("batch_stats", "var", jnp.ones, (channels,), dtype)
        x = x.astype(dtype)
        if self.use_running_average:
            factor = scale * jax.lax.rsqrt(running_var.value + self.epsilon)
            return (x * factor + (bias - running_mean.value * factor)).astype(self.dtype)

        groups = max(self.updates) + 1
        grouped = x.reshape(groups, -1, *x.shape[1:])
        mean = grouped.mean((1, 2, 3), keepdims=True)
        # The difference first, then the square: E[x^2] - E[x]^2 cancels in float32.
        centered = grouped - mean
        var = (centered**2).mean((1, 2, 3), keepdims=True)
        if not self.is_initializing():
            for group in self.updates:
                running_mean.value = self._blend(running_mean.value, mean[group])
                running_var.value = self._blend(running_var.value, var[group])
        y = centered * (scale * jax.lax.rsqrt(var + self.epsilon)) + bias
        return y.reshape(x.shape).astype(self.dtype)

    def _blend(self, running: jax.Array, new: jax.Array) -> jax.Array:
        return self.momentum * running + (1.0 - self.momentum) * new.reshape(-1)
