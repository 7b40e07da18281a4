r"""Face photos for 500 steps, on CPU cores: the base of the ablation.

`faces_cpu` with the paper's loss alone (no helping terms, taps as they are), VGG-16's first three
blocks, and a cosine over the steps, from the prepared form. Every row of the ablation changes one
thing.

    landmarks-jax prepare --config faces_cpu --out prepared/celeba-60
    landmarks-jax train --config ablation_cpu --workdir runs/ablation_cpu/all-k10-seed0
    landmarks-jax eval --workdir runs/ablation_cpu/all-k10-seed0

6 to 16 minutes on one core; docs/accuracy.md gives the commands that make all rows.
"""

from ml_collections import ConfigDict

from landmarks_jax.configs import faces_cpu


def get_config() -> ConfigDict:
    """`faces_cpu`, short, with the paper's loss on three taps."""
    config = faces_cpu.get_config()
    config.data.source = "prepared"
    config.data.roots = ("prepared/celeba-60",)
    config.objective.equivariance_weight = 0.0
    config.objective.separation_weight = 0.0
    config.perceptual.taps = ("relu1_2", "relu2_2", "relu3_3")
    config.perceptual.balance = False
    config.optimizer.cosine_steps = 500
    config.train.steps = 500
    config.train.minutes = 0.0
    config.train.picture_every = 0
    return config
