"""The same as `landmarks-jax train`."""

import sys

from landmarks_jax.cli.main import main

sys.exit(main(["train", *sys.argv[1:]]))
