"""Error curves."""

from typing import Any

import numpy as np
from matplotlib.figure import Figure

from landmarks_jax.evaluation.score_tables import describe, row_name
from landmarks_jax.system.figures import DPI

_LIMIT = 40.0  # of the errors shown, % of the eye distance
_CURVES: dict[str, dict[str, Any]] = {
    "running": {"color": "#c1272d", "linestyle": "-"},
    "batch": {"color": "#c1272d", "linestyle": ":"},
    "untrained": {"color": "#0071bc", "linestyle": "-"},
    "mean_shape": {"color": "#555555", "linestyle": "--"},
}


def error_curves(result: dict[str, Any]) -> Figure:
    """The share of the scored faces whose forward error is below t, for t up to `_LIMIT`.

    Args:
      result: the JSON of `protocols.evaluate`.

    Returns:
      The figure. AUC is the area under a curve up to the limit, divided by the limit.
    """
    figure = Figure(figsize=(6.4, 4.4), dpi=DPI, layout="constrained")
    axes = figure.add_subplot()
    for row, scores in result["results"].items():
        if "per_photo" not in scores:
            continue
        errors = np.sort(np.asarray(scores["per_photo"], np.float64))
        area = np.maximum(0.0, _LIMIT - errors).mean() / _LIMIT
        share = np.arange(1, len(errors) + 1) / len(errors)
        axes.step(
            np.concatenate([[0.0], errors, [max(_LIMIT, errors[-1])]]),
            np.concatenate([[0.0], share, [1.0]]),
            where="post",
            label=f"{row_name(row)}: mean {errors.mean():.2f} %, AUC {area:.3f}",
            **_CURVES.get(row, {}),
        )
    axes.set(xlim=(0.0, _LIMIT), ylim=(0.0, 1.0))
    axes.set_xlabel("forward error, % of the eye distance")
    axes.set_ylabel("share of faces")
    axes.set_title(describe(result), fontsize=11)
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right", fontsize=8)
    return figure
