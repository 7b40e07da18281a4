"""Narrow runs for tests: configurations, finished run folders, training, photos, commands."""

import contextlib
import dataclasses
import functools
import io
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import jax
import numpy as np
import pytest
from jax.sharding import Mesh
from ml_collections import ConfigDict
from PIL import Image

from landmarks_jax import config as configuration
from landmarks_jax.cli.main import COMMANDS, main
from landmarks_jax.configs import base
from landmarks_jax.data import loader
from landmarks_jax.tasks import task_of
from landmarks_jax.training import checkpoints, loop, run_folder, run_inputs, sharding
from landmarks_jax.training import state as states

ROOT = Path(__file__).parent.parent


# Fields of `narrow` that make a step quick to compile, for tests of everything around the networks.
TINY = {
    "model__detector": "tests.tiny_detector",
    "model__residual_blocks": 0,
    "objective__composition": "baseline",
}


def narrow(**fields: object) -> ConfigDict:
    """The base configuration, narrow; `fields` as `data__crop="box"`."""
    config = base.get_config()
    config.data.num_synthetic = 64
    shrink(config)
    for name, value in fields.items():
        section, _, field = name.rpartition("__")
        (config[section] if section else config)[field] = value
    return config


def shrink(config: ConfigDict) -> None:
    """Makes any configuration one of a few seconds, leaving its kind as it is."""
    config.data.canvas_size = 20
    config.views.size = 16
    config.model.num_landmarks = 3
    config.model.detector_channels = 8
    config.model.hourglass_depth = 1
    config.model.generator_channels = 2
    config.model.residual_blocks = 1
    config.train.batch_size = 8
    config.train.steps = 4
    config.train.minutes = 0.0
    config.train.log_every = 1
    config.train.checkpoint_every = 2
    config.train.picture_every = 0
    config.eval.num_fit = 12
    config.eval.num_score = 8


def finished_run(workdir: Path, config: ConfigDict | None = None, step: int | None = None) -> Path:
    """Makes the folder of a run as training leaves it, with drawn parameters.

    It has a real checkpoint, configuration, record and log (0.5 seconds a step), no evaluation, and
    can be continued, scored, packed and transferred. Made once per configuration, then copied.

    Args:
      workdir: the folder to make.
      config: its configuration; `narrow()` by default.
      step: of its checkpoint; by default the configuration's last.

    Returns:
      `workdir`.
    """
    config = narrow() if config is None else config
    step = config.train.steps if step is None else step
    finished = _finished(configuration.to_json(config), step, jax.config.read("jax_enable_x64"))
    shutil.copytree(finished, workdir, dirs_exist_ok=True)
    return workdir


_FINISHED = tempfile.TemporaryDirectory(prefix="landmarks_jax-test-runs-")


@functools.cache
def _finished(text: str, step: int, _: bool) -> Path:
    config = configuration.from_json(text)
    workdir = Path(tempfile.mkdtemp(dir=_FINISHED.name))
    networks = task_of(config).build_networks(config)
    weights = run_inputs.load_frozen(config, networks)[1]
    record = run_folder.Record(
        loader.open_loader(config).digest,
        weights.digest() if weights else "",
        {"mode": config.init.mode},
        notes=weights.notes() if weights else (),
        hardware=[sharding.hardware()],
    )
    run_folder.claim(workdir, config, record)
    rows = [
        {"step": i, "seconds": 0.5 * i, "loss": 1 / i, "learning_rate": 1e-3}
        for i in range(config.train.log_every, step + 1, config.train.log_every)
    ]
    run_folder.write_log(workdir, rows)
    mesh = sharding.make_mesh(jax.local_devices()[:1])
    state = _drawn(states.abstract_state(config, networks, mesh), step)
    with checkpoints.Checkpoints(workdir, config) as saved:
        saved.save(step, sharding.put_replicated(mesh, state), 0.5 * step)
    return workdir


def _drawn(like: states.TrainState, step: int) -> states.TrainState:
    """A state by NumPy, in no need of compiling the initialisation; fresh moments."""
    rng = np.random.default_rng(0)

    def draw(path: tuple, leaf: jax.ShapeDtypeStruct) -> np.ndarray:
        name = jax.tree_util.keystr(path[-1:], simple=True)
        if name in ("scale", "var"):
            return rng.uniform(0.7, 1.3, leaf.shape).astype(leaf.dtype)
        bound = np.sqrt(1.0 / np.prod(leaf.shape[:-1])) if name == "kernel" else 0.1
        return rng.uniform(-bound, bound, leaf.shape).astype(leaf.dtype)

    drawn = jax.tree_util.tree_map_with_path(draw, dataclasses.replace(like, opt_state=()))
    return dataclasses.replace(
        drawn,
        step=np.asarray(step, like.step.dtype),
        opt_state=jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), like.opt_state),
        tap_means={tap: np.ones(leaf.shape, leaf.dtype) for tap, leaf in like.tap_means.items()},
    )


def leaves_of(workdir: Path, config: ConfigDict) -> dict[str, np.ndarray]:
    """Everything in a run's newest checkpoint, by path such as `params/detector/...`."""
    with shared_compilation():
        state = checkpoints.restore(workdir, config).state
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): np.asarray(leaf)
        for path, leaf in jax.tree_util.tree_leaves_with_path(state)
    }


def train(config: ConfigDict, workdir: Path, **options: object) -> int:
    """`loop.train`, which compiles a step only if no earlier run of this process had the same."""
    with shared_compilation():
        return loop.train(config, workdir, **options)


@contextlib.contextmanager
def shared_compilation() -> Iterator[None]:
    """Runs in the block share drawn states and compiled steps, for tests that measure neither."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(loop, "compile_program", _memoized(loop.compile_program))
        patched.setattr(states, "abstract_state", _memoized(states.abstract_state))
        patched.setattr(states, "start_state", _started(states.start_state))
        yield


_MADE: dict = {}


def _memoized(make):
    """A function of a configuration first, memoised by what of it a step depends on."""
    array = (jax.Array, np.ndarray, jax.ShapeDtypeStruct)

    def made(config, *arguments, **options):
        fields = json.loads(configuration.to_json(config))
        del fields["eval"]
        fields["data"] = fields["data"]["crop"]
        fields["perceptual"]["weights"] = bool(fields["perceptual"]["weights"])
        fields["train"] = [fields["train"][name] for name in ("batch_size", "accumulate")]
        shapes = [
            (leaf.shape, str(leaf.dtype)) if isinstance(leaf, array) else leaf
            for leaf in jax.tree.leaves((arguments, options))
            if isinstance(leaf, (*array, int, Mesh))
        ]
        key = make.__name__, json.dumps(fields), str(shapes), jax.config.read("jax_enable_x64")
        if key not in _MADE:
            _MADE[key] = make(config, *arguments, **options)
        return _MADE[key]

    return made


def _started(start):
    """Drawn states, which steps consume: kept by NumPy and sent anew."""
    kept = _memoized(lambda *given: jax.device_get(start(*given)))

    def started(config, networks, mesh):
        return sharding.put_replicated(mesh, kept(config, networks, mesh))

    return started


def flags(config: ConfigDict) -> list[str]:
    """What turns any preset into `config` on the command line."""
    given = []
    for section, part in config.items():
        fields = part.items() if isinstance(part, ConfigDict) else [("", part)]
        for field, value in fields:
            name = f"{section}.{field}" if field else section
            given.append(f"--config.{name}={value}")
    return given


def call(*arguments: str) -> tuple[int, str, str]:
    """Runs `landmarks-jax ...` in this process: exit code, standard output and standard error."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(arguments)
    return code, out.getvalue(), err.getvalue()


def command(*arguments: str, code: str | None = None, **environment: str) -> subprocess.Popen[str]:
    """Starts a process: a script or a module (`-m`), or `landmarks-jax ...`.

    `code` stands in for a script.
    """
    if code is not None:
        arguments = ("-c", code, *arguments)
    elif arguments[0] in COMMANDS:
        arguments = ("-m", "landmarks_jax", *arguments)
    start = [sys.executable, *arguments]
    return subprocess.Popen(
        start,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    """Waits; returns exit code, standard output and standard error."""
    out, err = process.communicate(timeout=240)
    return process.returncode, out, err


def write_photos(folder: Path, count: int, size: tuple[int, int] = (30, 36), seed: int = 0) -> None:
    """Makes `count` JPEG photos `000001.jpg` ... of noise."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    for i in range(1, count + 1):
        pixels = rng.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{i:06d}.jpg")


def write_vgg(path: Path, scale: float = 1.0, blocks: int = 5) -> None:
    """Makes a VGG-16 weights file of random numbers, of the first `blocks` blocks."""
    rng = np.random.default_rng(0)
    arrays, inputs = {}, 3
    for block, (convs, width) in enumerate(((2, 64), (2, 128), (3, 256), (3, 512), (3, 512)), 1):
        for conv in range(1, convs + 1):
            shape = (3, 3, inputs, width)
            kernel = rng.standard_normal(shape) * np.sqrt(2 / (9 * inputs)) * scale
            if block <= blocks:
                arrays[f"block{block}_conv{conv}_kernel"] = kernel.astype(np.float32)
                arrays[f"block{block}_conv{conv}_bias"] = np.zeros(width, np.float32)
            inputs = width
    np.savez(path, **arrays)
