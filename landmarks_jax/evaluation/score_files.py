"""Writes the files of an evaluation: tables, curves and pages of faces, from results as JSON."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from landmarks_jax.evaluation import plots, score_tables
from landmarks_jax.evaluation.protocols import Protocol
from landmarks_jax.system import figures, files
from landmarks_jax.system.errors import WorkdirError, reason


def write(out: Path, opened: Sequence[Protocol], results: Sequence[dict[str, Any]]) -> str:
    """Writes the results of protocols to a folder, replacing earlier ones of the same name.

    For each protocol `NAME-CROP.csv`, `-curve.png`, `-faces.png`, `-worst.png` (the faces with the
    largest errors) and, last, `.json`; `table.md` for all.

    Args:
      out: the folder.
      opened: the protocols.
      results: of each, from `protocols.evaluate`.

    Returns:
      The tables, as Markdown.

    Raises:
      WorkdirError: a file cannot be written.
    """
    markdown = score_tables.to_markdown(results)
    names = [base_name(protocol.name, protocol.crop) for protocol in opened]
    remove(out, names)
    for name, protocol, result in zip(names, opened, results, strict=True):
        write_text(out / f"{name}.csv", score_tables.to_csv(result))
        figures.save(plots.error_curves(result), out / f"{name}-curve.png")
        title = score_tables.describe(result)
        figures.save(_page(protocol, result["examples"], title), out / f"{name}-faces.png")
        figures.save(_worst_page(protocol, result, title), out / f"{name}-worst.png")
    write_text(out / "table.md", markdown)
    for name, result in zip(names, results, strict=True):
        write_text(out / f"{name}.json", json.dumps(result, allow_nan=False) + "\n")
    return markdown


def base_name(protocol: str, crop: str) -> str:
    """`NAME-CROP`, how the files and folders of a protocol are called."""
    return f"{protocol}-{crop}".replace(" ", "-")


def remove(out: Path, names: Sequence[str]) -> None:
    """Removes the JSON of earlier results; it is written last, so where it is, everything is."""
    for name in names:
        try:
            (out / f"{name}.json").unlink(missing_ok=True)
        except OSError as error:
            raise WorkdirError(
                f"{out / name}.json: cannot be replaced ({reason(error)})"
            ) from error


def write_text(path: Path, text: str) -> None:
    """Writes a file of an evaluation atomically."""
    files.write_file(path, text, WorkdirError)


def _page(
    protocol: Protocol, shown: dict[str, Any], title: str, captions: Sequence[str] = ()
) -> figures.Figure:
    return figures.landmark_page(
        protocol.score.views[shown["rows"]],
        np.array(shown["landmarks"]),
        predicted=np.array(shown["predicted"]),
        labels=np.array(shown["labels"]),
        captions=captions,
        title=title,
    )


def _worst_page(protocol: Protocol, result: dict[str, Any], title: str) -> figures.Figure:
    worst = result["worst"]
    errors = next(iter(result["results"].values()))["per_photo"]
    title += (
        f": the {len(worst['rows'])} of {len(errors)} faces with the largest forward error, % of "
        "the eye distance"
    )
    return _page(protocol, worst, title, [f"{errors[row]:.1f}" for row in worst["rows"]])
