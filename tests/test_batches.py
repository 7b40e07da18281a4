"""Photos on the devices: sent batch by batch, or all there, the same to the step and to the run."""

import contextlib
import gc
import itertools
import json
import os
import re
from pathlib import Path

import jax
import numpy as np
import pytest

from landmarks_jax.data import prepared
from landmarks_jax.data.loader import framing_of, open_loader
from landmarks_jax.data.sources import registry
from landmarks_jax.system.errors import ConfigError
from landmarks_jax.training import batches, loop, memory, reports, run_folder, sharding
from tests.running import TINY, command, finish, flags, narrow

STATM = Path("/proc/self/statm")
linux = pytest.mark.skipif(not STATM.exists(), reason="the memory of a process is read as on Linux")
COUNTS = {"one": 7, "other": 4}


@pytest.fixture(scope="module", name="folders")
def prepare_folders(tmp_path_factory):
    """Prepared folders by crop and name: synthetic faces with five points."""
    made = {}
    for crop in ("center", "box"):
        for seed, (name, count) in enumerate(COUNTS.items()):
            config = narrow(data__crop=crop)
            config.data.num_synthetic, config.data.synthetic_seed = count, seed
            made[crop, name] = str(tmp_path_factory.mktemp(crop) / name)
            source = registry.open_source(config.data)
            prepared.prepare(source, framing_of(config), made[crop, name])
    return made


def config_of(folders, names=("one",), crop="center", **fields):
    roots = tuple(folders[crop, name] for name in names)
    fields = {"data__crop": crop, "data__roots": roots, "train__batch_size": 3} | fields
    if crop == "box":
        fields |= {"views__scale_std": 0.0, "views__shift_std": 0.0}
    return narrow(data__source="prepared", **TINY, **fields)


def seen(config, loader, steps, start=0):
    """The batches that some steps make of what they are given."""
    mesh = sharding.make_mesh()
    gather = jax.jit(lambda photos, step: batches.gather(photos, step, mesh))
    inputs = batches.batches(config, loader, mesh, start)
    return [
        jax.device_get(gather(photos, np.int32(start + i)))
        for i, photos in enumerate(itertools.islice(inputs, steps))
    ]


@pytest.mark.parametrize(
    ("names", "crop"),
    [(("one",), "box"), (("one", "other", "one"), "center"), (("other", "one", "other"), "box")],
)
def test_resident_photos_make_the_batches_that_are_sent(folders, names, crop, monkeypatch):
    """Over several epochs, none of them a whole number of batches, and begun anywhere."""
    monkeypatch.setattr(batches, "PIECE", 3 * 20 * 20 * 3)  # bytes: some canvases at a time
    config = config_of(folders, names, crop)
    loader = open_loader(config)
    count = sum(COUNTS[name] for name in names)
    assert (len(loader), len(loader.folders)) == (count, len(set(names)))
    sent = {start: seen(config, loader, 12 - start, start) for start in (0, 5)}
    sent[10**9] = seen(config, loader, 2, 10**9)  # times the batch it is more than an int32
    config.data.resident = True
    for start, expected in sent.items():
        for one, other in zip(seen(config, loader, len(expected), start), expected, strict=True):
            np.testing.assert_array_equal(one.canvases, other.canvases)
            assert (one.points is None) == (crop == "center")
            if crop == "box":
                np.testing.assert_array_equal(one.points, other.points)
    assert len({batch.canvases.tobytes() for batch in sent[0]}) > 8  # steps differ


def test_shapes_are_those_of_what_is_given(folders):
    mesh = sharding.make_mesh()
    for resident in (False, True):
        config = config_of(folders, ("one", "other", "one"), "box", data__resident=resident)
        loader = open_loader(config)
        shapes = batches.shapes(config, loader, mesh)
        inputs = next(batches.batches(config, loader, mesh))
        for shape, array in zip(jax.tree.leaves(shapes), jax.tree.leaves(inputs), strict=True):
            assert (shape.shape, shape.dtype) == (array.shape, array.dtype)
            assert shape.sharding == array.sharding
        assert isinstance(inputs, batches.Resident) == resident
    assert inputs.canvases.shape == (11, 36 * 36 * 3)  # a folder named twice is there once
    assert inputs.order.shape == (6, 3)


def test_nothing_is_sent_between_epochs(folders):
    config = config_of(folders, ("one", "other"), data__resident=True)
    inputs = batches.batches(config, open_loader(config), sharding.make_mesh())
    photos = list(itertools.islice(inputs, 7))  # 11 photos: 3 steps of 3 have one order
    assert [id(part.order) for part in photos] == [
        id(photos[i - i % 3].order) for i in range(len(photos))
    ]
    assert len({id(part.order) for part in photos}) == 3
    assert [int(part.first) for part in photos] == [0, 0, 0, 3, 3, 3, 6]
    assert all(part.canvases is photos[0].canvases for part in photos)


def test_more_than_the_device_holds_is_refused_before_anything_is_sent(folders, monkeypatch):
    config = config_of(folders, ("one", "other"), "box", data__resident=True)
    needed = 11 * (36 * 36 * 3 + 5 * 2 * 4)
    monkeypatch.setattr(memory, "available", lambda device: needed)
    batches.shapes(config, open_loader(config), sharding.make_mesh())
    monkeypatch.setattr(memory, "available", lambda device: needed - 1)
    monkeypatch.setattr(loop, "compile_program", lambda *_, **__: pytest.fail("compiled"))
    message = (
        rf"config\.data\.resident = True: .* {needed:,} bytes and .*cpu.* has {needed - 1:,} for"
    )
    with pytest.raises(ConfigError, match=message):
        loop.train(config, Path("nowhere"))
    assert not Path("nowhere").exists()


class Device:
    """One that tells of its memory."""

    platform = "gpu"

    def __init__(self, **stats):
        self.memory_stats = lambda: stats or None


@linux
def test_memory_is_what_the_platform_says(monkeypatch, tmp_path):
    assert memory.available(Device(bytes_limit=7)) == 7
    assert memory.available(Device()) is None
    with Path("/proc/meminfo").open() as file:
        total = 1024 * int(file.readline().split()[1])
    assert memory.available(jax.devices()[0]) < total
    meminfo = tmp_path / "meminfo"
    monkeypatch.setattr(memory, "_MEMINFO", meminfo)
    assert memory.available(jax.devices()[0]) == pytest.approx(total, rel=0.01)
    meminfo.write_text("MemTotal: 9 kB\nMemFree: 1 kB\nMemAvailable: 8 kB\n")
    assert memory.available(jax.devices()[0]) == 8 * 1024
    meminfo.write_text("MemTotal: 9 kB\n")  # of an old kernel
    assert memory.available(jax.devices()[0]) == pytest.approx(total, rel=0.01)
    assert memory.device_peak() is None  # the CPU does not say
    devices = [Device(peak_bytes_in_use=3), Device(peak_bytes_in_use=5), Device()]
    monkeypatch.setattr(jax, "local_devices", lambda: devices)
    assert memory.device_peak() == 5
    assert 50 * memory.MIB < memory.host_peak() < memory.available(jax.devices()[0])
    monkeypatch.setattr("sys.platform", "darwin")  # which counts bytes, not KiB
    assert memory.host_peak() < memory.MIB * 100


def test_the_plan_of_a_function_counts_results_in_place_of_arguments_once():
    x = np.zeros((256, 256), np.float32)
    plain = jax.jit(lambda x: x + 1).lower(x).compile()
    in_place = jax.jit(lambda x: x + 1, donate_argnums=0).lower(x).compile()
    assert memory.planned(plain) == 2 * x.nbytes
    assert memory.planned(in_place) == x.nbytes


TRAIN = """
import runpy, sys
sys.modules["tensorflow"] = sys.modules["tensorflow_datasets"] = None
from landmarks_jax.system import compiler
compiler._OPTIONS["cpu"]["xla_cpu_use_fusion_emitters"] = True  # the fixture default_fusion
sys.argv[0] = "train.py"
runpy.run_path("train.py", run_name="__main__")
"""


def rows(run):
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


@contextlib.contextmanager
def min_compile_time(seconds):
    """Keeps compilations in the cache that took this long."""
    name = "jax_persistent_cache_min_compile_time_secs"
    before = getattr(jax.config, name)
    jax.config.update(name, seconds)
    yield
    jax.config.update(name, before)


@linux
@pytest.mark.slow
def test_streamed_and_resident_sessions_are_one_run_of_constant_memory(
    folders, tmp_path, monkeypatch, caplog, default_fusion
):
    """A streamed session and a resident one, against a run that is all resident.

    The second is a process of its own, without TensorFlow, and logs four lines.
    """
    monkeypatch.setenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
    config = config_of(folders, ("one", "other"), train__steps=84)
    config.train.checkpoint_every, config.train.log_every = 10**6, 4
    counted = {}
    step_done = reports.Reporter.step_done

    def count(self):
        step_done(self)
        done = len(counted) + 1
        held = int(STATM.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
        if done % 4 == 2:
            gc.collect()
        counted[done] = len(jax.live_arrays()), held

    monkeypatch.setattr(reports.Reporter, "step_done", count)
    caplog.set_level("INFO", "landmarks_jax")
    config.data.resident = True
    with min_compile_time(0):
        assert loop.train(config, tmp_path / "whole") == 0
    assert counted[6][0] == counted[26][0] == counted[82][0]
    assert max(counted[step][1] for step in range(31, 83)) < counted[30][1] + 8 * memory.MIB
    assert re.search(
        r"step compiled in [\d.]+ s( \(cached\))?; XLA plans \d+ MiB on each device", caplog.text
    )
    assert "11 canvases on each device: 0 MiB in " in caplog.text
    for row in rows(tmp_path / "whole"):
        assert 0 <= row["wait_ms"] < 1000
        assert row["host_peak_mib"] > 100
        assert "device_peak_mib" not in row

    counted.clear()
    config.train.steps, config.data.resident = 24, False
    assert loop.train(config, tmp_path / "cut") == 0
    assert counted[6][0] == counted[14][0] == counted[22][0]

    config.train.steps, config.data.resident = 40, True
    start = command(*flags(config), f"--workdir={tmp_path / 'cut'}", code=TRAIN)
    code, out, err = finish(start)
    assert code == 0, err
    resumed, photos, step, there = err.splitlines()
    assert "from the checkpoint of step 24" in resumed
    assert "prepared from 7 photos" in photos
    assert " s (cached); XLA plans " in step
    assert "11 canvases" in there
    assert re.search(r"  wait \d+\.\d ms  ", out)

    whole, cut = ([row["loss"] for row in rows(tmp_path / run)] for run in ("whole", "cut"))
    assert len(cut) == 40 // 4
    assert cut == whole[: len(cut)]
    assert run_folder.read_config(tmp_path / "cut").data.resident is True


SPREAD = """
import sys
sys.modules["tensorflow"] = None
import jax, numpy as np
from landmarks_jax.data.loader import open_loader
from landmarks_jax.training import batches, sharding
from tests.running import narrow

config = narrow(data__source="prepared", data__roots=tuple(sys.argv[1:]), train__batch_size=8,
                data__crop="box")
mesh = sharding.make_mesh()
loader = open_loader(config)
sent = next(batches.batches(config, loader, mesh))
config.data.resident = True
given = next(batches.batches(config, loader, mesh))
assert len(given.canvases.addressable_shards) == 8
gather = jax.jit(lambda photos, step: batches.gather(photos, step, mesh))
compiled = gather.lower(batches.shapes(config, loader, mesh), np.int32(0)).compile()
made = compiled(given, np.int32(0))
assert made.canvases.sharding == sent.canvases.sharding, made.canvases.sharding
assert {shard.data.shape[0] for shard in made.canvases.addressable_shards} == {1}
for one, other in zip(jax.tree.leaves(made), jax.tree.leaves(sent), strict=True):
    np.testing.assert_array_equal(one, other)
text = compiled.as_text()
print(*[word for word in ("all-gather", "all-reduce", "collective", "all-to-all") if word in text])
"""


def test_each_of_eight_devices_gathers_its_own_rows(folders):
    roots = folders["box", "one"], folders["box", "other"]
    environment = {"XLA_FLAGS": "--xla_force_host_platform_device_count=8"}
    code, out, err = finish(command(*roots, code=SPREAD, **environment))
    assert code == 0, err
    assert out.split() == []
