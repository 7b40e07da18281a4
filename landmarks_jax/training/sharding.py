"""Data parallelism: one mesh axis over all devices, batches split by row, the state on each."""

import platform
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from landmarks_jax.system import parallel

AXIS = "data"


def make_mesh(devices: list[jax.Device] | None = None) -> Mesh:
    """Makes a one-axis mesh over the devices, by default all.

    The axis is `Auto`: the partitioner places what the step computes, and batch norm sees the
    global batch, so that the result does not depend on the number of devices.
    """
    if devices is None:  # grouped by process, so that its rows of a batch are adjacent
        devices = sorted(jax.devices(), key=lambda device: (device.process_index, device.id))
    return Mesh(np.array(devices), (AXIS,), axis_types=(AxisType.Auto,))


def hardware() -> str:
    """Number and kind of the devices, such as "8 x NVIDIA H200"."""
    device = jax.devices()[0]
    if device.platform != "cpu":
        return f"{jax.device_count()} x {device.device_kind}"
    cores = parallel.num_threads()
    unit = "processor core" if cores == 1 else "processor cores"
    machine = f"{cores} {unit} ({platform.machine()})"
    return machine if jax.process_count() == 1 else f"{jax.process_count()} processes: {machine}"


def replicated(mesh: Mesh) -> NamedSharding:
    """The whole array on each device."""
    return NamedSharding(mesh, PartitionSpec())


def replicated_shapes(mesh: Mesh, tree: Any) -> Any:
    """A `jax.ShapeDtypeStruct` for each array of a tree, replicated."""
    places = replicated(mesh)
    return jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=places), tree)


def by_row(mesh: Mesh) -> NamedSharding:
    """The first axis split evenly over the devices."""
    return NamedSharding(mesh, PartitionSpec(AXIS))


def put_batch(mesh: Mesh, rows: np.ndarray) -> jax.Array:
    """Sends this process's rows of the global batch to its devices, explicitly."""
    return _send(by_row(mesh), rows)


def put_replicated(mesh: Mesh, tree: Any) -> Any:
    """Sends a tree, the same in every process, to all devices, explicitly."""
    places = replicated(mesh)
    if places.is_fully_addressable:
        return jax.device_put(tree, places)

    def put(leaf: Any) -> jax.Array:
        """Avoids `device_put`, which compiles a comparison of all copies for each shape."""
        if isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            return jax.random.wrap_key_data(put(jax.random.key_data(leaf)))
        return _send(places, np.asarray(leaf))

    return jax.tree.map(put, tree)


def _send(places: NamedSharding, rows: np.ndarray) -> jax.Array:
    """Sends this process's rows; allowed, as JAX's guard takes it for implicit with processes."""
    with jax.transfer_guard_host_to_device("allow"):
        return jax.make_array_from_process_local_data(places, rows)
