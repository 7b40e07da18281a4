"""Pages of views with points on them. Figures are objects: no pyplot, no global state."""

import math
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from PIL import Image

from landmarks_jax.system.palette import crowding, landmark_colors

DPI = 100
_GAP = 4  # pixels between two views of a page
_LINE = 26  # pixels of a line of text or of legend
_SWATCH = 34  # pixels of a numbered colour in a page's legend
_MIN_WIDTH = 560  # pixels, so that title and legend fit above and below narrow pages


def landmark_page(
    views: np.ndarray,
    landmarks: np.ndarray,
    *,
    predicted: np.ndarray | None = None,
    labels: np.ndarray | None = None,
    captions: Sequence[str] = (),
    title: str = "",
    columns: int = 8,
    tile: int = 160,
) -> Figure:
    """A page of views with their discovered points, as the paper's Fig. 2.

    Under each row of views, where they are given, the same views with the regressed points
    (crosses) against the labelled ones (circles).

    Args:
      views: uint8 `[N, S, S, 3]`.
      landmarks: `[N, K, 2]`, normalised.
      predicted: `[N, P, 2]` regressed points.
      labels: `[N, P, 2]` labelled points.
      captions: N texts, printed in the corners of the views.
      title: printed above.
      columns: views in a row.
      tile: the side at which a view is shown, in pixels.
    """
    columns = min(columns, len(views))
    bands = 1 if predicted is None and labels is None else 2
    step = tile + _GAP
    rows = math.ceil(len(views) / columns) * bands
    width = max(columns * step + _GAP, _MIN_WIDTH)
    lines = textwrap.wrap(title, width // 8)
    head = _GAP + _LINE * len(lines)
    swatches = _swatch_places(landmarks.shape[1], width, head + rows * step)
    figure, axes = _canvas(width, int(swatches[-1, 1]) + _LINE * bands)
    axes.text(width / 2, head / 2, "\n".join(lines), ha="center", va="center", fontsize=11)
    margin = (width - columns * step + _GAP) // 2
    for index, view in enumerate(views):
        row, column = divmod(index, columns)
        corner = np.array([margin + column * step, head + row * bands * step])
        below = corner + np.array([0, step])
        for place in (corner, below)[:bands]:
            _paste(axes, view, place, tile)
        if captions:
            _caption(axes, captions[index], corner)
        _draw_discovered(axes, _place(landmarks[index], corner, tile), tile)
        _draw_regressed(
            axes,
            None if predicted is None else _place(predicted[index], below, tile),
            None if labels is None else _place(labels[index], below, tile),
            tile,
        )
    _draw_legend(axes, swatches, bands == 2, width)
    return figure


def methods_page(
    views: np.ndarray,
    methods: Mapping[str, np.ndarray],
    *,
    title: str = "",
    columns: int = 8,
    tile: int = 160,
) -> Figure:
    """A page of the same views under several methods, each below its name, as the paper's Fig. 2.

    Args:
      views: uint8 `[N, S, S, 3]`.
      methods: name -> landmarks `[N, K, 2]`, normalised; K is one for all.
      title: printed above.
      columns: views in a row.
      tile: the side at which a view is shown, in pixels.
    """
    columns = min(columns, len(views))
    step = tile + _GAP
    width = max(columns * step + _GAP, _MIN_WIDTH)
    lines = textwrap.wrap(title, width // 8)
    head = _GAP + _LINE * len(lines)
    band = _LINE + math.ceil(len(views) / columns) * step
    count = next(iter(methods.values())).shape[1]
    swatches = _swatch_places(count, width, head + len(methods) * band)
    figure, axes = _canvas(width, int(swatches[-1, 1]) + _LINE)
    axes.text(width / 2, head / 2, "\n".join(lines), ha="center", va="center", fontsize=11)
    margin = (width - columns * step + _GAP) // 2
    for number, (name, landmarks) in enumerate(methods.items()):
        top = head + number * band
        axes.text(margin, top + _LINE / 2, name, ha="left", va="center", fontsize=10)
        for index, view in enumerate(views):
            row, column = divmod(index, columns)
            corner = np.array([margin + column * step, top + _LINE + row * step])
            _paste(axes, view, corner, tile)
            _draw_discovered(axes, _place(landmarks[index], corner, tile), tile)
    _draw_legend(axes, swatches, False, width)
    return figure


def to_array(figure: Figure) -> np.ndarray:
    """Renders a figure to uint8 `[H, W, 3]`."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def save(figure: Figure, path: str | Path) -> None:
    """Writes a figure as PNG, without a date or version in it."""
    Image.fromarray(to_array(figure)).save(path, format="PNG")


def _canvas(width: int, height: int) -> tuple[Figure, Axes]:
    """An empty page whose data coordinates are its pixels, y down."""
    figure = Figure(figsize=(width / DPI, height / DPI), dpi=DPI)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, width), ylim=(height, 0))
    axes.axis("off")
    return figure, axes


def _place(points: np.ndarray, corner: np.ndarray, tile: int) -> np.ndarray:
    """Normalised points `[K, 2]` of a view on the page."""
    return corner + (np.asarray(points, np.float64) + 1.0) * (tile / 2)


def _paste(axes: Axes, view: np.ndarray, corner: np.ndarray, tile: int) -> None:
    """Shows a view, resampled smoothly to the tile beforehand: pixel for pixel on the page."""
    shown = Image.fromarray(view).resize((tile, tile), Image.Resampling.BICUBIC)
    left, top = (int(value) for value in corner)
    extent = (left, left + tile, top + tile, top)
    axes.imshow(np.asarray(shown), extent=extent, interpolation="nearest", aspect="auto")


def _caption(axes: Axes, text: str, corner: np.ndarray) -> None:
    """Prints a text in the upper left corner of a view, readable on any."""
    outline = [withStroke(linewidth=2.5, foreground="black")]
    place: dict[str, Any] = {"ha": "left", "va": "top", "zorder": 4}
    x, y = corner + 4
    axes.text(x, y, text, fontsize=10, color="white", path_effects=outline, **place)


def _area(tile: int, count: int, share: float) -> float:
    """Matplotlib's size (points squared) of a marker that takes a share of the tile's side."""
    return float((share * crowding(count) * tile * 72 / DPI) ** 2)


def _mark(axes: Axes, points: np.ndarray, **style: Any) -> None:
    """Marks places `[K, 2]` on the page."""
    axes.scatter(points[:, 0], points[:, 1], **style)


def _draw_discovered(axes: Axes, points: np.ndarray, tile: int) -> None:
    """A filled dot in its own colour for every landmark `[K, 2]`."""
    count = len(points)
    size = _area(tile, count, 0.055)
    colors = landmark_colors(count)
    _mark(axes, points, s=size, c=colors, edgecolors="black", linewidths=0.6, zorder=3)


def _draw_regressed(
    axes: Axes, predicted: np.ndarray | None, labels: np.ndarray | None, tile: int
) -> None:
    """Crosses for the regressed points, circles for the labelled ones, outlined in black."""
    if labels is not None:
        size = _area(tile, len(labels), 0.06)
        _mark(axes, labels, s=size, facecolors="none", edgecolors="black", linewidths=2.4)
        _mark(axes, labels, s=size, facecolors="none", edgecolors="white", linewidths=1.2)
    if predicted is not None:
        size = _area(tile, len(predicted), 0.05)
        _mark(axes, predicted, s=size, c="black", marker="x", linewidths=2.6, zorder=3)
        _mark(axes, predicted, s=size, c="#ffd400", marker="x", linewidths=1.4, zorder=3)


def _swatch_places(count: int, width: int, top: int) -> np.ndarray:
    """Where the numbered colours `[K, 2]` go below the pictures, as many in a line as fit."""
    per_line = max(1, width // _SWATCH)
    line, column = np.divmod(np.arange(count), per_line)
    used = min(count, per_line) * _SWATCH
    left = (width - used) / 2 + _SWATCH / 4
    return np.stack([left + column * _SWATCH, top + (line + 0.6) * _LINE], -1)


def _draw_legend(axes: Axes, swatches: np.ndarray, regressed: bool, width: int) -> None:
    """The landmarks' numbers and colours, and under them what crosses and circles are."""
    colors = landmark_colors(len(swatches))
    _mark(axes, swatches, s=45, c=colors, edgecolors="black", linewidths=0.6)
    for index, (x, y) in enumerate(swatches):
        axes.text(x + 7, y, str(index), fontsize=8, va="center")
    if not regressed:
        return
    y = swatches[-1, 1] + _LINE
    labelled, predicted = np.array([[width / 2 - 80, y]]), np.array([[width / 2 + 20, y]])
    _draw_regressed(axes, predicted, labelled, 160)
    for (x, _), name in ((labelled[0], "labelled"), (predicted[0], "regressed")):
        axes.text(x + 10, y, name, fontsize=8, va="center")
