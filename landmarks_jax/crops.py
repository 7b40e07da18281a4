"""What a training's crop asks of its configuration, and what tables and the log say of it."""

from typing import NoReturn

from ml_collections import ConfigDict

from landmarks_jax import config as configuration
from landmarks_jax import geometry
from landmarks_jax.system.errors import ConfigError

# What the box of the points decides alone, and the value that leaves it to the box.
_BY_THE_BOX = {"scale_range": (1.0, 1.0), "scale_std": 0.0, "shift_std": 0.0}
_MARGIN = ("margin", "margin_std")


def check(config: ConfigDict) -> None:
    """Refuses fields of the views that the crop of a training has no use for.

    Raises:
      ConfigError: naming the field, its value and what is allowed.
    """
    views = config.views
    if config.data.crop != "box":
        for field in _MARGIN:
            usual = configuration.ADDED_FIELDS[f"views.{field}"]
            if views[field] != usual:
                _fail(config, field, f"{usual!r} unless config.data.crop = 'box'")
        return
    for field, value in _BY_THE_BOX.items():
        found = tuple(views[field]) if field == "scale_range" else views[field]
        if found != value:
            rule = f"{value!r} with config.data.crop = 'box', whose views are boxes of the points"
            _fail(config, field, rule)
    if geometry.MARGIN_DEVIATIONS * views.margin_std > views.margin:
        rule = f"at most config.views.margin / {geometry.MARGIN_DEVIATIONS:g}"
        _fail(config, "margin_std", f"{rule}, so that no view cuts into its box")


def _fail(config: ConfigDict, field: str, rule: str) -> NoReturn:
    raise ConfigError(f"config.views.{field} = {config.views[field]!r}: must be {rule}")


def describe(config: ConfigDict) -> str:
    """The crop that a training uses, in a sentence for tables and the log."""
    crop, views = config.data.crop, config.views
    if config.objective.task == "pose":
        return "trained on annotated joints, in squares around annotated people"
    if crop == "center":
        return "trained with the center crop, without annotation"
    if crop == "tight":
        return "trained with the tight crop, whole photos, without annotation"
    try:
        check(config)
    except ConfigError:
        return (
            "trained with the box crop of an earlier version, made from the annotation: turned, "
            "scaled and shifted views of canvases cut around the points"
        )
    return (
        "trained with the box crop, made from the annotation: views are boxes of the turned points "
        f"with a margin of {100 * views.margin:g} ± {100 * views.margin_std:g} %"
    )
