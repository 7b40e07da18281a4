"""Embedded faces, a narrow model: the whole program once through, on a laptop's processor.

python train.py && python eval.py
"""

from ml_collections import ConfigDict

from configs import base


def get_config() -> ConfigDict:
    """The base configuration, narrow, with the two helping terms."""
    config = base.get_config()
    config.data.canvas_size = 60
    config.views.size = 48
    config.model.detector_channels = 64
    config.model.hourglass_depth = 2
    config.model.generator_channels = 8
    config.model.residual_blocks = 2
    config.objective.equivariance_weight = 0.1
    config.objective.separation_weight = 0.05
    config.train.batch_size = 16
    config.train.steps = 1_200
    config.train.checkpoint_every = 300
    config.train.picture_every = 600
    return config
