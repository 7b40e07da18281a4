"""What stands beside the forward errors: the other errors, and how the cells were trained."""

from landmarks_jax.evaluation.score_tables import CONSISTENCY_NOTE, DASH, Result
from landmarks_jax.studies import grids
from landmarks_jax.studies.forward_tables import PRINTED
from landmarks_jax.studies.grids import UNIT, Grid
from landmarks_jax.studies.published_numbers import BACKWARD
from landmarks_jax.studies.results import Gathered

_QUANTITIES = ("forward", "backward", "consistency", "spread", "equivariance")
_NOTE = (
    f"Running statistics. Forward, backward and spread: {UNIT}; equivariance: pixels of a 128 "
    "view. Spread is the mean distance between a photo's points: where it is small, they collapse "
    f"and score well backward. Consistency: {CONSISTENCY_NOTE}"
)
# As `weights.vgg` begins its note; the paper's own network has none.
_LOSS = "perceptual loss of "


def other_errors(gathered: Gathered) -> list[Grid]:
    """A grid for each protocol and crop that any cell was scored under."""
    found = []
    for key in gathered.keys:
        columns = [grids.column(q.capitalize(), key, statistics="running") for q in _QUANTITIES]
        rows = []
        for cell in gathered.cells:
            numbers = [grids.score(gathered, key, cell.name, "running", q) for q in _QUANTITIES]
            if any(numbers):
                labels = [cell.name, str(cell.num_landmarks), gathered.seeds_text(cell.name)]
                rows.append(grids.row("measured", labels, numbers, cell=cell.name))
        if rows:
            title = f"Beside the forward error: {key[0]}, {key[1]} crop"
            found.append(grids.grid(title, ["Cell", "K", "Seeds"], columns, rows, []))
    if found:
        found[-1]["notes"].append(_NOTE)
    return found


def published_backward() -> Grid:
    """Published errors of the other direction."""
    rows = [
        grids.row(
            "published",
            [entry.method],
            [grids.printed(value, entry.source) for value in (entry.mafl, entry.aflw)],
        )
        for entry in BACKWARD
    ]
    note = f"Backward error, {UNIT}: from the labelled points to the discovered ones."
    return grids.grid("Backward errors, as published", ["Method"], PRINTED, rows, [note])


def trainings(gathered: Gathered) -> list[Grid]:
    """How long the cells' runs were trained, on what, and with which perceptual loss."""
    rows = []
    for cell in gathered.cells:
        results = gathered.results_of(cell.name)
        if not results:
            continue
        lengths = [
            grids.over_seeds({seed: r["provenance"][name] for seed, r in results.items()})
            for name in ("steps", "training_minutes")
        ]
        losses = [
            perceptual_of(result, gathered.runs[cell.name, seed].digests[1])
            for seed, result in results.items()
        ]
        devices = [", then ".join(r["provenance"].get("trained_on", ())) for r in results.values()]
        texts = ["; ".join(dict.fromkeys(filter(None, t))) or DASH for t in (losses, devices)]
        labels = [cell.name, ", ".join(map(str, results)), *texts]
        rows.append(grids.row("measured", labels, lengths, cell=cell.name))
    if not rows:
        return []
    columns = [grids.column("Steps", decimals=0), grids.column("Minutes", decimals=1)]
    labels = ["Cell", "Seeds", "Perceptual loss", "Trained on"]
    return [grids.grid("Trainings", labels, columns, rows, [])]


def perceptual_of(result: Result, weights_digest: str) -> str:
    """The perceptual network of a run and how many taps, such as `Caffe VGG-16, 3 taps`."""
    if not weights_digest:
        return "none"
    notes = [note.removeprefix(_LOSS) for note in result["notes"] if note.startswith(_LOSS)]
    return notes[0].partition(" (")[0] if notes else "torchvision VGG-16, 4 taps"
