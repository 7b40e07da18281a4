r"""`best_cpu` with a detector that reads VGG-16's features: ours, not in the paper.

The paper starts from a pretrained core. Here the perceptual loss's network is one: the detector
reads its relu3_3 beside the stem (`landmarks_jax.models.deep_hourglass`), from the weights and with
the prepared photos of `best_cpu`:

    landmarks-jax train --config deep_cpu --workdir runs/deep_cpu
    landmarks-jax eval --workdir runs/deep_cpu

16 minutes on two cores. Forward error on AFLW-995 with all labels: 10.7 % center (mean shape 24.1),
8.1 % box (mean shape 14.7), as `best_cpu` after 91 minutes; with a second seed 10.8 % center.
"""

from ml_collections import ConfigDict

from landmarks_jax.configs import best_cpu


def get_config() -> ConfigDict:
    """`best_cpu` with deep features, shorter."""
    config = best_cpu.get_config()
    config.model.detector = "deep_hourglass"
    config.init.features = config.perceptual.weights
    config.optimizer.cosine_steps = 1_400
    config.train.steps = 1_400
    config.train.minutes = 0.0
    return config
