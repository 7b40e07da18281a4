"""Makes the targets of self-training: points of every photo, refined by deep features.

At step 0 of a run they start from a grid or from another detector, later from the run's own points,
averaged over moved views. They are kept in the run's folder, so that a resumed run has the same.
"""

import functools
import io
import logging
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from landmarks_jax import geometry, refinement, views
from landmarks_jax.data import loader
from landmarks_jax.data.framing import Framing
from landmarks_jax.inference import api
from landmarks_jax.inference.detector import detect
from landmarks_jax.models import detectors
from landmarks_jax.models.vgg import Vgg
from landmarks_jax.refinement import Projection, Stage
from landmarks_jax.system import compiler, figures, files, parallel
from landmarks_jax.system.errors import ConfigError, WorkdirError, reason
from landmarks_jax.tasks.self_training import mirrored_order
from landmarks_jax.weights import vgg_weights

FOLDER = "targets"
_LOGGER = logging.getLogger(__name__)
_BATCH = 32
_PCA_PHOTOS = 256
# The iterations that refine a detector's own points: few, as they start near their places.
_LATER = 3
_SHOWN = 40
# How the views move over which a detector's points are averaged: fields of `config.views`.
_MOVED = {
    "rotation_std": (5.0, 5.0),
    "rotation_limit": 15.0,
    "scale_range": (0.9, 1.1),
    "scale_std": 0.0,
    "shift_std": 0.02,
}


class Targets(NamedTuple):
    """Points of all different photos of a run.

    Attributes:
      points: `[U, K, 2]` float32, normalised to the canvas.
      belief: `[U, K]` float32 how far each is to be believed, see `refinement.refine`.
    """

    points: np.ndarray
    belief: np.ndarray


class _Network(NamedTuple):
    """The perceptual network: its activations are `compute(params, views)`."""

    compute: Any
    params: Any


def round_of(config: ConfigDict, step: int) -> int:
    """The step at which the targets of a step were made."""
    return max(made for made in config.targets.steps if made <= step)


def end_of_round(config: ConfigDict, step: int) -> int | None:
    """The next step at which targets are made, or None."""
    return next((made for made in config.targets.steps if made > step), None)


def load_or_make(
    config: ConfigDict, photos: loader.Loader, workdir: Path, step: int, variables: Any
) -> Targets:
    """The targets of a step: read from the run's folder, or made and written there.

    Args:
      config: the configuration.
      photos: the training photos.
      workdir: the run's folder.
      step: steps done.
      variables: the detector's `{"params", "batch_stats"}` at this step.

    Raises:
      WorkdirError: the file is damaged or cannot be written, or the run has passed the step at
        which they are made.
    """
    first = round_of(config, step)
    path = workdir / FOLDER / f"{first}.npz"
    if path.exists():
        return _read(path, photos)
    if first != step:
        raise WorkdirError(
            f"{path}: missing; restore it, or remove the checkpoints after step {first}"
        )
    started = time.monotonic()
    refiner = Refiner(config)
    own = functools.partial(_own_points, config, photos, _averager(config), variables)
    targets = refiner.run(None if step == 0 else own)
    _write(path, targets)
    _write_page(path.with_suffix(".png"), refiner, targets)
    _LOGGER.info(
        "%s: %d points of %d photos in %.0f s; see %s",
        path,
        targets.points.shape[1],
        len(targets.points),
        time.monotonic() - started,
        path.with_suffix(".png").name,
    )
    return targets


def _read(path: Path, photos: loader.Loader) -> Targets:
    try:
        with np.load(path) as arrays:
            targets = Targets(arrays["points"], arrays["belief"])
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise WorkdirError(f"{path}: damaged ({reason(error)}); use another --workdir") from error
    if len(targets.points) != photos.num_different:
        raise WorkdirError(f"{path}: has points of other photos; use another --workdir")
    return targets


def _write(path: Path, targets: Targets) -> None:
    buffer = io.BytesIO()
    np.savez(buffer, **targets._asdict())
    files.write_file(path, buffer.getvalue(), WorkdirError)


def _write_page(path: Path, refiner: "Refiner", targets: Targets) -> None:
    shown = np.linspace(0, len(targets.points) - 1, _SHOWN).astype(int)
    points = refiner.frame.points_in_view(targets.points[shown])
    page = figures.landmark_page(refiner.views(shown), points, title=f"targets, {path.stem} steps")
    figures.save(page, path)


class Refiner:
    """Refines the points of a configuration's photos.

    Attributes:
      frame: how photos are cut for the features.
    """

    def __init__(self, config: ConfigDict) -> None:
        """Reads the network's weights and opens the photos.

        Raises:
          ConfigError: a field cannot work.
          WeightsError: the weights cannot be read.
        """
        self._config = config
        self._network = _load_network(config)
        config = config.copy_and_resolve_references()
        size = config.targets.view_size
        with config.unlocked():
            ratio = config.data.canvas_size / config.views.size
            config.data.canvas_size = size + 2 * round(size * (ratio - 1) / 2)
            config.views.size = size
            config.data.resident = False
        self._photos = loader.open_loader(config)
        frame = loader.framing_of(config)
        assert isinstance(frame, Framing)
        self.frame = frame

    def views(self, places: np.ndarray) -> np.ndarray:
        """The undistorted views `[n, S, S, 3]` uint8 of some photos."""
        return self.frame.central_view(self._photos.canvases(places))

    def run(self, start: Any = None) -> Targets:
        """Refines the points of all photos.

        Args:
          start: `(places [n], views [n, S, S, 3] uint8) -> [n, K, 2]` points, normalised to the
            view; None starts from the configuration's grid and detector.
        """
        config = self._config.targets
        count = self._photos.num_different
        later = start is not None
        schedule = list(zip(config.spreads, config.temperatures, strict=True))
        schedule = schedule[-_LATER:] if later else schedule
        start = start or _first_start(self._config)
        order = np.random.default_rng(self._config.seed).permutation(count)
        chosen = order[: config.num_fit // (2 if config.mirror else 1)]

        projections = self._projections(chosen)
        maps, points = [], []
        for places, images in self._images(chosen, "features to fit on"):
            maps.append(self._maps(images, projections))
            points.append(start(places, images))
        fitted, begun = np.concatenate(maps), np.concatenate(points)
        if config.mirror:
            flipped = [
                self._maps(images[:, :, ::-1], projections)
                for _, images in self._images(chosen, "mirrored features")
            ]
            swapped = begun[:, mirrored_order(config.grid)] * np.float32([-1, 1])
            stages = refinement.fit(
                np.concatenate([fitted, *flipped]), np.concatenate([begun, swapped]), schedule
            )
        else:
            stages = refinement.fit(fitted, begun, schedule)
        return self._refine_all(chosen, (fitted, begun), start, projections, stages)

    def _refine_all(
        self,
        chosen: np.ndarray,
        known: tuple[np.ndarray, np.ndarray],
        start: Any,
        projections: dict[str, Projection],
        stages: Stage,
    ) -> Targets:
        """Refines the photos that were fitted on from their maps, then all others."""
        count, num = self._photos.num_different, known[1].shape[1]
        points = np.empty((count, num, 2), np.float32)
        belief = np.empty((count, num), np.float32)
        for first in range(0, len(chosen), _BATCH):
            part = slice(first, first + _BATCH)
            at = chosen[part]
            points[at], belief[at] = refinement.refine(known[0][part], known[1][part], stages)
        others = np.setdiff1d(np.arange(count), chosen)
        for at, images in self._images(others, "refining points"):
            maps = self._maps(images, projections)
            points[at], belief[at] = refinement.refine(maps, start(at, images), stages)
        ratio = self.frame.view_size / self.frame.canvas_size
        return Targets(points * np.float32(ratio), belief)

    def _images(self, places: np.ndarray, what: str) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Some photos in batches: their numbers and their views, with a progress report."""
        batches = [places[i : i + _BATCH] for i in range(0, len(places), _BATCH)]
        read = ((part, self.views(part)) for part in batches)
        return parallel.with_progress(read, len(batches), what, unit="batch")

    def _activations(self, images: np.ndarray) -> dict[str, jax.Array]:
        padded = np.concatenate([images, np.repeat(images[-1:], _BATCH - len(images), 0)])
        taps = self._network.compute(self._network.params, np.ascontiguousarray(padded))
        return {tap: features[: len(images)] for tap, features in taps.items()}

    def _projections(self, places: np.ndarray) -> dict[str, Projection]:
        sums = refinement.add_moments(
            {
                tap: refinement.moments(refinement.unit(features))
                for tap, features in self._activations(images).items()
            }
            for _, images in self._images(places[:_PCA_PHOTOS], "principal components")
        )
        size = self._config.targets.components
        return {tap: refinement.projection(moments, size) for tap, moments in sums.items()}

    def _maps(self, images: np.ndarray, projections: dict[str, Projection]) -> np.ndarray:
        maps = _project(self._activations(images), projections)
        return np.asarray(maps, np.float16)


_project = jax.jit(refinement.project)


def _load_network(config: ConfigDict) -> _Network:
    targets = config.targets
    read = vgg_weights.load_vgg(
        targets.weights, targets.network, tuple(targets.taps), normalize=True
    )
    module = Vgg(targets.network, tuple(targets.taps))

    def compute(params: Any, images: jax.Array) -> Any:
        return module.apply(
            {"params": params}, (images.astype(jnp.float32) / 255.0 - read.mean) / read.std
        )

    options = compiler.compiler_options()
    return _Network(jax.jit(compute, compiler_options=options), jax.device_put(read.params))


def _first_start(config: ConfigDict) -> Any:
    """The points of the grid, then those of the detector."""
    targets, parts = config.targets, []
    if targets.grid:
        places = np.linspace(-targets.extent, targets.extent, targets.grid, dtype=np.float32)
        grid = np.stack(np.meshgrid(places, places), -1).reshape(-1, 2)
        parts.append(lambda images: np.broadcast_to(grid, (len(images), *grid.shape)))
    if targets.detector:
        detector = api.load_detector(targets.detector)

        def detected(images: np.ndarray) -> np.ndarray:
            side = float(images.shape[1])
            whole = np.tile(np.float32([0, 0, side, side]), (len(images), 1))
            return geometry.to_normalized(
                detector(images, boxes=whole).landmarks, (images.shape[2], images.shape[1])
            )

        parts.append(detected)

    def start(places: np.ndarray, images: np.ndarray) -> np.ndarray:
        points = np.concatenate([part(images) for part in parts], 1)
        if points.shape[1] != config.model.num_landmarks:
            raise ConfigError(
                f"config.model.num_landmarks = {config.model.num_landmarks}: the grid and the "
                f"detector of config.targets have {points.shape[1]}"
            )
        return points

    return start


def _own_points(
    config: ConfigDict,
    photos: loader.Loader,
    average: Any,
    variables: Any,
    places: np.ndarray,
    images: np.ndarray,
) -> np.ndarray:
    """The detector's points `[n, K, 2]`, averaged over moved views of the training canvases."""
    padded = np.concatenate([places, np.repeat(places[-1:], _BATCH - len(places))])
    points = average(variables, photos.canvases(padded))[: len(places)]
    return np.asarray(points) * np.float32(config.data.canvas_size / config.views.size)


def _averager(config: ConfigDict) -> Any:
    """`(variables, canvases [B, C, C, 3] uint8) -> [B, K, 2]`, normalised to the canvas.

    The same moved views of every photo; half of them mirrored where objects have that symmetry.
    """
    module = detectors.build_detector(config)
    moved = ConfigDict(_MOVED)
    keys = jax.random.split(jax.random.key(config.seed), config.targets.moved_views)
    share = config.views.size / config.data.canvas_size
    maps = views.draw_maps(keys, moved, view=0, view_share=share)
    mirrored = jnp.arange(len(keys)) % 2 == 1 if config.targets.mirror else jnp.zeros(len(keys), bool)
    maps = views.mirror(maps, mirrored)

    def of_view(variables: Any, canvases: jax.Array, view: jax.Array, flip: jax.Array) -> jax.Array:
        every = jnp.broadcast_to(view, (len(canvases), 2, 3))
        images = views.warp(canvases, every, config.views.size) / 255.0
        found = detect(variables, images, module=module, beta=config.model.beta).landmarks
        if config.targets.mirror:
            found = jnp.where(flip, found[:, mirrored_order(config.targets.grid)], found)
        return geometry.apply(every, found)

    def average(variables: Any, canvases: jax.Array) -> jax.Array:
        total = jax.lax.map(lambda item: of_view(variables, canvases, *item), (maps, mirrored))
        return total.mean(0)

    return jax.jit(average, compiler_options=compiler.compiler_options())
