"""The training step in plain PyTorch: networks, loss of Eq. 7, Adam.

Two variants of one step. `AsReleased` does the work as the authors' code does: three passes of the
detector, four of the generator, VGG once for each image it compares. `Fused` shares it as our step
does: one detector pass over both views, two generator passes over both directions, VGG once over
reconstructions and once over targets. They differ in what a batch norm sees: one call's images, or
both views' and directions' (`config.objective.bn_groups`: released, joint).
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from ml_collections import ConfigDict
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.torch_networks import (
    TorchDetector,
    TorchGenerator,
    TorchVgg,
    at_least_float32,
    state_dict,
)

# Views x and x' `[B, 3, S, S]` in [0, 1], and rows of the auxiliary photos `[B]`.
Batch = tuple[Tensor, Tensor, Tensor]


def gaussian_maps(landmarks: Tensor, size: int, sigma: float) -> Tensor:
    """Eq. 2: landmarks `[B, K, 2]` to maps `[B, K, size, size]` with peak 1."""
    pixels = torch.arange(size).to(landmarks)
    offsets = pixels - (((landmarks + 1) * size - 1) / 2)[..., None]  # [B, K, 2, size]
    horizontal, vertical = torch.exp(-(offsets**2) / (2 * sigma**2)).unbind(2)
    return vertical[:, :, :, None] * horizontal[:, :, None, :]


def squared_error(images: Tensor, targets: Tensor) -> Tensor:
    """The mean squared error, in at least float32."""
    return functional.mse_loss(at_least_float32(images), at_least_float32(targets))


class Step(nn.Module):
    """The networks of a configuration, and a training step of them."""

    layout = torch.contiguous_format
    fused_adam: bool | None = None  # PyTorch's own choice

    def __init__(
        self,
        config: ConfigDict,
        variables: Mapping[str, Any],
        vgg: tuple[Mapping[str, np.ndarray], np.ndarray, np.ndarray],
        device: str,
        *,
        compiled: bool = False,
    ) -> None:
        """Copies our weights.

        Args:
          config: the configuration, of the composition `all`.
          variables: `{"params", "batch_stats"}`, each `{"detector", "generator"}`.
          vgg: parameters, mean and deviation, as in `tasks.task.Frozen`.
          device: PyTorch's name of it.
          compiled: whether the loss goes through `torch.compile`.
        """
        super().__init__()
        model = config.model
        self.config = config
        self.detector = TorchDetector(
            model.num_landmarks, model.detector_channels, model.hourglass_depth, model.beta
        )
        self.generator = TorchGenerator(
            model.generator_channels, model.num_landmarks, model.residual_blocks
        )
        self.vgg = TorchVgg(vgg[0], tuple(config.perceptual.taps), vgg[1], vgg[2])
        dtype = torch.float64 if config.compute_dtype == "float64" else torch.float32
        for name, network in (("detector", self.detector), ("generator", self.generator)):
            ours = {collection: variables[collection][name] for collection in variables}
            network.to(dtype).load_state_dict(state_dict(ours), strict=False)
        self.vgg.to(dtype)
        self.device = torch.device(device)
        self.to(self.device, memory_format=self.layout)
        self.run_loss: Callable[..., Tensor] = torch.compile(self.loss) if compiled else self.loss
        o = config.optimizer
        self.optimizers = [
            torch.optim.Adam(
                network.parameters(),
                lr=o.learning_rate,
                betas=(o.beta1, o.beta2),
                weight_decay=o.weight_decay,  # added to the gradient
                fused=self.fused_adam,
            )
            for network in (self.detector, self.generator)
        ]

    def put(self, first: np.ndarray, second: np.ndarray, auxiliary: np.ndarray) -> Batch:
        """Sends views `[B, S, S, 3]` and auxiliary rows to the device."""

        def images(views: np.ndarray) -> Tensor:
            tensor = torch.tensor(np.array(views)).permute(0, 3, 1, 2)
            return tensor.to(self.vgg.mean).contiguous(memory_format=self.layout)

        rows = torch.tensor(np.array(auxiliary), dtype=torch.int64)
        return images(first), images(second), rows.to(self.device)

    def maps(self, landmarks: Tensor, side: int) -> Tensor:
        """Gaussian maps at a quarter of the view's side."""
        return gaussian_maps(landmarks, side // 4, self.config.model.sigma)

    def loss(self, first: Tensor, second: Tensor, auxiliary: Tensor) -> Tensor:
        """Eq. 7 of a batch."""
        raise NotImplementedError

    def forward(self, batch: Batch) -> Tensor:
        """One step; returns the loss before it, still on the device."""
        for optimizer in self.optimizers:
            optimizer.zero_grad()
        bfloat16 = self.config.compute_dtype == "bfloat16"
        with torch.autocast(self.device.type, torch.bfloat16, enabled=bfloat16):
            loss = self.run_loss(*batch)
        loss.backward()
        if self.config.optimizer.clip_norm:
            for network in (self.detector, self.generator):
                nn.utils.clip_grad_norm_(network.parameters(), self.config.optimizer.clip_norm)
        for optimizer in self.optimizers:
            optimizer.step()
        return loss.detach()


class AsReleased(Step):
    """Pass by pass, as the released code does it."""

    def loss(self, first: Tensor, second: Tensor, auxiliary: Tensor) -> Tensor:
        """Eq. 7, one direction after the other."""
        side = first.shape[-1]
        other = self.detector.landmarks(first[auxiliary])
        landmarks = self.detector.landmarks(first)
        landmarks_second = self.detector.landmarks(second)
        other_maps = self.maps(other, side)
        intermediate = self.generator(first, other_maps)
        intermediate_second = self.generator(second, other_maps)
        final_second = self.generator(intermediate, self.maps(landmarks_second, side))
        final = self.generator(intermediate_second, self.maps(landmarks, side))
        return self.distance(final_second, second) + self.distance(final, first)

    def distance(self, final: Tensor, target: Tensor) -> Tensor:
        """Eq. 5 and 6 of one direction."""
        loss = self.config.objective.pixel_weight * squared_error(final, target)
        for redrawn, original in zip(self.vgg(final), self.vgg(target), strict=True):
            loss = loss + self.config.perceptual.weight * squared_error(redrawn, original)
        return loss


class Fused(Step):
    """Shared as in our step, with PyTorch's channels-last layout and one-kernel Adam."""

    layout = torch.channels_last
    fused_adam = True

    def loss(self, first: Tensor, second: Tensor, auxiliary: Tensor) -> Tensor:
        """Eq. 7, both views and both directions at once."""
        views = torch.cat([first, second])
        maps = self.maps(self.detector.landmarks(views), first.shape[-1])
        maps_first, maps_second = maps.chunk(2)
        other = maps_first[auxiliary]
        intermediate = self.generator(views, torch.cat([other, other]))
        final = self.generator(intermediate, torch.cat([maps_second, maps_first]))
        targets = torch.cat([second, first])
        with torch.no_grad():
            features = self.vgg(targets)
        loss = self.config.objective.pixel_weight * squared_error(final, targets)
        for redrawn, original in zip(self.vgg(final), features, strict=True):
            loss = loss + self.config.perceptual.weight * squared_error(redrawn, original)
        return 2 * loss
