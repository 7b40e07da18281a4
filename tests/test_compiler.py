"""Compiler options for a CPU: their effect, who passes them, and compilers without them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import detector as benchmark
from landmarks_jax.inference.detector import ViewDetector
from landmarks_jax.models.convolutions import convolve
from landmarks_jax.system import compiler

pytestmark = pytest.mark.skipif(jax.default_backend() != "cpu", reason="only a CPU has options")


def test_convolutions_are_xlas_own_and_barriers_stay():
    def loss(kernel):
        x = jax.nn.relu(2.0 * jnp.ones((2, 8, 8, 16)) + kernel[0, 0, 0, 0])
        return (convolve(x, kernel, 1) ** 2).sum()

    lowered = jax.jit(jax.grad(loss)).lower(jnp.ones((3, 3, 16, 16)))
    compiled = lowered.compile(compiler_options=compiler.compiler_options()).as_text()
    assert "ynn" not in compiled
    assert "opt-barrier(" in compiled
    # Not because this JAX has neither.
    assert "opt-barrier(" not in lowered.compile().as_text()


def test_options_that_the_compiler_does_not_know_are_left_out(narrow_config, filled, monkeypatch):
    known = {"xla_disable_hlo_passes": "cse_barrier_expander"}
    for options, accepted in (({"xla_unknown": ""}, {}), ({"xla_unknown": "", **known}, known)):
        monkeypatch.setitem(compiler._OPTIONS, "cpu", options)
        assert compiler.compiler_options() == accepted
    config = narrow_config(compute_dtype="float32")
    variables = filled(benchmark.build_detector(config), (1, 32, 32, 3), use_running_average=True)
    landmarks = ViewDetector(config, variables)(np.zeros((1, 32, 32, 3), np.uint8))
    assert np.isfinite(landmarks).all()


def test_the_compiler_is_asked_once(monkeypatch):
    compiles = []
    compile_ = jax.stages.Lowered.compile
    monkeypatch.setattr(
        jax.stages.Lowered,
        "compile",
        lambda *args, **options: compiles.append(options) or compile_(*args, **options),
    )
    compiler._is_accepted.cache_clear()
    first = compiler.compiler_options()
    assert len(compiles) == len(first) == 2
    assert compiler.compiler_options() == first
    assert len(compiles) == 2


def test_the_detector_is_compiled_with_them(narrow_config, filled, monkeypatch):
    config = narrow_config(compute_dtype="float32")
    variables = filled(benchmark.build_detector(config), (1, 32, 32, 3), use_running_average=True)
    monkeypatch.setattr(compiler, "compiler_options", lambda: {"xla_of_no_use": ""})
    detector = ViewDetector(config, variables)
    with pytest.raises(jax.errors.JaxRuntimeError, match="No such compile option"):
        detector(np.zeros((1, 32, 32, 3), np.uint8))
