r"""Your own photos of one kind of object, without labels, on two CPU cores: ours, not in the paper.

    landmarks-jax train photos/
    landmarks-jax train 'photos/*/*.jpg' --workdir runs/mine --config.train.steps=6000

Points of a grid are moved to where features look alike in all photos; those that do not move with
the object are dropped, the others are merged to 16 landmarks, and a detector learns to find them
(docs/self_training.md). With photos as arguments, training takes VGG-19's or VGG-16's features
where their file is in data/weights or the cache folder, and on a GPU a wider model and views of 128
pixels; what is set by a flag stays. This preset is what it takes otherwise: histograms of
gradients, and the narrow model.

For another number of landmarks set config.model.num_landmarks, config.targets.merge and, if there
are more than config.targets.keep, that. If the objects look the same in a mirror,
config.targets.mirror=True with config.targets.keep=0 learns from mirrored photos too.
"""

from ml_collections import ConfigDict

from landmarks_jax.configs import base


def get_config() -> ConfigDict:
    """The base configuration, narrow, for self-training on a folder without VGG."""
    config = base.get_config()
    config.data.source = "folder"
    config.data.crop = "tight"  # the view is the whole photo
    config.data.canvas_size = 60
    config.data.max_photos = 2_000
    config.views.size = 48
    config.views.scale_range = (0.8, 1.25)
    config.views.color_std = 0.2
    config.views.cutout = 0.3
    config.model.num_landmarks = 16
    config.model.detector_channels = 128
    config.model.hourglass_depth = 2
    config.objective.task = "self_training"
    config.targets.steps = (0, 1_500)
    config.targets.grid = 8
    config.targets.merge = (16,)
    config.targets.keep = 28
    config.targets.network = "hog"
    config.targets.taps = ("fine", "coarse")
    config.targets.components = 64
    config.targets.num_views = 4
    config.optimizer.learning_rate = 2e-3
    config.optimizer.warmup_steps = 200
    config.optimizer.cosine_steps = 3_000
    config.optimizer.ema_decay = 0.995
    config.train.steps = 3_000
    config.train.checkpoint_every = 500
    config.train.picture_every = 500
    config.eval.protocols = ()
    return config
