"""Wiring of `landmarks-jax reproduce table`: runs in, tables out."""

import json
from collections.abc import Sequence
from pathlib import Path

from landmarks_jax.studies import render
from landmarks_jax.studies.cells import TABLES, Base, cells_of
from landmarks_jax.studies.document import contents
from landmarks_jax.studies.results import gather
from landmarks_jax.system.errors import ConfigError, WorkdirError


def write_tables(
    base: Base,
    runs: str,
    *,
    tables: Sequence[str],
    cells: Sequence[str],
    protocols: Sequence[str],
    seeds: Sequence[int] = (),
    out: str | None = None,
) -> str:
    """Collects finished runs into tables.

    Args:
      base: that the cells change.
      runs: the folder of the runs' folders.
      tables: of `cells.TABLES`.
      cells: by name, for a table of these besides.
      protocols: that the cells are scored under.
      seeds: that every cell should have; none takes those that are there.
      out: a folder for `table1.md`, `.tex`, `.csv` and `.json`, for instance; None writes nothing.

    Returns:
      The tables, as Markdown.

    Raises:
      UserError: a run is another than its cell, is damaged, or nothing can be written.
    """
    if not tables and not cells:
        raise ConfigError(f"name a --table ({', '.join(TABLES)}) or --cells")
    markdown = []
    for name in (*tables, *["cells"] * bool(cells)):
        chosen = cells_of((), cells) if name == "cells" else cells_of((name,), ())
        gathered = gather(chosen, base, runs, protocols=protocols, seeds=seeds)
        table = contents(name, gathered)
        markdown.append(render.to_markdown(table))
        if out is not None:
            stem = f"table{name}" if name.isdigit() else name
            text = json.dumps(table, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
            read = json.loads(text)
            _write(Path(out), stem, {
                "json": text,
                "md": render.to_markdown(read),
                "tex": render.to_latex(read),
                "csv": render.to_csv(read),
            })  # fmt: skip
    return "\n".join(markdown)


def _write(out: Path, stem: str, texts: dict[str, str]) -> None:
    """Writes a table's files."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        for ending, text in texts.items():
            (out / f"{stem}.{ending}").write_text(text)
    except OSError as error:
        raise WorkdirError(f"--out {out}: cannot be written ({error})") from error
