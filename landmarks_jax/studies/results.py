"""The runs of a table's cells: which are finished, and which command makes those that are not."""

import dataclasses
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from landmarks_jax.evaluation.score_tables import DASH, Result
from landmarks_jax.studies import status
from landmarks_jax.studies.cells import Base, Cell, as_flags, config_of, folder_of
from landmarks_jax.studies.runs import Key, Run


@dataclass(frozen=True)
class Gathered:
    """The runs of some cells.

    Attributes:
      base: that the cells change.
      cells: in the order asked for.
      keys: protocols and crops, likewise.
      seeds: that every cell should have.
      runs: that were begun, by cell and seed; each is called by its folder's own name.
      scored: of `runs`, by protocol and crop, cell and seed: those whose end was scored.
      missing: {"cell", "seeds", "why": a sentence, "command"}, one a cell that lacks something.
    """

    base: Base
    cells: list[Cell]
    keys: list[Key]
    seeds: tuple[int, ...]
    runs: dict[tuple[str, int], Run]
    scored: dict[Key, dict[str, dict[int, Result]]]
    missing: list[dict[str, Any]]

    def number_missing(self, cell: str) -> int | None:
        """The place, from 1, of a cell in `missing`; None where it lacks nothing."""
        names = [entry["cell"] for entry in self.missing]
        return names.index(cell) + 1 if cell in names else None

    def results_of(self, cell: str) -> dict[int, Result]:
        """A result of each of a cell's scored runs, by seed: they agree on how it was trained."""
        found: dict[int, Result] = {}
        for scored in self.scored.values():
            found = scored.get(cell, {}) | found
        return dict(sorted(found.items()))

    def seeds_text(self, cell: str) -> str:
        """The seeds of a cell's scored runs."""
        return ", ".join(map(str, self.results_of(cell))) or DASH


def gather(
    cells: Sequence[Cell],
    base: Base,
    runs: str,
    *,
    protocols: Sequence[str],
    seeds: Sequence[int] = (),
) -> Gathered:
    """Reads the runs of cells.

    Args:
      cells: asked for.
      base: that they change.
      runs: the folder of the runs' folders.
      protocols: asked for.
      seeds: that every cell should have; none takes those that any cell has, or 0.

    Raises:
      UserError: a folder holds another run than its cell's, or a damaged one.
    """
    keys = status.keys_of(protocols)
    found = {cell.name: _seeds_there(cell, runs) for cell in cells}
    wanted = tuple(seeds) or tuple(sorted({s for own in found.values() for s in own})) or (0,)
    begun: dict[tuple[str, int], Run] = {}
    scored: dict[Key, dict[str, dict[int, Result]]] = {key: {} for key in keys}
    missing = []
    for cell in cells:
        lacking: dict[int, str] = {}
        for seed in wanted:
            config, folder = config_of(cell, base, seed), folder_of(cell, seed, runs)
            run = status.open_run(folder, config)
            if why := status.why_missing(run, keys, config):
                lacking[seed] = why
            if run is None:
                continue
            begun[cell.name, seed] = dataclasses.replace(run, name=folder.name)
            for key in keys:
                if status.is_scored(run, key, config):
                    scored[key].setdefault(cell.name, {})[seed] = run.results[key]
        if lacking:
            missing.append(
                {
                    "cell": cell.name,
                    "seeds": list(lacking),
                    "why": "; ".join(f"seed {seed} {why}" for seed, why in lacking.items()),
                    "command": making_command(cell, base, runs, list(lacking), protocols),
                }
            )
    return Gathered(base, list(cells), keys, wanted, begun, scored, missing)


def _seeds_there(cell: Cell, runs: str) -> list[int]:
    """The seeds of a cell that have a folder."""
    pattern = re.compile(rf"{re.escape(cell.name)}-seed(\d+)")
    names = [path.name for path in Path(runs).glob(f"{cell.name}-seed*") if path.is_dir()]
    return [int(match[1]) for match in map(pattern.fullmatch, names) if match]


def making_command(
    cell: Cell, base: Base, runs: str, seeds: Sequence[int], protocols: Sequence[str]
) -> str:
    """The command that trains and scores a cell."""
    words = ["landmarks-jax", "reproduce", "train", "--cells", cell.name]
    words += ["--config", base.file, "--runs", runs, "--seeds", ",".join(map(str, seeds))]
    if tuple(protocols) != tuple(base.config.eval.protocols):
        words += [word for name in protocols for word in ("--protocol", name)]
    if cell.network == "vgg19" and base.vgg19 != Base.vgg19:
        words += ["--vgg19", base.vgg19]
    return shlex.join([*words, *as_flags(base.overrides)])
