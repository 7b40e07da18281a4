"""What a step would compute on each of many accelerators, against what it would send: projected."""

from typing import Any, NamedTuple

import jax
from ml_collections import ConfigDict

from benchmarks import counting, problem, roofline
from landmarks_jax import objective
from landmarks_jax.training import sharding
from landmarks_jax.training import state as states


class Link(NamedTuple):
    """What devices send over; both numbers are assumed.

    Attributes:
      bandwidth: bytes a second, each way.
      latency: seconds that an all-reduce takes however little it sends.
    """

    bandwidth: float
    latency: float


LINKS = {"NVLink, 450 GB/s each way": Link(450e9, 10e-6), "network, 400 Gb/s": Link(50e9, 30e-6)}
# Devices, their link, and photos a step on each: the paper's 32 shared out, or 32 each.
PROJECTED = (
    (8, "NVLink, 450 GB/s each way", 4),
    (8, "NVLink, 450 GB/s each way", 32),
    (16, "network, 400 Gb/s", 2),
    (16, "network, 400 Gb/s", 32),
    (64, "network, 400 Gb/s", 32),
)
DEVICE, ARITHMETIC = "h200", "bfloat16"


def norm_sizes(config: ConfigDict) -> list[int]:
    """Channels of every call of batch norm in a step."""
    networks = objective.build_networks(config)
    stats = states.abstract_state(config, networks, sharding.make_mesh()).batch_stats
    twice = config.objective.composition in ("inter", "all")
    calls = {"detector": 1, "generator": 2 if twice else 1}
    found = []
    for name, tree in stats.items():
        own = [leaf.size for leaf in jax.tree.leaves(tree)][::2]  # a mean and a variance each
        found += own * calls[name]
    return found


def project(
    preset: str, devices: int, link: str, photos: int, reduces_per_norm: float
) -> dict[str, Any]:
    """What a step computes and sends, if the arithmetic ran at its peak and nothing overlapped.

    Args:
      preset: of the configuration.
      devices: how many share the batch.
      link: of `LINKS`.
      photos: a step on each device.
      reduces_per_norm: all-reduces for each call of batch norm, forward and back.
    """
    config = problem.configure(preset, None, ARITHMETIC, devices * photos)
    networks = objective.build_networks(config)
    params = states.abstract_state(config, networks, sharding.make_mesh()).params
    parameters = sum(leaf.size for leaf in jax.tree.leaves(params))
    norms = norm_sizes(config)
    rate = LINKS[link]
    share = 2 * (devices - 1) / devices  # of a ring: what each device sends of what is summed
    peak = roofline.DEVICES[DEVICE]["peak"][ARITHMETIC]
    gradient_bytes = 4 * parameters
    statistic_bytes = 4 * reduces_per_norm * sum(norms)
    compute = 2 * photos * counting.macs_per_photo(config) / peak
    sent = share * (gradient_bytes + statistic_bytes) / rate.bandwidth
    waits = rate.latency * reduces_per_norm * len(norms)
    return {
        "preset": preset,
        "devices": devices,
        "link": link,
        "photos_per_device": photos,
        "parameters": parameters,
        "gradient_bytes": gradient_bytes,
        "statistic_bytes": round(statistic_bytes),
        "all_reduces": round(reduces_per_norm * len(norms)),
        "compute_ms": round(1e3 * compute, 3),
        "sending_ms": round(1e3 * sent, 3),
        "waiting_ms": round(1e3 * waits, 3),
        "efficiency": round(compute / (compute + sent + waits), 3),
    }


def rows(reduces_per_norm: float) -> list[dict[str, Any]]:
    """Every preset on every cell of `PROJECTED`."""
    return [
        project(preset, *cell, reduces_per_norm) for preset in problem.PRESETS for cell in PROJECTED
    ]
