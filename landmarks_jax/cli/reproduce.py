"""The paper's tables: train their runs, tabulate the results, or try every cell without training.

landmarks-jax reproduce train --table 1 --config paper --seeds 0,1
landmarks-jax reproduce table --table 1 --config paper --out tables
landmarks-jax reproduce check --config paper

`train` trains and scores what is missing, one run after the other; rerun it to continue. `table`
puts finished runs beside the published numbers, as Markdown, LaTeX, CSV and JSON. `check` builds
every cell and traces one step of it, without data, weights or heavy computation.
"""

from pathlib import Path

from landmarks_jax.cli import presets, shared_flags
from landmarks_jax.cli.command import Call, Command, Flag
from landmarks_jax.system.errors import ConfigError

_ACTIONS = ("train", "table", "check")
_OWNERS = {
    "runs": ("train", "table"),
    "seeds": ("train", "table"),
    "protocol": ("train", "table"),
    "out": ("table",),
    "dry_run": ("train",),
}
_FLAGS = (
    Flag(
        "table",
        "The table to train, make or check.",
        [],
        choices=("1", "2", "3", "ablation"),
        repeated=True,
    ),
    Flag("cells", "Cells by name, separated by commas, such as all-k10.", [], kind=list),
    Flag("runs", "Folder of the runs; default: runs/ and --config's name."),
    Flag(
        "seeds",
        "Seeds, separated by commas; default: 0 to train, in a table those that exist.",
        kind=list,
    ),
    Flag(
        "protocol",
        "Protocols of `landmarks-jax eval`; default: the base's config.eval.protocols.",
        repeated=True,
    ),
    Flag("vgg19", "VGG-19's weights file.", "data/weights/vgg19.npz"),
    Flag("out", "table: folder for the files; default: none are written."),
    Flag("dry_run", "train: only print the commands.", False, kind=bool),
)


def _run(call: Call) -> int:
    if len(call.arguments) != 1 or call.arguments[0] not in _ACTIONS:
        raise ConfigError(f"say what to do, one of {', '.join(_ACTIONS)}; --help says more")
    shared_flags.refuse_unused(call.flags, call.arguments[0], _OWNERS)
    from ml_collections import config_flags  # noqa: PLC0415

    from landmarks_jax.studies import paper_cells  # noqa: PLC0415

    values, action = call.flags, call.arguments[0]
    file = presets.short_name(call.config_file)
    overrides = config_flags.get_override_values(values["config"])
    base = paper_cells.Base(file, values.config, overrides, values.vgg19)
    runs = values.runs or f"runs/{Path(file).stem}"
    if Path(runs).exists() and not Path(runs).is_dir():
        raise ConfigError(f"--runs {runs}: not a folder")
    protocols = values.protocol or base.config.eval.protocols
    if action == "table":
        from landmarks_jax.studies import paper_tables  # noqa: PLC0415

        markdown = paper_tables.write_tables(
            base,
            runs,
            tables=values.table,
            cells=values.cells,
            protocols=protocols,
            seeds=_seeds(values.seeds),
            out=values.out,
        )
        print(markdown)
        return 0
    chosen = paper_cells.cells_of(values.table, values.cells)
    if action == "check":
        from landmarks_jax.studies import dry_run  # noqa: PLC0415

        text, works = dry_run.check(chosen or list(paper_cells.CELLS.values()), base)
        print(text)
        return 0 if works else 1
    from landmarks_jax.studies import runner  # noqa: PLC0415

    if not chosen:
        raise ConfigError("name a --table (1, 2, 3, ablation) or --cells to train")
    seeds = _seeds(values.seeds) or (0,)
    jobs = runner.jobs_of(chosen, base, runs, seeds=seeds, protocols=protocols)
    print(runner.plan(jobs), flush=True)
    return 0 if values.dry_run else runner.run_all(jobs)


def _seeds(texts: list[str] | None) -> tuple[int, ...]:
    texts = texts or []
    if not all(text.strip().isdecimal() for text in texts):
        raise ConfigError(f"--seeds {','.join(texts)}: must be whole numbers, such as 0,1")
    return tuple(dict.fromkeys(int(text) for text in texts))


COMMAND = Command(
    _run,
    _FLAGS,
    config="The base configuration that the cells change.",
    default_config="paper",
    arguments="train|table|check",
)
