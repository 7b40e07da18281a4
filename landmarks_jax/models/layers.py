"""Convolutions and batch norm with PyTorch's padding and initialisation, shared by the networks."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from landmarks_jax.models.convolutions import (
    convolve,
    convolve_4x4_stride_2,
    convolve_7x7,
    convolve_transposed,
    pad_end,
    round_up,
)

Dtype = Any
Module = Callable[..., Any]


def at_least_float32(dtype: Dtype) -> Dtype:
    """Float64 for float64, otherwise float32: for parameters, statistics and losses."""
    return jnp.promote_types(dtype, jnp.float32)


def uniform_fan_in(fan_in: int) -> Callable[..., jax.Array]:
    """Initialiser uniform in +-1/sqrt(fan_in), PyTorch's default for kernels and biases."""
    bound = float(1.0 / np.sqrt(fan_in))

    def init(key: jax.Array, shape: tuple[int, ...], dtype: Dtype = jnp.float32) -> jax.Array:
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return init


def channel_sums(*arrays: jax.Array) -> tuple[jax.Array, ...]:
    """Sums of `[G, B, H, W, C]` over everything but groups and channels, each `[G, 1, 1, 1, C]`."""
    return jax.lax.platform_dependent(*arrays, cpu=sums_in_two_steps, default=sums_in_one_pass)


def sums_in_one_pass(*arrays: jax.Array) -> tuple[jax.Array, ...]:
    """One reduction of all arrays, so that a GPU sums them in one kernel (two for large ones)."""

    def add(a: Sequence[jax.Array], b: Sequence[jax.Array]) -> tuple[jax.Array, ...]:
        return tuple(x + y for x, y in zip(a, b, strict=True))

    zeros = tuple(np.zeros((), x.dtype) for x in arrays)
    sums = jax.lax.reduce(arrays, zeros, add, (1, 2, 3))
    return tuple(s[:, None, None, None] for s in sums)


def sums_in_two_steps(*arrays: jax.Array) -> tuple[jax.Array, ...]:
    """The second step is a matrix product.

    XLA's CPU code for one sum over all rows reads one channel at a time, 20 times slower.
    """
    return tuple(map(_sum_in_two_steps, arrays))


def _sum_in_two_steps(x: jax.Array) -> jax.Array:
    groups, channels = x.shape[0], x.shape[-1]
    rows = x.sum(3).reshape(-1, channels)
    members = jnp.repeat(jnp.eye(groups, dtype=x.dtype), len(rows) // groups, axis=1)
    sums = jnp.matmul(members, rows, precision=jax.lax.Precision.HIGHEST)
    return sums.reshape(groups, 1, 1, 1, channels)


@jax.custom_vjp
def add_bias(x: jax.Array, bias: jax.Array) -> jax.Array:
    """Adds `[C]` to `[B, H, W, C]`; its gradient uses `channel_sums`."""
    return x + bias


def _add_bias_forward(x: jax.Array, bias: jax.Array) -> tuple[jax.Array, None]:
    return x + bias, None


def _add_bias_backward(_: None, dy: jax.Array) -> tuple[jax.Array, jax.Array]:
    return dy, channel_sums(dy[None])[0].reshape(-1)


add_bias.defvjp(_add_bias_forward, _add_bias_backward)


class Normalized(NamedTuple):
    """Result of `normalize`.

    Attributes:
      y: `[G, B, H, W, C]`.
      mean: `[G, 1, 1, 1, C]`; no gradient flows through it.
      var: `[G, 1, 1, 1, C]`, biased; no gradient flows through it.
    """

    y: jax.Array
    mean: jax.Array
    var: jax.Array


@partial(jax.custom_vjp, nondiff_argnums=(3,))
def normalize(x: jax.Array, scale: jax.Array, bias: jax.Array, epsilon: float) -> Normalized:
    """Normalises each group of a batch by its own statistics (Ioffe and Szegedy, 2015).

    The gradient is written out, to store only `x` and take two sums in one pass; autodiff stores
    the differences in float32 and takes five.

    Args:
      x: `[G, B, H, W, C]`, of any floating type; the arithmetic is in that of `scale`.
      scale: `[C]`.
      bias: `[C]`.
      epsilon: added to the variance.
    """
    return _normalize_forward(x, scale, bias, epsilon)[0]


def _normalize_forward(
    x: jax.Array, scale: jax.Array, bias: jax.Array, epsilon: float
) -> tuple[Normalized, tuple[jax.Array, ...]]:
    count = x[0, ..., 0].size
    # Both sums in one pass. E[x^2] - E[x]^2 would cancel in float32; differences from one of the
    # values are about as large as the deviation (at most sqrt(n - 1) times: Samuelson, 1968).
    # One in the middle of the map: padding makes those of its border unlike the others.
    h, w = x.shape[2] // 2, x.shape[3] // 2
    shift = x[:, :1, h : h + 1, w : w + 1].astype(scale.dtype)
    shifted = x.astype(scale.dtype) - shift
    sums = channel_sums(shifted, shifted**2)
    mean_shifted = sums[0] / count
    var = sums[1] / count - mean_shifted**2
    mean, var = shift + mean_shifted, jnp.maximum(var, 0.0)
    inverse_std = jax.lax.rsqrt(var + epsilon)
    y = (x.astype(scale.dtype) - mean) * (scale * inverse_std) + bias
    return Normalized(y.astype(x.dtype), mean, var), (x, mean, inverse_std, scale)


def _normalize_backward(
    _: float, residuals: tuple[jax.Array, ...], gradients: Normalized
) -> tuple[jax.Array, jax.Array, jax.Array]:
    x, mean, inverse_std, scale = residuals
    dy = gradients.y.astype(scale.dtype)
    centered = x.astype(scale.dtype) - mean
    count = x[0, ..., 0].size
    d_bias, d_scale = channel_sums(dy, dy * centered)
    d_scale = d_scale * inverse_std
    factor = scale * inverse_std
    dx = dy * factor - centered * (factor * inverse_std * d_scale / count) - factor * d_bias / count
    return dx.astype(x.dtype), d_scale.sum((0, 1, 2, 3)), d_bias.sum((0, 1, 2, 3))


normalize.defvjp(_normalize_forward, _normalize_backward)


class Conv(nn.Module):
    """Square convolution with PyTorch's padding and initialisation.

    Attributes:
      features: output channels.
      size: side of the kernel.
      stride: 1 or 2.
      padding: zeros on each side.
      use_bias: adds a bias.
      inputs: channels of the input before its padding with zeros; None without padding.
      channel_multiple: the output's channels are padded with zeros to a multiple of it.
      dtype: of the arithmetic; the parameters are at least float32.
    """

    features: int
    size: int = 3
    stride: int = 1
    padding: int = 1
    use_bias: bool = False
    inputs: int | None = None
    channel_multiple: int = 1
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps `[B, H, W, I]` to `[B, H / stride, W / stride, features]`, with padded channels.

        7 x 7 with stride 1 needs sides that are multiples of 4, 4 x 4 with stride 2 even ones.
        """
        inputs = self.inputs or x.shape[-1]
        init = uniform_fan_in(inputs * self.size**2)
        param_dtype = at_least_float32(self.dtype)
        shape = (self.size, self.size, inputs, self.features)
        kernel = self.param("kernel", init, shape, param_dtype).astype(self.dtype)
        kernel = pad_end(
            pad_end(kernel, 2, x.shape[-1]), 3, round_up(self.features, self.channel_multiple)
        )
        x = x.astype(self.dtype)
        form = (self.size, self.stride, self.padding)
        if form == (7, 1, 3):
            y = convolve_7x7(x, kernel)
        elif form == (4, 2, 1):
            y = convolve_4x4_stride_2(x, kernel)
        else:
            y = convolve(x, kernel, self.padding, self.stride)
        if self.use_bias:
            bias = self.param("bias", init, (self.features,), param_dtype)
            y = add_bias(y, pad_end(bias.astype(self.dtype), 0, y.shape[-1]))
        return y


class ConvTranspose(nn.Module):
    """Transposed 4 x 4 convolution, stride 2, padding 1, no bias: twice the size.

    Attributes:
      features: output channels.
      inputs: see `Conv`.
      channel_multiple: see `Conv`.
      dtype: of the arithmetic; the parameters are at least float32.
    """

    features: int
    inputs: int | None = None
    channel_multiple: int = 1
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps `[B, h, w, I]` to `[B, 2h, 2w, features]`, with padded channels."""
        # PyTorch computes the fan-in of a transposed kernel from its outputs.
        init = uniform_fan_in(self.features * 16)
        shape = (4, 4, self.inputs or x.shape[-1], self.features)
        kernel = self.param("kernel", init, shape, at_least_float32(self.dtype)).astype(self.dtype)
        kernel = pad_end(
            pad_end(kernel, 2, x.shape[-1]), 3, round_up(self.features, self.channel_multiple)
        )
        return convolve_transposed(x.astype(self.dtype), kernel)


class BatchNorm(nn.Module):
    """Batch norm over groups of the batch, each with its own statistics.

    As in PyTorch, running variances average the unbiased variances of batches (over n - 1), while
    batches are normalised by the biased ones (over n).

    Attributes:
      use_running_average: normalise by the running statistics instead of the batch's.
      updates: the order in which the groups of the batch update the running statistics; the batch
        is split into `max(updates) + 1` equal groups. `(0,)` is plain batch norm; `(0, 0, 1)` has
        two groups, of which the first updates twice.
      momentum: share of the running statistics that an update keeps.
      epsilon: added to the variance.
      inputs: see `Conv`.
      dtype: of the output; statistics and parameters are at least float32.
    """

    use_running_average: bool
    updates: tuple[int, ...] = (0,)
    momentum: float = 0.9
    epsilon: float = 1e-5
    inputs: int | None = None
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Normalises `[G * B, H, W, C]` over all axes but the last, group by group."""
        channels = self.inputs or x.shape[-1]
        dtype = at_least_float32(self.dtype)
        scale = self.param("scale", nn.initializers.ones, (channels,), dtype)
        bias = self.param("bias", nn.initializers.zeros, (channels,), dtype)
        # With scale and bias 0, padded channels stay 0.
        scale, bias = pad_end(scale, 0, x.shape[-1]), pad_end(bias, 0, x.shape[-1])
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, (channels,), dtype)
        running_var = self.variable("batch_stats", "var", jnp.ones, (channels,), dtype)
        if self.use_running_average:
            stats = (running_mean.value, running_var.value)
            mean, var = (pad_end(stat, 0, x.shape[-1]) for stat in stats)
            factor = scale * jax.lax.rsqrt(var + self.epsilon)
            y = x.astype(dtype) * factor + (bias - mean * factor)
            return y.astype(self.dtype)

        groups = max(self.updates) + 1
        grouped = x.astype(self.dtype).reshape(groups, -1, *x.shape[1:])
        y, mean, var = normalize(grouped, scale, bias, self.epsilon)
        if not self.is_initializing():
            count = grouped[0, ..., 0].size
            unbiased = count / max(count - 1, 1)  # as PyTorch does
            for group in self.updates:
                running_mean.value = self._blend(running_mean.value, mean[group])
                running_var.value = self._blend(running_var.value, unbiased * var[group])
        return y.reshape(x.shape)

    def _blend(self, running: jax.Array, new: jax.Array) -> jax.Array:
        return self.momentum * running + (1.0 - self.momentum) * new.reshape(-1)[: len(running)]
