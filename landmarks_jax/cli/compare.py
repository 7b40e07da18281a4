"""Compare scored runs: their results in one table, and what differs between them.

landmarks-jax compare RUN RUN ... [--out DIR]
landmarks-jax compare runs/a runs/b --out compared

RUN is the folder of a run that `landmarks-jax eval` has scored. Runs that differ only in the seed
also get a row with their mean. --out DIR writes compare.md, compare.csv and compare.json.
"""

from landmarks_jax.cli.command import Call, Command, Flag
from landmarks_jax.system.errors import UserError

_FLAGS = (Flag("out", "Folder for the tables as Markdown, CSV and JSON."),)


def _run(call: Call) -> None:
    if not call.arguments:
        raise UserError("give the folders of runs, RUN RUN ...; --help says more")
    from landmarks_jax.studies import comparison_tables  # noqa: PLC0415

    print(comparison_tables.compare_runs(call.arguments, call.flags.out))


COMMAND = Command(_run, _FLAGS, arguments="RUN ...")
