"""Trains a landmark detector from a configuration.

python train.py --config configs/NAME.py --workdir DIR [--config.field=value]

Without arguments it is the quickstart. The same command again goes on where the run ended. With
--handover DIR, of handover.py or sitting.py, a new run folder goes on from there, as a restart.
With --multihost, started once for each process, several processes train one run (docs/scaling.md).
"""

from pathlib import Path

from absl import flags
from ml_collections import config_flags

from landmarks_jax.cli import entry

_CONFIG = config_flags.DEFINE_config_file("config", None, "The configuration.")
_WORKDIR = flags.DEFINE_string("workdir", "runs/quickstart", "The run's folder.")
_HANDOVER = entry.define_handover()
_MULTIHOST = entry.define_multihost()


def main() -> int:
    """Trains."""
    place, workdir = _MULTIHOST(), Path(_WORKDIR.value)
    # Only now, so that --help and a wrong flag answer at once.
    from landmarks_jax.training import distributed, loop  # noqa: PLC0415

    with distributed.joined(**place):
        return loop.train(_CONFIG.value, workdir, handover=_HANDOVER())


if __name__ == "__main__":
    entry.run(main, default_config="configs/quickstart.py")
