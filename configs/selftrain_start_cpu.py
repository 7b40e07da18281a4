r"""Self-training on AFLW's photos, without labels, on two CPU cores: ours, not in the paper.

64 points of a grid are refined by VGG-19's features, and a small detector learns them. With AFLW's
photos (MTFL's, cropped to faces) under `data/aflw` and VGG-19 in `data/weights`:

    landmarks-jax prepare --config faces --out prepared/aflw-160 \
        --config.data.roots="('data/aflw/AFLW',)" --config.data.crop=tight \
        --config.data.exclude="('data/aflw/testing.txt',)"
    landmarks-jax train --config selftrain_start_cpu --workdir runs/start
    landmarks-jax eval --workdir runs/start

7.4 minutes on two cores, features included; 18 core-minutes on slower ones. Forward error on
AFLW-dev with all labels: 7.7 % center (mean shape 23.4), 6.0 % box (mean shape 14.4).
"""

from ml_collections import ConfigDict

from landmarks_jax.configs import base


def get_config() -> ConfigDict:
    """The base configuration, narrow, for self-training of a grid of 8 x 8 points."""
    config = base.get_config()
    config.data.source = "prepared"
    config.data.roots = ("prepared/aflw-160",)
    config.data.crop = "tight"
    config.data.canvas_size = 60
    config.data.resident = True
    config.views.size = 48
    config.views.scale_range = (0.8, 1.5)
    config.views.color_std = 0.2
    config.views.cutout = 0.35
    config.model.num_landmarks = 64
    config.model.detector_channels = 128
    config.model.hourglass_depth = 2
    config.objective.task = "self_training"
    config.targets.grid = 8
    config.targets.mirror = True
    config.targets.weights = "data/weights/vgg19_conv1_1_to_conv4_4.npz"
    config.optimizer.learning_rate = 2e-3
    config.optimizer.warmup_steps = 200
    config.optimizer.cosine_steps = 2_000
    config.optimizer.ema_decay = 0.99
    config.train.steps = 2_000
    config.train.checkpoint_every = 500
    config.train.picture_every = 500
    config.eval.protocols = ("aflw-dev",)
    return config
