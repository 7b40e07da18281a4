"""A step's photos on the devices: sent batch by batch, or all there and gathered by the step.

Either way the loop takes one thing a step from an iterator and gives it to the step, which makes
the same batch of it: the rows of the endless order that (seed, step) decide.
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

from landmarks_jax.data import loader as feeds
from landmarks_jax.data import sampling as order
from landmarks_jax.data.loader import Loader, PreparedLoader
from landmarks_jax.system.errors import ConfigError
from landmarks_jax.tasks import task_of
from landmarks_jax.training import memory, sharding

_LOGGER = logging.getLogger(__name__)
# Resident photos are sent in pieces of about so many bytes.
PIECE = 64 * memory.MIB


class Batch(NamedTuple):
    """The photos of one step, rows over the devices.

    Attributes:
      canvases: `[B, C, C, 3]` uint8.
      points: `[B, P, 2]` float32, normalised to the canvas; None where no step looks at them.
    """

    canvases: jax.Array
    points: jax.Array | None


class Resident(NamedTuple):
    """All photos of a run, on each device, and which of them some steps see.

    Attributes:
      canvases: `[N, C C 3]` uint8: flat, for a device may pad an axis of 3 to 128.
      points: `[N, P, 2]` float32, or None.
      order: `[S, B]` int32, the rows of the photos of S steps.
      first: `[]` int32, the absolute number of the first of these steps.
    """

    canvases: jax.Array
    points: jax.Array | None
    order: jax.Array
    first: jax.Array


def takes_points(config: ConfigDict) -> bool:
    """Whether steps look at the points that come with the photos."""
    return task_of(config).NEEDS_POINTS or bool(config.data.crop == "box")


def gather(photos: Batch | Resident, step: jax.Array, mesh: Mesh) -> Batch:
    """The batch of a step, within a jitted function: what was sent, or rows of what is there.

    Args:
      photos: what the iterator gave for this step.
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
    # A batch as if it had been sent: what follows is compiled the same, to the last bit.
    return jax.lax.optimization_barrier(batch)


def batch_shapes(
    config: ConfigDict, num_points: int = 0, rows: NamedSharding | None = None
) -> Batch:
    """The shapes of a batch that is sent, of photos with `num_points` points."""
    size, count = feeds.framing_of(config).canvas_size, config.train.batch_size
    canvases = jax.ShapeDtypeStruct((count, size, size, 3), jnp.uint8, sharding=rows)
    points = jax.ShapeDtypeStruct((count, num_points, 2), jnp.float32, sharding=rows)
    return Batch(canvases, points if takes_points(config) else None)  # type: ignore[arg-type]


def shapes(config: ConfigDict, feed: Loader, mesh: Mesh) -> Batch | Resident:
    """The shapes of what steps are given.

    Raises:
      ConfigError: the photos are to be on the devices, and are more than these hold.
    """
    if not config.data.resident:
        return batch_shapes(config, feed.num_points, sharding.by_row(mesh))
    whole = sharding.replicated(mesh)
    kept = [
        jax.ShapeDtypeStruct(_shape(arrays), arrays[0].dtype, sharding=whole)
        for arrays in _arrays(config, feed)
    ]
    _check_room(kept)
    size = config.train.batch_size
    rows = jax.ShapeDtypeStruct((len(feed) // size, size), jnp.int32, sharding=whole)
    first = jax.ShapeDtypeStruct((), jnp.int32, sharding=whole)
    return Resident(kept[0], kept[1] if kept[1:] else None, rows, first)  # type: ignore[arg-type]


def batches(
    config: ConfigDict, feed: Loader, mesh: Mesh, start_step: int = 0
) -> Iterator[Batch | Resident]:
    """What the steps from `start_step` on are given, without end.

    Photos that are to be on the devices are sent there now.
    """
    if config.data.resident:
        return _resident(config, feed, mesh, start_step)
    return _streamed(config, feed, mesh, start_step)


def _streamed(config: ConfigDict, feed: Loader, mesh: Mesh, start_step: int) -> Iterator[Batch]:
    """One batch after the other, sent to the devices."""
    read = feed.batches(
        seed=config.seed,
        batch_size=config.train.batch_size,
        start_step=start_step,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
    )

    def sent(batch: dict[str, np.ndarray]) -> Batch:
        canvases = sharding.put_batch(mesh, batch["canvas"])
        points = sharding.put_batch(mesh, batch["points"]) if takes_points(config) else None
        return Batch(canvases, points)

    return map(sent, read)


def _resident(config: ConfigDict, feed: Loader, mesh: Mesh, start_step: int) -> Iterator[Resident]:
    """The photos, and about once an epoch the order of the next steps."""
    assert isinstance(feed, PreparedLoader)
    started = time.monotonic()
    kept = [_send(mesh, arrays) for arrays in _arrays(config, feed)]
    size = sum(array.nbytes for array in kept) / memory.MIB
    seconds = time.monotonic() - started
    _LOGGER.info("%d canvases on each device: %.0f MiB in %.1f s", len(kept[0]), size, seconds)
    canvases, points = kept[0], kept[1] if kept[1:] else None
    batch_size = config.train.batch_size
    steps = len(feed) // batch_size

    def given() -> Iterator[Resident]:
        for first in itertools.count(start_step, steps):
            span = first * batch_size, (first + steps) * batch_size
            rows = feed.places[order.rows(config.seed, len(feed), *span)]
            sent = sharding.put_replicated(mesh, (rows.reshape(steps, -1), np.int32(first)))
            yield from itertools.repeat(Resident(canvases, points, *sent), steps)

    return given()


def _arrays(config: ConfigDict, feed: Loader) -> list[list[np.ndarray]]:
    """What is to be on the devices: canvases, and points where steps look at them, by folder."""
    assert isinstance(feed, PreparedLoader)
    canvases = [folder.canvases for folder in feed.folders]
    points = [folder.points for folder in feed.folders]
    return [canvases, points] if takes_points(config) else [canvases]


def _shape(arrays: Sequence[np.ndarray]) -> tuple[int, ...]:
    """The shape of all rows on a device: canvases flat, points as they are."""
    _, *rest = arrays[0].shape
    if arrays[0].dtype == np.uint8:
        rest = [math.prod(rest)]
    return (sum(map(len, arrays)), *rest)


def _check_room(kept: Sequence[jax.ShapeDtypeStruct]) -> None:
    device = jax.local_devices()[0]
    needed = sum(math.prod(part.shape) * part.dtype.itemsize for part in kept)
    if device.platform == "cpu":  # which share the machine's memory
        needed *= jax.local_device_count()
    available = memory.available(device)
    if available is not None and needed > available:
        raise ConfigError(
            f"config.data.resident = True: the photos take {needed:,} bytes and {device} has "
            f"{available:,}; use False, which sends them batch by batch"
        )


def _send(mesh: Mesh, arrays: Sequence[np.ndarray]) -> jax.Array:
    """The rows of several arrays one below the other on each device, sent in pieces.

    So neither host nor device ever holds them twice.
    """
    shape, dtype = _shape(arrays), arrays[0].dtype
    whole = sharding.replicated(mesh)
    made = jax.jit(lambda: jnp.zeros(shape, dtype), out_shardings=whole)()

    def place(made: jax.Array, piece: jax.Array, start: jax.Array) -> jax.Array:
        return jax.lax.dynamic_update_slice_in_dim(made, piece, start, 0)

    write = jax.jit(place, donate_argnums=0, out_shardings=whole)
    step = max(1, PIECE // max(1, math.prod(shape[1:]) * dtype.itemsize))
    start = 0
    for array in arrays:
        for begin in range(0, len(array), step):
            piece = np.ascontiguousarray(array[begin : begin + step]).reshape(-1, *shape[1:])
            sent = sharding.put_replicated(mesh, (piece, np.int32(start)))
            made = write(made, *sent).block_until_ready()
            start += len(piece)
    return made
