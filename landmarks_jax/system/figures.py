"""Pages of views with points drawn on them, without pyplot and its global state."""

import io
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

from landmarks_jax.system import files
from landmarks_jax.system.errors import WorkdirError
from landmarks_jax.system.palette import crowding, landmark_colors

DPI = 100
_GAP = 4  # pixels between two views
_LINE = 26  # pixels, height of a line of text or legend
_COLUMNS = 8  # views in a row
_SWATCH = 34  # pixels, width of a numbered colour in the legend
_MIN_WIDTH = 560  # pixels, so that title and legend fit on narrow pages


def landmark_page(
    views: np.ndarray,
    landmarks: np.ndarray,
    *,
    predicted: np.ndarray | None = None,
    labels: np.ndarray | None = None,
    captions: Sequence[str] = (),
    title: str = "",
    columns: int = _COLUMNS,
    tile: int = 160,
) -> Figure:
    """A page of views with their discovered points, like Fig. 2 of the paper.

    With `predicted` or `labels`, each row is repeated below with the regressed points (crosses) and
    the labelled ones (circles).

    Args:
      views: uint8 `[N, S, S, 3]`.
      landmarks: `[N, K, 2]`, normalised.
      predicted: `[N, P, 2]` regressed points.
      labels: `[N, P, 2]` labelled points.
      captions: N texts for the corners of the views.
      title: above the views.
      columns: views per row.
      tile: side of a view on the page, in pixels.
    """
    with_labels = predicted is not None or labels is not None
    bands = 2 if with_labels else 1
    page = _Page(len(views), columns, tile, title)
    height = page.rows * bands * page.step
    axes, swatches = page.open(landmarks.shape[1], height, legend_lines=bands)
    for index, view in enumerate(views):
        row, column = divmod(index, page.columns)
        corner = page.corner(page.top + row * bands * page.step, column)
        _paste(axes, view, corner, tile)
        if captions:
            _draw_caption(axes, captions[index], corner)
        _draw_discovered(axes, _on_page(landmarks[index], corner, tile), tile)
        if with_labels:
            below = corner + np.array([0, page.step])
            _paste(axes, view, below, tile)
            regressed, labelled = (
                None if points is None else _on_page(points[index], below, tile)
                for points in (predicted, labels)
            )
            _draw_regressed(axes, regressed, labelled, tile)
    _draw_legend(axes, swatches, page.width, with_labels)
    return page.figure


def methods_page(
    views: np.ndarray, methods: Mapping[str, np.ndarray], *, title: str, tile: int
) -> Figure:
    """A page of the same views under several methods, each below its name.

    Args:
      views: uint8 `[N, S, S, 3]`.
      methods: name -> landmarks `[N, K, 2]`, normalised; the same K for all.
      title: above the views.
      tile: side of a view on the page, in pixels.
    """
    page = _Page(len(views), _COLUMNS, tile, title)
    band = _LINE + page.rows * page.step
    count = next(iter(methods.values())).shape[1]
    axes, swatches = page.open(count, len(methods) * band, legend_lines=1)
    for number, (name, landmarks) in enumerate(methods.items()):
        top = page.top + number * band
        axes.text(page.margin, top + _LINE / 2, name, ha="left", va="center", fontsize=10)
        for index, view in enumerate(views):
            row, column = divmod(index, page.columns)
            corner = page.corner(top + _LINE + row * page.step, column)
            _paste(axes, view, corner, tile)
            _draw_discovered(axes, _on_page(landmarks[index], corner, tile), tile)
    _draw_legend(axes, swatches, page.width, False)
    return page.figure


def to_array(figure: Figure) -> np.ndarray:
    """Renders a figure to uint8 `[H, W, 3]`."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def to_png(figure: Figure) -> bytes:
    """Renders a figure to PNG, without a date or version in it."""
    data = io.BytesIO()
    Image.fromarray(to_array(figure)).save(data, format="PNG")
    return data.getvalue()


def save(figure: Figure, path: Path) -> None:
    """Writes a figure as PNG; see `to_png`.

    Raises:
      WorkdirError: the file cannot be written.
    """
    files.write_file(path, to_png(figure), WorkdirError)


class _Page:
    """Layout of a page, in pixels: title, rows of tiles, legend of the landmarks' colours."""

    def __init__(self, num_views: int, columns: int, tile: int, title: str) -> None:
        self.columns = min(columns, num_views)
        self.rows = math.ceil(num_views / self.columns)
        self.step = tile + _GAP
        self.width = max(self.columns * self.step + _GAP, _MIN_WIDTH)
        self.margin = (self.width - self.columns * self.step + _GAP) // 2
        self._title = textwrap.wrap(title, self.width // 8)
        self.top = _GAP + _LINE * len(self._title)

    def open(self, num_landmarks: int, height: int, legend_lines: int) -> tuple[Axes, np.ndarray]:
        """Creates `figure` for tiles of a total height; returns its axes and the swatches' places.

        The data coordinates of the axes are the page's pixels, y down.
        """
        swatches = _swatch_places(num_landmarks, self.width, self.top + height)
        total = int(swatches[-1, 1]) + _LINE * legend_lines
        self.figure = Figure(figsize=(self.width / DPI, total / DPI), dpi=DPI)
        axes = self.figure.add_axes((0, 0, 1, 1))
        axes.set(xlim=(0, self.width), ylim=(total, 0))
        axes.axis("off")
        title = "\n".join(self._title)
        axes.text(self.width / 2, self.top / 2, title, ha="center", va="center", fontsize=11)
        return axes, swatches

    def corner(self, top: int, column: int) -> np.ndarray:
        """The upper left corner of a tile."""
        return np.array([self.margin + column * self.step, top])


def _on_page(points: np.ndarray, corner: np.ndarray, tile: int) -> np.ndarray:
    """Normalised points `[K, 2]` of a view in pixels of the page."""
    return corner + (np.asarray(points, np.float64) + 1.0) * (tile / 2)


def _paste(axes: Axes, view: np.ndarray, corner: np.ndarray, tile: int) -> None:
    # Resampled beforehand, so that Matplotlib copies pixel for pixel.
    resized = Image.fromarray(view).resize((tile, tile), Image.Resampling.BICUBIC)
    left, top = (int(value) for value in corner)
    extent = (left, left + tile, top + tile, top)
    axes.imshow(np.asarray(resized), extent=extent, interpolation="nearest", aspect="auto")


def _draw_caption(axes: Axes, text: str, corner: np.ndarray) -> None:
    outline = [withStroke(linewidth=2.5, foreground="black")]
    place: dict[str, Any] = {"ha": "left", "va": "top", "zorder": 4}
    x, y = corner + 4
    axes.text(x, y, text, fontsize=10, color="white", path_effects=outline, **place)


def _area(tile: int, count: int, diameter: float) -> float:
    """Matplotlib's size (points squared) of a marker with a diameter given in tiles."""
    return float((diameter * crowding(count) * tile * 72 / DPI) ** 2)


def _mark(axes: Axes, points: np.ndarray, **style: Any) -> None:
    axes.scatter(points[:, 0], points[:, 1], **style)


def _draw_discovered(axes: Axes, points: np.ndarray, tile: int) -> None:
    """Draws a filled dot in its own colour for each landmark `[K, 2]`."""
    count = len(points)
    size = _area(tile, count, 0.055)
    colors = landmark_colors(count)
    _mark(axes, points, s=size, c=colors, edgecolors="black", linewidths=0.6, zorder=3)


def _draw_regressed(
    axes: Axes, predicted: np.ndarray | None, labels: np.ndarray | None, tile: int
) -> None:
    """Draws crosses for regressed points and circles for labelled ones, outlined in black."""
    if labels is not None:
        size = _area(tile, len(labels), 0.06)
        _mark(axes, labels, s=size, facecolors="none", edgecolors="black", linewidths=2.4)
        _mark(axes, labels, s=size, facecolors="none", edgecolors="white", linewidths=1.2)
    if predicted is not None:
        size = _area(tile, len(predicted), 0.05)
        _mark(axes, predicted, s=size, c="black", marker="x", linewidths=2.6, zorder=3)
        _mark(axes, predicted, s=size, c="#ffd400", marker="x", linewidths=1.4, zorder=3)


def _swatch_places(count: int, width: int, top: int) -> np.ndarray:
    """Places `[K, 2]` of the numbered colours, as many per line as fit."""
    per_line = max(1, width // _SWATCH)
    line, column = np.divmod(np.arange(count), per_line)
    left = (width - min(count, per_line) * _SWATCH) / 2 + _SWATCH / 4
    return np.stack([left + column * _SWATCH, top + (line + 0.6) * _LINE], -1)


def _draw_legend(axes: Axes, swatches: np.ndarray, width: int, with_labels: bool) -> None:
    """Draws the landmarks' numbers and colours, and below them what crosses and circles mean."""
    colors = landmark_colors(len(swatches))
    _mark(axes, swatches, s=45, c=colors, edgecolors="black", linewidths=0.6)
    for index, (x, y) in enumerate(swatches):
        axes.text(x + 7, y, str(index), fontsize=8, va="center")
    if not with_labels:
        return
    y = swatches[-1, 1] + _LINE
    labelled, predicted = np.array([[width / 2 - 80, y]]), np.array([[width / 2 + 20, y]])
    _draw_regressed(axes, predicted, labelled, 160)
    for (x, _), name in ((labelled[0], "labelled"), (predicted[0], "regressed")):
        axes.text(x + 10, y, name, fontsize=8, va="center")
