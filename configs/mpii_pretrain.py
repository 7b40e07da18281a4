"""Pretraining of the detector on human joints, the core that the paper adapts (Li et al., IV-A).

MPII in the official layout under `data/mpii` (docs/datasets.md):

    landmarks-jax train --config mpii_pretrain --workdir runs/mpii
    landmarks-jax eval --workdir runs/mpii

Then, with any other configuration, `--config.init.mode=adapt --config.init.core=runs/mpii`; see
docs/pretraining.md. For one accelerator. Not run yet: neither its time nor its PCKh is known.

The paper mentions 19 joints, MPII has 16; as the head is dropped afterwards, the number does not
matter. The paper does not say how it pretrained. This is the usual way: squared errors against
Gaussian maps, random rotations and scales.
"""

from ml_collections import ConfigDict

from landmarks_jax.configs import base


def get_config() -> ConfigDict:
    """The paper's detector on MPII's 16 joints."""
    config = base.get_config()
    config.objective.task = "pose"
    config.data.source = "mpii"
    config.data.roots = ("data/mpii",)
    config.data.split = "train"
    config.data.canvas_size = 192  # 1.5 views: a rotated or smaller view still finds the photo
    config.views.rotation_std = (20.0, 20.0)
    config.views.scale_range = (0.75, 1.25)
    config.views.scale_std = 0.0
    config.views.shift_std = 0.02
    config.model.num_landmarks = 16
    config.model.sigma = 1.0
    config.optimizer.drop_steps = (60_000, 80_000)
    config.train.steps = 90_000  # about a hundred passes
    config.eval.protocols = ("mpii",)
    return config
