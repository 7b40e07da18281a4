"""`python -m landmarks_jax` is `landmarks-jax`."""

from landmarks_jax.cli.main import script

script()
