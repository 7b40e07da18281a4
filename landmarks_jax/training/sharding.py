"""Data parallelism: one mesh axis over all devices, batches split by row, the state on each."""

import os
import platform
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

AXIS = "data"


def make_mesh(devices: list[jax.Device] | None = None) -> Mesh:
    """A one-axis mesh over the devices given, or all there are.

    The axis is `Auto`: the partitioner places what the step computes, and batch norm sees the
    global batch, so that the result does not depend on the number of devices.
    """
    devices = jax.devices() if devices is None else devices
    return Mesh(np.array(devices), (AXIS,), axis_types=(AxisType.Auto,))


def hardware() -> str:
    """What JAX computes on here, in words: number and kind of the devices."""
    device = jax.devices()[0]
    if device.platform != "cpu":
        return f"{jax.device_count()} x {device.device_kind}"
    usable = getattr(os, "sched_getaffinity", None)  # Linux's alone
    cores = len(usable(0)) if usable else os.cpu_count()
    return f"{cores} processor core{'s' * (cores != 1)} ({platform.machine()})"


def replicated(mesh: Mesh) -> NamedSharding:
    """The whole array on each device."""
    return NamedSharding(mesh, PartitionSpec())


def by_row(mesh: Mesh) -> NamedSharding:
    """The first axis split evenly over the devices."""
    return NamedSharding(mesh, PartitionSpec(AXIS))


def put_batch(mesh: Mesh, rows: np.ndarray) -> jax.Array:
    """Sends this process's rows of the global batch to its devices, explicitly."""
    return jax.make_array_from_process_local_data(by_row(mesh), rows)


def put_replicated(mesh: Mesh, tree: Any) -> Any:
    """Sends a tree to all devices, explicitly."""
    return jax.device_put(tree, replicated(mesh))
