"""The same as `landmarks-jax eval`."""

import sys

from landmarks_jax.cli.main import main

sys.exit(main(["eval", *sys.argv[1:]]))
