"""XLA's compiler options: for the training step, the detector, and programs that run once."""

import functools
from typing import Any

import jax

# Experimental options, by platform; a newer jaxlib may drop any of them.
_OPTIONS: dict[str, dict[str, Any]] = {
    "cpu": {
        # Since 0.10 JAX hands convolutions on a CPU to YNNPACK, which takes up to twice as long as
        # XLA's own (Eigen) forward, and four times for the gradient of a kernel.
        "xla_cpu_experimental_ynn_fusion_type": "",
        # XLA would remove the barriers of `models.convolutions` before it decides what to fuse.
        "xla_disable_hlo_passes": "cse_barrier_expander",
    }
}


def compiler_options() -> dict[str, Any]:
    """The options for the default device, as `jax.jit` and `Lowered.compile` take them.

    Options that the installed compiler does not accept are left out; each is tried once per
    process, on a constant. For their effect see docs/performance.md.
    """
    options = _OPTIONS.get(jax.default_backend(), {})
    return {name: value for name, value in options.items() if _is_accepted(name, value)}


def run_once_options() -> dict[str, Any]:
    """The options for a program that takes longer to compile than to run, such as drawing weights.

    LLVM unrolls and vectorises the random generator of every array: on a CPU those of `best_cpu`
    took 16 s to compile, and take 3 s without its optimisations. Results differ in their last bits.
    """
    return {"xla_backend_optimization_level": 0} if jax.default_backend() == "cpu" else {}


@functools.cache
def _is_accepted(name: str, value: str) -> bool:
    try:
        jax.jit(lambda: 0).lower().compile(compiler_options={name: value})
    except jax.errors.JaxRuntimeError:
        return False
    return True
