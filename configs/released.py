"""The model and training of the authors' released code, where it differs from the paper's text.

CelebA in the official layout under `data/celeba` with its landmark file (the box crop is cut from
the annotated points), MAFL's lists under `data/mafl`, and all of VGG-16 (see README) as
`data/weights/vgg16.npz`:

    landmarks-jax train --config released --workdir runs/released

85,000 steps of 32 photos for one accelerator. Not run to its end yet: neither its time nor its
result is known.

Evaluation cuts its boxes and fits on MAFL as the released code does (`config.eval.as_released`).

Differences from the released code: its box views are drawn as there, but not rounded to pixels and
not clipped to the image (docs/datasets.md); and it starts from a human pose network, this from
scratch. With a core (docs/pretraining.md) its start is

    --config.init.mode=adapt --config.init.core=runs/mpii
"""

from ml_collections import ConfigDict

from landmarks_jax.configs import paper


def get_config() -> ConfigDict:
    """The paper's configuration with the released code's numbers."""
    config = paper.get_config()
    config.data.crop = "box"
    config.views.rotation_std = (30.0, 15.0)
    # Scale, shift and stretch come from the box of the rotated points alone, and from its margin,
    # the base's (70 + 4 N(0, 1)) % of the mean of the box's sides.
    config.views.scale_std = 0.0
    config.views.shift_std = 0.0
    config.model.generator_channels = 32
    config.objective.auxiliary = "fixed"
    config.objective.bn_groups = "released"
    config.perceptual.normalize = False
    config.optimizer.beta1 = 0.0
    config.optimizer.beta2 = 0.9
    config.optimizer.weight_decay = 5e-4
    config.optimizer.clip_norm = 1.0
    config.optimizer.drop_steps = (72_500,)
    config.eval.as_released = True
    return config
