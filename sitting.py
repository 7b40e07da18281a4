"""One sitting of a run on a machine that is at hand for some minutes, such as a lent accelerator.

python sitting.py --config configs/NAME.py --photos DIR --workdir DIR --minutes 9 --out DIR
    [--handover DIR] [--config.field=value]

Prepares the photos if need be, trains, and writes to --out what it takes to go on elsewhere
(`handover/`, the next sitting's --handover) and the run's tables and metrics (`results.zip`).
"""

import sys
import time
from pathlib import Path

from absl import flags
from ml_collections import config_flags

from landmarks_jax.cli import entry

_START = time.monotonic()
_CONFIG = config_flags.DEFINE_config_file("config", None, "The configuration.")
_WORKDIR = flags.DEFINE_string("workdir", None, "The run's folder.", required=True)
_OUT = flags.DEFINE_string("out", None, "The folder for handover and results.", required=True)
_MINUTES = flags.DEFINE_float(
    "minutes", None, "Length of the whole sitting.", lower_bound=0, required=True
)
_RESERVE = flags.DEFINE_float(
    "reserve", 2.0, "Minutes of it kept back for what follows the training.", lower_bound=0
)
_PHOTOS = flags.DEFINE_multi_string(
    "photos",
    [],
    "A folder of photos to train on, DIR or DIR:tight for face crops with no room to spare; may be "
    "repeated, and counts as often. Default: the configuration's data.",
)
_CANVASES = flags.DEFINE_string(
    "canvases", "prepared", "With --photos: the folder that keeps their prepared form."
)
_HANDOVER = entry.define_handover()


def main() -> int:
    """Trains, hands over, evaluates."""
    # Only now, so that --help and a wrong flag answer at once.
    from landmarks_jax.studies import timed_session  # noqa: PLC0415

    return timed_session.sit(
        _CONFIG.value,
        Path(_WORKDIR.value),
        Path(_OUT.value),
        start=_START,
        minutes=_MINUTES.value,
        reserve=_RESERVE.value,
        photos=_PHOTOS.value,
        canvases=Path(_CANVASES.value),
        handed=_HANDOVER(),
        command=sys.argv,
    )


if __name__ == "__main__":
    flags.mark_flag_as_required("config")
    entry.run(main)
