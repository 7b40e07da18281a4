"""What a folder of photos looks like before training: what was found, and what is wrong with it.

docs/datasets.md ("What training says about a folder") has what the thresholds rest on.
"""

from typing import NamedTuple

import numpy as np

from landmarks_jax.data import photo_groups, photo_sample
from landmarks_jax.data.framing import Framing
from landmarks_jax.data.photo_sample import PhotoSample
from landmarks_jax.data.sources.photos import PhotoFiles
from landmarks_jax.system.errors import DataError

FEWEST = 20  # different photos; fewer are refused
FEW = 300  # different photos; fewer get a warning
_SHARE = 0.1  # of the photos that something has to be wrong with
_STRETCH = 1.6  # ratio of a photo's sides, or of the ratios of two photos
_ENLARGED = 1.5  # times that a photo is enlarged for the view
NOISE = 0.5  # mean square difference of neighbours, over that of pixels 4 apart
_GROUPED = 1_000  # photos among which groups are looked for


class Survey(NamedTuple):
    """What was found in a folder.

    Attributes:
      lines: what the photos are.
      warnings: what will go wrong in training, each with what to change.
    """

    lines: list[str]
    warnings: list[str]


def survey(source: PhotoFiles, frame: Framing) -> Survey:
    """Looks at the photos of a folder, the sizes of all and the pixels of a sample.

    The result does not depend on the order of the photos.

    Args:
      source: the photos.
      frame: what the views show of them.

    Raises:
      DataError: too few photos differ, or one cannot be read.
    """
    sample = photo_sample.take(source)
    _check_different(sample, source.summary)
    found = (
        _few(sample),
        _copies(sample),
        _empty(sample),
        _noise(sample),
        _small(sample, frame),
        _stretched(sample, frame),
        _grouped(sample),
    )
    return Survey(_lines(sample), [warning for warning in found if warning])


def _which(sample: PhotoSample) -> str:
    """The photos that were decoded, in words."""
    drawn, count = len(sample.grey), len(sample.names)
    return f"all {count:,} photos" if drawn == count else f"{drawn:,} photos drawn at random"


def _copies_of(sample: PhotoSample) -> tuple[int, str]:
    """How many near-duplicates there are, and the names of a pair."""
    copies = np.flatnonzero(sample.original != np.arange(len(sample.original)))
    if len(copies) == 0:
        return 0, ""
    pair = sorted(sample.names[i] for i in (copies[0], sample.original[copies[0]]))
    return len(copies), " = ".join(pair)


def _lines(sample: PhotoSample) -> list[str]:
    areas = np.argsort(sample.sizes.prod(1), kind="stable")
    low, middle, high = (
        "{} x {}".format(*sample.sizes[areas[at]]) for at in (0, len(areas) // 2, -1)
    )
    ratios = np.quantile(sample.sizes[:, 0] / sample.sizes[:, 1], [0, 0.5, 1])
    copies, pair = _copies_of(sample)
    colored, drawn = int(sample.colored.sum()), len(sample.colored)
    return [
        f"{len(sample.names):,} photos of {low} to {high} pixels, median {middle}; width over "
        "height {:.2f} to {:.2f}, median {:.2f}".format(*ratios[[0, 2, 1]]),
        f"of {_which(sample)}: {colored:,} in colour, {drawn - colored:,} grey",
        f"of {_which(sample)}: {copies:,} near-duplicates" + (f", such as {pair}" if pair else ""),
    ]


def _check_different(sample: PhotoSample, summary: str) -> None:
    different = len(sample.different)
    if different >= FEWEST:
        return
    copies, pair = _copies_of(sample)
    notes = [f"{copies:,} near-duplicates, such as {pair}"] if copies else []
    if sample.empty.any():
        notes.append(
            f"{sample.empty.sum():,} of one colour, such as {_first(sample, sample.empty)}"
        )
    raise DataError(
        f"{summary}: {different} different photos ({'; '.join([*notes, _which(sample)])}); "
        f"training needs at least {FEWEST} of one kind of thing, better some hundreds: add photos"
    )


def _first(sample: PhotoSample, chosen: np.ndarray) -> str:
    return sample.names[int(np.flatnonzero(chosen)[0])]


def _few(sample: PhotoSample) -> str:
    different = round(len(sample.names) * len(sample.different) / len(sample.grey))
    if different >= FEW:
        return ""
    return (
        f"only {different:,} different photos: points will hardly settle on the same place of "
        f"each; add photos, {FEW} at least, better about 2,000"
    )


def _copies(sample: PhotoSample) -> str:
    copies, pair = _copies_of(sample)
    if copies < _SHARE * len(sample.grey):
        return ""
    return (
        f"{copies:,} of {_which(sample)} are near-duplicates of others, such as {pair}: training "
        "learns nothing new from them; remove them, or list them in a file that "
        "config.data.exclude names"
    )


def _empty(sample: PhotoSample) -> str:
    if not sample.empty.any():
        return ""
    return (
        f"{sample.empty.sum():,} of {_which(sample)} are of one colour, on white where they are "
        f"transparent, such as {_first(sample, sample.empty)}: remove them, or list them in a "
        "file that config.data.exclude names"
    )


def _noise(sample: PhotoSample) -> str:
    ratio = float(np.median(noise_ratio(sample.grey[~sample.empty])))
    if ratio < NOISE:
        return ""
    return (
        f"the photos look like noise: pixels beside each other differ {ratio:.2f} times as much "
        f"as pixels farther apart (photos of things: under {NOISE:g}); nothing can be found in "
        "noise, so look at the files"
    )


def noise_ratio(grey: np.ndarray) -> np.ndarray:
    """Mean square difference of neighbours over that of pixels 4 apart, of `[N, S, S]` photos."""

    def differences(step: int) -> np.ndarray:
        across = np.square(grey[:, :, step:] - grey[:, :, :-step]).mean((1, 2))
        down: np.ndarray = np.square(grey[:, step:] - grey[:, :-step]).mean((1, 2))
        return across + down

    return differences(1) / np.maximum(differences(4), 1e-9)


def _small(sample: PhotoSample, frame: Framing) -> str:
    if frame.crop == "box":
        return ""
    edges = [frame.view_rectangle(tuple(size), np.zeros((0, 2))) for size in sample.sizes]
    sides = np.array([min(right - left, low - top) for left, top, right, low in edges])
    small = frame.view_size > _ENLARGED * sides
    if small.mean() < _SHARE:
        return ""
    name = _first(sample, small)
    return (
        f"{small.sum():,} of {len(small):,} photos are small, such as {name}: a view of "
        f"{frame.view_size} pixels enlarges them over {_ENLARGED:g} times; use larger photos, or "
        "a smaller config.views.size and config.data.canvas_size"
    )


def _stretched(sample: PhotoSample, frame: Framing) -> str:
    if frame.crop == "box":
        return ""
    ratios = sample.sizes[:, 0] / sample.sizes[:, 1]
    long = np.maximum(ratios, 1 / ratios) > _STRETCH
    change = (
        f"config.data.crop = {frame.crop!r} stretches photos to squares; cut them to about "
        "squares around the object, or leave some out by config.data.exclude"
    )
    if long.mean() >= _SHARE:
        return (
            f"{long.sum():,} of {len(long):,} photos have sides of over {_STRETCH:g} to 1, such "
            f"as {_first(sample, long)}: {change}"
        )
    narrow, wide = np.quantile(ratios, [0.05, 0.95])
    if wide > _STRETCH * narrow:
        return (
            f"the photos are of very different shapes, width over height mostly {narrow:.2f} to "
            f"{wide:.2f}: {change}"
        )
    return ""


def _grouped(sample: PhotoSample) -> str:
    compared = sample.different[:_GROUPED]
    groups = photo_groups.find(sample.grey[compared])
    if groups is None:
        return ""
    share = groups.second.mean()
    first, second = (sample.names[compared[i]] for i in groups.typical)
    return (
        f"the photos fall into groups that look unlike, {1 - share:.0%} as {first} and "
        f"{share:.0%} as {second}: if these are different things, or different sides of one, "
        "train on a folder of each"
    )
