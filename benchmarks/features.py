"""Feature maps of photos for `benchmarks.refinement`, kept in files of float16."""

import hashlib
import json
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from numpy.lib.format import open_memmap

from benchmarks import harness
from benchmarks.problem import random_layers
from landmarks_jax.refinement import Projection
from landmarks_jax.system import parallel
from landmarks_jax.training import feature_maps, refiner
from landmarks_jax.weights import vgg_weights

WEIGHTS = {"vgg16": "vgg16_conv1_1_to_conv3_3.npz", "vgg19": "vgg19_conv1_1_to_conv4_4.npz"}
# Side of a cell in pixels: that of relu3_4. Shallower taps are averaged over such cells.
CELL = 4


class Features(NamedTuple):
    """What is computed of a photo.

    Attributes:
      network: a key of `WEIGHTS`.
      taps: names such as `relu3_4`.
      components: principal components of each tap.
      size: pixels a side of the photo.
      random: whether the network's weights are drawn at random.
    """

    network: str = "vgg19"
    taps: tuple[str, ...] = ("relu3_4", "relu4_4")
    components: int = 128
    size: int = 128
    random: bool = False

    def file_name(self) -> str:
        """Names a file after all of them."""
        parts = [self.network, *self.taps, f"{self.components}c", f"{self.size}px"]
        return "-".join([*parts, *(["random"] if self.random else [])])


class Maps(NamedTuple):
    """Feature maps of photos.

    Attributes:
      maps: `[N, h, w, D]` float16.
      projections: of each tap.
      milliseconds: to compute them, a photo.
    """

    maps: np.ndarray
    projections: dict[str, Projection]
    milliseconds: float

    def first_components(self, count: int) -> "Maps":
        """With fewer components of each tap, which come first."""
        kept: list[int] = []
        start = 0
        for _, components in self.projections.values():
            size = components.shape[1]
            kept += range(start, start + min(count, size))
            start += size
        return self._replace(maps=self.maps[..., np.array(kept)])


class FeatureFiles:
    """Computes feature maps, or reads them where they were computed before."""

    def __init__(self, folder: Path, weights: Path) -> None:
        """Names the folder to keep files in, and that of the networks' weights."""
        self._folder, self._weights = folder, weights

    def maps(
        self,
        name: str,
        views: np.ndarray,
        features: Features,
        *,
        num_fit: int = 0,
        projections: dict[str, Projection] | None = None,
    ) -> Maps:
        """The maps of some photos.

        Args:
          name: of the photos.
          views: `[N, S, S, 3]` uint8, of the size of `features`.
          features: what to compute.
          num_fit: the principal components are taken of some of the first so many.
          projections: the components to use instead.

        Raises:
          WeightsError: the weights cannot be read.
        """
        weights = self._read(features)
        path = self._folder / f"{name}-{len(views)}-{features.file_name()}"
        key = hashlib.sha256(f"{views.shape} {weights.digest()}".encode() + views.tobytes())
        for _, components in (projections or {}).values():
            key.update(np.asarray(components).tobytes())
        if (kept := _load(path, key.hexdigest())) is not None:
            return kept
        path.with_suffix(".json").unlink(missing_ok=True)  # it says that the others are complete
        activate = in_cells(feature_maps.activations(weights), features.size // CELL)
        if projections is None:
            rows = np.random.default_rng(0).permutation(num_fit)[: refiner.PCA_PHOTOS]
            batches = (views[rows[part]] for part in _batches(len(rows)))
            projections = feature_maps.projections(activate, batches, features.components)
        milliseconds = _compute(path.with_suffix(".part"), views, activate, projections)
        content = Maps(np.empty(0), projections, milliseconds)
        path.with_suffix(".part").replace(path.with_suffix(".npy"))
        _save(path, content, key.hexdigest())
        kept = _load(path, key.hexdigest())
        assert kept is not None
        return kept

    def _read(self, features: Features) -> vgg_weights.VggWeights:
        path, taps = self._weights / WEIGHTS[features.network], features.taps
        weights = vgg_weights.load_vgg(str(path), features.network, taps, normalize=True)
        if features.random:
            return weights._replace(params=random_layers(features.network, taps))
        return weights


def in_cells(activate: feature_maps.Activate, side: int) -> feature_maps.Activate:
    """Averages taps that have more cells down to `side` x `side`."""

    @jax.jit
    def reduce(taps: dict[str, jax.Array]) -> dict[str, jax.Array]:
        return {
            tap: jax.image.resize(x, (len(x), side, side, x.shape[-1]), "bilinear")
            if x.shape[1] > side
            else x
            for tap, x in taps.items()
        }

    return lambda images: reduce(activate(images))


def _batches(count: int) -> list[slice]:
    return [
        slice(first, first + feature_maps.BATCH) for first in range(0, count, feature_maps.BATCH)
    ]


def _compute(
    path: Path,
    views: np.ndarray,
    activate: Callable[[np.ndarray], Any],
    projections: dict[str, Projection],
) -> float:
    """Writes the maps, batch by batch; returns the milliseconds a photo, compiling not counted."""
    first = feature_maps.maps(activate, views[:1], projections)
    if len(views) > feature_maps.BATCH:
        feature_maps.maps(activate, views[: feature_maps.BATCH], projections)  # compiles
    path.parent.mkdir(parents=True, exist_ok=True)
    out = open_memmap(path, "w+", np.float16, (len(views), *first.shape[1:]))
    started = time.perf_counter()
    batches = _batches(len(views))
    for part in parallel.with_progress(batches, len(batches), "features", unit="batch"):
        out[part] = feature_maps.maps(activate, views[part], projections)
    out.flush()
    return 1e3 * (time.perf_counter() - started) / len(views)


def _save(path: Path, content: Maps, key: str) -> None:
    """Writes what belongs to the maps of a file."""
    arrays: dict[str, Any] = {}
    for tap, projection in content.projections.items():
        arrays |= {f"{tap}/mean": projection.mean, f"{tap}/components": projection.components}
    np.savez(path.with_suffix(".npz"), **arrays)
    harness.write_json(
        path.with_suffix(".json"), {"key": key, "milliseconds": content.milliseconds}
    )


def _load(path: Path, key: str) -> Maps | None:
    """Reads kept maps; None if there are none, or of other photos or weights."""
    try:
        facts = json.loads(path.with_suffix(".json").read_text())
        if facts["key"] != key:
            return None
        with np.load(path.with_suffix(".npz")) as arrays:
            taps = dict.fromkeys(name.partition("/")[0] for name in arrays.files)
            projections = {
                tap: Projection(arrays[f"{tap}/mean"], arrays[f"{tap}/components"]) for tap in taps
            }
        maps = np.load(path.with_suffix(".npy"), mmap_mode="r")
        return Maps(maps, projections, facts["milliseconds"])
    except (OSError, ValueError, KeyError, zipfile.BadZipFile):
        return None
