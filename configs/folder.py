r"""Your own images of one kind of object, without labels.

    landmarks-jax train --config folder --workdir runs/mine \
        --config.data.roots="('path/to/images',)"

The narrow model of `synthetic`, 30 minutes on two CPU cores. Look at `runs/mine/pictures` while
it trains: the points should settle on the same spot of every image. With VGG-16 weights (see the
README) they settle much sooner:

        --config.perceptual.weights=data/weights/vgg16.npz --config.perceptual.balance=True \
        --config.objective.equivariance_weight=5 --config.objective.separation_weight=2

On an accelerator, widen it as `configs/faces.py` does. With a CSV of some labelled points,
`landmarks-jax eval --fit` and `--score` measure how well they do.
"""

from ml_collections import ConfigDict

from landmarks_jax.configs import synthetic


def get_config() -> ConfigDict:
    """`synthetic` on a folder to be named, by the clock."""
    config = synthetic.get_config()
    config.data.source = "folder"
    config.data.canvas_size = 60  # own images: the view shows the middle four fifths
    config.perceptual.taps = ("relu1_2", "relu2_2")
    config.optimizer.cosine_steps = 0
    config.train.steps = 0
    config.train.minutes = 30.0
    config.eval.protocols = ()
    return config
