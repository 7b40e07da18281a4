"""Synthetic faces and a narrow model, on two CPU cores.

    landmarks-jax train && landmarks-jax eval

For now it is `synthetic`.
"""

from ml_collections import ConfigDict

from landmarks_jax.configs import synthetic


def get_config() -> ConfigDict:
    """The paper's method on synthetic faces."""
    return synthetic.get_config()
