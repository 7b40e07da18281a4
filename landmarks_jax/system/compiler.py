"""How XLA is asked to compile what takes time: the training step and the detector."""

from typing import Any

import jax


def compiler_options() -> dict[str, Any]:
    """XLA's options for the first device's platform, as `jax.jit` and `Lowered.compile` take them.

    On a processor JAX 0.10 and later hand convolutions to YNNPACK, which takes up to twice as long
    for forward passes as XLA's own (Eigen) and four times for the gradient of a kernel. And the
    barriers of `models.convolutions` are taken away before XLA decides what to compute together,
    as if there were none (docs/performance.md).
    """
    if jax.default_backend() != "cpu":
        return {}
    return {
        "xla_cpu_experimental_ynn_fusion_type": "",
        "xla_disable_hlo_passes": "cse_barrier_expander",
    }
