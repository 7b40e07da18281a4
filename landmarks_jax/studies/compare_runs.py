"""Wiring of `landmarks-jax compare`: runs in, tables out."""

import json
from collections.abc import Sequence
from pathlib import Path

from landmarks_jax.studies import comparison as rows
from landmarks_jax.studies import comparison_document, runs
from landmarks_jax.system.errors import WorkdirError


def compare_runs(folders: Sequence[str], out: str | None = None) -> str:
    """Compares finished runs.

    Args:
      folders: of the runs.
      out: a folder for `compare.md`, `compare.csv` and `compare.json`; None writes nothing.

    Returns:
      The tables, as Markdown.

    Raises:
      WorkdirError: a folder is no run, or nothing can be written.
    """
    comparison = rows.compare(runs.read_runs(folders))
    markdown = comparison_document.to_markdown(comparison)
    if out is not None:
        folder = Path(out)
        files = {
            "compare.md": markdown,
            "compare.csv": comparison_document.to_csv(comparison),
            "compare.json": json.dumps(comparison, indent=2, allow_nan=False) + "\n",
        }
        try:
            folder.mkdir(parents=True, exist_ok=True)
            for name, text in files.items():
                (folder / name).write_text(text)
        except OSError as error:
            raise WorkdirError(f"--out {out}: cannot be written ({error})") from error
    return markdown
