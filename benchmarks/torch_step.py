"""The training step once more in plain PyTorch: generator, VGG, loss of Eq. 7, Adam.

Two ways of the same step. `AsReleased` does the work as the authors' code does: three passes of the
detector, four of the generator, VGG once for each image it compares. `Fused` shares it out as our
step does: one detector pass over both views, two generator passes over both directions, VGG once
over reconstructions and once over targets. In the first each batch norm's statistics are of one
call; in the second of both views or directions (`config.objective.bn_groups`: released, joint).
"""

import contextlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from ml_collections import ConfigDict
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.torch_detector import TorchDetector, state_dict

# Views x and x' `[B, 3, S, S]` in [0, 1], and the rows of the auxiliary photos `[B]`.
Batch = tuple[Tensor, Tensor, Tensor]


class Encoder(nn.Module):
    """Features of the look, at a quarter of the view's side."""

    def __init__(self, channels: int) -> None:
        """Ends at four times `channels`."""
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
        """Keeps `width` channels."""
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        """Maps `[B, C, h, w]` to the same shape."""
        return x + self.norm2(self.conv2(functional.relu(self.norm1(self.conv1(x)))))


class TorchGenerator(nn.Module):
    """Redraws images with their landmarks elsewhere."""

    def __init__(self, channels: int, num_landmarks: int, num_blocks: int) -> None:
        """Makes the networks of `landmarks_jax.models.generator.Generator`."""
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
    """VGG's convolutions up to the last tap; frozen."""

    def __init__(
        self,
        params: Mapping[str, np.ndarray],
        taps: tuple[str, ...],
        mean: np.ndarray,
        std: np.ndarray,
    ) -> None:
        """Takes the parameters of `landmarks_jax.models.vgg.Vgg`, and its preprocessing."""
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
    """Float32, or float64 where it is."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def gaussian_maps(landmarks: Tensor, size: int, sigma: float) -> Tensor:
    """Eq. 2: `[B, K, 2]` normalised to `[B, K, size, size]`, peak 1."""
    places = torch.arange(size).to(landmarks)
    gaps = places - (((landmarks + 1) * size - 1) / 2)[..., None]  # [B, K, 2, size]
    across, down = torch.exp(-(gaps**2) / (2 * sigma**2)).unbind(2)
    return down[:, :, :, None] * across[:, :, None, :]


def squared_error(given: Tensor, wanted: Tensor) -> Tensor:
    """The mean squared error, in at least float32."""
    return functional.mse_loss(at_least_float32(given), at_least_float32(wanted))


class Step(nn.Module):
    """The networks of a configuration, and one step of training them."""

    def __init__(
        self,
        config: ConfigDict,
        variables: Mapping[str, Any],
        vgg: tuple[Mapping[str, np.ndarray], np.ndarray, np.ndarray],
        device: str,
        *,
        channels_last: bool = False,
        compiled: bool = False,
    ) -> None:
        """Takes our weights.

        Args:
          config: the configuration; both ways are of the composition `all`.
          variables: `{"params", "batch_stats"}`, each `{"detector", "generator"}`.
          vgg: parameters, mean and deviation, as in `training.step.Frozen`.
          device: PyTorch's name of it.
          channels_last: PyTorch's memory format of images, features and kernels.
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
        self.layout = torch.channels_last if channels_last else torch.contiguous_format
        self.device = torch.device(device)
        self.to(self.device, memory_format=self.layout)
        self.run_loss: Callable[..., Tensor] = torch.compile(self.loss) if compiled else self.loss
        self.optimizers = [self.adam(part) for part in (self.detector, self.generator)]

    def adam(self, network: nn.Module) -> torch.optim.Optimizer:
        """The optimiser of a network, as PyTorch makes it when not told how."""
        return torch.optim.Adam(network.parameters(), **self.adam_options())

    def adam_options(self) -> dict[str, Any]:
        """Adam's numbers; the L2 is added to the gradient."""
        o = self.config.optimizer
        betas = (o.beta1, o.beta2)
        return {"lr": o.learning_rate, "betas": betas, "weight_decay": o.weight_decay}

    def put(self, first: np.ndarray, second: np.ndarray, auxiliary: np.ndarray) -> Batch:
        """Sends views `[B, S, S, 3]` and rows to the device, as PyTorch lays them out."""

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

    def arithmetic(self) -> contextlib.AbstractContextManager[Any]:
        """Bfloat16 is by autocast, over parameters in float32."""
        if self.config.compute_dtype != "bfloat16":
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, torch.bfloat16)

    def forward(self, batch: Batch) -> Tensor:
        """One step; returns the loss before it, still on the device."""
        for optimizer in self.optimizers:
            optimizer.zero_grad()
        with self.arithmetic():
            loss = self.run_loss(*batch)
        loss.backward()
        self.update()
        return loss.detach()

    def update(self) -> None:
        """Clips each network's gradient by its own norm if asked to, and lets Adam step."""
        if self.config.optimizer.clip_norm:
            for network in (self.detector, self.generator):
                nn.utils.clip_grad_norm_(network.parameters(), self.config.optimizer.clip_norm)
        for optimizer in self.optimizers:
            optimizer.step()


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
        for given, wanted in zip(self.vgg(final), self.vgg(target), strict=True):
            loss = loss + self.config.perceptual.weight * squared_error(given, wanted)
        return loss


class Fused(Step):
    """Shared out as our step does it, with PyTorch's one-kernel Adam."""

    def adam(self, network: nn.Module) -> torch.optim.Optimizer:
        """The optimiser of a network, in one kernel."""
        return torch.optim.Adam(network.parameters(), **self.adam_options(), fused=True)

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
            wanted = self.vgg(targets)
        loss = self.config.objective.pixel_weight * squared_error(final, targets)
        for given, want in zip(self.vgg(final), wanted, strict=True):
            loss = loss + self.config.perceptual.weight * squared_error(given, want)
        return 2 * loss
