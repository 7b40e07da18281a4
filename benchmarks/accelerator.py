"""Runs all measurements on a machine with a GPU by one command.

python -m benchmarks.accelerator --out runs/accelerator --minutes 9
python -m benchmarks.accelerator --out runs/accelerator --minutes 3 --config best

Stages run one after the other, the most important first, each in a process of its own and with a
limit of its own. Their rows are written as they come, to `STAGE.json`, so that a stage which fails,
hangs or is stopped leaves what it had measured. One that would not fit into the minutes left is
skipped; rerun the command to continue with the stages that are not complete. `summary.json` and
`summary.md` are made from what there is. With `--config` the first stage is the step of that
configuration.
"""

import argparse
import functools
import json
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from benchmarks import accelerator_tables, harness, roofline, stages
from benchmarks.accelerator_stages import STAGES, preset_of, table_of
from benchmarks.harness import OURS
from benchmarks.stages import Stage
from landmarks_jax import config as configuration
from landmarks_jax.cli import main as cli
from landmarks_jax.cli.command import Command
from landmarks_jax.system.errors import UserError, reason
from landmarks_jax.system.files import write_file
from landmarks_jax.system.signals import Interrupt


def run_stages(
    table: dict[str, Stage],
    words: Sequence[str],
    folder: Path,
    out: Path,
    *,
    tiny: bool,
    end: float,
    interrupt: Interrupt,
) -> dict[str, str]:
    """Runs the stages that are not complete; `out` has the summary of what there is at any time.

    Args:
      table: the stages by name.
      words: the command line that names a configuration, for those that need it.
      folder: for the results.
      out: for the summary.
      tiny: whether networks are tiny.
      end: when the time is over, on the clock of `time.monotonic()`.
      interrupt: of this process.

    Returns:
      The stages without a whole result, and why.
    """
    own = table.keys() - STAGES.keys()

    def summarize(left_out: dict[str, str]) -> None:
        try_write_summary(folder, out, left_out, tiny=tiny, own=own)

    named = [name for name in table if name in STAGES]
    command = [
        "benchmarks.accelerator",
        "--out",
        str(folder),
        *(["--tiny"] if tiny else []),
        "--stages",
        ",".join(named),
    ]
    summarize({})
    return stages.run(
        table,
        [*command, *words],
        folder,
        tiny=tiny,
        end=end,
        interrupt=interrupt,
        changed=summarize,
    )


def try_write_summary(
    folder: Path, out: Path, left_out: dict[str, str], *, tiny: bool, own: Iterable[str] = ()
) -> str:
    """`write_summary`, or why there is none: what is measured and trained next must not end."""
    try:
        return write_summary(folder, out, left_out, tiny=tiny, own=own)
    except Exception as error:
        text = f"no summary: {type(error).__name__}: {reason(error)}; see {folder}"
        print(text, flush=True)
        return text


def write_summary(
    folder: Path, out: Path, left_out: dict[str, str], *, tiny: bool, own: Iterable[str] = ()
) -> str:
    """Merges the stages' results into `summary.json`, and its Markdown, which is returned.

    Args:
      folder: that of the results.
      out: that of the summary.
      left_out: the stages without a whole result, and why.
      tiny: whether networks were tiny.
      own: the names of stages of configurations' own steps.
    """
    results = stages.read(folder, [*STAGES, *own], tiny=tiny)
    summary: dict[str, Any] = {"left_out": left_out, "stages": results, "rows": []}
    for name, result in results.items():
        if name.startswith(("train_", "torch_")):
            summary["rows"] += result["rows"]
            summary["left_out"] = summary["left_out"] | result["left_out"]
    summary["rows"] = [
        row
        | _over_ours(row, summary["rows"])
        | _against_bounds(
            row, results, preset_of(row["channels"], row["dtype"], row["batch"], tiny=tiny)
        )
        for row in summary["rows"]
    ]
    for result in results.values():
        if "config" in result:
            config = configuration.from_json(json.dumps(result["config"]))
            result.update(_against_bounds(result, results, config))
    markdown = accelerator_tables.to_markdown(summary)
    harness.write_json(out / "summary.json", summary)
    write_file(out / "summary.md", markdown, UserError)
    return markdown


def _over_ours(row: dict[str, Any], rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The ratio to ours of a row that was measured in another process than ours."""
    if row["over_ours"] is not None or row["contender"] == OURS:
        return {}
    same = ("channels", "dtype", "batch")
    for ours in rows:
        if ours["contender"] == OURS and all(ours[field] == row[field] for field in same):
            ratio = round(row["quartiles_ms"][1] / ours["quartiles_ms"][1], 4)
            return {"over_ours": [ratio] * 3}
    return {}


def _against_bounds(
    row: dict[str, Any], results: dict[str, dict[str, Any]], config: ConfigDict
) -> dict[str, Any]:
    """The shares of the measured matrix product and of the roofline that a row reaches."""
    machine = results.get("machine", {})
    if not machine.get("complete"):
        return {"of_peak": None, "of_roofline": None}
    rates = {name: machine[name] for name in ("peak", "bandwidth")}
    bounds = _bounds(configuration.to_json(config), json.dumps(rates))
    milliseconds = row["quartiles_ms"][1]
    return {
        "of_peak": round(bounds["compute_ms"] / milliseconds, 4),
        "of_roofline": round(bounds["roofline_ms"] / milliseconds, 4),
    }


@functools.cache
def _bounds(config: str, rates: str) -> dict[str, Any]:
    return roofline.lower_bounds(configuration.from_json(config), json.loads(rates))


def configuration_of(words: Sequence[str]) -> ConfigDict | None:
    """The configuration that a command line names; None where it names none.

    Raises:
      ConfigError: it is not a configuration, or its values cannot work.
    """
    if not words:
        return None
    command = Command(lambda _: None, config="The configuration whose step is measured.")
    config: ConfigDict = cli.parse("accelerator", command, words).flags.config
    configuration.validate(config)
    return config


def main() -> int:
    """Runs the stages, or the one that this process is for.

    Returns:
      The exit code: 1 where a stage has no whole result, 128 plus the number of a signal.
    """
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--out", type=harness.out_folder, required=True, help="for the results")
    parser.add_argument("--minutes", type=harness.at_least(0.0), default=60.0, help="for all")
    names = harness.comma_separated(harness.one_of(STAGES))
    parser.add_argument("--stages", type=names, default=",".join(STAGES), help="which, in order")
    parser.add_argument("--tiny", action="store_true", help="tiny networks, to try the command")
    parser.add_argument("--stage", help=argparse.SUPPRESS)  # this one, in this process
    args, words = parser.parse_known_args()
    config = configuration_of(words)
    table = table_of(args.stages, config)
    if args.stage:
        stages.measure_here(args.stage, table[args.stage], args.out, tiny=args.tiny)
        return 0
    jax.config.update("jax_platforms", "cpu")  # a GPU's memory is for the stages
    with Interrupt() as interrupt:
        left_out = run_stages(
            table,
            words,
            args.out,
            args.out,
            tiny=args.tiny,
            end=time.monotonic() + 60 * args.minutes,
            interrupt=interrupt,
        )
    own = table.keys() - STAGES.keys()
    print(write_summary(args.out, args.out, left_out, tiny=args.tiny, own=own))
    return interrupt.exit_code or int(bool(left_out))


if __name__ == "__main__":
    harness.run_command(main)
