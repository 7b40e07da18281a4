"""Writes what it takes to go on with a run elsewhere: a few files of at most 15 MiB.

python handover.py --workdir DIR --out DIR

There, `train.py --handover DIR` and `sitting.py --handover DIR` start a new run folder from it.
"""

from pathlib import Path

from absl import flags

from landmarks_jax.cli import entry

_WORKDIR = flags.DEFINE_string("workdir", None, "The run's folder.", required=True)
_OUT = flags.DEFINE_string("out", None, "The folder for the files.", required=True)


def main() -> None:
    """Writes the handover."""
    # Only now, so that --help and a wrong flag answer at once.
    from landmarks_jax.evaluation import run_evaluation  # noqa: PLC0415
    from landmarks_jax.training import checkpoints, run_transfer  # noqa: PLC0415

    workdir = Path(_WORKDIR.value)
    restored = run_evaluation.restore(workdir, checkpoints.read_config(workdir))
    for path in run_transfer.write(restored, workdir, Path(_OUT.value)):
        print(f"{path}: {path.stat().st_size / 2**20:.1f} MiB")


if __name__ == "__main__":
    entry.run(main)
