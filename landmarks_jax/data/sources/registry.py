"""Opens photos by configuration. To add a source, write its module and add a line to `SOURCES`."""

import os
from collections.abc import Callable
from typing import Any, NamedTuple

from landmarks_jax.data.formats import label_files
from landmarks_jax.data.sources import (
    aflw,
    celeba,
    celeba_tfds,
    folder,
    mafl,
    mpii,
    mtfl,
    photos,
    pts,
    synthetic,
)
from landmarks_jax.data.sources.photos import Source
from landmarks_jax.system import files
from landmarks_jax.system.errors import ConfigError, DataError, refuse_unused


class Entry(NamedTuple):
    """How a source is opened.

    Attributes:
      open: opens the photos of `config.data`.
      splits: the official splits that `config.data.split` can choose besides "all".
      fields: those that only some sources use, and this one does.
    """

    open: Callable[[Any], Source]
    splits: tuple[str, ...] = ()
    fields: tuple[str, ...] = ()


# Fields that only some sources use, and their defaults.
_OWN_FIELDS = {"data.landmarks": "", "data.max_photos": 0}


def _refuse_prepared(_: Any) -> Source:
    raise ConfigError("config.data.source = 'prepared': has canvases; photos are needed here")


# By `config.data.source`; docs/datasets.md describes them.
SOURCES: dict[str, Entry] = {
    "synthetic": Entry(synthetic.open_config),
    "folder": Entry(folder.open_config, fields=("data.landmarks", "data.max_photos")),
    "celeba": Entry(celeba.open_config, celeba.SPLITS),
    "celeb_a": Entry(celeba_tfds.open_config, celeba.SPLITS),
    "mafl": Entry(mafl.open_config, mafl.SPLITS),
    "aflw": Entry(aflw.open_config, aflw.SPLITS),
    "mtfl": Entry(mtfl.open_config, fields=("data.landmarks",)),
    "pts": Entry(pts.open_config),
    "mpii": Entry(mpii.open_config, mpii.SPLITS),
    "prepared": Entry(_refuse_prepared),  # `data.loader` reads it
}
_LISTS = "a .csv table, TPS, COCO's .json, DeepLabCut's .csv, or a .txt list in MTFL's format"
SPLITS = tuple(dict.fromkeys(["all", *(s for entry in SOURCES.values() for s in entry.splits)]))


def open_source(data: Any) -> Source:
    """Opens the photos that `config.data` names; the first time, decodes every file once.

    Raises:
      ConfigError: a field has a value that cannot work.
      DataError: photos or lists are missing or malformed.
    """
    entry = SOURCES[data.source]
    photos.select_splits(data.split, entry.splits, data.source)
    unused = {field: value for field, value in _OWN_FIELDS.items() if field not in entry.fields}
    why = f"with config.data.source = {data.source!r}, which does not use it"
    refuse_unused({"data": data}, unused, why)
    return entry.open(data)


def open_labelled(path: str, num_points: int = pts.NUM_REDUCED, *, partial: bool = False) -> Source:
    """Opens an annotated set by its list: a file of labelled points, or a `.txt` list as MTFL's.

    A file of labelled points is a `.csv` table, `.tps`, COCO's `.json` or DeepLabCut's `.csv`.
    Photos are relative to the list's folder. A folder is taken as photos with `.pts` files; of
    their 68 points, `num_points` are used: all, or the five of `pts.five_points`. Photos that lack
    points are left out, or if `partial` those without any.
    """
    if os.path.isdir(path) and pts.has_points(path):
        return pts.PtsFaces([path], num_points=num_points)
    if os.path.isdir(path):
        raise DataError(f"{path}: a folder without {pts.ENDING} files; give {_LISTS}")
    if problem := files.not_regular(path):
        raise DataError(f"{path}: no list of annotated photos ({problem})")
    if label_files.is_label_file(path):
        return folder.FolderPhotos((), landmarks=path, partial=partial)
    if os.path.splitext(path)[1].lower() == ".txt":
        return mtfl.MtflFaces(path)
    raise DataError(f"{path}: must be {_LISTS}")
