r"""Real photos for six minutes on two processor cores: the base of the ablation's trainings.

`faces_cpu` with VGG-16's first three blocks, 500 steps and a cosine over them, from the prepared
form; every row of the ablation is this with one field changed. Its two helping terms are in every
row: without them nothing is learned in 500 steps, whatever the composition.

    python prepare.py --config configs/faces_cpu.py --out prepared/celeba-60
    python train.py --config configs/ablation_cpu.py --workdir runs/ablation_cpu/all-k10-seed0
    python eval.py --workdir runs/ablation_cpu/all-k10-seed0
"""

from ml_collections import ConfigDict

from configs import faces_cpu


def get_config() -> ConfigDict:
    """`faces_cpu`, short, with three taps."""
    config = faces_cpu.get_config()
    config.data.source = "prepared"
    config.data.roots = ("prepared/celeba-60",)
    config.perceptual.taps = ("relu1_2", "relu2_2", "relu3_3")
    config.optimizer.cosine_steps = 500
    config.train.steps = 500
    config.train.minutes = 0.0
    config.train.picture_every = 0
    return config
