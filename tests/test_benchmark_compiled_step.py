"""Kernels of a compiled program, counted by hand; the real step, where it can be compiled."""

import importlib.util
import json
from pathlib import Path

import pytest

from benchmarks import compiled_step, harness, hlo

STORED = Path("docs/results/benchmarks/compiled_step_h100.json")
# A padded forward convolution, its two gradients, and fusions that need a part of an operand.
PROGRAM = """HloModule jit_step, is_scheduled=true

%sliced (param_0: f32[1000], param_1: f32[]) -> f32[10] {
  %param_0 = f32[1000]{0} parameter(0)
  %param_1 = f32[] parameter(1)
  %broadcast.1 = f32[1000]{0} broadcast(%param_1), dimensions={}
  %multiply.1 = f32[1000]{0} multiply(%param_0, %broadcast.1)
  ROOT %slice.1 = f32[10]{0} slice(%multiply.1), slice={[0:10]}
}

%summed (param_0.1: bf16[2,8,8,4]) -> f32[4] {
  %param_0.1 = bf16[2,8,8,4]{3,2,1,0} parameter(0)
  %convert.1 = f32[2,8,8,4]{3,2,1,0} convert(%param_0.1)
  %slice.2 = f32[1,1,1,4]{3,2,1,0} slice(%convert.1), slice={[0:1],[0:1],[0:1],[0:4]}
  ROOT %reduce.1 = f32[4]{0} reduce(%convert.1, %slice.2), dimensions={0,1,2}
}

ENTRY %main (x: bf16[2,8,8,4], k: bf16[6,3,3,4], v: f32[1000], s: f32[]) -> f32[10] {
  %x = bf16[2,8,8,4]{3,2,1,0} parameter(0)
  %k = bf16[6,3,3,4]{3,2,1,0} parameter(1)
  %v = f32[1000]{0} parameter(2)
  %s = f32[] parameter(3)
  %y = (bf16[2,8,8,6]{3,2,1,0}, u8[0]{0}) custom-call(%x, %k), \
custom_call_target="__cudnn$convForward", metadata={op_name="jit(step)/jvp(Detector)/conv1"}
  %dy = bf16[2,8,8,6]{3,2,1,0} get-tuple-element(%y), index=0
  %dx = (bf16[2,8,8,4]{3,2,1,0}, u8[0]{0}) custom-call(%dy, %k), \
custom_call_target="__cudnn$convBackwardInput"
  %dk = (bf16[6,3,3,4]{3,2,1,0}, u8[0]{0}) custom-call(%x, %dy), \
custom_call_target="__cudnn$convBackwardFilter"
  %sums = f32[4]{0} fusion(%x), kind=kInput, calls=%summed
  %copy.1 = f32[1000]{0} copy(%v)
  ROOT %out = f32[10]{0} fusion(%copy.1, %s), kind=kLoop, calls=%sliced
}
"""


def test_kernels_of_a_program_by_hand():
    x, y, k = 2 * 8 * 8 * 4, 2 * 8 * 8 * 6, 6 * 3 * 3 * 4
    macs = y * 3 * 3 * 4  # each output sums 36 products; so do both gradients
    assert hlo.kernels(PROGRAM) == [
        (hlo.CONVOLUTION, 2 * (x + k + y), macs),
        (hlo.CONVOLUTION, 2 * (x + k + y), macs),
        (hlo.CONVOLUTION, 2 * (x + k + y), macs),
        ("fusion", 2 * x + 4 * 4, 0),  # the sum needs every element, whatever the slice does
        ("copy", 4 * 2000, 0),
        ("fusion", 4 * (10 + 1 + 10), 0),  # ten of the thousand, and the factor
    ]
    with pytest.raises(ValueError, match="this has none"):
        hlo.kernels("HloModule empty")


def test_a_step_is_predicted_by_the_longest_of_moving_computing_and_starting():
    # So slow a memory makes everything wait for bytes.
    counted = compiled_step.count(PROGRAM, peak=2e9, bandwidth=1e6)
    assert (counted["kernels"], counted["small"], counted["convolutions"]) == (6, 6, 3)
    moved = 1e-6 * (1040 + 8000 + 84)
    convolution = 2 * (512 + 768 + 216) * 1e-6
    assert counted["predicted_ms"] == [round(1e3 * (3 * convolution + moved), 3)] * 2
    fast = compiled_step.count(PROGRAM, peak=1e6, bandwidth=1e15)
    assert fast["predicted_ms"] == [
        round(1e3 * (3 * 2 * 768 * 36 / (1e6 * reached) + 3 * least), 3)
        for reached, least in zip(compiled_step.REACHED, compiled_step.LEAST_SECONDS, strict=True)
    ]
    starting = compiled_step.count(PROGRAM, peak=1e18, bandwidth=1e18)
    assert starting["predicted_ms"] == [round(6e3 * s, 3) for s in compiled_step.LEAST_SECONDS]


def test_the_stored_table_is_that_of_its_json():
    result = json.loads(STORED.read_text())
    assert STORED.with_suffix(".md").read_text() == compiled_step.to_markdown(result)
    c64, c32 = result["rows"]
    assert (c64["channels"], c32["channels"]) == (64, 32)
    # The layers' operations, and those of convolutions that are folded (docs/performance.md).
    assert 10.5 < c64["tflop_of_convolutions"] < 11.5


@pytest.mark.slow
@pytest.mark.skipif(
    importlib.util.find_spec("jax_plugins") is None
    or importlib.util.find_spec("jax_plugins.xla_cuda13") is None,
    reason="JAX's CUDA plug-in is not installed",
)
def test_the_step_for_a_gpu_has_no_more_kernels_and_bytes_than_stored():
    (stored,) = (r for r in json.loads(STORED.read_text())["rows"] if r["channels"] == 64)
    text = compiled_step.compile_step(64, "bfloat16", 32, compiled_step.h100())
    counted = compiled_step.count(text, 1.0, 1.0)
    # Another JAX may fuse a little differently.
    assert counted["kernels"] < 1.05 * stored["kernels"]
    assert counted["gigabytes"] < 1.03 * stored["gigabytes"]
    assert counted["tflop_of_convolutions"] == pytest.approx(stored["tflop_of_convolutions"], 0.01)


def test_one_line_without_the_plug_in(monkeypatch):
    def missing(**_):
        raise NotImplementedError("topology not implemented for cuda")

    monkeypatch.setattr(compiled_step.topologies, "get_topology_desc", missing)
    with pytest.raises(harness.UserError, match=r"pip install 'landmarks-jax\[cuda\]'"):
        compiled_step.h100()
