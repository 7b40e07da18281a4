"""Files of labelled points, read by their ending."""

import os
from collections.abc import Callable

from landmarks_jax.data import lists
from landmarks_jax.data.formats import coco, deeplabcut, tps
from landmarks_jax.data.formats.records import Labels, are_point_names
from landmarks_jax.system.errors import DataError


def _read_csv(path: str) -> Labels:
    if deeplabcut.is_own(path):
        return deeplabcut.read(path)
    entries, points = lists.read_csv(path)
    folders = (os.path.dirname(path) or ".",)
    return Labels(entries, points, folders=folders, missing=lists.MISSING)


READERS: dict[str, Callable[[str], Labels]] = {
    ".csv": _read_csv,
    ".json": coco.read,
    ".tps": tps.read,
}


def is_label_file(path: str) -> bool:
    """Whether a file's ending is one of those that are read."""
    return _ending(path) in READERS


def read(path: str) -> Labels:
    """Reads labelled photos: a table, TPS, COCO keypoints or DeepLabCut's CSV.

    Raises:
      DataError: the file is malformed, or its ending is none of these.
    """
    if not is_label_file(path):
        raise DataError(f"{path}: must end in {', '.join(READERS)}")
    labels = READERS[_ending(path)](path)
    if not are_point_names(labels.names):
        raise DataError(f"{path}: names of points must be different, of printable characters")
    return labels


def _ending(path: str) -> str:
    return os.path.splitext(path)[1].lower()
