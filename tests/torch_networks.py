"""Detector and generator once more in PyTorch, under the published names, and files of them.

    python -m tests.torch_networks

writes `tests/published`: files as PyTorch saves them, of narrow networks with random weights and
random batch statistics, and what PyTorch makes of some views with them. The tests read these files
where there is no PyTorch, and new ones where there is.
"""

from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional

K, CHANNELS, DEPTH, GENERATOR_CHANNELS, BLOCKS, BETA = 3, 8, 2, 2, 1, 10.0
STORED = Path(__file__).parent / "published"


class Block(nn.Module):
    def __init__(self, inputs, outputs):
        super().__init__()
        widths = (inputs, outputs // 2, outputs // 4, outputs // 4)
        for i in (1, 2, 3):
            self.add_module(f"bn{i}", nn.BatchNorm2d(widths[i - 1]))
            self.add_module(f"conv{i}", nn.Conv2d(widths[i - 1], widths[i], 3, 1, 1, bias=False))
        self.downsample = None
        if inputs != outputs:
            pointwise = nn.Conv2d(inputs, outputs, 1, bias=False)
            self.downsample = nn.Sequential(nn.BatchNorm2d(inputs), nn.ReLU(), pointwise)

    def forward(self, x):
        a = self.conv1(self.bn1(x).relu())
        b = self.conv2(self.bn2(a).relu())
        c = self.conv3(self.bn3(b).relu())
        return torch.cat([a, b, c], 1) + (self.downsample(x) if self.downsample else x)


class Hourglass(nn.Module):
    def __init__(self, depth, width):
        super().__init__()
        self.depth = depth
        for level in range(depth, 0, -1):
            for part in (1, 2, 3):
                self.add_module(f"b{part}_{level}", Block(width, width))
        self.b2_plus_1 = Block(width, width)

    def forward(self, x, level=None):
        level = self.depth if level is None else level
        part = [None, *(getattr(self, f"b{i}_{level}") for i in (1, 2, 3))]
        y = part[2](functional.avg_pool2d(x, 2))
        y = self.forward(y, level - 1) if level > 1 else self.b2_plus_1(y)
        return part[1](x) + functional.interpolate(part[3](y), scale_factor=2, mode="nearest")


class Detector(nn.Module):
    def __init__(self):
        super().__init__()
        width = CHANNELS
        self.conv1 = nn.Conv2d(3, width // 4, 7, 2, 3)
        self.bn1 = nn.BatchNorm2d(width // 4)
        self.conv2 = Block(width // 4, width // 2)
        self.conv3 = Block(width // 2, width // 2)
        self.conv4 = Block(width // 2, width)
        self.m0 = Hourglass(DEPTH, width)
        self.top_m_0 = Block(width, width)
        self.conv_last0 = nn.Conv2d(width, width, 1)
        self.bn_end0 = nn.BatchNorm2d(width)
        self.l_0 = nn.Conv2d(width, K, 1)

    def forward(self, x):
        x = self.bn1(self.conv1(x)).relu()
        x = self.conv4(self.conv3(functional.avg_pool2d(self.conv2(x), 2)))
        x = self.top_m_0(self.m0(x))
        return self.l_0(self.bn_end0(self.conv_last0(x)).relu())


class Residual(nn.Module):
    def __init__(self, width):
        super().__init__()
        layers = []
        for _ in range(2):
            layers += [nn.Conv2d(width, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width)]
        self.main = nn.Sequential(*layers[:2], nn.ReLU(), *layers[2:])

    def forward(self, x):
        return x + self.main(x)


class Generator(nn.Module):
    def __init__(self):
        super().__init__()
        c = GENERATOR_CHANNELS
        layers = []
        for inputs, outputs, size, stride, padding in (
            (3, c, 7, 1, 3),
            (c, 2 * c, 4, 2, 1),
            (2 * c, 4 * c, 4, 2, 1),
        ):
            layers.append(nn.Conv2d(inputs, outputs, size, stride, padding, bias=False))
            layers += [nn.BatchNorm2d(outputs), nn.ReLU()]
        self.downsampling = nn.Sequential(*layers)
        width = 4 * c + K
        layers = [nn.BatchNorm2d(width), *(Residual(width) for _ in range(BLOCKS))]
        for _ in range(2):
            layers.append(nn.ConvTranspose2d(width, width // 2, 4, 2, 1, bias=False))
            width //= 2
            layers += [nn.BatchNorm2d(width), nn.ReLU()]
        self.main = nn.Sequential(*layers, nn.Conv2d(width, 3, 7, 1, 3, bias=False), nn.Tanh())

    def forward(self, images, maps):
        return 0.5 * (self.main(torch.cat([self.downsampling(images), maps], 1)) + 1)


class SamePadding(Detector):
    """A stem whose zeros lie as TensorFlow's SAME puts them: the mistake of a pixel."""

    def forward(self, x):
        self.conv1.padding = (0, 0)
        return super().forward(functional.pad(x, (2, 3, 2, 3)))


def randomise(module, generator):
    """Random numbers in the place of every batch norm's, small variances among them."""
    for norm in module.modules():
        if isinstance(norm, nn.BatchNorm2d):
            for name, low, high in (
                ("weight", 0.7, 1.3),
                ("bias", -0.3, 0.3),
                ("running_mean", -0.3, 0.3),
                ("running_var", 0.02, 0.3),
            ):
                getattr(norm, name).data.uniform_(low, high, generator=generator)
    return module.eval()


def scale(layer, outputs, target):
    """Scales the outputs of a network through its last layer, to a standard deviation."""
    for parameter in layer.parameters():
        parameter.data *= target / outputs.std()


def cells(scores):
    """The soft-argmax of `[B, K, n, n]` in cells of the map, the first one 0: `[B, K, 2]`."""
    weights = torch.softmax(BETA * scores.flatten(2), -1).reshape(scores.shape)
    places = torch.arange(scores.shape[-1], dtype=scores.dtype)
    return torch.stack([weights.sum(2) @ places, weights.sum(3) @ places], -1)


def adapt(state, generator):
    """Takes a state dict's block convolutions for frozen: near-identities `W` in their place."""
    adapted, folded = {}, {}
    for name, tensor in state.items():
        if tensor.ndim == 4 and tensor.shape[-1] == 3:
            matrix = torch.eye(len(tensor)) + 0.1 * torch.randn(
                len(tensor), len(tensor), generator=generator
            )
            adapted[name.removesuffix("weight") + "W"] = matrix
            folded[name] = torch.einsum("po,oihw->pihw", matrix, tensor)
        else:
            adapted[name] = folded[name] = tensor
    return adapted, folded


def make(folder, seed):
    """Writes the files and `outputs.npz`, the axes of images as in JAX."""
    folder.mkdir(exist_ok=True)
    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    core, painter = Detector(), Generator()
    for module in (core, painter):
        randomise(module, generator)
    adapted, folded = adapt(core.state_dict(), generator)
    coarse = torch.rand(2, 3, 8, 8, generator=generator)
    pixels = functional.interpolate(255 * coarse, scale_factor=4, mode="bilinear").byte()
    views = pixels / 255
    maps = torch.rand(2, K, 8, 8, generator=generator)

    def found(module, state):
        module.load_state_dict(state)
        with torch.inference_mode():
            return module.eval()(views)

    # Maps neither flat nor of a single cell, images neither black nor white. The state dicts share
    # these numbers.
    scale(core.l_0, found(Detector(), folded), 0.35)
    with torch.inference_mode():
        before_tanh = painter.main[:-1](torch.cat([painter.downsampling(views), maps], 1))
        scale(painter.main[-2], before_tanh, 1.0)
        images = painter(views, maps)
    # Before 1.6, and since; as it is, and from several GPUs.
    torch.save(core.state_dict(), folder / "core.pth", _use_new_zipfile_serialization=False)
    torch.save({f"module.{name}": tensor for name, tensor in adapted.items()}, folder / "fan.pth")
    torch.save(painter.state_dict(), folder / "gen.pth")

    def last(tensor):
        return tensor.permute(0, 2, 3, 1).numpy()

    other_epsilon = Detector()
    for norm in other_epsilon.modules():
        if isinstance(norm, nn.BatchNorm2d):
            norm.eps = 1e-3
    # With the other divisor, of a batch of 16 cells.
    variances = {n: t * 15 / 16 if n.endswith("running_var") else t for n, t in folded.items()}
    scores = found(Detector(), folded)
    np.savez(
        folder / "outputs.npz",
        views=last(pixels),
        maps=last(maps),
        core=last(found(Detector(), core.state_dict())),
        folded=last(scores),
        cells=cells(scores).numpy(),
        images=last(images),
        cells_of_same_padding=cells(found(SamePadding(), folded)).numpy(),
        cells_of_other_epsilon=cells(found(other_epsilon, folded)).numpy(),
        cells_of_other_variances=cells(found(Detector(), variances)).numpy(),
    )


if __name__ == "__main__":
    make(STORED, 0)
