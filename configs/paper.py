"""The paper's model and training, as far as its text says (Li et al., ICPR 2020).

CelebA in the official layout under `data/celeba`, MAFL's lists under `data/mafl`, and all of
VGG-16 (see README) as `data/weights/vgg16.npz`:

    landmarks-jax train --config paper --workdir runs/paper

85,000 steps of 32 photos for one accelerator. Not run to its end yet: neither its time nor its
result is known. The paper reports 3.08 % on MAFL and 6.20 % on AFLW (K = 10, box crop).

It is scored on MAFL and on AFLW's release (docs/datasets.md). docs/tables.md says how every cell of
the paper's tables is made from it.

One difference: the paper starts from a human pose network, this from scratch. With a core
(docs/pretraining.md) the paper's start is

    --config.init.mode=adapt --config.init.core=runs/mpii
"""

from ml_collections import ConfigDict

from landmarks_jax.configs import base


def get_config() -> ConfigDict:
    """The base configuration, which is the paper's, on CelebA with VGG-16."""
    config = base.get_config()
    config.data.source = "celeba"
    config.data.roots = ("data/celeba",)
    config.data.exclude = ("data/mafl/testing.txt",)
    config.perceptual.weights = "data/weights/vgg16.npz"
    config.eval.protocols = ("mafl", "aflw")
    return config
