"""Face photos with a narrow model, on two CPU cores.

The photos of `faces`, 48 pixels a side, and VGG-16's first two blocks:

    landmarks-jax train --config faces_cpu --workdir runs/faces_cpu
    landmarks-jax eval --workdir runs/faces_cpu

29 minutes on two cores shared with other work, 44 at most. Forward error on AFLW-995 with all
labels: 16.4 % center (mean shape 24.1), 10.2 % box (mean shape 14.8).
"""

from ml_collections import ConfigDict

from landmarks_jax.configs import faces


def get_config() -> ConfigDict:
    """`faces`, narrow and small, with balanced taps and the two helping terms."""
    config = faces.get_config()
    config.data.canvas_size = 60
    config.views.size = 48
    config.model.detector_channels = 64
    config.model.hourglass_depth = 2
    config.model.generator_channels = 8
    config.model.residual_blocks = 2
    config.objective.equivariance_weight = 5.0
    config.objective.separation_weight = 2.0
    config.perceptual.taps = ("relu1_2", "relu2_2")
    config.perceptual.balance = True
    config.optimizer.cosine_steps = 1_500
    config.train.batch_size = 16
    config.train.steps = 1_500
    config.train.minutes = 44.0
    config.train.log_every = 50
    config.train.checkpoint_every = 250
    config.train.picture_every = 500
    return config
