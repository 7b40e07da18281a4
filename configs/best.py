"""The best on real photos within two processor cores' reach.

`faces_cpu` with a wider detector, views moved about more widely, and AFLW's training photos,
unlabelled, beside the CelebA photos: their faces turn and tilt, CelebA's hardly do. From the
folders of `faces` and AFLW's under `data/aflw`:

    python prepare.py --config configs/best_celeba.py --out data/prepared/celeba-60
    python prepare.py --config configs/best_aflw.py --out data/prepared/aflw-60
    python train.py --config configs/best.py --workdir runs/best
    python eval.py --workdir runs/best
"""

from ml_collections import ConfigDict

from configs import faces_cpu


def get_config() -> ConfigDict:
    """`faces_cpu` for longer, with more of everything that cost little."""
    config = faces_cpu.get_config()
    config.data.source = "prepared"
    # AFLW's 2,000 thrice: a fifth of what is seen.
    config.data.roots = ("data/prepared/celeba-60", *("data/prepared/aflw-60",) * 3)
    config.data.exclude = ()
    config.views.shift_std = 0.06
    config.views.scale_range = (0.95, 1.5)
    config.model.detector_channels = 128
    config.optimizer.cosine_steps = 5_000
    config.train.steps = 5_000
    config.train.minutes = 110.0
    return config
