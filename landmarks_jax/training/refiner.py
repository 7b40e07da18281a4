"""Refines the points of the photos of a configuration by their features, see `refinement`."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple, TypeVar

import numpy as np
from ml_collections import ConfigDict

from landmarks_jax import config as configuration
from landmarks_jax import refinement
from landmarks_jax.data import loader
from landmarks_jax.data.framing import Framing
from landmarks_jax.models import hog
from landmarks_jax.refinement import Projection, Stage
from landmarks_jax.system import parallel
from landmarks_jax.system.errors import ConfigError
from landmarks_jax.training import feature_maps, following
from landmarks_jax.training.feature_maps import BATCH
from landmarks_jax.weights import vgg_weights

T = TypeVar("T")

# Photos whose cells the principal components are taken of.
PCA_PHOTOS = 256


class Start(NamedTuple):
    """Where points start.

    Attributes:
      points: `(places [n], views [n, S, S, 3] uint8) -> [n, G, 2]`, from the photos' numbers and
        undistorted views, normalised to the view.
      mirrored: `[G]` the point of a photo that is point g of its mirror image; None where photos
        are not mirrored.
    """

    points: Callable[[np.ndarray, np.ndarray], np.ndarray]
    mirrored: np.ndarray | None


class Targets(NamedTuple):
    """Points of all different photos of a configuration.

    Attributes:
      points: `[U, G, 2]` float32, normalised to the canvas.
      confidence: `[U, G]` float32 see `refinement.refine`.
      followed: `[G]` how far each point follows known warps, see `following.share_followed`; NaN
        where that was not measured, as all points are kept.
    """

    points: np.ndarray
    confidence: np.ndarray
    followed: np.ndarray


class _Fitted(NamedTuple):
    """Photos that the discriminants were fitted on, and the result.

    Attributes:
      places: `[n]` their numbers.
      maps: `[n, h, w, D]` float16.
      points: `[n, K, 2]` where they started.
      projections: of each tap.
      stages: the discriminants.
    """

    places: np.ndarray
    maps: np.ndarray
    points: np.ndarray
    projections: dict[str, Projection]
    stages: Stage


def read_weights(config: ConfigDict) -> vgg_weights.VggWeights | None:
    """Reads the network whose features are compared; None for histograms of gradients.

    Raises:
      WeightsError: the weights cannot be read.
    """
    targets = config.targets
    if targets.network == hog.NETWORK:
        return None
    taps = tuple(targets.taps)
    return vgg_weights.load_vgg(
        targets.weights, targets.network, taps, normalize=True, fields=vgg_weights.TARGETS
    )


def at_feature_size(config: ConfigDict) -> ConfigDict:
    """The configuration with views and canvases of the size that features are computed at."""
    size = config.targets.view_size
    canvas = size * config.data.canvas_size // config.views.size
    return configuration.with_fields(config, {"views.size": size, "data.canvas_size": canvas})


class Refiner:
    """Refines the points of a configuration's photos.

    Attributes:
      frame: how photos are cut for the features.
      weights: the network whose features are compared; None for histograms of gradients.
    """

    def __init__(self, config: ConfigDict) -> None:
        """Reads the network's weights and opens the photos.

        Raises:
          ConfigError: a field cannot work.
          DataError: the photos are missing, damaged, or prepared with fewer pixels.
          WeightsError: the weights cannot be read.
        """
        self._config = config
        self.weights = read_weights(config)
        if self.weights is None:
            self._activate = feature_maps.histograms(tuple(config.targets.taps))
        else:
            self._activate = feature_maps.activations(self.weights)
        larger, size = at_feature_size(config), config.targets.view_size
        frame = loader.framing_of(larger)
        assert isinstance(frame, Framing)
        self.frame = frame
        try:
            self._photos = loader.open_loader(larger)
        except ConfigError as error:
            loader.open_loader(config)  # raises what is wrong at any size
            canvas = larger.data.canvas_size
            raise ConfigError(
                f"config.targets.view_size = {size}: needs photos, or canvases prepared with "
                f"--config.data.canvas_size={canvas} --config.views.size={size} ({error})"
            ) from error

    @property
    def names(self) -> list[str]:
        """The names of the photos."""
        return self._photos.names()

    def views(self, places: np.ndarray) -> np.ndarray:
        """The undistorted views `[n, S, S, 3]` uint8 of some of the photos, by number."""
        return self.frame.central_view(self._photos.canvases(places))

    def run(
        self,
        start: Start,
        schedule: Sequence[tuple[float, float]],
        check: Callable[[], None] = lambda: None,
        *,
        keep: int = 0,
    ) -> Targets:
        """Refines the points of all photos.

        The discriminants are fitted on `config.targets.num_fit` of them, or on half as many and
        their mirror images.

        Args:
          start: where points start.
          schedule: s and t of each iteration.
          check: called before each batch and iteration; what it raises ends the work.
          keep: number of points to keep, those that follow known warps best; 0 keeps all. Not
            for a start that does not find its points in the views.
        """
        self._check = check
        targets = self._config.targets
        count = self._photos.num_different
        order = np.random.default_rng(self._config.seed).permutation(count)
        copies = 1 if start.mirrored is None else 2
        chosen = order[: max(1, targets.num_fit // copies)]
        projections = self._projections(chosen[:PCA_PHOTOS])
        # One array for all maps, as two would not fit where one just does.
        maps = np.zeros(0, np.float16)
        points: list[np.ndarray] = []
        for places, images in self._images(chosen, "features to fit on"):
            done = len(points) * BATCH
            points.append(start.points(places, images))
            for copy, views in enumerate((images, images[:, :, ::-1])[:copies]):
                made = self._maps(views, projections)
                if not maps.size:
                    maps = np.empty((copies, len(chosen), *made.shape[1:]), made.dtype)
                maps[copy, done : done + len(made)] = made
        begun = np.concatenate(points)
        starts = [begun]
        if start.mirrored is not None:
            starts.append(begun[:, start.mirrored] * np.array([-1, 1], np.float32))
        stages = refinement.fit(
            maps.reshape(-1, *maps.shape[2:]), np.concatenate(starts), self._checked(schedule)
        )
        fitted = _Fitted(chosen, maps[0], begun, projections, stages)
        if not keep:
            return self._refine_all(start, fitted, np.full(begun.shape[1], np.nan))
        followed = self._followed(start, fitted)
        kept = np.sort(np.argsort(-followed, kind="stable")[:keep])
        return self._refine_all(
            Start(lambda places, images: start.points(places, images)[:, kept], None),
            fitted._replace(points=begun[:, kept], stages=_some(stages, kept)),
            followed[kept],
        )

    def _followed(self, start: Start, fitted: _Fitted) -> np.ndarray:
        """How far each point follows known warps `[G]`; see `following.share_followed`."""
        size, canvas_size = self.frame.view_size, self.frame.canvas_size
        warp = following.warper(size, canvas_size, self._config.seed)
        found: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
        for first in self._checked(range(0, min(len(fitted.places), following.NUM_PHOTOS), BATCH)):
            part = slice(first, first + BATCH)
            places = fitted.places[part]
            warped = warp(self._photos.canvases(places), first)
            begun = start.points(places, warped.images)
            maps = self._maps(warped.images, fitted.projections)
            moved, _ = refinement.refine(maps, begun, fitted.stages)
            plain, _ = refinement.refine(fitted.maps[part], fitted.points[part], fitted.stages)
            found.append((np.asarray(plain), np.asarray(moved), warped.to_view))
        points, moved, to_view = (np.concatenate(parts) for parts in zip(*found, strict=True))
        return following.share_followed(points, moved, to_view)

    def _refine_all(self, start: Start, fitted: _Fitted, followed: np.ndarray) -> Targets:
        """Refines the photos that were fitted on, whose maps are known, then all others."""
        count, num = self._photos.num_different, fitted.points.shape[1]
        targets = Targets(
            np.empty((count, num, 2), np.float32),
            np.empty((count, num), np.float32),
            followed.astype(np.float32),
        )

        def refine(places: np.ndarray, maps: np.ndarray, points: np.ndarray) -> None:
            refined, confidence = refinement.refine(maps, points, fitted.stages)
            targets.points[places], targets.confidence[places] = refined, confidence

        for first in self._checked(range(0, len(fitted.places), BATCH)):
            part = slice(first, first + BATCH)
            refine(fitted.places[part], fitted.maps[part], fitted.points[part])
        others = np.setdiff1d(np.arange(count), fitted.places)
        for places, images in self._images(others, "refining points"):
            refine(places, self._maps(images, fitted.projections), start.points(places, images))
        share = np.array(self.frame.view_size / self.frame.canvas_size, np.float32)
        return targets._replace(points=targets.points * share)

    def _images(self, places: np.ndarray, what: str) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Some photos in batches: their numbers and their views, with a progress report."""
        batches = [places[i : i + BATCH] for i in range(0, len(places), BATCH)]
        read = ((part, self.views(part)) for part in self._checked(batches))
        return parallel.with_progress(read, len(batches), what, unit="batch")

    def _checked(self, items: Iterable[T]) -> Iterator[T]:
        for item in items:
            self._check()
            yield item

    def _projections(self, places: np.ndarray) -> dict[str, Projection]:
        batches = (images for _, images in self._images(places, "principal components"))
        return feature_maps.projections(self._activate, batches, self._config.targets.components)

    def _maps(self, images: np.ndarray, projections: dict[str, Projection]) -> np.ndarray:
        return feature_maps.maps(self._activate, images, projections)


def _some(stages: Stage, kept: np.ndarray) -> Stage:
    """The stages of some of the points."""
    weights, bias, typical = (leaf[..., kept] for leaf in stages[:3])
    return stages._replace(weights=weights, bias=bias, typical=typical)
