"""The page of a report: one HTML file without other resources, light or dark like the system."""

import base64
import html
import shlex
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from landmarks_jax.evaluation import report_verdict
from landmarks_jax.models.detectors import numbers_text
from landmarks_jax.system import figures
from landmarks_jax.system.palette import hex_colors
from landmarks_jax.system.tables import DASH, Table

# Title and unit of what is measured of a point, by its name in the JSON.
COLUMNS = {
    "follows": ("follows", "%"),
    "error": ("error", "% of the view"),
    "missed": ("relative error", "%"),
    "agreement": ("agreement", "%"),
    "confidence": ("confidence", "%"),
    "spread": ("spread", "% of the view"),
    "distance": ("to the nearest", "% of the view"),
    "border": ("at the border", "%"),
}
_MOST_ROOTS = 4  # in a command; a shell may have expanded a glob to all photos
_LENGTHS = ("error", "spread", "distance")  # already in per cent; the others are shares
_NOTE = (
    "Measured on {used} of {all} photos, without a label, each undistorted and rotated, scaled and "
    "shifted in known ways."
)
_MEANING = (
    "follows: how much of the way a point goes that the photo is moved: 100 % moves with the "
    "object, 0 % stays in the view. error: how far it is from where it belongs in the moved photo; "
    "relative error: that over how far it should have moved. agreement: how much of its variance "
    "over photos the other points explain. confidence: how much of its heat map is near it."
)
_STYLE = """
img { display: block; width: 100%; height: auto; border-radius: 0.5rem; background: #fff; }
figure { max-width: 44rem; margin: 1rem 0; }
figure.curve { max-width: 32rem; }
.verdict { padding: 0.75rem 1rem; border-left: 0.5rem solid; background: var(--panel); }
.verdict strong { font-size: 1.25rem; }
p.good { border-color: #1a9850; }
p.fair { border-color: #e69f00; }
p.poor { border-color: #d73027; }
td.good, td.fair, td.poor { border-left: 0.3rem solid; padding-left: 0.5rem; }
td.good { border-left-color: #1a9850; } td.fair { border-left-color: #e69f00; }
td.poor { border-left-color: #d73027; }
td.text { text-align: left; }
#points th { white-space: nowrap; }
#points thead th { white-space: normal; }
pre { overflow-x: auto; padding: 0.75rem; border-radius: 0.5rem; background: var(--panel); }
details, figcaption { overflow-wrap: anywhere; color: var(--faint); font-size: 0.9rem; }
@media (max-width: 60rem) {
  #points thead { display: none; }
  #points tr { display: flex; flex-wrap: wrap; gap: 0 0.75rem; padding: 0.5rem 0;
    border-bottom: 1px solid var(--line); }
  #points th, #points td { border-bottom: 0; text-align: left; }
  #points td.text { flex: 1 0 75%; }
  #points td.number::before { content: attr(data-name) " "; color: var(--faint); }
}
"""
_MOODS = {
    **{report_verdict.SETTLED: "good", report_verdict.RELIABLE: "good"},
    **{report_verdict.MOVING: "fair", report_verdict.DOUBTFUL: "fair"},
    **{report_verdict.FAILED: "poor", report_verdict.UNRELIABLE: "poor"},
}


def commands(result: Mapping[str, Any]) -> list[str]:
    """The commands that use a run, from a report's JSON."""
    run, kept = shlex.quote(result["workdir"]), numbers_text(result["reliable"])
    roots = result["roots"]
    photos = shlex.join(roots) if 0 < len(roots) <= _MOST_ROOTS else "photos/"
    keep = f" --landmarks {kept}" if len(result["reliable"]) < len(result["points"]) else ""
    return [
        f"landmarks-jax export --workdir {run} --noregressor{keep} --out mine.safetensors",
        f"landmarks-jax label {photos} --points NAME1,NAME2 --detector mine.safetensors --out "
        "labels.csv",
        f"landmarks-jax eval --workdir {run}{keep} --fit labels.csv",
    ]


def to_markdown(result: Mapping[str, Any]) -> str:
    """The verdict and the table of the points, for the terminal."""
    rows = [[str(k), point["verdict"], point["reason"]] for k, point in enumerate(result["points"])]
    notes = [result["advice"], _note(result)]
    table = Table(["point", "verdict", "reason"], rows, _sentence(result), notes).to_markdown()
    steps = [f"    {line}" for line in commands(result)] if result["reliable"] else []
    return "\n".join([table, *steps, ""] if steps else [table])


def loss_curve(rows: Sequence[Mapping[str, Any]]) -> Figure:
    """The loss by step, from the log of a run."""
    figure = Figure(figsize=(5.2, 2.8), dpi=2 * figures.DPI, layout="constrained")
    axes = figure.add_subplot()
    losses = [(row["step"], row["loss"]) for row in rows if "loss" in row]
    axes.plot(*np.array(losses).T, color="#0b57d0", marker=".")
    axes.set(xlabel="step", ylabel="loss")
    axes.grid(alpha=0.3)
    return figure


def points_page(views: np.ndarray, landmarks: np.ndarray, shown: Sequence[int]) -> Figure:
    """A page of views `[N, S, S, 3]` with some of their points `[N, K, 2]`."""
    hidden = np.setdiff1d(np.arange(landmarks.shape[1]), shown)
    points = landmarks.copy()
    points[:, hidden] = np.nan  # not drawn
    return figures.landmark_page(views, points, columns=3, tile=180)


def render(
    result: Mapping[str, Any],
    rows: Sequence[Mapping[str, Any]],
    views: np.ndarray,
    landmarks: np.ndarray,
    names: Sequence[str],
) -> str:
    """The page.

    Args:
      result: the report's JSON.
      rows: the log of the run.
      views: the undistorted views of some photos, uint8 `[N, S, S, 3]`.
      landmarks: `[N, K, 2]` in them, normalised.
      names: of these photos.
    """
    title = html.escape(f"Landmarks of {Path(result['workdir']).name}")
    verdict, kept = result["verdict"], result["reliable"]
    others = [k for k in range(len(result["points"])) if k not in kept]
    body = [
        f"<header><h1>{title}</h1></header><main>",
        f'<p class="verdict {_MOODS[verdict]}"><strong>{html.escape(_sentence(result))}</strong>',
        f"<br>{html.escape(result['advice'])}</p>",
    ]
    for heading, shown in (
        ("Reliable points", kept),
        ("Doubtful and unreliable points", others),
    ):
        if shown:
            page = points_page(views, landmarks, shown)
            body += [f"<h2>{heading}</h2>", _image(page, heading)]
    listed = ", ".join(html.escape(name) for name in names)
    body += [f"<details><summary>The photos shown</summary>{listed}</details>", _table(result)]
    if any("loss" in row for row in rows):
        body += ["<h2>Loss</h2>", _image(loss_curve(rows), "Loss by step", "curve")]
    if kept:
        lines = html.escape("\n".join(commands(result)))
        body += ["<h2>Next steps</h2>", f"<pre><code>{lines}</code></pre>"]
    return "\n".join([_head(title), *body, "</main></body></html>", ""])


def _head(title: str) -> str:
    page = resources.files("landmarks_jax.inference.browser") / "page"
    style = (page / "style.css").read_text()
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{title}</title><style>{style}{_STYLE}</style></head><body>"
    )


def _table(result: Mapping[str, Any]) -> str:
    """The points, a row each; on a phone a block each."""
    titles = "".join(f"<th>{name}<br><small>{unit}</small></th>" for name, unit in COLUMNS.values())
    colors = hex_colors(len(result["points"]))
    rows = []
    for k, (point, color) in enumerate(zip(result["points"], colors, strict=True)):
        numbers = "".join(
            f'<td class="number" data-name="{COLUMNS[name][0]}">{_cell(name, point[name])}</td>'
            for name in COLUMNS
        )
        rows.append(
            f'<tr><th><span class="swatch" style="background:{color}"></span>{k}</th>'
            f'<td class="text {_MOODS[point["verdict"]]}"><b>{point["verdict"]}</b>: '
            f"{html.escape(point['reason'])}</td>{numbers}</tr>"
        )
    return (
        f'<h2>Reasons</h2><table id="points"><thead><tr><th>point</th><th></th>{titles}</tr>'
        f"</thead><tbody>{''.join(rows)}</tbody></table><p>{_note(result)} {_MEANING}</p>"
    )


def _image(figure: Figure, text: str, kind: str = "") -> str:
    data = base64.b64encode(figures.to_png(figure)).decode()
    return (
        f'<figure class="{kind}"><img alt="{html.escape(text)}" '
        f'src="data:image/png;base64,{data}"></figure>'
    )


def _sentence(result: Mapping[str, Any]) -> str:
    return f"{result['verdict'].capitalize()}. {result['reason']}"


def _note(result: Mapping[str, Any]) -> str:
    return _NOTE.format(used=result["photos"]["used"], all=result["photos"]["all"])


def _cell(name: str, value: float | None) -> str:
    if value is None:
        return DASH
    return f"{value:.1f}" if name in _LENGTHS else f"{round(100 * value)}"
