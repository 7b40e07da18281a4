"""The labelled faces of each protocol, by name or from the user's own files."""

import dataclasses
import logging
from collections.abc import Sequence
from pathlib import Path

from ml_collections import ConfigDict

from landmarks_jax.data.framing import Framing
from landmarks_jax.data.prepared import MANIFEST, PreparedCanvases
from landmarks_jax.data.sources import pts, registry
from landmarks_jax.data.sources.aflw import AflwFaces
from landmarks_jax.data.sources.mafl import MaflFaces
from landmarks_jax.data.sources.photos import Source
from landmarks_jax.data.sources.synthetic import SyntheticFaces
from landmarks_jax.evaluation import duplicates, metrics, pckh
from landmarks_jax.evaluation.breakdown import FIVE_POINTS
from landmarks_jax.evaluation.metrics import FIRST_TWO, Eyes
from landmarks_jax.evaluation.protocols import LabelledSet, Protocol
from landmarks_jax.system.errors import ConfigError, DataError

_LOGGER = logging.getLogger(__name__)

PROTOCOLS = ("synthetic", "mafl", "celeba-400", "aflw", "aflw-995", "aflw-dev")
NOTES = ("duplicate faces", "small faces", "boxes end before")  # how notes on faces start
_DUPLICATES, _SMALL, _HALF_OPEN = NOTES
_SMALL_SIDE = 0.1  # of the view's side, the larger side of the box of a face's points
# Scored as published, whatever faces they have twice: the tables note them.
_PUBLISHED = ("mafl", "aflw")
# Beyond the range of config.data.synthetic_seed: no training sees these faces.
FIT_SEED, SCORE_SEED = 2**31, 2**31 + 1
_AFLW_LISTS = {
    "aflw-995": ("training.txt", "testing.txt"),
    "aflw-dev": ("dev_fit.txt", "dev_score.txt"),
}
_Named = tuple[Source, str]


def check_names(names: Sequence[str]) -> None:
    """Checks names of protocols on faces.

    Raises:
      ConfigError: there is no such protocol.
    """
    for name in names:
        if name == pckh.PROTOCOL:
            raise ConfigError(
                f"--protocol {name!r}: is for runs on joints, of configs/mpii_pretrain.py"
            )
        if name not in PROTOCOLS:
            raise ConfigError(f"--protocol {name!r}: must be one of {', '.join(PROTOCOLS)}")


def crops_of(name: str) -> tuple[str, ...]:
    """The crops of a named protocol."""
    return ("center",) if name == "synthetic" else ("center", "box")


def open_protocols(name: str, config: ConfigDict) -> list[Protocol]:
    """Reads the faces of a named protocol, once for each of its crops.

    AFLW's faces are cut tightly, so the view of the center crop is the whole photo. CelebA's have
    room around them; the view is the middle of the canvas, as in training.

    Args:
      name: one of `PROTOCOLS`.
      config: the run's configuration; its `eval` section has the folders of the faces.

    Raises:
      ConfigError: there is no such protocol.
      DataError: its faces are missing or malformed.
    """
    check_names([name])
    side = config.views.size
    middle = Framing(config.data.canvas_size, side, "center")
    whole = Framing(side, side, "tight")
    box = Framing(side, side, "box", half_open=config.eval.as_released)
    fit, score = _sources_of(name, config)
    framings = {"center": whole if name.startswith("aflw") else middle, "box": box}
    return [
        Protocol(
            name,
            crop,
            _load(*fit, framings[crop]),
            _load(*score, framings[crop]),
            point_names=FIVE_POINTS,
            notes=_box_notes(crop, config),
        )
        for crop in crops_of(name)
    ]


def _box_notes(crop: str, config: ConfigDict) -> tuple[str, ...]:
    if crop != "box" or not config.eval.as_released:
        return ()
    return (f"{_HALF_OPEN} their last column and row, as the released code slices them",)


def _sources_of(name: str, config: ConfigDict) -> tuple[_Named, _Named]:
    """The faces that fit and those that are scored, with their names."""
    places = config.eval
    if name == "synthetic":
        size = config.data.canvas_size
        counts = ((FIT_SEED, places.num_fit), (SCORE_SEED, places.num_score))
        fit, score = (SyntheticFaces(seed, count, size) for seed, count in counts)
        return (fit, f"{len(fit)} synthetic faces"), (score, f"{len(score)} synthetic faces")
    if name == "mafl":
        released = places.as_released
        fit_name = "MAFL training, as released" if released else "MAFL training"
        return (
            (MaflFaces(places.celeba, places.mafl, "train", as_released=released), fit_name),
            (MaflFaces(places.celeba, places.mafl, "test"), "MAFL testing"),
        )
    if name == "celeba-400":
        root = places.celeba400
        return (
            (MaflFaces(root, root, "train"), "CelebA-400 training"),
            (MaflFaces(root, root, "test"), "CelebA-400 testing"),
        )
    if name == "aflw":
        root = places.aflw_release
        return (AflwFaces(root, "train"), "AFLW train"), (AflwFaces(root, "test"), "AFLW test")
    fit_list, score_list = (Path(places.aflw) / listed for listed in _AFLW_LISTS[name])
    return (
        (registry.open_labelled(str(fit_list)), fit_list.name),
        (registry.open_labelled(str(score_list)), score_list.name),
    )


def open_lists(
    fit: str, score: str | None, crops: Sequence[str], config: ConfigDict
) -> list[Protocol]:
    """Reads the user's own labelled faces, once for each crop.

    Args:
      fit: labelled faces that fit the regressor: a file of labelled points (a `.csv` table, TPS,
        COCO's `.json`, DeepLabCut's `.csv`), a `.txt` list in MTFL's format, a prepared folder (of
        the crop asked for), or a folder of photos with `.pts` files, of which
        `config.eval.pts_points` points are used.
      score: labelled faces that are scored, in any of these forms; None takes those of `fit`, and
        photos that lack points too, unless the crop is cut around these.
      crops: some of center, tight and box.
      config: the run's configuration.

    Raises:
      DataError: faces are missing or malformed.
      ConfigError: a prepared folder has another crop.
    """
    if config.eval.pts_points not in pts.EYES:
        raise ConfigError(f"--pts_points {config.eval.pts_points}: must be 5 or 68")
    opened = []
    for crop in crops:
        fit_faces = _open(fit, crop, config, partial=score is None and crop != "box")
        score_faces = fit_faces if score is None else _open(score, crop, config)
        name = fit_faces.name if score is None else f"{fit_faces.name} to {score_faces.name}"
        notes = _box_notes(crop, config)
        eyes, names = _eyes(fit, config), fit_faces.point_names or score_faces.point_names
        opened.append(Protocol(name, crop, fit_faces, score_faces, eyes, names, notes))
    return opened


def check_duplicates(protocol: Protocol, *, allowed: bool) -> Protocol:
    """Finds faces that are in both sets of a protocol, or several times in one.

    Args:
      protocol: an opened protocol.
      allowed: whether to accept them; those of published lists always are.

    Returns:
      The protocol, with notes on the duplicates.

    Raises:
      DataError: there are duplicates.
    """
    both = (protocol.fit, protocol.score)
    fit, score = (faces.photos for faces in both)
    if fit is None or score is None:  # prepared: compared by their views
        fit, score = (duplicates.of_views(one.names, one.views, one.points) for one in both)
    other = None if protocol.score is protocol.fit else score
    notes = duplicates.describe(fit, other, (protocol.fit.name, protocol.score.name))
    if notes and not allowed and protocol.name not in _PUBLISHED:
        raise DataError(
            f"{'; '.join(notes)}: the errors would not be those of new faces; leave them out, or "
            "give --allow_duplicates, which notes them under the tables"
        )
    notes = [f"{_DUPLICATES}: {note}" for note in notes]
    return dataclasses.replace(protocol, notes=(*protocol.notes, *notes))


def check_sizes(protocol: Protocol) -> Protocol:
    """Finds faces that are smaller than a tenth of the view, such as in photos of scenes.

    A few pixels are then a large share of the eye distance.

    Returns:
      The protocol, with notes on them, which are logged too.
    """
    parts = [protocol.fit]
    if protocol.score is not protocol.fit:
        parts.append(protocol.score)
    notes = []
    for faces in parts:
        sides = metrics.larger_sides(faces.points) / 2  # the view is 2 units wide
        if faces.points.shape[1] > 1 and (count := int((sides < _SMALL_SIDE).sum())):
            notes.append(
                f"{_SMALL}: {count:,} of the {len(sides):,} of {faces.name} are under a tenth of "
                f"the view ({protocol.crop} crop); cut the photos to the faces, or use the box crop"
            )
    for note in notes:
        _LOGGER.warning("warning: %s", note)
    return dataclasses.replace(protocol, notes=(*protocol.notes, *notes))


def _is_pts(path: str) -> bool:
    folder = Path(path)
    return folder.is_dir() and not (folder / MANIFEST).is_file() and pts.has_points(path)


def _eyes(path: str, config: ConfigDict) -> Eyes:
    """The points of the eyes: the first two, or with 68 points all of both eyes."""
    return pts.EYES[config.eval.pts_points] if _is_pts(path) else FIRST_TWO


def _open(path: str, crop: str, config: ConfigDict, *, partial: bool = False) -> LabelledSet:
    half_open = config.eval.as_released and crop == "box"
    framing = Framing(config.data.canvas_size, config.views.size, crop, half_open)
    name = Path(path).stem
    if not (Path(path) / MANIFEST).is_file():
        source = registry.open_labelled(path, config.eval.pts_points, partial=partial)
        return _load(source, name, framing, partial=partial)
    prepared = PreparedCanvases(path)
    prepared.fit(framing)
    if prepared.num_points == 0:
        raise DataError(f"{path}: prepared without points; evaluation needs labelled faces")
    views = framing.central_view(prepared.canvases)
    return LabelledSet(views, framing.points_in_view(prepared.points), name, prepared.names())


def _load(source: Source, name: str, framing: Framing, *, partial: bool = False) -> LabelledSet:
    views, points, faces = duplicates.load_views(source, framing)
    return LabelledSet(views, points, name, faces.names, faces, source.point_names, partial)
