"""Small files of every kind that the program reads, and how it reads them; for `benchmarks.faults`.

`build` makes a folder of each kind. `TARGETS` says which of its files are damaged, and how the
program reads them: the result is a digest of all that it took from them.
"""

import contextlib
import hashlib
import io
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import jax
import numpy as np
from ml_collections import ConfigDict
from PIL import Image

from benchmarks import harness
from landmarks_jax import config as configuration
from landmarks_jax.cli.main import main
from landmarks_jax.configs import base
from landmarks_jax.data import photo_files, prepared
from landmarks_jax.data.formats import coco, deeplabcut, tps
from landmarks_jax.data.formats.records import Found
from landmarks_jax.data.framing import Framing
from landmarks_jax.data.sources import registry
from landmarks_jax.evaluation import pack_run
from landmarks_jax.inference import packed_file
from landmarks_jax.inference.media.inputs import Boxes
from landmarks_jax.models.vgg import parameter_shapes
from landmarks_jax.system.errors import UserError
from landmarks_jax.training import checkpoints, run_folder, targets, transfer_files
from landmarks_jax.training import state as states
from landmarks_jax.weights import torch_file
from landmarks_jax.weights.vgg_weights import load_vgg

NUM_PHOTOS = 6
DETECTOR = "tests.tiny_detector"
STEPS, EVERY = 4, 2  # of training, and between two checkpoints
TAP = ("relu1_1",)
# A run of a few steps that compiles in seconds.
FIELDS = {
    "data.canvas_size": 20,
    "data.num_synthetic": 64,
    "views.size": 16,
    "model.detector": DETECTOR,
    "model.num_landmarks": 3,
    "model.detector_channels": 8,
    "model.generator_channels": 2,
    "model.residual_blocks": 0,
    "objective.composition": "baseline",
    "train.batch_size": 8,
    "train.steps": STEPS,
    "train.minutes": 0.0,
    "train.log_every": 1,
    "train.checkpoint_every": EVERY,
    "train.picture_every": 0,
    "eval.num_fit": 12,
    "eval.num_score": 8,
}


class FailedError(Exception):
    """A command ended in something else than one line."""


@dataclass(frozen=True)
class Target:
    """A kind of files.

    Attributes:
      folder: of `build`.
      files: which of its files are damaged, as a glob.
      read: reads the files of a copy of the folder; returns a digest of what was read.
      checked: whether the files hold checksums, or must be whole for another reason, so that every
        damage that changes what is read can be known.
    """

    folder: str
    files: str
    read: Callable[[Path], str]
    checked: bool = True


def words(**fields: Any) -> list[str]:
    """The configuration as words of a command line, with some other fields `train__steps=9`."""
    changed = FIELDS | {name.replace("__", "."): value for name, value in fields.items()}
    return ["--config=base", *(f"--config.{name}={value}" for name, value in changed.items())]


def config() -> ConfigDict:
    """The configuration."""
    made = base.get_config()
    made.update_from_flattened_dict(FIELDS)
    return made


def call(*arguments: str) -> str:
    """Runs a command in this process and returns its output.

    Raises:
      UserError: it ended with another code and one line for it.
      FailedError: it ended in anything else.
    """
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(arguments)
    if code:
        lines = err.getvalue().splitlines()
        if not lines or "Traceback" in err.getvalue():
            raise FailedError(f"exit code {code}: {err.getvalue()[-500:]}")
        raise UserError(lines[-1])
    return out.getvalue()


def digest(*parts: Any) -> str:
    """A digest of arrays, mappings, and what has a `repr` of its content."""
    sums = hashlib.sha256()
    for part in parts:
        if isinstance(part, np.ndarray | jax.Array):
            array = np.asarray(part)
            sums.update(f"{array.dtype}{array.shape}".encode() + array.tobytes())
        elif isinstance(part, Mapping):
            for name in sorted(part):
                sums.update(f"{name}{digest(part[name])}".encode())
        else:
            sums.update(repr(part).encode())
    return sums.hexdigest()


def build(folder: Path) -> None:
    """Makes a folder for each kind of files."""
    rng = np.random.default_rng(0)
    for kind, ending in (("png", "png"), ("jpeg", "jpg"), ("labels", "png"), ("scan", "png")):
        (folder / kind).mkdir(parents=True)
        for i in range(NUM_PHOTOS):
            pixels = rng.integers(0, 256, (24, 20, 3), np.uint8)
            Image.fromarray(pixels).resize((40, 48)).save(folder / kind / f"{i}.{ending}")
    _write_labels(folder / "labels")
    frame = Framing(20, 16, "tight")
    table = registry.open_labelled(str(folder / "labels" / "faces.csv"))
    prepared.prepare(table, frame, folder / "prepared")
    _read_scan(folder / "scan")
    run = folder / "run"
    call("train", *words(), f"--workdir={run}")
    call("eval", f"--workdir={run}")
    (folder / "packed").mkdir()
    call("export", f"--workdir={run}", f"--out={folder / 'packed' / 'a.safetensors'}")
    call("transfer", f"--workdir={run}", f"--out={folder / 'transfer'}")
    (folder / "vgg").mkdir()
    shapes = parameter_shapes("vgg16", TAP).items()
    layers = {  # kernel1_1 is block1_conv1_kernel
        f"block{name[-3]}_conv{name[-1]}_{name[:-3]}": rng.normal(size=shape).astype(np.float32)
        for name, shape in shapes
    }
    np.savez(folder / "vgg" / "vgg16.npz", allow_pickle=False, **layers)
    points = rng.uniform(-1, 1, (NUM_PHOTOS, 4, 2)).astype(np.float32)
    merging = np.eye(4, dtype=np.float32)
    names = [f"face-{i}" for i in range(NUM_PHOTOS)]
    path = folder / "targets" / "0.npz"
    targets.write_arrays(path, names, merging=merging, points=points, seconds=1.0)
    (folder / "torch").mkdir()
    published = (harness.ROOT / "tests" / "published" / "gen.pth").read_bytes()
    (folder / "torch" / "gen.pth").write_bytes(published)


def _write_labels(folder: Path) -> None:
    rows = [[f"{i}.png", 10, 12 + i, 28.5, 12, 20, 25, 12, 36, 27, 36] for i in range(NUM_PHOTOS)]
    header = "file," + ",".join(f"{axis}{i}" for i in range(1, 6) for axis in "xy")
    table = [header, *(",".join(map(str, row)) for row in rows)]
    (folder / "faces.csv").write_text("\n".join(table) + "\n")
    points = [np.array(row[1:], float).reshape(-1, 2) for row in rows]
    found = [Found(f"{i}.png", None, None, (40, 48), p, np.ones(5)) for i, p in enumerate(points)]
    (folder / "faces.tps").write_text(tps.write(found))
    (folder / "faces.json").write_text(coco.write(found, "abcde"))
    (folder / "deeplabcut.csv").write_text(deeplabcut.write(found, "abcde"))
    mtfl = [" ".join(map(str, [row[0], *row[1::2], *row[2::2]])) for row in rows]
    (folder / "faces.txt").write_text("\n".join(mtfl) + "\n")
    (folder / "0.pts").write_text("".join(f"{i % 30}.5 {i % 40}.25\n" for i in range(68)))
    boxes = [f"{row[0]},2,3,{30 + i},40" for i, row in enumerate(rows)]
    (folder / "boxes.csv").write_text("\n".join(["file,x0,y0,x1,y1", *boxes]) + "\n")


def _detect(folder: Path) -> str:
    packed, out = folder.parent / "packed" / "a.safetensors", folder / "found"
    call("detect", str(packed), str(folder), f"--out={out}")
    return digest((out / "landmarks.csv").read_text())


def _read_labels(folder: Path) -> str:
    read = []
    for name in ("faces.csv", "faces.tps", "faces.json", "deeplabcut.csv", "faces.txt", "."):
        source = registry.open_labelled(str(folder / name))
        read += [part for i in range(len(source)) for part in (source.name(i), source.points(i))]
    boxes = Boxes(str(folder / "boxes.csv"))
    return digest(*read, *(boxes.of(str(folder / f"{i}.png")) for i in range(NUM_PHOTOS)))


def _read_prepared(folder: Path) -> str:
    made = prepared.PreparedCanvases(folder)
    parts = made.num_points, made.digest, made.framing, made.names()
    return digest(np.array(made.canvases), made.points, *parts)


def _read_scan(folder: Path) -> str:
    with mock.patch.dict(os.environ, XDG_CACHE_HOME=str(folder / "cache")):
        photos, note = photo_files.usable_files([str(folder)])
        verdicts = photo_files.inspect(photos, str(folder))
    return digest([photo.name for photo in photos], note, [list(v.size) for v in verdicts])


def _read_checkpoint(folder: Path) -> str:
    restored = checkpoints.restore(folder, run_folder.read_config(folder))
    return digest(restored.step, restored.seconds, states.by_name(jax.device_get(restored.state)))


def _read_packed(folder: Path) -> str:
    return digest_packed(packed_file.read(folder / "a.safetensors"))


def _pack_run(folder: Path) -> str:
    packed = pack_run.pack_run(folder, [])
    packed.summary.pop("packed_on")
    return digest_packed(packed)


def digest_packed(packed: packed_file.PackedDetector) -> str:
    """A digest of a packed detector."""
    arrays = dict(packed.variables)
    if packed.regressor is not None:
        arrays |= vars(packed.regressor)
    return digest(arrays, configuration.to_json(packed.config), json.dumps(packed.summary))


def _read_record(folder: Path) -> str:
    return digest(json.dumps(run_folder.read_record(folder).to_json()))


def _read_log(folder: Path) -> str:
    return digest(json.dumps(run_folder.read_log(folder)))


def _train_again(folder: Path) -> str:
    """What a finished run is after its command was run again."""
    call("train", *words(), f"--workdir={folder}")
    return digest(_read_record(folder), _read_log(folder), _read_checkpoint(folder))


def _read_transfer(folder: Path) -> str:
    bundle = transfer_files.read(folder)
    texts = json.dumps(bundle.record.to_json()), configuration.to_json(bundle.config)
    return digest(bundle.step, bundle.seconds, *texts, bundle.log, bundle.arrays)


def _read_vgg(folder: Path) -> str:
    weights = load_vgg(str(folder / "vgg16.npz"), "vgg16", TAP, normalize=True)
    return digest(weights.params, weights.mean, weights.std, weights.convention)


def _read_targets(folder: Path) -> str:
    names = [f"face-{i}" for i in range(NUM_PHOTOS)]
    return digest(*targets.read(folder / "0.npz", names))


def _read_torch(folder: Path) -> str:
    return digest(torch_file.read_state_dict(folder / "gen.pth"))


TARGETS = {
    "PNG photos": Target("png", "*.png", _detect),
    "JPEG photos": Target("jpeg", "*.jpg", _detect, checked=False),
    "labels, boxes (.csv, .tps, .json, .txt, .pts)": Target(
        "labels", "*[!g]", _read_labels, checked=False
    ),
    "prepared photos": Target("prepared", "*", _read_prepared),
    "results of scanning photos": Target("scan", "cache/*/*", _read_scan),
    "checkpoint": Target("run", "checkpoints/**/*", _read_checkpoint),
    "config.json": Target("run", "config.json", _pack_run, checked=False),
    "run.json": Target("run", "run.json", _read_record),
    "metrics.jsonl": Target("run", "metrics.jsonl", _read_log, checked=False),
    "files of a run, trained again": Target("run", "*.json*", _train_again, checked=False),
    "targets": Target("targets", "*.npz", _read_targets),
    "packed detector": Target("packed", "*.safetensors", _read_packed),
    "VGG weights": Target("vgg", "*.npz", _read_vgg),
    "transfer files": Target("transfer", "*", _read_transfer),
    "PyTorch file": Target("torch", "*.pth", _read_torch),
}
