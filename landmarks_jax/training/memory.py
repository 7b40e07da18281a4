"""Memory: what there is, the most that was used, and what XLA plans for a compiled function.

All in bytes; None where the platform does not say.
"""

import importlib.util
import os
import sys
from typing import Any

import jax

MIB = 2**20


def available(device: jax.Device) -> int | None:
    """What a device has: of an accelerator what JAX may take, of the CPU what the machine has."""
    if device.platform != "cpu":
        return _stats(device).get("bytes_limit")
    if not hasattr(os, "sysconf"):  # Windows
        return None
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def host_peak() -> int | None:
    """The most of the machine's memory that this process ever held."""
    if importlib.util.find_spec("resource") is None:  # Windows
        return None
    import resource  # noqa: PLC0415

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def device_peak() -> int | None:
    """The most that arrays and programs ever held on one of this process's devices."""
    peaks = [_stats(device).get("peak_bytes_in_use") for device in jax.local_devices()]
    return max((peak for peak in peaks if peak is not None), default=None)


def planned(compiled: jax.stages.Compiled) -> int | None:
    """What a compiled function takes on each device, its arguments and its results with it."""
    plan: Any = compiled.memory_analysis()
    if plan is None:
        return None
    results = plan.output_size_in_bytes - plan.alias_size_in_bytes
    return plan.argument_size_in_bytes + results + plan.temp_size_in_bytes


def _stats(device: jax.Device) -> dict[str, Any]:
    """What a device tells of its memory; nothing on the CPU."""
    return device.memory_stats() or {}
