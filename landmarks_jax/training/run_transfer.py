"""What a run leaves behind to be continued elsewhere, in small files.

    handover.json             step, seconds trained, the run's configuration and record, and the
                              SHA-256 of the other files and of itself
    networks-*.safetensors    parameters, batch statistics, averaged parameters, means of the taps:
                              kernels in float16, all else, with an adapted run's core, in float32
    metrics-*.jsonl.gz        the run's metrics so far

The optimiser stays behind: it is four times as large as the networks here. So a run that starts
from a handover is not resumed but restarted; see `restart`.

Files are named after what is in them and `handover.json` is replaced last: whenever the writing is
cut short, the handover before or the new one is there whole.
"""

import contextlib
import dataclasses
import gzip
import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import safetensors
import safetensors.numpy
from ml_collections import ConfigDict

from landmarks_jax import config as configuration
from landmarks_jax.inference.precision import cast_array
from landmarks_jax.system import files
from landmarks_jax.system.errors import WorkdirError
from landmarks_jax.training import checkpoints, reports
from landmarks_jax.training.state import TrainState

FORMAT = "landmarks_jax.handover"
VERSION = 1
MANIFEST = "handover.json"
# What a file may hold, so that any way of moving files will do.
MOST_BYTES = 15 * 2**20
_PARTS = ("params", "batch_stats", "averaged", "tap_means", "core")


@dataclasses.dataclass(frozen=True)
class Handover:
    """A handover as read.

    Attributes:
      path: its folder.
      config: the run's configuration.
      step: steps done.
      seconds: time trained, over all sittings.
      run: the run's record: fingerprints of photos and perceptual network, earlier restarts.
      arrays: the networks by name, such as `params/detector/...`.
      metrics: lines of the run's metrics.
    """

    path: Path
    config: ConfigDict
    step: int
    seconds: float
    run: dict[str, Any]
    arrays: Mapping[str, np.ndarray]
    metrics: str


def write(restored: checkpoints.Restored, workdir: Path, out: Path) -> list[Path]:
    """Writes the handover of a run, in the place of the one that `out` may hold.

    Args:
      restored: the run's newest checkpoint.
      workdir: the run's folder.
      out: the folder to write to, made if need be.

    Returns:
      The files; `handover.json` comes first.

    Raises:
      UserError: something cannot be written, or does not fit.
    """
    arrays = {
        name: stored(np.asarray(leaf), name)
        for name, leaf in by_name(jax.device_get(networks_of(restored.state))).items()
    }
    metrics = "".join(reports.lines_until(workdir / reports.METRICS_FILE, restored.step))
    contents = [("networks", ".safetensors", safetensors.numpy.save(p)) for p in split(arrays)]
    contents.append(("metrics", ".jsonl.gz", gzip.compress(metrics.encode(), mtime=0)))
    digests = {}
    for kind, ending, data in contents:
        digest = hashlib.sha256(data).hexdigest()
        name = f"{kind}-{digest[:12]}{ending}"
        digests[name] = digest
        files.write_file(out / name, data, WorkdirError)
    fields = {
        "format": FORMAT,
        "version": VERSION,
        "step": restored.step,
        "seconds": restored.seconds,
        "config": checkpoints.read_config(workdir).to_dict(),
        "run": checkpoints.read_run(workdir),
        "files": digests,
    }
    manifest = out / MANIFEST
    before = _files_of(manifest)
    text = json.dumps({**fields, "sha256": _digest(fields)}, indent=1) + "\n"
    files.write_file(manifest, text.encode(), WorkdirError)
    for name in before - digests.keys():
        with contextlib.suppress(OSError):
            (out / name).unlink()
    return [manifest, *(out / name for name in digests)]


def _files_of(manifest: Path) -> set[str]:
    """The files of the handover that was there before, as far as it can be read."""
    try:
        return {Path(name).name for name in json.loads(manifest.read_text())["files"]}
    except (OSError, ValueError, KeyError, TypeError):
        return set()


def networks_of(state: TrainState) -> dict[str, Any]:
    """The parts of a state that are handed over."""
    return {part: getattr(state, part) for part in _PARTS}


def by_name(tree: Any) -> dict[str, Any]:
    """The leaves of a tree by their paths, such as `params/detector/conv/kernel`."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}


def stored(array: np.ndarray, name: str) -> np.ndarray:
    """Kernels in float16 unless that cannot hold them, all else in float32.

    The core of an adapted run is frozen, to the bit: it stays as it is in float32.
    """
    precisions = ("float32",) if name.startswith("core/") else ("float16", "float32")
    for precision in precisions:
        # In its own shape: a mean without dimensions would come back as one of length 1.
        stored = cast_array(array, precision).reshape(array.shape)
        if np.isfinite(stored).all():
            return stored
    raise WorkdirError(f"{name} is not finite; did the training diverge?")


def split(arrays: Mapping[str, np.ndarray]) -> Iterator[dict[str, np.ndarray]]:
    """The arrays in as few files as their order allows, each within `MOST_BYTES`."""
    part: dict[str, np.ndarray] = {}
    left = MOST_BYTES
    for name, array in arrays.items():
        size = array.nbytes + len(name) + 160  # at most, for its line of the header
        if size > MOST_BYTES:
            raise WorkdirError(
                f"{name} takes {size:,} bytes: a file of a handover holds {MOST_BYTES:,}"
            )
        if size > left:
            yield part
            part, left = {}, MOST_BYTES
        part[name] = array
        left -= size
    yield part


def _digest(fields: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()


def read(path: Path) -> Handover:
    """Reads a handover and checks every file of it.

    Raises:
      WorkdirError: something is missing, damaged, of another kind, or of a newer version.
    """
    manifest = path / MANIFEST
    if not manifest.is_file():
        raise WorkdirError(f"{path}: no handover here ({MANIFEST} is missing)")
    try:
        fields = json.loads(manifest.read_text())
        if fields["format"] != FORMAT:
            raise WorkdirError(f"{manifest}: is no handover of a run")
        if fields["version"] > VERSION:
            raise WorkdirError(
                f"{manifest}: is of version {fields['version']} and this landmarks_jax reads up to "
                f"{VERSION}; update landmarks_jax"
            )
        if fields.pop("sha256") != _digest(fields):
            raise WorkdirError(f"{manifest}: is damaged, its checksum differs; write it again")
        contents = {name: _read(path / name, digest) for name, digest in fields["files"].items()}
        arrays: dict[str, np.ndarray] = {}
        metrics = ""
        for name, data in contents.items():
            if name.endswith(".safetensors"):
                arrays |= safetensors.numpy.load(data)
            else:
                metrics = gzip.decompress(data).decode()
        config = configuration.from_json(json.dumps(fields["config"]))
        step, seconds, run = int(fields["step"]), float(fields["seconds"]), dict(fields["run"])
    except (OSError, ValueError, KeyError, TypeError, safetensors.SafetensorError) as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise WorkdirError(f"{manifest}: cannot be read as a handover ({reason})") from error
    return Handover(path, config, step, seconds, run, arrays, metrics)


def _read(path: Path, digest: str) -> bytes:
    if not path.is_file():
        raise WorkdirError(f"{path}: a file of the handover is missing")
    data = path.read_bytes()
    if hashlib.sha256(data).hexdigest() != digest:
        raise WorkdirError(f"{path}: is damaged, its checksum differs; get or write it again")
    return data
