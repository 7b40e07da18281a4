"""The method's networks in plain PyTorch, to compare with: same names, same weights."""

from collections.abc import Mapping
from typing import Any

import flax.traverse_util
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

# Leaves with another name in PyTorch.
_NAMES = {"kernel": "weight", "scale": "weight", "mean": "running_mean", "var": "running_var"}


class Block(nn.Module):
    """Three BN-ReLU-conv3x3 of falling width, concatenated, plus the input."""

    def __init__(self, inputs: int, features: int) -> None:
        super().__init__()
        widths = (inputs, features // 2, features // 4, features // 4)
        for i in (1, 2, 3):
            setattr(self, f"norm{i}", nn.BatchNorm2d(widths[i - 1]))
            setattr(self, f"conv{i}", nn.Conv2d(widths[i - 1], widths[i], 3, 1, 1, bias=False))
        self.changes_width = inputs != features
        if self.changes_width:
            self.skip_norm = nn.BatchNorm2d(inputs)
            self.skip_conv = nn.Conv2d(inputs, features, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Maps `[B, inputs, h, w]` to `[B, features, h, w]`."""
        first = self.conv1(functional.relu(self.norm1(x)))
        second = self.conv2(functional.relu(self.norm2(first)))
        third = self.conv3(functional.relu(self.norm3(second)))
        if self.changes_width:
            x = self.skip_conv(functional.relu(self.skip_norm(x)))
        return x + torch.cat([first, second, third], 1)


class Hourglass(nn.Module):
    """Recursive hourglass of constant width."""

    def __init__(self, depth: int, width: int) -> None:
        super().__init__()
        self.skip = Block(width, width)
        self.down = Block(width, width)
        if depth > 1:
            self.inner = Hourglass(depth - 1, width)
        else:
            self.bottom = Block(width, width)
        self.up = Block(width, width)
        self.depth = depth

    def forward(self, x: Tensor) -> Tensor:
        """Maps `[B, C, h, w]` to the same shape."""
        y = self.down(functional.avg_pool2d(x, 2))
        y = self.inner(y) if self.depth > 1 else self.bottom(y)
        return self.skip(x) + functional.interpolate(self.up(y), scale_factor=2, mode="nearest")


class TorchDetector(nn.Module):
    """`landmarks_jax.models.hourglass.Detector` and the soft-argmax."""

    def __init__(self, num_landmarks: int, channels: int, depth: int, beta: float) -> None:
        super().__init__()
        self.beta = beta
        self.stem = nn.Conv2d(3, channels // 4, 7, 2, 3)
        self.stem_norm = nn.BatchNorm2d(channels // 4)
        self.block1 = Block(channels // 4, channels // 2)
        self.block2 = Block(channels // 2, channels // 2)
        self.block3 = Block(channels // 2, channels)
        self.hourglass = Hourglass(depth, channels)
        self.top = Block(channels, channels)
        self.last = nn.Conv2d(channels, channels, 1)
        self.last_norm = nn.BatchNorm2d(channels)
        self.head = nn.Conv2d(channels, num_landmarks, 1)

    def forward(self, views: Tensor) -> Tensor:
        """Maps views `[B, S, S, 3]` uint8 to landmarks `[B, K, 2]` in [-1, 1]."""
        # Permuted, the views are in PyTorch's channels-last layout already.
        x = views.permute(0, 3, 1, 2).float() / 255.0
        return self.landmarks(x.to(self.stem.weight.dtype))

    def landmarks(self, x: Tensor) -> Tensor:
        """Maps images `[B, 3, S, S]` in [0, 1] to landmarks in at least float32."""
        x = functional.relu(self.stem_norm(self.stem(x)))
        x = functional.avg_pool2d(self.block1(x), 2)
        x = self.top(self.hourglass(self.block3(self.block2(x))))
        scores = self.head(functional.relu(self.last_norm(self.last(x))))
        scores = scores.to(torch.promote_types(scores.dtype, torch.float32))
        weights = torch.softmax(self.beta * scores.flatten(2), -1).reshape(scores.shape)
        size = scores.shape[-1]
        centers = (2 * torch.arange(size).to(weights) + 1) / size - 1
        # Not a matrix product, which autocast would round to bfloat16.
        return torch.stack([(weights.sum(axis) * centers).sum(-1) for axis in (2, 3)], -1)


class Encoder(nn.Module):
    """Features of the appearance, at a quarter of the view's side."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, channels, 7, 1, 3, bias=False)
        self.norm1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, 2 * channels, 4, 2, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(2 * channels)
        self.conv3 = nn.Conv2d(2 * channels, 4 * channels, 4, 2, 1, bias=False)
        self.norm3 = nn.BatchNorm2d(4 * channels)

    def forward(self, x: Tensor) -> Tensor:
        """Maps `[B, 3, S, S]` to `[B, 4c, S / 4, S / 4]`."""
        x = functional.relu(self.norm1(self.conv1(x)))
        x = functional.relu(self.norm2(self.conv2(x)))
        return functional.relu(self.norm3(self.conv3(x)))


class Residual(nn.Module):
    """conv3x3 BN ReLU conv3x3 BN, plus the input."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        """Maps `[B, C, h, w]` to the same shape."""
        return x + self.norm2(self.conv2(functional.relu(self.norm1(self.conv1(x)))))


class TorchGenerator(nn.Module):
    """`landmarks_jax.models.generator.Generator`."""

    def __init__(self, channels: int, num_landmarks: int, num_blocks: int) -> None:
        super().__init__()
        self.encoder = Encoder(channels)
        width = 4 * channels + num_landmarks
        self.norm_in = nn.BatchNorm2d(width)
        self.num_blocks = num_blocks
        for i in range(1, num_blocks + 1):
            setattr(self, f"residual{i}", Residual(width))
        half, quarter = width // 2, width // 2 // 2
        self.up1 = nn.ConvTranspose2d(width, half, 4, 2, 1, bias=False)
        self.up_norm1 = nn.BatchNorm2d(half)
        self.up2 = nn.ConvTranspose2d(half, quarter, 4, 2, 1, bias=False)
        self.up_norm2 = nn.BatchNorm2d(quarter)
        self.conv_out = nn.Conv2d(quarter, 3, 7, 1, 3, bias=False)

    def forward(self, images: Tensor, maps: Tensor) -> Tensor:
        """Maps `[B, 3, S, S]` and maps `[B, K, S/4, S/4]` to images `[B, 3, S, S]`."""
        features = self.encoder(images)
        x = self.norm_in(torch.cat([features, maps.to(features.dtype)], 1))
        for i in range(1, self.num_blocks + 1):
            x = getattr(self, f"residual{i}")(x)
        x = functional.relu(self.up_norm1(self.up1(x)))
        x = functional.relu(self.up_norm2(self.up2(x)))
        return 0.5 * (torch.tanh(at_least_float32(self.conv_out(x))) + 1)


class TorchVgg(nn.Module):
    """`landmarks_jax.models.vgg.Vgg`, frozen, with its preprocessing."""

    def __init__(
        self,
        params: Mapping[str, np.ndarray],
        taps: tuple[str, ...],
        mean: np.ndarray,
        std: np.ndarray,
    ) -> None:
        super().__init__()
        self.taps = taps
        self.layers = [name[len("kernel") :] for name in params if name.startswith("kernel")]
        for layer in self.layers:
            kernel = np.array(params[f"kernel{layer}"]).transpose(3, 2, 0, 1)
            conv = nn.Conv2d(kernel.shape[1], kernel.shape[0], 3, 1, 1)
            conv.weight = nn.Parameter(torch.tensor(kernel))
            conv.bias = nn.Parameter(torch.tensor(np.array(params[f"bias{layer}"])))
            setattr(self, f"conv{layer}", conv)
        self.register_buffer("mean", torch.tensor(mean).reshape(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(std).reshape(1, 3, 1, 1))
        self.requires_grad_(False)

    def forward(self, images: Tensor) -> list[Tensor]:
        """Maps `[B, 3, S, S]` in [0, 1] to `[B, C, h, w]` for each tap."""
        x = (images - self.mean) / self.std
        features = []
        for layer in self.layers:
            if layer.endswith("_1") and layer != "1_1":
                x = functional.max_pool2d(x, 2)
            x = functional.relu(getattr(self, f"conv{layer}")(x))
            if f"relu{layer}" in self.taps:
                features.append(x)
        return features


def at_least_float32(x: Tensor) -> Tensor:
    """Float64 stays, anything else becomes float32."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def state_dict(variables: Mapping[str, Any]) -> dict[str, Tensor]:
    """Flax's `{"params", "batch_stats"}` with PyTorch's names and layout."""
    state = {}
    for collection in ("params", "batch_stats"):
        for path, leaf in flax.traverse_util.flatten_dict(dict(variables[collection])).items():
            array = np.array(leaf)
            if path[-1] == "kernel":
                # PyTorch's transposed convolutions have the inputs first.
                transposed = path[-2] in ("up1", "up2")
                array = array.transpose((2, 3, 0, 1) if transposed else (3, 2, 0, 1))
            state[".".join([*path[:-1], _NAMES.get(path[-1], path[-1])])] = torch.tensor(array)
    return state
