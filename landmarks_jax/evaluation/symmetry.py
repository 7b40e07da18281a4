"""Which landmarks mirror each other, found without labels from views and their mirror images.

Landmark j of a mirrored view, mirrored back, shows the same point of the object as landmark i of
the view if both are at one place in all photos. The permutation that minimises the sum of these
mean distances is found by the Hungarian algorithm, of the distances averaged over (i, j) and
(j, i), so that it is its own inverse but for long cycles, which are split.

A pair counts if its distance is at most `LIMIT` of the landmarks' spread. There is always a best
permutation, so the limit comes from controls, see docs/detector.md.
"""

import dataclasses
from typing import Any

import numpy as np
from ml_collections import ConfigDict
from scipy.optimize import linear_sum_assignment

from landmarks_jax.data import framing, loader, sampling
from landmarks_jax.data.sources import registry
from landmarks_jax.data.sources.photos import Source
from landmarks_jax.evaluation import metrics
from landmarks_jax.inference.detector import ViewDetector
from landmarks_jax.inference.mirroring import LIMIT
from landmarks_jax.inference.packed_file import PackedDetector
from landmarks_jax.system.errors import DataError

_MAX_PHOTOS = 128  # a share of 0.03 is then off by less than 0.005
_MIN_PHOTOS = 10


def photos_of_run(config: ConfigDict) -> loader.Loader:
    """The photos of a run, cut for undistorted views.

    Raises:
      UserError: they cannot be read, or were prepared for the box crop, which keeps no such views.
    """
    if config.data.source != "prepared":
        return photos_of_source(registry.open_source(config.data), config)
    if config.data.crop == "box":
        raise DataError(
            "the run's photos were prepared for the box crop, which keeps no undistorted views"
        )
    return loader.open_loader(config)


def photos_of_source(source: Source, config: ConfigDict) -> loader.Loader:
    """The photos of a source, cut for undistorted views of the detector of `config`.

    Raises:
      UserError: the crop needs points, and the source has none.
    """
    return loader.PhotoLoader(source, framing.of_config(config))


def add_pairs(packed: PackedDetector, photos: loader.Loader) -> PackedDetector:
    """Finds a detector's landmarks that mirror each other, for its summary.

    Args:
      packed: the detector.
      photos: of `photos_of_run` or `photos_of_source`; 128 are used, evenly over their list.

    Returns:
      The detector, whose summary holds the number of photos and the pairs, see `pairs_of`.

    Raises:
      DataError: there are too few photos, or one cannot be read.
    """
    if photos.num_different < _MIN_PHOTOS:
        raise DataError(
            f"{photos.summary}: {_MIN_PHOTOS} photos are needed to find landmarks that mirror each "
            "other"
        )
    places = sampling.evenly(photos.num_different, _MAX_PHOTOS)
    views = framing.of_config(packed.config).central_view(photos.canvases(places))
    detect = ViewDetector(packed.config, packed.variables)
    mirrored = detect(np.ascontiguousarray(views[:, :, ::-1])) * [-1, 1]
    mirror = {"photos": len(views), "pairs": pairs_of(detect(views), mirrored)}
    return dataclasses.replace(packed, summary={**packed.summary, "mirror": mirror})


def pairs_of(landmarks: np.ndarray, mirrored: np.ndarray) -> list[dict[str, Any]]:
    """The landmarks that mirror each other.

    Args:
      landmarks: `[N, K, 2]` of views.
      mirrored: `[N, K, 2]` of their mirror images, mirrored back.

    Returns:
      Plain JSON, in the order of `first`: the landmarks `first <= second`, equal for one that is
      its own mirror image; the mean `distance` between the points, as a share of the landmarks'
      spread (their root mean square distance from the mean landmark of the view); and `swapped`,
      the share of views in which both detections disagree on which of the two lies on which side.
    """
    landmarks, mirrored = (np.asarray(points, np.float64) for points in (landmarks, mirrored))
    spread = np.sqrt(((landmarks - landmarks.mean(1, keepdims=True)) ** 2).sum(-1).mean())
    distances = metrics.mean_distances(landmarks, mirrored)
    distances = (distances + distances.T) / 2
    order = best_involution(distances)
    pairs = []
    for first, second in enumerate(order):
        if first > second or distances[first, second] > LIMIT * spread or spread == 0:
            continue
        across = landmarks[:, second] - landmarks[:, first]
        back = mirrored[:, first] - mirrored[:, second]
        pairs.append(
            {
                "first": first,
                "second": int(second),
                "distance": round(float(distances[first, second] / spread), 4),
                "swapped": round(float(((across * back).sum(-1) < 0).mean()), 4),
            }
        )
    return pairs


def best_involution(cost: np.ndarray) -> np.ndarray:
    """A permutation `[K]` that is its own inverse, of low `cost` `[K, K]`, which is symmetric.

    It is the permutation of least cost, if that has no cycle of more than two. Each such cycle is
    cut into neighbours, one alone if their number is odd, in the way that costs least.
    """
    _, best = linear_sum_assignment(cost)
    order = np.arange(len(best))
    left = set(order.tolist())
    while left:
        cycle = [min(left)]
        while (following := int(best[cycle[-1]])) != cycle[0]:
            cycle.append(following)
        left -= set(cycle)
        turned = [cycle[start:] + cycle[:start] for start in range(len(cycle))]
        cuts = [
            [(turn[i], turn[min(i + 1, len(turn) - 1)]) for i in range(0, len(turn), 2)]
            for turn in turned
        ]
        for first, second in min(cuts, key=lambda cut: sum(_cost(cost, pair) for pair in cut)):
            order[first], order[second] = second, first
    return order


def _cost(cost: np.ndarray, pair: tuple[int, int]) -> float:
    first, second = pair
    return float(cost[first, second] * (1 if first == second else 2))
