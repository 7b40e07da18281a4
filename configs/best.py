r"""What worked best on face photos, at the paper's widths, for an accelerator.

`faces` with the two helping terms and balanced taps, views that vary more, and AFLW's training
photos, unlabelled, besides CelebA's: AFLW has rotated heads, CelebA hardly any. From the folders of
`faces` and AFLW's under `data/aflw`:

    landmarks-jax prepare --config faces --out prepared/celeba-160
    landmarks-jax prepare --config faces --out prepared/aflw-160 \
        --config.data.roots="('data/aflw/AFLW',)" --config.data.crop=tight \
        --config.data.exclude="('data/aflw/testing.txt',)"
    landmarks-jax train --config best --workdir runs/best
    landmarks-jax eval --workdir runs/best

Not run yet: the choices were made at the size of `best_cpu`. In sessions of some minutes, from
small copies of the photos (docs/hardware.md):

    landmarks-jax session --config best --photos packed --photos packed-aflw:tight \
        --photos packed-aflw:tight --photos packed-aflw:tight \
        --workdir runs/best --minutes 9 --out out
"""

from ml_collections import ConfigDict

from landmarks_jax.configs import faces


def get_config() -> ConfigDict:
    """`faces` with what helped."""
    config = faces.get_config()
    config.data.source = "prepared"
    # AFLW's 2,000 thrice: a fifth of what is seen.
    config.data.roots = ("prepared/celeba-160", *("prepared/aflw-160",) * 3)
    config.data.exclude = ()
    config.views.shift_std = 0.06
    config.views.scale_range = (0.95, 1.5)
    config.objective.equivariance_weight = 5.0
    config.objective.separation_weight = 2.0
    config.perceptual.balance = True
    config.optimizer.cosine_steps = 85_000
    return config
