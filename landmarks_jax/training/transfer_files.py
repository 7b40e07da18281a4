"""Transfer files, with which a run continues on another machine.

    transfer.json             step, seconds trained, configuration, record, and the SHA-256 of every
                              other file and of itself
    networks-*.safetensors    parameters, batch statistics, averaged parameters, tap means: kernels
                              in float16; everything else, frozen weights too, in float32; the
                              targets of self-training, if not too many, in float16, and the
                              seconds they took
    metrics-*.jsonl.gz        the log so far

They leave out the optimiser, four times the size of these networks. So a run that continues from
them is not resumed but *transferred*: it gets a new optimiser and another warm-up of the rate.
Its log, its record and its tables say so.

Files are named by their digest and `transfer.json` is replaced last, so an interrupted write leaves
the earlier set or the new one complete.
"""

import dataclasses
import gzip
import hashlib
import json
import math
import re
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
from landmarks_jax.system.errors import WorkdirError, reason, wrong_field
from landmarks_jax.system.sealed_json import sealed, unsealed
from landmarks_jax.training import run_folder, targets
from landmarks_jax.training.record import Record
from landmarks_jax.training.state import Restored, TrainState, by_name

FORMAT, VERSION = "landmarks_jax.transfer", 1
MANIFEST = "transfer.json"
MAX_BYTES = 15 * 2**20  # of a file, small enough for any means of transfer
MAX_TARGET_BYTES = 2 * MAX_BYTES  # of all targets; beyond, they are made again
_PARTS = ("params", "batch_stats", "averaged", "tap_means", "core")
# What a damaged manifest, log or file of networks raises.
_DAMAGE = (
    OSError,
    ValueError,
    KeyError,
    TypeError,
    OverflowError,
    RecursionError,
    safetensors.SafetensorError,
)
# The names of files that a manifest lists, and of those that a kill left unfinished.
_OWN = re.compile(
    r"(networks|metrics)-[0-9a-f]{12}\.[a-z.]+"
    r"|\.[0-9a-f]{16}\w*-[0-9a-f]{12}\.[a-z.]+|\.[0-9a-f]{16}transfer\.json"
)


@dataclasses.dataclass(frozen=True)
class Bundle:
    """Transfer files in memory.

    Attributes:
      path: their folder.
      config: the run's configuration.
      step: steps done.
      seconds: time trained, over all sessions, without that of targets made at this step.
      record: the run's record.
      arrays: the networks by name, such as `params/detector/...`, and any targets.
      log: the rows of the run's log.
    """

    path: Path
    config: ConfigDict
    step: int
    seconds: float
    record: Record
    arrays: Mapping[str, np.ndarray]
    log: list[dict[str, Any]]


def write(restored: Restored, workdir: Path, out: Path) -> list[Path]:
    """Writes the transfer files of a run, replacing those that `out` may hold.

    Args:
      restored: the run's newest checkpoint.
      workdir: the run's folder.
      out: the folder to write to, created if needed.

    Returns:
      The files, `transfer.json` first.

    Raises:
      WorkdirError: something cannot be written, or does not fit into a file.
    """
    arrays = {
        name: to_stored(np.asarray(leaf), name)
        for name, leaf in by_name(jax.device_get(networks_of(restored.state))).items()
    }
    arrays |= targets_of(workdir, restored.step)
    log = "".join(json.dumps(r) + "\n" for r in run_folder.read_log(workdir, restored.step))
    data = [("networks", ".safetensors", safetensors.numpy.save(p)) for p in into_files(arrays)]
    data.append(("metrics", ".jsonl.gz", gzip.compress(log.encode(), mtime=0)))
    digests = {}
    for kind, suffix, content in data:
        digest = hashlib.sha256(content).hexdigest()
        name = f"{kind}-{digest[:12]}{suffix}"
        digests[name] = digest
        files.write_file(out / name, content, WorkdirError)
    fields = {
        "format": FORMAT,
        "version": VERSION,
        "step": restored.step,
        "seconds": restored.seconds,
        "config": run_folder.read_config(workdir).to_dict(),
        "record": run_folder.read_record(workdir).to_json(),
        "files": digests,
    }
    manifest = out / MANIFEST
    text = json.dumps(sealed(fields), indent=1) + "\n"
    files.write_file(manifest, text, WorkdirError)
    for path in out.iterdir():
        if path.name not in digests and _OWN.fullmatch(path.name):
            path.unlink(missing_ok=True)
    return [manifest, *(out / name for name in digests)]


def targets_prefix(made: int) -> str:
    """How the names of the arrays begin that are the targets made at a step."""
    return f"targets/{made}/"


def targets_of(workdir: Path, step: int) -> dict[str, np.ndarray]:
    """The newest targets of a run's folder until a step, by name; none if they are too many."""
    # A hidden one is being written, or was at a kill.
    names = [path.stem for path in (workdir / targets.FOLDER).glob("*.npz")]
    steps = [int(name) for name in names if name.isdecimal()]
    made = max((at for at in steps if at <= step), default=None)
    if made is None:
        return {}
    kept = targets.read(targets.path_at(workdir, made))
    points = kept.points.astype(np.float16)
    if points.nbytes > MAX_TARGET_BYTES:
        return {}
    # In pieces, so that each fits into a file, and few bytes of one are left unused.
    pieces = np.array_split(points, max(1, 8 * points.nbytes // MAX_BYTES))
    parts = {f"points-{i:03d}": piece for i, piece in enumerate(pieces)}
    parts["merging"] = kept.merging.astype(np.float32)
    parts["seconds"] = np.array(kept.seconds)
    return {targets_prefix(made) + name: array for name, array in parts.items()}


def networks_of(state: TrainState) -> dict[str, Any]:
    """The fields of a state that are transferred."""
    return {part: getattr(state, part) for part in _PARTS}


def to_stored(array: np.ndarray, name: str) -> np.ndarray:
    """Kernels in float16 unless they overflow, everything else in float32.

    Frozen weights must not change, so they stay in float32.
    """
    precisions = ("float32",) if name.startswith("core/") else ("float16", "float32")
    for precision in precisions:
        # In its own shape: a mean without dimensions would come back with one.
        stored = cast_array(array, precision).reshape(array.shape)
        if np.isfinite(stored).all():
            return stored
    raise WorkdirError(f"{name} is not finite; did the training diverge?")


def check_sizes(config: ConfigDict, state: TrainState) -> None:
    """Refuses networks with an array that no transfer file can hold.

    Args:
      config: the configuration.
      state: of `states.abstract_state`.

    Raises:
      ConfigError: naming the field.
    """
    for name, leaf in by_name(networks_of(state)).items():
        size = _size_of(to_stored(np.zeros(leaf.shape, leaf.dtype), name), name)
        if size > MAX_BYTES:
            network = "generator" if "generator" in name.split("/") else "detector"
            rule = f"less, as {name} takes {size:,} bytes and a transfer file holds {MAX_BYTES:,}"
            raise wrong_field(config, f"model.{network}_channels", rule)


def _size_of(array: np.ndarray, name: str) -> int:
    """Bytes in a file, with an upper bound of its entry in the header."""
    return array.nbytes + len(name) + 160


def into_files(arrays: Mapping[str, np.ndarray]) -> Iterator[dict[str, np.ndarray]]:
    """The arrays, in order, in as few files as possible of at most `MAX_BYTES` each."""
    current: dict[str, np.ndarray] = {}
    left = MAX_BYTES
    for name, array in arrays.items():
        size = _size_of(array, name)
        if size > MAX_BYTES:
            raise WorkdirError(f"{name} takes {size:,} bytes: a transfer file holds {MAX_BYTES:,}")
        if size > left:
            yield current
            current, left = {}, MAX_BYTES
        current[name] = array
        left -= size
    yield current


def read(path: Path) -> Bundle:
    """Reads transfer files and verifies every one.

    Raises:
      WorkdirError: something is missing, damaged, or of another format.
    """
    manifest = path / MANIFEST
    if not manifest.is_file():
        raise WorkdirError(f"{path}: no transfer files here ({MANIFEST} is missing)")
    try:
        fields = json.loads(manifest.read_text())
        if (fields["format"], fields["version"]) != (FORMAT, VERSION):
            raise WorkdirError(
                f"{manifest}: not transfer files of version {VERSION}; write them again with this "
                "version of landmarks_jax"
            )
        fields = unsealed(fields)
        step, seconds = int(fields["step"]), float(fields["seconds"])
        if step < 0 or not 0 <= seconds < math.inf:
            raise ValueError(f"step = {step}, seconds = {seconds}: must be at least 0, and finite")
        arrays: dict[str, np.ndarray] = {}
        log: list[dict[str, Any]] = []
        for name, digest in dict(fields["files"]).items():
            if Path(name).name != name:
                raise ValueError(f"files has {name!r}: must be names of files in its folder")
            data = _read_file(path / name, digest)
            if name.endswith(".safetensors"):
                arrays |= safetensors.numpy.load(data)
            else:
                log = [json.loads(line) for line in gzip.decompress(data).splitlines()]
        return Bundle(
            path,
            configuration.from_json(json.dumps(fields["config"])),
            step,
            seconds,
            Record.from_json(fields["record"]),
            arrays,
            log,
        )
    except _DAMAGE as error:
        raise WorkdirError(
            f"{manifest}: cannot be read ({reason(error)}); copy or write it again"
        ) from error


def _read_file(path: Path, digest: str) -> bytes:
    if not path.is_file():
        raise WorkdirError(f"{path}: missing; copy all transfer files")
    data = path.read_bytes()
    if hashlib.sha256(data).hexdigest() != digest:
        raise WorkdirError(f"{path}: damaged, its checksum differs; copy or write it again")
    return data
