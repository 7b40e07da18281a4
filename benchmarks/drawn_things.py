"""Draws images of one kind of thing on varied backgrounds, with exact points.

python -m benchmarks.drawn_things wings --count 2000 --seed 1 --out wings

Writes OUT/photos/0000.jpg ... and OUT/points.csv, DeepLabCut's table of labelled points, which
`landmarks-jax eval` reads. Training on OUT/photos never sees the points. Image number i of a kind
and a seed is always the same. `noise` is a control without a thing or points.
"""

import argparse
import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from benchmarks import drawn_figures, drawn_scene, drawn_wings, harness
from landmarks_jax import geometry
from landmarks_jax.data.formats import deeplabcut
from landmarks_jax.evaluation import metrics, regression
from landmarks_jax.system import files, parallel

PHOTOS, POINTS = "photos", "points.csv"
Draw = Callable[[np.random.Generator, tuple[int, int]], tuple[Image.Image, np.ndarray]]


class Kind(NamedTuple):
    """A kind of thing.

    Attributes:
      size: width and height of its images, about.
      names: of its points; errors are in per cent of the distance of the first two.
      draw: draws one in an image of a size; returns the image and the points `[P, 2]`.
    """

    size: tuple[int, int]
    names: tuple[str, ...]
    draw: Draw


class Photo(NamedTuple):
    """An image of a thing.

    Attributes:
      size: width and height in pixels.
      jpeg: its file.
      points: `[P, 2]` in pixels; the centre of the first pixel is 0.
    """

    size: tuple[int, int]
    jpeg: bytes
    points: np.ndarray


def _noise(rng: np.random.Generator, size: tuple[int, int]) -> tuple[Image.Image, np.ndarray]:
    return drawn_scene.noise(rng, size), np.zeros((0, 2))


KINDS = {
    "wings": Kind(drawn_wings.SIZE, drawn_wings.POINTS, drawn_wings.draw),
    "figures": Kind(drawn_figures.SIZE, drawn_figures.POINTS, drawn_figures.draw),
    "noise": Kind(drawn_wings.SIZE, (), _noise),
}


def photo(kind: str, seed: int, number: int) -> Photo:
    """Draws image `number` of a kind and a seed."""
    rng = np.random.default_rng((seed, number, *kind.encode()))
    size = tuple(round(side * rng.uniform(0.95, 1.05)) for side in KINDS[kind].size)
    image, points = KINDS[kind].draw(rng, (size[0], size[1]))
    return Photo(image.size, drawn_scene.develop(rng, image), points)


def mean_error(photos: Sequence[Photo]) -> float:
    """The mean shape's error in normalised photos, % of the distance of the first two points."""
    points = np.stack([geometry.to_normalized(one.points, one.size) for one in photos])
    mean = regression.fit_mean(points, points)(points)
    return float(metrics.point_errors(mean, points, metrics.inter_ocular(points)).mean())


def write(kind: str, seed: int, count: int, out: Path) -> list[Photo]:
    """Draws the photos of a kind into a new folder, with their points.

    Raises:
      DataError: the folder exists or cannot be written.
    """
    photos, labels = [], {}
    drawn = parallel.ordered_map(functools.partial(photo, kind, seed), range(count), kind)
    with files.new_folder(out) as folder:
        (folder / PHOTOS).mkdir()
        for number, one in enumerate(drawn):
            name = f"{PHOTOS}/{number:04}.jpg"
            (folder / name).write_bytes(one.jpeg)
            photos.append(one)
            labels[name] = one.points
        if KINDS[kind].names:
            text = deeplabcut.write_labels(labels, KINDS[kind].names)
            files.write_file(folder / POINTS, text)
    return photos


def main() -> None:
    """Writes the folder, and says how well the mean shape predicts the points."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("kind", choices=KINDS)
    parser.add_argument("--count", type=harness.at_least(1), default=2000, help="of images")
    parser.add_argument("--seed", type=harness.at_least(0), default=1)
    parser.add_argument("--out", type=Path, required=True, help="a new folder")
    args = parser.parse_args()
    photos = write(args.kind, args.seed, args.count, args.out)
    print(f"{len(photos):,} {args.kind} in {args.out / PHOTOS}")
    if names := KINDS[args.kind].names:
        unit = f"% of the distance from {names[0]} to {names[1]}"
        print(f"{len(names)} points of each in {args.out / POINTS}")
        print(f"mean shape: {mean_error(photos):.1f} {unit}")


if __name__ == "__main__":
    harness.run_command(main)
