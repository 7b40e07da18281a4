"""What is wrong with a rental's command line is said before the first minute is spent."""

import argparse
import subprocess
import sys
from collections.abc import Sequence

from ml_collections import ConfigDict

from benchmarks import rented_photos, rented_schedule
from benchmarks.accelerator import configuration_of
from landmarks_jax.data import lists
from landmarks_jax.studies import timed_session
from landmarks_jax.system.errors import ConfigError, UserError
from landmarks_jax.tasks import task_of
from landmarks_jax.training import init_from, transfer_files, transfer_start

TIMEOUT = 120  # seconds, until a GPU must have answered


def gpu() -> str:
    """The name of the GPU, by a process of its own: this one must not hold memory there.

    Raises:
      UserError: there is none, or it cannot compute what training needs.
    """
    command = [sys.executable, "-m", "benchmarks.gpu_check"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=TIMEOUT)
    except subprocess.TimeoutExpired as error:
        raise UserError(
            f"no NVIDIA GPU: none has computed anything in {TIMEOUT} s; see if nvidia-smi answers"
        ) from error
    platform, _, kind = done.stdout.strip().partition(" ")
    why = (done.stderr.strip().splitlines() or ["JAX sees no GPU"])[-1]
    if platform != "gpu":
        raise UserError(
            f"no NVIDIA GPU: JAX finds {platform or 'nothing'} ({why}); use a machine with one, or "
            "--tiny to try the command"
        )
    if done.returncode:
        raise UserError(
            f"{kind}: cannot train here ({why}); see if the CUDA libraries fit this JAX, and what "
            "python -m benchmarks.gpu_check says"
        )
    return kind


def configuration(args: argparse.Namespace, words: Sequence[str]) -> ConfigDict:
    """The configuration, once everything that training reads was opened, but for photos.

    Args:
      args: those of `benchmarks.rented_gpu`.
      words: the command line that names the configuration.

    Raises:
      UserError: something is wrong that would show only when the measurements are done.
    """
    config = configuration_of(words)
    if config is None or task_of(config).ON_JOINTS:
        raise ConfigError("--config: name a configuration that trains on photos without joints")
    for text in args.photos:
        rented_photos.folder_of(text, args.scratch)
    for path in config.data.exclude:
        lists.read_lines(path)
    timed_session.open_inputs(config)
    if args.transfer:
        transfer_start.check_config(transfer_files.read(args.transfer), config)
    else:
        init_from.find(config, rented_schedule.workdir_of(args.scratch, None), None)
    return config
