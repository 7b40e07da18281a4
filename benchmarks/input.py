"""Times the input pipeline: photos per second of each stage, and how long a run waits for photos.

python -m benchmarks.input --out docs/results/benchmarks/input_cpu.json [--photos DIR]

Stages: decoding and resizing, in plain threads and by tf.data; prepared canvases from the memory
map, alone and sent to the device; resident canvases gathered on the first device. Files come from
the system's cache, so no disk is timed. Then `configs/faces_cpu.py` trains some steps from JPEG,
prepared and resident photos. Without --photos the photos are synthetic faces, JPEGs of 178 x 218
pixels like CelebA's aligned ones.
"""

import argparse
import itertools
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import jax
import numpy as np
from ml_collections import ConfigDict
from PIL import Image

from benchmarks import harness
from landmarks_jax.configs import faces, faces_cpu
from landmarks_jax.data import cutting, photo_files, prepared
from landmarks_jax.data.loader import framing_of, open_loader
from landmarks_jax.data.sources import registry
from landmarks_jax.data.sources.synthetic import SyntheticFaces
from landmarks_jax.system import parallel
from landmarks_jax.system.errors import DataError
from landmarks_jax.system.tables import DASH, Table
from landmarks_jax.training import batches, run_folder, sharding

# The configurations whose canvases are timed: 160 and 60 pixels a side.
CONFIGS = {"faces": faces, "faces_cpu": faces_cpu}
BATCH = 32
# Photos per round of stages that decode or resize, and of those that only gather.
SLOW, FAST = 512, 8192
PREFETCHED = 8  # batches that tf.data may have ready before the clock starts
INPUTS = ("JPEG", "prepared", "resident")


def link_photos(source: Path, count: int, folder: Path) -> None:
    """Links to the first `count` images of a folder.

    Raises:
      DataError: there are too few.
    """
    files = photo_files.usable_files([str(source)])[0]
    if len(files) < SLOW:
        raise DataError(f"--photos {source}: {len(files)} images; at least {SLOW} are needed")
    for i, file in enumerate(files[:count]):
        (folder / f"{i:06d}{Path(file.path).suffix}").symlink_to(Path(file.path).resolve())


def draw_photos(count: int, folder: Path) -> None:
    """Writes synthetic faces as JPEGs of CelebA's size."""
    drawn = SyntheticFaces(1, count, 218)

    def write(index: int) -> None:
        Image.fromarray(drawn.photo(index)[:, 20:198]).save(folder / f"{index:06d}.jpg", quality=85)

    for _ in parallel.ordered_map(write, range(count), "drawing photos"):
        pass


def configure(name: str, photos: Path, canvases: Path | None = None) -> ConfigDict:
    """A configuration on photos, or on their prepared canvases."""
    config = CONFIGS[name].get_config()
    config.data.source = "folder" if canvases is None else "prepared"
    config.data.roots = (str(photos if canvases is None else canvases),)
    config.data.exclude = ()
    config.train.batch_size = BATCH
    return config


def rate_of_threads(work: Callable[[int], Any], count: int, threads: int) -> float:
    """Photos per second of calls in some threads."""
    with ThreadPoolExecutor(threads) as pool:
        return count / harness.seconds_of(lambda: list(pool.map(work, range(count))))


def rate_of_batches(
    iterator: Iterator[Any], photos: int, finish: Callable[[Any], Any] = np.shape
) -> float:
    """Photos per second of batches from an iterator; each is passed to `finish`."""
    for _ in range(PREFETCHED):
        finish(next(iterator))

    def take() -> None:
        for batch in itertools.islice(iterator, photos // BATCH):
            last = finish(batch)
        jax.block_until_ready(last)

    return photos / harness.seconds_of(take)


def stages(name: str, photos: Path, canvases: Path) -> dict[tuple[str, int], Callable[[], float]]:
    """Functions that give photos per second, by stage and threads (0: not applicable)."""
    config = configure(name, photos)
    source, frame = registry.open_source(config.data), framing_of(config)
    decoded = [source.photo(i) for i in range(SLOW)]
    no_points = np.zeros((0, 2), np.float32)
    works: dict[str, Callable[[int], Any]] = {
        "decode": source.photo,
        "resize": lambda i: frame.cut(decoded[i], no_points),
        "decode and resize": lambda i: cutting.cut_photo(source, frame, i),
    }
    threads = parallel.num_threads()
    runs: dict[tuple[str, int], Callable[[], float]] = {
        (stage, count): partial(rate_of_threads, works[stage], SLOW, count)
        for stage, count in itertools.product(works, sorted({1, threads}))
    }
    jpeg = open_loader(config).batches(seed=0, batch_size=BATCH)
    runs["tf.data", threads] = partial(rate_of_batches, jpeg, SLOW)
    config = configure(name, photos, canvases)
    loader, mesh = open_loader(config), sharding.make_mesh(jax.devices()[:1])
    mapped, sent = loader.batches(seed=0, batch_size=BATCH), batches.batches(config, loader, mesh)
    runs["prepared", 1] = partial(rate_of_batches, mapped, FAST)
    runs["prepared, sent", 1] = partial(rate_of_batches, sent, FAST, jax.block_until_ready)
    config.data.resident = True
    resident, steps = batches.batches(config, loader, mesh), itertools.count()
    gather = jax.jit(lambda photos, step: batches.gather(photos, step, mesh))
    runs["resident", 0] = partial(
        rate_of_batches, resident, FAST, lambda photos: gather(photos, next(steps))
    )
    return runs


def time_stages(name: str, photos: Path, canvases: Path, rounds: int) -> list[dict[str, Any]]:
    """Photos per second of every stage, in turn, after a round that warms up."""
    runs = stages(name, photos, canvases)
    rates = [{stage: run() for stage, run in runs.items()} for _ in range(rounds + 1)][1:]
    side = framing_of(CONFIGS[name].get_config()).canvas_size
    rows = []
    for stage, threads in runs:
        row = {"canvas": side, "stage": stage, "threads": threads, "rounds": rounds}
        measured = [rate[stage, threads] for rate in rates]
        row["photos_per_second"] = harness.quartiles(measured, digits=1)
        rows.append(row)
        harness.log(row)
    return rows


def train(workdir: Path, fields: dict[str, Any]) -> list[dict[str, Any]]:
    """The metrics of a run of `faces_cpu` with other fields, in a process of its own."""
    command = [sys.executable, "train.py", "--config=faces_cpu", f"--workdir={workdir}"]
    command += [f"--config.{field}={value}" for field, value in fields.items()]
    subprocess.run(command, check=True, cwd=harness.ROOT, stdout=sys.stderr)
    return run_folder.read_log(workdir)


def waiting_of(kind: str, photos: Path, canvases: Path, steps: int, folder: Path) -> dict[str, Any]:
    """A short run: milliseconds per step, and how many of them it waits for photos."""
    fields: dict[str, Any] = {
        "data.source": "folder" if kind == "JPEG" else "prepared",
        "data.roots": (str(photos if kind == "JPEG" else canvases),),
        "data.exclude": (),
        "data.resident": kind == "resident",
        "train.steps": steps,
        "train.minutes": 0.0,
        "train.log_every": max(1, steps // 10),
        "train.checkpoint_every": steps,
        "train.picture_every": 0,
    }
    perceptual = (harness.ROOT / faces_cpu.get_config().perceptual.weights).exists()
    if not perceptual:
        fields["perceptual.weights"] = ""  # steps are shorter
    first, *warm = train(folder / kind, fields)  # the first rows include starting to read
    seconds, done = (warm[-1][name] - first[name] for name in ("seconds", "step"))
    step_ms = 1e3 * seconds / done
    wait_ms = statistics.fmean(row["wait_ms"] for row in warm)
    row = {"input": kind, "steps": done, "step_ms": round(step_ms, 2)}
    row |= {"wait_ms": round(wait_ms, 3), "share": round(wait_ms / step_ms, 6)}
    row |= {"perceptual": perceptual}
    harness.log(row)
    return row


def measure(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Times everything; plain JSON, the source of `to_markdown`."""
    photos = folder / "photos"
    photos.mkdir()
    if args.photos:
        link_photos(args.photos, args.count, photos)
    else:
        draw_photos(args.count, photos)
    source = registry.open_source(configure("faces", photos).data)
    sizes = [source.photo(i).shape[:2] for i in range(min(100, len(source)))]
    height, width = np.median(sizes, 0).tolist()
    rows: list[dict[str, Any]] = []
    for name in CONFIGS:
        config = configure(name, photos)
        prepared.prepare(registry.open_source(config.data), framing_of(config), folder / name)
        rows += time_stages(name, photos, folder / name, args.rounds)
    waits = [
        waiting_of(kind, photos, folder / "faces_cpu", args.steps, folder)
        for kind in (INPUTS if args.steps else ())
    ]
    return {
        **harness.environment(("jax", "numpy", "pillow", "tensorflow-cpu")),
        "photos": {
            "count": len(source),
            "of": "--photos" if args.photos else "synthetic faces",
            "height": height,
            "width": width,
            "bytes": round(statistics.fmean(path.stat().st_size for path in photos.iterdir())),
        },
        "batch": BATCH,
        "rows": rows,
        "waits": waits,
    }


def to_markdown(result: dict[str, Any]) -> str:
    """The tables of a result."""
    sides = list(dict.fromkeys(row["canvas"] for row in result["rows"]))
    median = {
        (row["stage"], row["threads"], row["canvas"]): row["photos_per_second"][1]
        for row in result["rows"]
    }
    rows = [
        [stage, str(threads or DASH), *(f"{median[stage, threads, side]:,.0f}" for side in sides)]
        for stage, threads in dict.fromkeys((stage, threads) for stage, threads, _ in median)
    ]
    photos = result["photos"]
    notes = [
        harness.provenance(result),
        f"Photos per second, medians over rounds in turn, batches of {result['batch']}; "
        f"{photos['count']:,} photos ({photos['of']}), in the median {photos['width']:.0f} x "
        f"{photos['height']:.0f} pixels, in the mean {photos['bytes'] / 1024:.1f} KiB.",
    ]
    header = ["Stage", "Threads", *(f"Canvas {side}" for side in sides)]
    pages = [Table(header, rows, "Input pipeline", notes).to_markdown(1)]
    if result["waits"]:
        rows = [
            [
                row["input"],
                str(row["steps"]),
                f"{row['step_ms']:,.1f} ms",
                f"{row['wait_ms']:.2f} ms",
                f"{row['share']:.3%}",
            ]
            for row in result["waits"]
        ]
        perceptual = all(row["perceptual"] for row in result["waits"])
        config = "`configs/faces_cpu.py`" + ("" if perceptual else ", without its VGG")
        notes = [f"{config}: how long the loop waits for the photos of a step."]
        header = ["From", "Steps", "A step", "Waiting", "Share"]
        pages.append(Table(header, rows, "Waiting for photos", notes).to_markdown(2))
    return "\n".join(pages)


def main() -> None:
    """Times everything, and writes the JSON with its tables beside it."""
    parser = harness.argument_parser(__doc__)
    at_least = harness.at_least
    parser.add_argument("--photos", type=Path, help="folder of images; default: synthetic faces")
    parser.add_argument("--count", type=at_least(SLOW), default=2048, help="photos, the first ones")
    parser.add_argument("--rounds", type=at_least(2), default=7, help="after one that warms up")
    parser.add_argument("--steps", type=at_least(0), default=60, help="of the runs; 0: no runs")
    args = parser.parse_args()
    if args.steps == 1:
        parser.error("--steps 1: must be 0, or at least 2, as the first only warms up")
    with (
        tempfile.TemporaryDirectory() as folder,
        mock.patch.dict(os.environ, XDG_CACHE_HOME=folder),  # these photos are soon gone
    ):
        result = measure(args, Path(folder))
    harness.write_result(args.out, result, to_markdown(result))


if __name__ == "__main__":
    harness.run_command(main)
