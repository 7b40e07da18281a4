"""The tf.data pipeline against batches assembled by hand from the order and the framing."""

import importlib.util
import os
import subprocess
import sys

import numpy as np
import pytest

if importlib.util.find_spec("tensorflow") is None:
    pytest.skip("the pipeline needs the extra `train`", allow_module_level=True)

from landmarks_jax.data import framing, sampling
from landmarks_jax.data.loader import PhotoLoader
from landmarks_jax.data.sources.photos import Source
from landmarks_jax.system.errors import ConfigError, DataError
from tests.running import ROOT

FRAME = framing.Framing(12, 8, "center")


class Photos(Source):
    """Eleven photos of several sizes in memory, two points each; photo `bad` cannot be read."""

    num_points = 2
    summary = "11 photos of Photos"

    def __init__(self, bad=-1):
        self.bad = bad

    def __len__(self):
        return 11

    def photo(self, index):
        if index == self.bad:
            raise DataError("photos/7.jpg: cannot be read as an image (gone)")
        shape = (10 + index, 30 - index, 3)
        return np.random.default_rng(index).integers(0, 256, shape, np.uint8)

    def points(self, index):
        return np.array([[index, 1], [2, 3]], np.float32)

    def name(self, index):
        return f"photos/{index}.jpg"


def expected(step, batch_size, seed=3, **share):
    source = Photos()
    rows = sampling.batch_rows(seed, len(source), batch_size, step, **share)
    cut = [FRAME.cut(source.photo(row), source.points(row)) for row in rows]
    return [np.stack(arrays) for arrays in zip(*cut, strict=True)]


def assert_batch(batch, expected):
    assert sorted(batch) == ["canvas", "points"]
    assert (batch["canvas"].dtype, batch["points"].dtype) == (np.uint8, np.float32)
    np.testing.assert_array_equal(batch["canvas"], expected[0])
    np.testing.assert_array_equal(batch["points"], expected[1])


def test_batches_follow_the_order_over_several_epochs():
    batches = PhotoLoader(Photos(), FRAME).batches(seed=3, batch_size=4)
    for step in range(8):  # 32 rows of 11 photos
        assert_batch(next(batches), expected(step, 4))


def test_a_later_start_is_the_same_run():
    batches = PhotoLoader(Photos(), FRAME).batches(seed=3, batch_size=4, start_step=1_000_000)
    assert_batch(next(batches), expected(1_000_000, 4))


def test_each_process_reads_its_share():
    for index in range(2):
        share = {"process_index": index, "process_count": 2}
        batches = PhotoLoader(Photos(), FRAME).batches(seed=3, batch_size=6, start_step=5, **share)
        assert_batch(next(batches), expected(5, 6, **share))


def test_a_batch_may_hold_more_rows_than_there_are_photos():
    assert_batch(next(PhotoLoader(Photos(), FRAME).batches(seed=3, batch_size=30)), expected(0, 30))


def test_a_worker_s_exception_reaches_the_caller_without_a_trace(capfd):
    batches = PhotoLoader(Photos(bad=7), FRAME).batches(seed=3, batch_size=11)
    with pytest.raises(DataError, match=r"^photos/7.jpg: cannot be read as an image \(gone\)$"):
        next(batches)
    assert capfd.readouterr() == ("", "")


def test_what_cannot_work_is_refused_before_the_first_batch():
    source = Photos()
    source.num_points = 0
    with pytest.raises(ConfigError, match="annotated points"):
        PhotoLoader(source, framing.Framing(12, 8, "box"))


STOPS = """
import time
from landmarks_jax.data.framing import Framing
from landmarks_jax.data.loader import PhotoLoader
from landmarks_jax.data.sources.synthetic import SyntheticFaces

class Slow(SyntheticFaces):
    def photo(self, index):
        time.sleep(0.05)
        return super().photo(index)

batches = PhotoLoader(Slow(1, 11, 12), Framing(12, 8, "center")).batches(seed=0, batch_size=4)
print(next(batches)["canvas"].shape, flush=True)
"""


@pytest.mark.slow
def test_a_program_that_ends_between_batches_ends_quietly():
    # Threads that read ahead would block the interpreter's exit.
    environment = {name: value for name, value in os.environ.items() if name[:3] != "TF_"}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", STOPS],
        env=environment | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, "(4, 12, 12, 3)", "")
