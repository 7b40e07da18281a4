"""The labelled faces of each protocol, by name or from the user's own lists."""

from collections.abc import Sequence
from pathlib import Path

from ml_collections import ConfigDict

from landmarks_jax.data import sources
from landmarks_jax.data.framing import Framing
from landmarks_jax.data.prepared import MANIFEST, PreparedCanvases
from landmarks_jax.data.synthetic import SyntheticFaces
from landmarks_jax.errors import ConfigError, DataError
from landmarks_jax.evaluation.groups import FIVE_POINTS
from landmarks_jax.evaluation.protocols import LabelledSet, Protocol

PROTOCOLS = ("synthetic", "aflw-995", "aflw-dev")
# Beyond what config.data.synthetic_seed may be: no training sees these faces.
FIT_SEED, SCORE_SEED = 2**31, 2**31 + 1
_AFLW_LISTS = {
    "aflw-995": ("training.txt", "testing.txt"),
    "aflw-dev": ("dev_fit.txt", "dev_score.txt"),
}


def check_names(names: Sequence[str]) -> None:
    """Raises `ConfigError` where there is no protocol of a name."""
    for name in names:
        if name not in PROTOCOLS:
            raise ConfigError(f"--protocol {name!r}: must be one of {', '.join(PROTOCOLS)}")


def open_protocols(name: str, config: ConfigDict) -> list[Protocol]:
    """Reads the faces of a named protocol, once for each crop it has.

    AFLW's faces are cut tightly, so that the view of the center crop is the whole photo.

    Args:
      name: one of `PROTOCOLS`.
      config: the run's configuration; its `eval` section says where the faces lie.

    Raises:
      ConfigError: there is no such protocol.
      DataError: its faces are missing or malformed.
    """
    if name == "synthetic":
        fit, score = (
            _embedded(FIT_SEED, config.eval.num_fit, config),
            _embedded(SCORE_SEED, config.eval.num_score, config),
        )
        return [Protocol(name, "center", fit, score, point_names=FIVE_POINTS)]
    check_names([name])
    fit_list, score_list = (Path(config.eval.aflw) / part for part in _AFLW_LISTS[name])
    side = config.views.size
    opened = []
    for crop, cut in (("center", "tight"), ("box", "box")):
        framing = Framing(side, side, cut)
        fit = _load(sources.open_labelled(str(fit_list)), framing, fit_list.name)
        score = _load(sources.open_labelled(str(score_list)), framing, score_list.name)
        opened.append(Protocol(name, crop, fit, score, point_names=FIVE_POINTS))
    return opened


def open_lists(fit: str, score: str, crops: Sequence[str], config: ConfigDict) -> list[Protocol]:
    """Reads the user's own labelled faces, once for each crop.

    Args:
      fit: labelled faces that fit the regressor: a `.csv` table, a `.txt` list in MTFL's form, or
        a prepared folder (whose crop must then be the one asked for).
      score: labelled faces that are scored, likewise.
      crops: of center, tight and box.
      config: the run's configuration.

    Raises:
      DataError: faces are missing or malformed.
      ConfigError: a prepared folder was cut otherwise.
    """
    opened = []
    for crop in crops:
        fit_faces, score_faces = _open(fit, crop, config), _open(score, crop, config)
        name = f"{fit_faces.name} to {score_faces.name}"
        opened.append(Protocol(name, crop, fit_faces, score_faces))
    return opened


def _open(path: str, crop: str, config: ConfigDict) -> LabelledSet:
    framing = Framing(config.data.canvas_size, config.views.size, crop)
    name = Path(path).stem
    if not (Path(path) / MANIFEST).is_file():
        return _load(sources.open_labelled(path), framing, name)
    prepared = PreparedCanvases(path)
    prepared.require(framing)
    if prepared.num_points == 0:
        raise DataError(f"{path}: prepared without points; evaluation needs labelled faces")
    views = framing.central_view(prepared.canvases)
    return LabelledSet(views, framing.points_in_view(prepared.points), name)


def _embedded(seed: int, count: int, config: ConfigDict) -> LabelledSet:
    framing = Framing(config.data.canvas_size, config.views.size, "center")
    source = SyntheticFaces(seed, count, framing.canvas_size)
    return _load(source, framing, f"{count} embedded faces")


def _load(source: sources.Source, framing: Framing, name: str) -> LabelledSet:
    canvases, points = sources.load_all(source, framing)
    return LabelledSet(framing.central_view(canvases), framing.points_in_view(points), name)
