r"""Cuts the photos of a config to canvases once, so that training decodes nothing.

    python prepare.py --config configs/NAME.py --out data/prepared/NAME [--config.data.FIELD=VALUE]

Then train with --config.data.source=prepared --config.data.roots="('data/prepared/NAME',)".
"""

import sys

from absl import app, flags, logging
from ml_collections import config_flags

from landmarks_jax.data import feed, prepared, sources
from landmarks_jax.errors import UserError

_CONFIG = config_flags.DEFINE_config_file("config", None, "The config whose data is prepared.")
_OUT = flags.DEFINE_string("out", None, "The folder to make.")


def main(argv: list[str]) -> None:
    """Prepares the data of one config."""
    if len(argv) > 1:
        raise app.UsageError(f"unexpected argument {argv[1]}")
    logging.set_verbosity(logging.INFO)
    config = _CONFIG.value
    try:
        frame = feed.framing_of(config)
        source = sources.open_source(config.data)
        logging.info("%s", sources.summary(source))
        prepared.prepare(source, frame, str(_OUT.value))
    except UserError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
    logging.info("%s: %d canvases of %d pixels", _OUT.value, len(source), frame.canvas_size)


if __name__ == "__main__":
    flags.mark_flags_as_required(["config", "out"])
    app.run(main)
