r"""The paper's tables: their trainings, what these come to, and a dry run of all of them.

python -m landmarks_jax.cli.reproduce train --table 1 --config configs/paper.py --seeds 0,1
python -m landmarks_jax.cli.reproduce table --table 1 --config configs/paper.py --out tables
python -m landmarks_jax.cli.reproduce check --config configs/paper.py

`train` trains and scores what is missing, one run after the other; the same command again goes on.
`table` collects what is finished, beside the published numbers, as Markdown, LaTeX, CSV and JSON.
`check` builds every cell and traces a step of it, without data, weights or heavy computation.
"""

from pathlib import Path
from typing import Any

from absl import flags
from ml_collections import config_flags

from landmarks_jax.cli import entry
from landmarks_jax.system.errors import ConfigError

_CONFIG = config_flags.DEFINE_config_file("config", None, "The base that the cells change.")
_TABLE = flags.DEFINE_multi_enum("table", [], ["1", "2", "3", "ablation"], "Which cells.")
_CELLS = flags.DEFINE_list("cells", [], "Cells by name, with commas between them, such as all-k10.")
_RUNS = flags.DEFINE_string("runs", None, "The runs' folder; default: runs/ and --config's name.")
_SEEDS = flags.DEFINE_list(
    "seeds", None, "Seeds, with commas; default: 0 to train, in a table those that are there."
)
_PROTOCOL = flags.DEFINE_multi_string(
    "protocol", None, "Protocols of eval.py; default: the base's config.eval.protocols."
)
_VGG19 = flags.DEFINE_string("vgg19", "data/weights/vgg19.npz", "VGG-19's weights file.")
_OUT = flags.DEFINE_string("out", None, "table: a folder for the files; default: none are written.")
_DRY_RUN = flags.DEFINE_bool("dry_run", False, "train: only print the commands.")

_VERBS = ("train", "table", "check")


def main(arguments: list[str]) -> int:
    """Does what the first argument says."""
    if len(arguments) != 1 or arguments[0] not in _VERBS:
        raise ConfigError(f"say what to do, one of {', '.join(_VERBS)}; --help says more")
    # Only now, so that --help and a wrong flag answer at once.
    from landmarks_jax.studies import cells  # noqa: PLC0415

    holder: Any = flags.FLAGS["config"]
    file = config_flags.get_config_filename(holder)
    overrides = config_flags.get_override_values(holder)
    base = cells.Base(file, _CONFIG.value, overrides, _VGG19.value)
    runs = _RUNS.value or f"runs/{Path(file).stem}"
    if Path(runs).exists() and not Path(runs).is_dir():
        raise ConfigError(f"--runs {runs}: is no folder")
    protocols = _PROTOCOL.value or base.config.eval.protocols
    if arguments[0] == "table":
        from landmarks_jax.studies import paper_tables  # noqa: PLC0415

        markdown = paper_tables.write_tables(
            base,
            runs,
            tables=_TABLE.value,
            cells=_CELLS.value,
            protocols=protocols,
            seeds=_seeds(),
            out=_OUT.value,
        )
        print(markdown)
        return 0
    named = cells.cells_of(_TABLE.value, _CELLS.value)
    if arguments[0] == "check":
        from landmarks_jax.studies import dry_run  # noqa: PLC0415

        text, right = dry_run.check(named or list(cells.CELLS.values()), base)
        print(text)
        return 0 if right else 1
    from landmarks_jax.studies import runner  # noqa: PLC0415

    if not named:
        raise ConfigError("name a --table (1, 2, 3, ablation) or --cells to train")
    jobs = runner.jobs_of(named, base, runs, seeds=_seeds() or (0,), protocols=protocols)
    print(runner.plan(jobs), flush=True)
    return 0 if _DRY_RUN.value else runner.run_all(jobs)


def _seeds() -> tuple[int, ...]:
    """The seeds asked for.

    Raises:
      ConfigError: they are no whole numbers.
    """
    given = _SEEDS.value or []
    if not all(text.strip().isdecimal() for text in given):
        raise ConfigError(f"--seeds {','.join(given)}: must be whole numbers, such as 0,1")
    return tuple(dict.fromkeys(int(text) for text in given))


if __name__ == "__main__":
    entry.run(main, default_config="configs/paper.py", positional=True)
