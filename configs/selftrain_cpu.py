r"""Self-training on face photos, without labels, on two CPU cores: ours, not in the paper.

The second of two steps. The detector of `selftrain_start_cpu` finds its 64 points on more photos;
they are refined by VGG-19's features and merged to 10 and to 40, and a detector of the same size
learns these, then its own points, refined once more. With LFW's photos under `data/lfw` and aligned
ones of CelebA under `data/celeba`:

    landmarks-jax export --workdir runs/start --noregressor --out start.safetensors
    landmarks-jax prepare --config faces --out prepared/lfw-160 \
        --config.data.roots="('data/lfw',)" --config.data.exclude="()"
    landmarks-jax prepare --config faces --out prepared/celeba-160 \
        --config.data.roots="('data/celeba/img_align_celeba',)"
    landmarks-jax train --config selftrain_cpu --workdir runs/selftrain
    landmarks-jax eval --workdir runs/selftrain --landmarks 0:10
    landmarks-jax eval --workdir runs/selftrain --landmarks 10:50

With `selftrain_start_cpu`, features included: 61 minutes on two cores; 165 core-minutes on slower
ones. Forward error on AFLW-995 with all labels, the mean of two seeds: 10 landmarks 6.7 %
center, 5.8 % box; 40 landmarks 6.5 % and 5.5 % (mean shape 24.1 and 14.7).
"""

from ml_collections import ConfigDict

from landmarks_jax.configs import selftrain_start_cpu


def get_config() -> ConfigDict:
    """`selftrain_start_cpu` from a detector's points, merged, on more photos and for longer."""
    config = selftrain_start_cpu.get_config()
    # AFLW's 2,000 twice: heads turn more there.
    config.data.roots = (*("prepared/aflw-160",) * 2, "prepared/lfw-160", "prepared/celeba-160")
    config.data.crop = "center"
    config.model.num_landmarks = 50
    config.targets.grid = 0
    config.targets.detector = "start.safetensors"
    config.targets.merge = (10, 40)
    config.targets.spreads = (0.1, 0.1, 0.07)
    config.targets.temperatures = (0.1, 0.1, 0.1)
    config.targets.steps = (0, 6_000)
    config.targets.num_views = 4
    config.optimizer.cosine_steps = 16_000
    config.optimizer.ema_decay = 0.998
    config.train.steps = 16_000
    config.train.picture_every = 1_000
    return config
