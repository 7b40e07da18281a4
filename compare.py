"""Compares finished runs: their evaluations in one table, and what differs between them.

python compare.py RUN RUN ... [--out DIR]

RUN is a folder of train.py that eval.py has scored. Runs that differ in nothing but the seed have
their mean in a row too. With --out, DIR gets compare.md, compare.csv and compare.json.
"""

from absl import flags

from landmarks_jax.cli import entry
from landmarks_jax.system.errors import UserError

_OUT = flags.DEFINE_string("out", None, "A folder for the tables as Markdown, CSV and JSON.")


def main(arguments: list[str]) -> None:
    """Compares."""
    if not arguments:
        raise UserError("give the folders of runs, RUN RUN ...; --help says more")
    # Only now, so that --help and a wrong flag answer at once.
    from landmarks_jax.studies import compare_runs  # noqa: PLC0415

    print(compare_runs.compare_runs(arguments, _OUT.value))


if __name__ == "__main__":
    entry.run(main, positional=True)
