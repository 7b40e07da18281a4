"""The rows of `benchmarks.refinement`: where points start, what is compared, how they move."""

import functools
from typing import NamedTuple

from benchmarks.features import Features

SCHEDULE = ((0.15, 0.1),) * 6 + ((0.1, 0.2),) * 4
FROM_DETECTOR = ((0.15, 0.1),) * 3 + ((0.1, 0.2),) * 2
EXTENT = 0.7
DRAWS, DRAWN = 8, 10
GROUPS = {
    "table": "Refinement by deep features",
    "controls": "Controls, 6 x 6 grid",
    "sensitivity": "Sensitivity, 6 x 6 grid",
}


class Row(NamedTuple):
    """A row of the result.

    Attributes:
      group: a key of `GROUPS`.
      label: its first cell.
      grid: points a side of the grid to start from; 0 starts at those of the detector.
      extent: half a side of the grid, normalised units.
      schedule: s and t of each iteration.
      features: what is compared.
      change: what else differs: "mean", "drawn", "others", "isotropic" or "pooled"; "" is nothing.
    """

    group: str
    label: str
    grid: int = 6
    extent: float = EXTENT
    schedule: tuple[tuple[float, float], ...] = SCHEDULE
    features: Features = Features()
    change: str = ""


def table() -> dict[str, Row]:
    """The main rows."""
    of, vgg16 = functools.partial(Row, "table"), Features("vgg16", ("relu3_3",))
    rows = {
        "mean": of("mean shape", change="mean"),
        "detector": of("detector, not refined", grid=0, schedule=()),
        "detector-refined": of("detector, refined", grid=0, schedule=FROM_DETECTOR),
    }
    rows |= {f"grid-{n}": of(f"{n} x {n} grid, refined", grid=n) for n in (3, 6, 8)}
    drawn = f"{DRAWN} of the refined 6 x 6, {DRAWS} draws"
    rows["drawn"] = of(drawn, change="drawn")
    rows["vgg16"] = of("6 x 6 grid, VGG-16's relu3_3 alone", features=vgg16)
    return rows


def controls() -> dict[str, Row]:
    """Rows that show what each part of the method brings."""
    of = functools.partial(Row, "controls")
    shallow = Features(taps=("relu1_2", "relu2_2"))
    return {
        "random": of("random weights", features=Features(random=True)),
        "shallow": of("relu1_2 and relu2_2 instead", features=shallow),
        "no-iteration": of("no iteration", schedule=()),
        "one-iteration": of("one iteration", schedule=SCHEDULE[:1]),
        "no-whitening": of("covariance a multiple of the identity", change="isotropic"),
        "others": of("points of another photo", change="others"),
        "pooled": of("statistics of --pool's photos too", change="pooled"),
    }


def sensitivity() -> dict[str, Row]:
    """Rows that differ in one number."""
    of, rows = functools.partial(Row, "sensitivity"), {}
    for s in (0.05, 0.1, 0.15, 0.2, 0.3):
        rows[f"s-{s}"] = of(f"s = {s}, t = 0.1", schedule=((s, 0.1),) * 10)
    for t in (0.05, 0.2, 0.5, 1.0):
        rows[f"t-{t}"] = of(f"s = 0.15, t = {t}", schedule=((0.15, t),) * 10)
    for count in (3, 6, 8, 15, 20):
        longer = (SCHEDULE + (SCHEDULE[-1],) * 10)[:count]
        rows[f"iterations-{count}"] = of(f"{count} iterations", schedule=longer)
    for count in (2, 10):
        schedule = FROM_DETECTOR[:count] if count == 2 else SCHEDULE
        label = f"from the detector, {count} iterations"
        rows[f"detector-{count}"] = of(label, grid=0, schedule=schedule)
    for count in (16, 32, 64, 96, 256):
        features = Features(components=count)
        rows[f"components-{count}"] = of(f"{count} components a tap", features=features)
    for size in (96, 112, 150, 192):
        features = Features(size=size)
        rows[f"size-{size}"] = of(f"photos of {size} pixels", features=features)
    for extent in (0.5, 0.6, 0.8, 0.9):
        rows[f"extent-{extent}"] = of(f"grid over +-{extent}", extent=extent)
    return rows


ROWS = table() | controls() | sensitivity()
