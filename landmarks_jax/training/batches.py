"""The photos of a step on the devices: streamed batch by batch, or resident and gathered.

Either way the loop passes one item of an iterator to each step, which gathers the same batch from
it: the rows that (seed, step) determines.
"""

import itertools
import logging
import math
import time
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from ml_collections import ConfigDict

from landmarks_jax.data import sampling
from landmarks_jax.data.loader import Loader, PreparedLoader, framing_of
from landmarks_jax.system.errors import ConfigError
from landmarks_jax.tasks import task_of
from landmarks_jax.training import memory, sharding

_LOGGER = logging.getLogger(__name__)
# Resident photos are sent in pieces of about this many bytes.
PIECE = 64 * memory.MIB


class Batch(NamedTuple):
    """The photos of one step, rows over the devices.

    Attributes:
      canvases: `[B, C, C, 3]` uint8.
      points: `[B, P, 2]` float32, normalised to the canvas; None if steps do not use them.
    """

    canvases: jax.Array
    points: jax.Array | None


class Resident(NamedTuple):
    """All photos of a run on each device, and the rows of the next steps.

    Attributes:
      canvases: `[N, C C 3]` uint8: flat, because a device may pad an axis of 3 to 128.
      points: `[N, P, 2]` float32, or None.
      order: `[S, B]` int32, the rows of the photos of S steps.
      first: `[]` int32, the absolute number of the first of these steps.
    """

    canvases: jax.Array
    points: jax.Array | None
    order: jax.Array
    first: jax.Array


def takes_points(config: ConfigDict) -> bool:
    """Whether steps use the points that come with the photos."""
    task = task_of(config)
    return task.MAKES_TARGETS or task.ON_JOINTS or bool(config.data.crop == "box")


def num_points(config: ConfigDict, own: int) -> int:
    """The number of points of each photo that steps use: its `own`, or its targets."""
    if not task_of(config).MAKES_TARGETS:
        return own
    return int(config.model.num_landmarks) * (2 if config.targets.mirror else 1)


def gather(photos: Batch | Resident, step: jax.Array, mesh: Mesh) -> Batch:
    """The batch of a step, inside a jitted function.

    Args:
      photos: the item of `batches` for this step.
      step: `[]` int32, its absolute number.
      mesh: the devices, each of which gathers its own rows.
    """
    if isinstance(photos, Batch):
        return photos
    rows = jax.lax.dynamic_index_in_dim(photos.order, step - photos.first, keepdims=False)
    rows = jax.lax.with_sharding_constraint(rows, sharding.by_row(mesh))
    size = math.isqrt(photos.canvases.shape[1] // 3)
    canvases = photos.canvases.at[rows].get(mode="promise_in_bounds")
    points = photos.points
    batch = Batch(
        canvases.reshape(len(rows), size, size, 3),
        None if points is None else points.at[rows].get(mode="promise_in_bounds"),
    )
    batch = jax.lax.with_sharding_constraint(batch, sharding.by_row(mesh))
    # The barrier makes XLA compile the rest as for a streamed batch, equal to the last bit.
    return jax.lax.optimization_barrier(batch)


def batch_shapes(
    config: ConfigDict, num_points: int = 0, rows: NamedSharding | None = None
) -> Batch:
    """The shapes of a streamed batch of photos with `num_points` points."""
    size, count = framing_of(config).canvas_size, config.train.batch_size
    canvases = jax.ShapeDtypeStruct((count, size, size, 3), jnp.uint8, sharding=rows)
    points = jax.ShapeDtypeStruct((count, num_points, 2), jnp.float32, sharding=rows)
    return Batch(canvases, points if takes_points(config) else None)  # type: ignore[arg-type]


def shapes(config: ConfigDict, loader: Loader, mesh: Mesh) -> Batch | Resident:
    """The shapes of the items of `batches`.

    Raises:
      ConfigError: resident photos do not fit on the devices.
    """
    if not config.data.resident:
        return batch_shapes(config, num_points(config, loader.num_points), sharding.by_row(mesh))
    replicated = sharding.replicated(mesh)
    assert isinstance(loader, PreparedLoader)
    canvases = [folder.canvases for folder in loader.folders]
    resident = [jax.ShapeDtypeStruct(_shape(canvases), jnp.uint8, sharding=replicated)]
    if takes_points(config):
        points = loader.num_different, num_points(config, loader.num_points), 2
        resident.append(jax.ShapeDtypeStruct(points, jnp.float32, sharding=replicated))
    _check_room(resident)
    size = config.train.batch_size
    rows = jax.ShapeDtypeStruct((len(loader) // size, size), jnp.int32, sharding=replicated)
    first = jax.ShapeDtypeStruct((), jnp.int32, sharding=replicated)
    return Resident(resident[0], resident[1] if resident[1:] else None, rows, first)  # type: ignore[arg-type]


def batches(
    config: ConfigDict, loader: Loader, mesh: Mesh, start_step: int = 0
) -> Iterator[Batch | Resident]:
    """An endless iterator of the photos of the steps from `start_step` on.

    Resident photos are sent to the devices now.
    """
    if config.data.resident:
        return _resident(config, loader, mesh, start_step)
    return _streamed(config, loader, mesh, start_step)


def _streamed(config: ConfigDict, loader: Loader, mesh: Mesh, start_step: int) -> Iterator[Batch]:
    host_batches = loader.batches(
        seed=config.seed,
        batch_size=config.train.batch_size,
        start_step=start_step,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
    )

    def send(batch: dict[str, np.ndarray]) -> Batch:
        canvases = sharding.put_batch(mesh, batch["canvas"])
        points = sharding.put_batch(mesh, batch["points"]) if takes_points(config) else None
        return Batch(canvases, points)

    return map(send, host_batches)


def _resident(
    config: ConfigDict, loader: Loader, mesh: Mesh, start_step: int
) -> Iterator[Resident]:
    assert isinstance(loader, PreparedLoader)
    started = time.monotonic()
    resident = [_send(mesh, arrays) for arrays in _arrays(config, loader)]
    size = sum(array.nbytes for array in resident) / memory.MIB
    seconds = time.monotonic() - started
    _LOGGER.info("%d canvases on each device: %.0f MiB in %.1f s", len(resident[0]), size, seconds)
    canvases, points = resident[0], resident[1] if resident[1:] else None
    batch_size = config.train.batch_size
    steps = len(loader) // batch_size

    def items() -> Iterator[Resident]:
        for first in itertools.count(start_step, steps):
            span = first * batch_size, (first + steps) * batch_size
            rows = loader.places[sampling.rows(config.seed, len(loader), *span)]
            sent = sharding.put_replicated(mesh, (rows.reshape(steps, -1), np.int32(first)))
            yield from itertools.repeat(Resident(canvases, points, *sent), steps)

    return items()


def _arrays(config: ConfigDict, loader: Loader) -> list[list[np.ndarray]]:
    """The resident arrays by folder: canvases, and points where steps use them."""
    assert isinstance(loader, PreparedLoader)
    canvases = [folder.canvases for folder in loader.folders]
    points = [folder.points for folder in loader.folders]
    if loader.targets is not None:
        points = [loader.targets]
    return [canvases, points] if takes_points(config) else [canvases]


def _shape(arrays: Sequence[np.ndarray]) -> tuple[int, ...]:
    """The shape of all rows on a device, with flat canvases."""
    _, *rest = arrays[0].shape
    if arrays[0].dtype == np.uint8:
        rest = [math.prod(rest)]
    return (sum(map(len, arrays)), *rest)


def _check_room(resident: Sequence[jax.ShapeDtypeStruct]) -> None:
    device = jax.local_devices()[0]
    needed = sum(math.prod(part.shape) * part.dtype.itemsize for part in resident)
    if device.platform == "cpu":  # which share the machine's memory
        needed *= jax.local_device_count()
    available = memory.available(device)
    if available is not None and needed > available:
        raise ConfigError(
            f"config.data.resident = True: the photos need {needed:,} bytes and {device} has "
            f"{available:,} for them; set it to False to stream them batch by batch"
        )


def _send(mesh: Mesh, arrays: Sequence[np.ndarray]) -> jax.Array:
    """Concatenates arrays on each device, sent in pieces so that nothing holds two copies."""
    shape, dtype = _shape(arrays), arrays[0].dtype
    replicated = sharding.replicated(mesh)
    made = jax.jit(lambda: jnp.zeros(shape, dtype), out_shardings=replicated)()

    def place(array: jax.Array, piece: jax.Array, start: jax.Array) -> jax.Array:
        return jax.lax.dynamic_update_slice_in_dim(array, piece, start, 0)

    write = jax.jit(place, donate_argnums=0, out_shardings=replicated)
    step = max(1, PIECE // max(1, math.prod(shape[1:]) * dtype.itemsize))
    start = 0
    for array in arrays:
        for begin in range(0, len(array), step):
            piece = np.ascontiguousarray(array[begin : begin + step]).reshape(-1, *shape[1:])
            sent = sharding.put_replicated(mesh, (piece, np.int32(start)))
            made = write(made, *sent).block_until_ready()
            start += len(piece)
    return made
