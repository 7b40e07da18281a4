"""The runs of the cells of a table: which are finished, and the commands for those that are not."""

import dataclasses
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from landmarks_jax.evaluation.score_tables import Result
from landmarks_jax.studies import paper_cells
from landmarks_jax.studies.comparison import scores_of
from landmarks_jax.studies.paper_cells import Base, Cell
from landmarks_jax.studies.runs import Key, Run
from landmarks_jax.system.tables import DASH

Number = dict[str, Any]


@dataclass(frozen=True)
class CellRuns:
    """The runs of some cells.

    Attributes:
      base: the configuration that the cells change.
      cells: the cells in the order of the table.
      keys: protocols and crops.
      runs: existing runs by cell and seed, each named as its folder.
      scored: results of finished runs by protocol and crop, cell and seed.
      missing: {"cell", "seeds", "why": a sentence, "command"} for each cell that lacks something.
    """

    base: Base
    cells: list[Cell]
    keys: list[Key]
    runs: dict[tuple[str, int], Run]
    scored: dict[Key, dict[str, dict[int, Result]]]
    missing: list[dict[str, Any]]

    def number_missing(self, cell: str) -> Number | None:
        """A number that refers to a cell's entry in `missing`, from 1; None if it has none."""
        names = [entry["cell"] for entry in self.missing]
        return {"missing": names.index(cell) + 1} if cell in names else None

    def results_of(self, cell: str) -> dict[int, Result]:
        """A result of each of a cell's scored runs, by seed; they agree on the training."""
        results: dict[int, Result] = {}
        for scored in self.scored.values():
            results = scored.get(cell, {}) | results
        return dict(sorted(results.items()))

    def seeds_text(self, cell: str) -> str:
        """The seeds of a cell's scored runs."""
        return ", ".join(map(str, self.results_of(cell))) or DASH

    def score(self, key: Key, cell: str, row: str, metric: str = "forward") -> Number | None:
        """A metric of a cell with all labels, over its seeds.

        Args:
          key: protocol and crop.
          cell: its name.
          row: row of the results: `running`, `batch`, `untrained` or `mean_shape`.
          metric: a name that `comparison.scores_of` returns.
        """
        numbers = {
            seed: scores_of(result, row)
            for seed, result in self.scored[key].get(cell, {}).items()
            if row in result["results"]
        }
        return over_seeds({seed: n[metric] for seed, n in numbers.items() if metric in n})


def over_seeds(
    values: Mapping[int, float], draws_std: Sequence[float | None] = ()
) -> Number | None:
    """A measured number; None if no run has it.

    Args:
      values: the runs' numbers by seed.
      draws_std: the deviation over draws of labelled photos in each run, None without draws.
    """
    if not values:
        return None
    deviations = [std for std in draws_std if std is not None]
    return {
        "mean": round(mean(values.values()), 4),
        "std": round(stdev(values.values()), 4) if len(values) > 1 else None,
        "draws_std": round(mean(deviations), 4) if deviations else None,
        "seeds": list(values),
        "values": list(values.values()),
    }


def read_cells(
    cells: Sequence[Cell],
    base: Base,
    runs: str,
    *,
    protocols: Sequence[str],
    seeds: Sequence[int] = (),
) -> CellRuns:
    """Reads the runs of cells.

    Args:
      cells: the cells of the table.
      base: the configuration that they change.
      runs: the folder of the runs' folders.
      protocols: protocols of their scores.
      seeds: seeds that every cell should have; empty takes those that any cell has, or 0.

    Raises:
      UserError: a folder has another run than its cell's, or a damaged one.
    """
    keys = paper_cells.keys_of(protocols)
    seeds = tuple(seeds) or tuple(sorted({s for c in cells for s in _seeds_of(c, runs)})) or (0,)
    existing: dict[tuple[str, int], Run] = {}
    scored: dict[Key, dict[str, dict[int, Result]]] = {key: {} for key in keys}
    missing = []
    for cell in cells:
        reasons: dict[int, str] = {}
        for seed in seeds:
            config = paper_cells.config_of(cell, base, seed)
            folder = paper_cells.folder_of(cell, seed, runs)
            run = paper_cells.open_run(folder, config)
            if why := paper_cells.why_missing(run, keys, config):
                reasons[seed] = why
            if run is None:
                continue
            existing[cell.name, seed] = dataclasses.replace(run, name=folder.name)
            for key in keys:
                if paper_cells.is_scored(run, key, config):
                    scored[key].setdefault(cell.name, {})[seed] = run.results[key]
        if reasons:
            missing.append(
                {
                    "cell": cell.name,
                    "seeds": list(reasons),
                    "why": "; ".join(f"seed {seed} {why}" for seed, why in reasons.items()),
                    "command": _command(cell, base, runs, list(reasons), protocols),
                }
            )
    return CellRuns(base, list(cells), keys, existing, scored, missing)


def _seeds_of(cell: Cell, runs: str) -> list[int]:
    """The seeds of a cell that have a folder."""
    pattern = re.compile(rf"{re.escape(cell.name)}-seed(\d+)")
    names = [path.name for path in Path(runs).glob(f"{cell.name}-seed*") if path.is_dir()]
    return [int(match[1]) for match in map(pattern.fullmatch, names) if match]


def _command(
    cell: Cell, base: Base, runs: str, seeds: Sequence[int], protocols: Sequence[str]
) -> str:
    """The command that trains and scores a cell."""
    words = ["landmarks-jax", "reproduce", "train", "--cells", cell.name]
    words += ["--config", base.file, "--runs", runs, "--seeds", ",".join(map(str, seeds))]
    if tuple(protocols) != tuple(base.config.eval.protocols):
        words += [word for name in protocols for word in ("--protocol", name)]
    if cell.network == "vgg19" and base.vgg19 != Base.vgg19:
        words += ["--vgg19", base.vgg19]
    return shlex.join([*words, *paper_cells.as_flags(base.overrides)])
