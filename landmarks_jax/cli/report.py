"""Say which points of a run are reliable, and why: a page to look at.

landmarks-jax report RUN ...
landmarks-jax report runs/mine

Measures every point on the run's own photos, without labels: whether it moves with the object, how
precisely, and whether the other points agree. Writes RUN/report.html (one file, also for a phone)
and RUN/report.json, and prints the verdict. docs/report.md has the limits, and what they come from.
"""

from pathlib import Path

from landmarks_jax.cli.command import Call, Command
from landmarks_jax.system.errors import UserError


def _run(call: Call) -> None:
    if not call.arguments:
        raise UserError("give the folder of a run; --help says more")
    from landmarks_jax.evaluation import run_report  # noqa: PLC0415

    for workdir in call.arguments:
        print(run_report.report(Path(workdir), command=call.command_line))


COMMAND = Command(_run, arguments="RUN ...")
