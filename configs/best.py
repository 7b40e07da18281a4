"""The best on real photos within reach of two processor cores.

`faces_cpu` for longer, with a wider detector, views that move more, and AFLW's training photos,
unlabelled, beside the CelebA photos: heads turn there, in CelebA hardly. From the folders of
`faces` and AFLW's under `data/aflw`:

    python prepare.py --config configs/faces_cpu.py --out prepared/celeba-60
    python prepare.py --config configs/faces_cpu.py --out prepared/aflw-60 \\
        --config.data.roots="('data/aflw/AFLW',)" --config.data.crop=tight \\
        --config.data.exclude="('data/aflw/testing.txt',)"
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
    config.data.roots = ("prepared/celeba-60", *("prepared/aflw-60",) * 3)
    config.data.exclude = ()
    config.views.shift_std = 0.06
    config.views.scale_range = (0.95, 1.5)
    config.model.detector_channels = 128
    config.optimizer.cosine_steps = 5_000
    config.train.steps = 5_000
    config.train.minutes = 110.0
    return config
