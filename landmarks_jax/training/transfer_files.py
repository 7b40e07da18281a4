"""Transfer files, with which a run continues on another machine.

    transfer.json             step, seconds trained, configuration, record, and the SHA-256 of every
                              other file and of itself
    networks-*.safetensors    parameters, batch statistics, averaged parameters, tap means: kernels
                              in float16; everything else, an adapted run's core too, in float32
    metrics-*.jsonl.gz        the log so far

They leave out the optimiser, four times the size of these networks. So a run that continues from
them is not resumed but *transferred*: it gets a new optimiser and another warm-up of the rate.
Its log, its record and its tables say so.

Files are named by their digest and `transfer.json` is replaced last, so an interrupted write leaves
the earlier set or the new one complete.
"""

import contextlib
import dataclasses
import gzip
import hashlib
import json
import logging
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
from landmarks_jax.objective import Networks
from landmarks_jax.system import files
from landmarks_jax.system.errors import WorkdirError, reason
from landmarks_jax.training import checkpoints, distributed, run_folder, sharding
from landmarks_jax.training import state as states
from landmarks_jax.training.record import Record, Transfer
from landmarks_jax.training.state import TrainState, by_name

FORMAT, VERSION = "landmarks_jax.transfer", 1
MANIFEST = "transfer.json"
MAX_BYTES = 15 * 2**20  # of a file, small enough for any means of transfer
_PARTS = ("params", "batch_stats", "averaged", "tap_means", "core")
# May differ as well: photos decoded on one machine may be prepared on another.
_FREE_FIELDS = ("data.source",)
_LOGGER = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Bundle:
    """Transfer files in memory.

    Attributes:
      path: their folder.
      config: the run's configuration.
      step: steps done.
      seconds: time trained, over all sessions.
      record: the run's record.
      arrays: the networks by name, such as `params/detector/...`.
      log: the rows of the run's log.
    """

    path: Path
    config: ConfigDict
    step: int
    seconds: float
    record: Record
    arrays: Mapping[str, np.ndarray]
    log: list[dict[str, Any]]


def write(restored: checkpoints.Restored, workdir: Path, out: Path) -> list[Path]:
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
    earlier = _files_of(manifest)
    text = json.dumps({**fields, "sha256": files.sha256_of_json(fields)}, indent=1) + "\n"
    files.write_file(manifest, text, WorkdirError)
    for name in earlier - digests.keys():
        (out / name).unlink(missing_ok=True)
    return [manifest, *(out / name for name in digests)]


def _files_of(manifest: Path) -> set[str]:
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        return {Path(name).name for name in json.loads(manifest.read_text())["files"]}
    return set()


def networks_of(state: TrainState) -> dict[str, Any]:
    """The fields of a state that are transferred."""
    return {part: getattr(state, part) for part in _PARTS}


def to_stored(array: np.ndarray, name: str) -> np.ndarray:
    """Kernels in float16 unless they overflow, everything else in float32.

    The core of an adapted run must not change, so it stays in float32.
    """
    precisions = ("float32",) if name.startswith("core/") else ("float16", "float32")
    for precision in precisions:
        # In its own shape: a mean without dimensions would come back with one.
        stored = cast_array(array, precision).reshape(array.shape)
        if np.isfinite(stored).all():
            return stored
    raise WorkdirError(f"{name} is not finite; did the training diverge?")


def into_files(arrays: Mapping[str, np.ndarray]) -> Iterator[dict[str, np.ndarray]]:
    """The arrays, in order, in as few files as possible of at most `MAX_BYTES` each."""
    current: dict[str, np.ndarray] = {}
    left = MAX_BYTES
    for name, array in arrays.items():
        size = array.nbytes + len(name) + 160  # an upper bound of its entry in the header
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
        if fields.pop("sha256") != files.sha256_of_json(fields):
            raise WorkdirError(f"{manifest}: damaged, its checksum differs; write it again")
        _check_fields(fields)
        arrays: dict[str, np.ndarray] = {}
        log: list[dict[str, Any]] = []
        for name, digest in fields["files"].items():
            data = _read_file(path / name, digest)
            if name.endswith(".safetensors"):
                arrays |= safetensors.numpy.load(data)
            else:
                log = [json.loads(line) for line in gzip.decompress(data).splitlines()]
        return Bundle(
            path,
            configuration.from_json(json.dumps(fields["config"])),
            int(fields["step"]),
            float(fields["seconds"]),
            Record.from_json(fields["record"], manifest),
            arrays,
            log,
        )
    except (OSError, ValueError, KeyError, TypeError, safetensors.SafetensorError) as error:
        raise WorkdirError(f"{manifest}: cannot be read ({reason(error)})") from error


def _check_fields(fields: Mapping[str, Any]) -> None:
    """ValueError for what no run has, in a manifest with the right checksum."""
    step, seconds, names = fields["step"], fields["seconds"], fields["files"]
    if type(step) is not int or not 0 <= step < 2**31 or not 0 <= float(seconds) < 1e12:
        raise ValueError(f"step = {step!r}, seconds = {seconds!r}: must be numbers from 0")
    if not isinstance(names, dict) or any(Path(name).name != name for name in names):
        raise ValueError(f"files = {names!r}: must be checksums by names of files in this folder")


def _read_file(path: Path, digest: str) -> bytes:
    if not path.is_file():
        raise WorkdirError(f"{path}: missing; copy all transfer files")
    data = path.read_bytes()
    if hashlib.sha256(data).hexdigest() != digest:
        raise WorkdirError(f"{path}: damaged, its checksum differs; copy or write it again")
    return data


def find(workdir: Path, path: Path | None) -> Bundle | None:
    """Reads the transfer files that a run begins from; None without a path or with checkpoints.

    Raises:
      WorkdirError: they are missing or damaged, or the run began from some and has no checkpoint.
    """
    step = run_folder.newest_step(workdir)
    if step is not None:
        unused = "" if path is None else f"; the transfer files {path} are not used"
        _LOGGER.info("continuing from the checkpoint of step %d in %s%s", step, workdir, unused)
        return None
    if path is not None:
        return read(path)
    if run_folder.is_run(workdir) and run_folder.read_record(workdir).transfers:
        raise WorkdirError(
            f"{workdir}: began from transfer files and has no checkpoint; name them again with "
            "--transfer, or use another --workdir"
        )
    return None


def check(bundle: Bundle, config: ConfigDict, networks: Networks, weights_digest: str) -> None:
    """Rejects transfer files of another run than the configuration describes.

    Raises:
      WorkdirError: naming the field or the array.
    """
    manifest = bundle.path / MANIFEST
    for field, before, now in configuration.differences(bundle.config, config):
        if field not in _FREE_FIELDS:
            raise WorkdirError(
                f"{manifest}: the run had config.{field} = {before!r}, not {now!r}; "
                "use its value, or train from scratch without --transfer"
            )
    if bundle.record.weights_digest != weights_digest:
        raise WorkdirError(
            f"{manifest}: the run used other VGG weights than those that "
            "config.perceptual.weights or config.targets.weights names; use its own weights"
        )
    expected = by_name(networks_of(states.abstract_state(config, networks, sharding.make_mesh())))
    for name, leaf in expected.items():
        if name not in bundle.arrays:
            raise WorkdirError(f"{manifest}: {name} is missing")
        array = bundle.arrays[name]
        if array.shape != leaf.shape:
            raise WorkdirError(f"{manifest}: {name} has shape {array.shape}, expected {leaf.shape}")
        if array.dtype.kind != "f" or not np.isfinite(array).all():
            raise WorkdirError(f"{manifest}: {name} is not of finite floating-point numbers")


def transfers_of(bundle: Bundle, config: ConfigDict, data_digest: str) -> list[Transfer]:
    """The transfers of a run that begins from these files: the earlier ones, and this one."""
    warmup_steps = states.new_optimizer_warmup_steps(config)
    other_photos = bundle.record.data_digest != data_digest
    last = Transfer(bundle.step, bundle.seconds, warmup_steps, other_photos)
    return [*bundle.record.transfers, last]


def begin(
    bundle: Bundle,
    config: ConfigDict,
    networks: Networks,
    *,
    workdir: Path,
    saved: checkpoints.Checkpoints,
) -> None:
    """Writes the first checkpoint of a run, and its log, from checked transfer files.

    The run's folder must be claimed before.
    """
    transfer = run_folder.read_record(workdir).transfers[-1]
    _LOGGER.info("from the transfer files %s: %s", bundle.path, transfer.note())
    mesh = sharding.make_mesh()
    like = networks_of(states.abstract_state(config, networks, mesh))
    leaves = [np.asarray(bundle.arrays[name], leaf.dtype) for name, leaf in by_name(like).items()]
    trees = jax.tree.unflatten(jax.tree.structure(like), leaves)
    if distributed.is_first():
        row = {"step": bundle.step, "seconds": round(bundle.seconds, 3)}
        run_folder.write_log(workdir, [*bundle.log, {**row, "transfer": transfer._asdict()}])
    state = states.state_with_new_optimizer(config, trees, bundle.step, mesh)
    saved.save(bundle.step, state, bundle.seconds)
    saved.wait()
