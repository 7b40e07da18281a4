"""Write what is needed to continue a run on another machine: files of at most 15 MiB.

landmarks-jax transfer --workdir DIR --out DIR
landmarks-jax transfer --workdir runs/faces --out out/transfer

There, `landmarks-jax train --transfer DIR` or `landmarks-jax session --transfer DIR` starts a new
run folder from it.
"""

from pathlib import Path

from landmarks_jax.cli.command import Call, Command, Flag

_FLAGS = (
    Flag("workdir", "The run's folder.", required=True),
    Flag("out", "Folder for the files.", required=True),
)


def _run(call: Call) -> None:
    from landmarks_jax.training import checkpoints, run_folder, transfer_files  # noqa: PLC0415

    workdir = Path(call.flags.workdir)
    restored = checkpoints.restore(workdir, run_folder.read_config(workdir))
    for path in transfer_files.write(restored, workdir, Path(call.flags.out)):
        print(f"{path}: {path.stat().st_size / 2**20:.1f} MiB")


COMMAND = Command(_run, _FLAGS)
