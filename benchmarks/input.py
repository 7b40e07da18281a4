"""Times what feeds the training: from JPEG, prepared and resident, and the share of waiting for it.

python -m benchmarks.input --out docs/results/benchmarks/input_cpu.json [--photos DIR]

Each stage alone, in photos a second, on this machine's cores: decoding, resizing, both in plain
threads and through tf.data; prepared canvases gathered from the memory map, and sent to the device
besides; resident ones gathered on the device that JAX finds first. Within a round each runs once,
one after the other; medians are over rounds. Files are read from the system's cache: none of this
times a disk. Then `configs/faces_cpu.py` trains some steps from each of the three.

Without --photos there are JPEGs of embedded faces, 178 x 218 as CelebA's aligned photos.
"""

import argparse
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict
from PIL import Image

from benchmarks import arguments, records
from landmarks_jax.configs import faces, faces_cpu
from landmarks_jax.data import cutting, photo_files, prepared
from landmarks_jax.data.loader import Loader, framing_of, open_loader
from landmarks_jax.data.sources import registry
from landmarks_jax.data.sources.synthetic import SyntheticFaces
from landmarks_jax.system import parallel
from landmarks_jax.system.errors import DataError
from landmarks_jax.training import batches, reports, sharding

# The configurations whose canvases are timed: 160 and 60 pixels a side.
CONFIGS = {"faces": faces, "faces_cpu": faces_cpu}
BATCH = 32
# Photos a round, of stages that decode or resize and of those that only gather.
SLOW, FAST = 512, 8192
# Batches that are taken before the clock starts: those that tf.data has ready.
AHEAD = 8
ROOT = Path(__file__).parent.parent
INPUTS = ("JPEG", "prepared", "resident")

Stage = Callable[[], float]


def link_photos(source: Path, count: int, folder: Path) -> None:
    """Links to the first `count` pictures of a folder."""
    found = photo_files.usable_files([str(source)])[0]
    if len(found) < SLOW:
        raise DataError(f"--photos {source}: {len(found)} pictures, and it takes {SLOW} at least")
    for i, file in enumerate(found[:count]):
        (folder / f"{i:06d}{Path(file.path).suffix}").symlink_to(Path(file.path).resolve())


def draw_photos(count: int, folder: Path) -> None:
    """Embedded faces as JPEGs of CelebA's size and quality."""
    drawn = SyntheticFaces(1, count, 218)

    def write(index: int) -> None:
        Image.fromarray(drawn.photo(index)[:, 20:198]).save(folder / f"{index:06d}.jpg", quality=85)

    for _ in parallel.ordered_map(write, range(count), "drawing photos"):
        pass


def config_of(name: str, photos: Path, canvases: Path | None = None) -> ConfigDict:
    """A configuration on the photos, or on their canvases."""
    config = CONFIGS[name].get_config()
    config.data.source = "folder" if canvases is None else "prepared"
    config.data.roots = (str(photos if canvases is None else canvases),)
    config.data.exclude = ()
    return config


def in_threads(work: Callable[[int], Any], count: int, threads: int) -> float:
    """Photos a second of calls in some threads."""
    with ThreadPoolExecutor(threads) as pool:
        seconds = records.seconds_of(lambda: list(pool.map(work, range(count))))
    return count / seconds


def taking(batches: Iterator[Any], photos: int, done: Callable[[Any], Any]) -> float:
    """Photos a second of what an iterator gives, `done` to the last."""
    for _ in range(AHEAD):
        done(next(batches))

    def take() -> None:
        for batch in itertools.islice(batches, photos // BATCH):
            last = done(batch)
        jax.block_until_ready(last)

    return photos / records.seconds_of(take)


def stages(name: str, photos: Path, canvases: Path) -> dict[tuple[str, int], Stage]:
    """What is timed, by its name and its number of threads (0: not ours to say)."""
    config = config_of(name, photos)
    config.train.batch_size = BATCH
    source, frame = registry.open_source(config.data), framing_of(config)
    decoded = [source.photo(i) for i in range(SLOW)]
    nothing = np.zeros((0, 2), np.float32)
    works: dict[str, Callable[[int], Any]] = {
        "decode": source.photo,
        "resize": lambda i: frame.cut(decoded[i], nothing),
        "decode and resize": lambda i: cutting.cut_photo(source, frame, i),
    }
    found: dict[tuple[str, int], Stage] = {}
    for work, threads in itertools.product(works, sorted({1, parallel.num_threads()})):
        found[work, threads] = lambda w=works[work], t=threads: in_threads(w, SLOW, t)  # type: ignore[misc]

    def reading(feed: Loader) -> Iterator[Any]:
        return feed.batches(seed=0, batch_size=BATCH)

    jpeg = reading(open_loader(config))
    found["tf.data", parallel.num_threads()] = lambda: taking(jpeg, SLOW, np.shape)
    config = config_of(name, photos, canvases)
    config.train.batch_size = BATCH
    feed, mesh = open_loader(config), sharding.make_mesh(jax.devices()[:1])
    mapped, sent = reading(feed), batches.batches(config, feed, mesh)
    found["prepared", 1] = lambda: taking(mapped, FAST, np.shape)
    found["prepared, sent", 1] = lambda: taking(sent, FAST, jax.block_until_ready)
    config.data.resident = True
    given, steps = batches.batches(config, feed, mesh), itertools.count()
    gather = jax.jit(lambda photos, step: batches.gather(photos, step, mesh))
    found["resident", 0] = lambda: taking(given, FAST, lambda all_: gather(all_, next(steps)))
    return found


def time_stages(name: str, photos: Path, canvases: Path, rounds: int) -> list[dict[str, Any]]:
    """Photos a second of every stage, in turn."""
    rates: dict[tuple[str, int], list[float]] = {}
    found = stages(name, photos, canvases)
    for _ in range(rounds + 1):
        for stage, run in found.items():
            rates.setdefault(stage, []).append(run())
    side = framing_of(CONFIGS[name].get_config()).canvas_size
    rows = []
    for (what, threads), measured in rates.items():
        quartiles = statistics.quantiles(measured[1:], n=4, method="inclusive")
        row = {"canvas": side, "stage": what, "threads": threads, "rounds": rounds}
        row["photos_per_second"] = [round(rate, 1) for rate in quartiles]
        rows.append(row)
        records.log(row)
    return rows


def train(workdir: Path, fields: dict[str, Any]) -> list[dict[str, Any]]:
    """The metrics of a run of `faces_cpu` with other fields, in a process of its own."""
    command = [sys.executable, "train.py", "--config=configs/faces_cpu.py", f"--workdir={workdir}"]
    command += [f"--config.{field}={value}" for field, value in fields.items()]
    subprocess.run(command, check=True, cwd=ROOT, stdout=sys.stderr)
    lines = (workdir / reports.METRICS_FILE).read_text().splitlines()
    return [json.loads(line) for line in lines]


def wait_of(kind: str, photos: Path, canvases: Path, steps: int, folder: Path) -> dict[str, Any]:
    """A short run of `faces_cpu`: how long a step takes, and how long it waits for its photos."""
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
    weights = faces_cpu.get_config().perceptual.weights
    perceptual = (ROOT / weights).exists()
    if not perceptual:
        fields["perceptual.weights"] = ""  # which makes a step shorter
    first, *warm = train(folder / kind, fields)  # the first rows start the reading, and the device
    seconds, done = (warm[-1][name] - first[name] for name in ("seconds", "step"))
    step_ms = 1e3 * seconds / done
    wait_ms = statistics.fmean(row["wait_ms"] for row in warm)
    row = {"input": kind, "steps": done, "step_ms": round(step_ms, 2)}
    row |= {"wait_ms": round(wait_ms, 3), "share": round(wait_ms / step_ms, 6)}
    row |= {"perceptual": perceptual}
    records.log(row)
    return row


def measure(given: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Times everything; plain JSON, the source of `to_markdown`."""
    photos = folder / "photos"
    photos.mkdir()
    if given.photos:
        link_photos(given.photos, given.count, photos)
    else:
        draw_photos(given.count, photos)
    opened = registry.open_source(config_of("faces", photos).data)
    if len(opened) < SLOW:
        raise SystemExit(f"error: --photos {given.photos}: {len(opened)}, at least {SLOW} needed")
    sizes = [opened.photo(i).shape[:2] for i in range(min(100, len(opened)))]
    lengths = [path.stat().st_size for path in photos.iterdir()]
    rows: list[dict[str, Any]] = []
    for name in CONFIGS:
        config = config_of(name, photos)
        canvases = folder / name
        prepared.prepare(registry.open_source(config.data), framing_of(config), canvases)
        rows += time_stages(name, photos, canvases, given.rounds)
    waits = [
        wait_of(kind, photos, folder / "faces_cpu", given.steps, folder)
        for kind in INPUTS * bool(given.steps)
    ]
    return {
        **records.surroundings("benchmarks.input", ("jax", "numpy", "pillow", "tensorflow-cpu")),
        "photos": {
            "count": len(opened),
            "of": "--photos" if given.photos else "embedded faces",
            "height": float(np.median([height for height, _ in sizes])),
            "width": float(np.median([width for _, width in sizes])),
            "bytes": round(statistics.fmean(lengths)),
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
    lines = []
    for stage, threads in dict.fromkeys((stage, threads) for stage, threads, _ in median):
        rates = [f"{median[stage, threads, side]:,.0f}" for side in sides]
        lines.append([stage, str(threads or "-"), *rates])
    table = records.table(["Stage", "Threads", *(f"Canvas {side}" for side in sides)], lines)
    most = max(threads for _, threads, _ in median)
    notes = [records.ran_on(result)]
    photos = result["photos"]
    notes.append(
        f"Photos a second, medians over rounds in turn, batches of {result['batch']}; "
        f"{photos['count']:,} photos ({photos['of']}) of {photos['width']:.0f} x "
        f"{photos['height']:.0f} pixels and {photos['bytes'] / 1024:.1f} KiB in the median and the "
        "mean."
    )
    for side in sides:
        both, alone = (median[stage, most, side] for stage in ("decode and resize", "decode"))
        notes.append(
            f"At canvas {side} tf.data reaches {median['tf.data', most, side] / both:.0%} of "
            f"decoding and resizing in {most} plain threads; decoding takes {both / alone:.0%} of "
            "that time."
        )
    page = records.page("What feeds the training", table, notes)
    if not result["waits"]:
        return page
    lines = [
        [row["input"], f"{row['steps']}", f"{row['step_ms']:,.1f} ms", f"{row['wait_ms']:.2f} ms",
         f"{row['share']:.3%}"]
        for row in result["waits"]
    ]  # fmt: skip
    header = ["From", "Steps", "A step", "Waiting", "Share"]
    without = "" if all(row["perceptual"] for row in result["waits"]) else ", without its VGG"
    note = (
        f"`configs/faces_cpu.py`{without}: the time that the loop spends in getting the photos of "
        "a step, while up to two steps are under way."
    )
    second = records.page("Waiting for photos", records.table(header, lines), [note], level=2)
    return f"{page}\n{second}"


def main() -> None:
    """Measures, and writes the JSON with its table beside it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--out", type=arguments.out_file, help="JSON file; the table gets the ending .md"
    )
    parser.add_argument("--photos", type=Path, help="a folder of pictures; default: embedded faces")
    parser.add_argument(
        "--count", type=arguments.count(SLOW), default=2048, help="photos, the first ones"
    )
    parser.add_argument(
        "--rounds", type=arguments.count(2), default=7, help="rounds, after one that warms up"
    )
    parser.add_argument(
        "--steps", type=arguments.count(0), default=60, help="steps of the runs; 0 makes none"
    )
    given = parser.parse_args()
    if given.steps == 1:
        parser.error("--steps 1: 0 or more than 1; what comes first only warms up")
    with tempfile.TemporaryDirectory() as folder:
        os.environ["XDG_CACHE_HOME"] = folder  # these photos are soon gone
        result = measure(given, Path(folder))
    records.write(given.out, result, to_markdown(result))


if __name__ == "__main__":
    arguments.run(main)
