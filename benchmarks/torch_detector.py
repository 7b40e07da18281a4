"""The detector once more in plain PyTorch, written for comparison: same names, same weights."""

from collections.abc import Mapping
from typing import Any

import flax.traverse_util
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

# The leaves that are named otherwise there.
_NAMES = {"kernel": "weight", "scale": "weight", "mean": "running_mean", "var": "running_var"}


class Block(nn.Module):
    """Three BN-ReLU-conv3x3 of falling width, concatenated, plus the input."""

    def __init__(self, inputs: int, features: int) -> None:
        """Maps `inputs` channels to `features`."""
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
        """Maps `[B, I, h, w]` to `[B, features, h, w]`."""
        first = self.conv1(functional.relu(self.norm1(x)))
        second = self.conv2(functional.relu(self.norm2(first)))
        third = self.conv3(functional.relu(self.norm3(second)))
        if self.changes_width:
            x = self.skip_conv(functional.relu(self.skip_norm(x)))
        return x + torch.cat([first, second, third], 1)


class Hourglass(nn.Module):
    """Recursive hourglass of constant width."""

    def __init__(self, depth: int, width: int) -> None:
        """Makes `depth` levels of `width` channels."""
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
    """Views `[B, S, S, 3]` uint8 in, landmarks `[B, K, 2]` out, normalised to the view."""

    def __init__(self, num_landmarks: int, channels: int, depth: int, beta: float) -> None:
        """Makes the networks of `landmarks_jax.models.hourglass.Detector` and the soft-argmax."""
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
        """Finds the landmarks."""
        # Seen as [B, 3, S, S], the views lie in PyTorch's channels-last layout already.
        x = views.permute(0, 3, 1, 2).float() / 255.0
        return self.landmarks(x.to(self.stem.weight.dtype))

    def landmarks(self, x: Tensor) -> Tensor:
        """Finds the landmarks of `[B, 3, S, S]` in [0, 1]; at least float32."""
        x = functional.relu(self.stem_norm(self.stem(x)))
        x = functional.avg_pool2d(self.block1(x), 2)
        x = self.top(self.hourglass(self.block3(self.block2(x))))
        scores = self.head(functional.relu(self.last_norm(self.last(x))))
        scores = scores.to(torch.promote_types(scores.dtype, torch.float32))
        weights = torch.softmax(self.beta * scores.flatten(2), -1).reshape(scores.shape)
        size = scores.shape[-1]
        centers = (2 * torch.arange(size).to(weights) + 1) / size - 1
        # No product of matrices: autocast would round it to bfloat16.
        return torch.stack([(weights.sum(axis) * centers).sum(-1) for axis in (2, 3)], -1)


def state_dict(variables: Mapping[str, Any]) -> dict[str, Tensor]:
    """Flax's `{"params", "batch_stats"}` under PyTorch's names and in its layout."""
    state = {}
    for collection in ("params", "batch_stats"):
        for path, leaf in flax.traverse_util.flatten_dict(dict(variables[collection])).items():
            array = np.array(leaf)
            if path[-1] == "kernel":
                # Of transposed convolutions PyTorch puts the inputs first.
                transposed = path[-2] in ("up1", "up2")
                array = array.transpose((2, 3, 0, 1) if transposed else (3, 2, 0, 1))
            state[".".join([*path[:-1], _NAMES.get(path[-1], path[-1])])] = torch.tensor(array)
    return state
