"""Face photos with the paper's model, on an accelerator.

Face photos without annotation under `data/celeba/img_align_celeba` and `data/celeba_crops` (any
folders do: --config.data.roots), MAFL's test ids left out, and VGG-16's first three blocks:

    landmarks-jax train --config faces --workdir runs/faces
    landmarks-jax eval --workdir runs/faces

For one accelerator; not run to its end yet: neither its time nor its result is known.
"""

from ml_collections import ConfigDict

from landmarks_jax.configs import base


def get_config() -> ConfigDict:
    """The paper's model on folders of faces, with the taps that partial VGG weights can give."""
    config = base.get_config()
    config.data.source = "folder"
    config.data.roots = ("data/celeba/img_align_celeba", "data/celeba_crops")
    config.data.exclude = ("data/mafl/testing.txt",)
    # CelebA's faces are small in the frame beside AFLW's center and box views.
    config.views.scale_range = (1.0, 1.5)
    config.perceptual.weights = "data/weights/vgg16_conv1_1_to_conv3_3.npz"
    config.perceptual.taps = ("relu1_2", "relu2_2", "relu3_3")
    config.eval.protocols = ("aflw-995",)
    return config
