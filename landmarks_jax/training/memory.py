"""Memory in bytes: available, peak, and planned by XLA; None if the platform does not report it."""

import importlib.util
import os
import sys
from pathlib import Path
from typing import Any

import jax

MIB = 2**20
_MEMINFO = Path("/proc/meminfo")


def available(device: jax.Device) -> int | None:
    """Memory for a device's arrays.

    JAX's limit on an accelerator. On a CPU the machine's: on Linux what is free, elsewhere all.
    """
    if device.platform != "cpu":
        return _stats(device).get("bytes_limit")
    if _MEMINFO.exists():
        lines = _MEMINFO.read_text().splitlines()
        kib = [line.split()[1] for line in lines if line.startswith("MemAvailable:")]
        if kib:
            return 1024 * int(kib[0])
    if not hasattr(os, "sysconf"):  # Windows
        return None
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def host_peak() -> int | None:
    """Peak memory of this process on the host."""
    if importlib.util.find_spec("resource") is None:  # Windows
        return None
    import resource  # noqa: PLC0415

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def device_peak() -> int | None:
    """Peak memory on any one of this process's devices."""
    peaks = [_stats(device).get("peak_bytes_in_use") for device in jax.local_devices()]
    return max((peak for peak in peaks if peak is not None), default=None)


def planned(compiled: jax.stages.Compiled) -> int | None:
    """Planned memory of a compiled function on each device, with its arguments and results."""
    plan: Any = compiled.memory_analysis()
    if plan is None:
        return None
    results = plan.output_size_in_bytes - plan.alias_size_in_bytes
    return plan.argument_size_in_bytes + results + plan.temp_size_in_bytes


def _stats(device: jax.Device) -> dict[str, Any]:
    """Memory statistics of a device; empty on a CPU."""
    return device.memory_stats() or {}
