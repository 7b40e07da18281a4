"""How many steps fit into the minutes left, and the session that trains them."""

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from landmarks_jax.system import files
from landmarks_jax.training import run_folder, transfer_files

# Of a step that could not be measured: c = 64, 32 photos, bfloat16, by the bounds of its kernels.
ASSUMED: dict[str, Any] = {
    "compile_seconds": 90.0,
    "from_cache": False,
    "quartiles_ms": [40.0, 40.0, 40.0],
}
SHARE = 0.95  # of the time left that is counted on: the clock of a GPU falls when it gets warm


def workdir_of(scratch: Path, transfer: Path | None) -> Path:
    """The folder of the run: another one for every transfer that it begins from."""
    if transfer is None:
        return scratch / "run"
    return scratch / f"run-{files.sha256_of(transfer / transfer_files.MANIFEST)[:8]}"


def steps_in(seconds: float, step: Mapping[str, Any], before: float) -> int:
    """How many steps are taken in some seconds, at least 1.

    Args:
      seconds: from the start of the session's process to the end of training.
      step: the result of the stage that measured the step.
      before: seconds that the process needs before the first step, besides compiling.
    """
    # What a rerun took from the cache, the session's own program is compiled for.
    compiling = ASSUMED if step["from_cache"] else step
    left = seconds - before - compiling["compile_seconds"]
    return max(1, int(SHARE * left / (1e-3 * step["quartiles_ms"][1])))


def begun(workdir: Path) -> ConfigDict | None:
    """The configuration of a run that was begun here and has something to lose; None without.

    What was stopped before its first checkpoint is removed, so that it gets a schedule of its own.
    """
    if not run_folder.is_run(workdir):
        return None
    if run_folder.newest_step(workdir) is None and not (workdir / "targets").exists():
        shutil.rmtree(workdir)
        return None
    return run_folder.read_config(workdir)


def schedule(config: ConfigDict, last: int | None = None) -> list[str]:
    """The flags that make a training, and its cosine decay if it has one, end with a step.

    Without a step each ends where the configuration says.
    """
    flags = [f"--config.train.steps={config.train.steps if last is None else last}"]
    if cosine := config.optimizer.cosine_steps:
        flags.append(f"--config.optimizer.cosine_steps={cosine if last is None else last}")
    return flags


def session(
    words: Sequence[str],
    *,
    photos: Sequence[str],
    canvases: Path,
    workdir: Path,
    out: Path,
    minutes: float,
    reserve: float,
    transfer: Path | None,
) -> list[str]:
    """The arguments of `landmarks-jax` that train for some minutes, less the reserve."""
    flags = [f"--photos={text}" for text in photos]
    flags += [f"--canvases={canvases}"] if photos else []
    flags += [f"--workdir={workdir}", f"--out={out}"]
    flags += [f"--minutes={minutes:.3f}", f"--reserve={reserve:.3f}"]
    flags += [f"--transfer={transfer}"] if transfer else []
    return ["session", *words, *flags]
