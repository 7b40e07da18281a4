"""Your own pictures of one kind of thing, without any annotation.

    python train.py --config configs/folder.py --workdir runs/mine \
        --config.data.roots="('path/to/pictures',)"

A narrow model that trains on two processor cores in three quarters of an hour; on an accelerator,
widen it as `configs/faces.py` does. Look at `runs/mine/pictures` while it trains: the points should
settle on the same spot of every picture. With a CSV of some labelled points, `eval.py --fit` and
`--score` measure how well they do.
"""

from ml_collections import ConfigDict

from configs import faces_cpu


def get_config() -> ConfigDict:
    """The narrow model of `faces_cpu`, on a folder to be named."""
    config = faces_cpu.get_config()
    config.data.roots = ()
    config.data.exclude = ()
    config.views.scale_range = (1.0, 1.2)
    config.eval.protocols = ()
    return config
