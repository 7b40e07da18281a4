"""Self-training on face photos."""

from ml_collections import ConfigDict

from landmarks_jax.configs import base


def get_config() -> ConfigDict:
    """The base configuration, narrow, for self-training."""
    config = base.get_config()
    config.data.source = "prepared"
    config.data.roots = (*("prepared/aflw-160",) * 2, "prepared/lfw-160", "prepared/celeba-160")
    config.data.canvas_size = 60
    config.data.resident = True
    config.views.size = 48
    config.views.rotation_std = (15.0, 15.0)
    config.views.scale_range = (0.8, 1.5)
    config.views.color_std = 0.2
    config.views.cutout = 0.35
    config.model.num_landmarks = 64
    config.model.detector_channels = 128
    config.model.hourglass_depth = 2
    config.objective.task = "self_training"
    config.targets.steps = (0, 7_000)
    config.targets.grid = 8
    config.targets.mirror = True
    config.targets.weights = "data/weights/vgg19_conv1_1_to_conv4_4.npz"
    config.optimizer.learning_rate = 2e-3
    config.optimizer.ema_decay = 0.998
    config.optimizer.warmup_steps = 200
    config.optimizer.cosine_steps = 24_000
    config.train.batch_size = 32
    config.train.steps = 24_000
    config.train.log_every = 100
    config.train.checkpoint_every = 1_000
    config.train.picture_every = 2_000
    config.eval.protocols = ("aflw-dev",)
    return config
