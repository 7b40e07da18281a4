"""What a GPU computes is compared with the processor, here one more processor."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import gpu_check
from benchmarks.gpu_check import Case


def test_this_device_computes_what_it_should(capsys):
    assert gpu_check.main() == 0
    output, error = capsys.readouterr()
    assert output.split()[0] == jax.default_backend()
    assert error == ""


def test_the_strided_convolution_is_that_of_the_stem():
    (case,) = (case for case in gpu_check.CASES if "7 x 7" in case.name)
    inputs = [jax.ShapeDtypeStruct(shape, case.dtype) for shape in case.shapes]
    (_, maps), _ = jax.eval_shape(case.function, *inputs)
    assert maps.shape == (8, 64, 64, 64)


def failing(x):
    raise RuntimeError("no engine\nmore")


calls = []


def other_at_the_second_call(x):
    calls.append(0)
    return x + 0.1 * (len(calls) > 1)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (failing, "sums: RuntimeError: no engine"),
        (other_at_the_second_call, r"sums: differs from the processor's by 0\.\d+ of the largest"),
        (lambda x: x * jnp.nan, "sums: differs from the processor's by nan"),
    ],
)
def test_what_is_wrong_is_said(function, message, monkeypatch, capsys):
    calls.clear()
    case = Case("sums", lambda x: function(np.asarray(x)), ((4,),), np.float32, 1e-3)
    monkeypatch.setattr(gpu_check.jax, "jit", lambda function: function)
    monkeypatch.setattr(gpu_check, "CASES", (case,))
    assert gpu_check.main() == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert re.match(message, line)
