r"""The best result on face photos so far, small enough for two CPU cores.

`best` with views of 48 pixels, a narrow model and VGG-16's first two blocks:

    landmarks-jax prepare --config faces_cpu --out prepared/celeba-60
    landmarks-jax prepare --config faces_cpu --out prepared/aflw-60 \
        --config.data.roots="('data/aflw/AFLW',)" --config.data.crop=tight \
        --config.data.exclude="('data/aflw/testing.txt',)"
    landmarks-jax train --config best_cpu --workdir runs/best_cpu
    landmarks-jax eval --workdir runs/best_cpu

91 minutes on two cores shared with other work, 110 at most. Forward error on AFLW-995 with all
labels: 10.9 % center (mean shape 24.1), 8.1 % box (mean shape 14.8).
"""

from ml_collections import ConfigDict

from landmarks_jax.configs import best


def get_config() -> ConfigDict:
    """`best`, narrow and small."""
    config = best.get_config()
    config.data.canvas_size = 60
    config.data.roots = ("prepared/celeba-60", *("prepared/aflw-60",) * 3)
    config.views.size = 48
    config.model.detector_channels = 128
    config.model.hourglass_depth = 2
    config.model.generator_channels = 8
    config.model.residual_blocks = 2
    config.perceptual.taps = ("relu1_2", "relu2_2")
    config.optimizer.cosine_steps = 5_000
    config.train.batch_size = 16
    config.train.steps = 5_000
    config.train.minutes = 110.0
    config.train.log_every = 50
    config.train.checkpoint_every = 250
    config.train.picture_every = 500
    return config
