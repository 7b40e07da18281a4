"""Score a trained run; tables, curves and images go into its folder.

landmarks-jax eval --workdir DIR [--protocol NAME ...]
landmarks-jax eval --workdir runs/mine --fit some.csv --score others.csv --crop center --crop box

Without arguments it scores the quickstart.
"""

from pathlib import Path

from landmarks_jax.cli import shared_flags
from landmarks_jax.cli.command import Call, Command, Flag
from landmarks_jax.system import files
from landmarks_jax.system.errors import WorkdirError

_FLAGS = (
    Flag("workdir", "The run's folder.", "runs/quickstart"),
    shared_flags.LANDMARKS,
    *shared_flags.LABELLED_FACES,
)


def _run(call: Call) -> None:
    from landmarks_jax.evaluation import run_evaluation  # noqa: PLC0415

    faces = shared_flags.labelled_faces(call.flags)
    workdir = Path(call.flags.workdir)
    files.check_writable(workdir, WorkdirError)
    kept = shared_flags.landmarks(call.flags)
    print(run_evaluation.evaluate_run(workdir, **faces, kept=kept, command=call.command_line))


COMMAND = Command(_run, _FLAGS)
