"""Narrow runs for the end-to-end tests: configurations, photos on disk, the commands themselves."""

import contextlib
import io
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
from ml_collections import ConfigDict
from PIL import Image

from landmarks_jax.cli.main import COMMANDS, main
from landmarks_jax.configs import base

ROOT = Path(__file__).parent.parent


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


def flags(config: ConfigDict) -> list[str]:
    """What turns `configs/quickstart.py` into `config` on the command line."""
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


def write_photos(folder: Path, count: int, size: tuple[int, int] = (30, 36)) -> None:
    """Makes `count` JPEG photos `000001.jpg` ... of noise."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
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
