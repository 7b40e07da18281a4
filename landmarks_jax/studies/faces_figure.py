"""The paper's Fig. 2: the same faces under several runs, and the consistency of their landmarks.

The figure and its table are made from plain JSON:

    format          1
    protocol, crop, num_landmarks, score   as in `protocols.evaluate`
    frame           of `consistency.describe`
    mean_shape      its consistency, standing still
    runs            in the order given, the first one at the top:
      run, composition, seed, steps, training_minutes
      spread        mean distance between a photo's landmarks, per cent of its eye distance
      consistency   of `consistency.of_landmarks`, over all faces scored
      colors        [K] the colour of each landmark. The first run's are their numbers; a landmark
                    of another run has the colour of the first run's landmark at the same place of
                    the face, matched one to one by the smallest sum of distances
      landmarks     [E, K, 2] of the faces shown, normalised to the view
    shown           [E] rows of the faces scored
    notes, provenance   of the runs, and of this figure
"""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict
from scipy.optimize import linear_sum_assignment

from landmarks_jax.evaluation import consistency, metrics, run_evaluation, score_tables, scores
from landmarks_jax.evaluation.consistency import Frames
from landmarks_jax.evaluation.protocols import Protocol
from landmarks_jax.inference.detector import ViewDetector
from landmarks_jax.studies.runs import check_folders
from landmarks_jax.system import figures, files
from landmarks_jax.system.errors import ConfigError, WorkdirError
from landmarks_jax.system.tables import Table
from landmarks_jax.tasks import task_of
from landmarks_jax.training import checkpoints, run_folder
from landmarks_jax.training.state import trained_variables

# What `measure` returns.
Measured = dict[str, Any]

# Equal in all runs of a figure, so that they have the same views and number of landmarks.
COMMON_FIELDS = ("model.num_landmarks", "views.size", "data.canvas_size", "data.crop")


def write(
    folders: Sequence[str],
    out: Path,
    faces: Mapping[str, Any],
    *,
    num_shown: int = 16,
    tile: int = 128,
    command: Sequence[str] = (),
) -> str:
    """Makes the figure of finished runs: `out`, and beside it its `.json` and `.md`.

    Args:
      folders: the runs' folders, the baseline first.
      out: the figure, a `.png`.
      faces: keywords of `run_evaluation.open_faces`; `score` may be without `fit`. Of a named
        protocol's crops, that of the runs' training is used, or else the first.
      num_shown: number of faces in the figure, evenly spaced among those scored.
      tile: the side of a face in pixels.
      command: the command line, recorded in the JSON.

    Returns:
      The table, as Markdown.

    Raises:
      UserError: a run or the faces cannot be used, or nothing can be written.
    """
    if out.suffix != ".png":
        raise ConfigError(f"--out {out}: must end in .png")
    runs = _open_runs(folders)
    protocol = _open_faces(next(iter(runs.values())), faces)
    figure = measure(runs, protocol, num_shown=num_shown)
    figure["provenance"] = run_evaluation.environment(command)
    markdown = to_markdown(figure)
    text = json.dumps(figure, allow_nan=False) + "\n"
    files.write_file(out.with_suffix(".json"), text, WorkdirError)
    files.write_file(out.with_suffix(".md"), markdown, WorkdirError)
    figures.save(page(figure, protocol.score.views[figure["shown"]], tile), out)
    return markdown


def _open_runs(folders: Sequence[str]) -> dict[str, ConfigDict]:
    """The configurations of comparable runs, by folder."""
    if len(folders) < 2:
        raise ConfigError("name the folders of two runs or more, the baseline first")
    check_folders(folders)
    runs: dict[str, ConfigDict] = {}
    for folder in folders:
        path = Path(folder)
        if run_folder.newest_step(path) is None:
            raise WorkdirError(f"{folder}: has no checkpoint yet; train it first")
        config = run_folder.read_config(path)
        run_evaluation.need_landmarks(path, config, "in this figure")
        runs[folder.rstrip("/")] = config
    (first, reference), *others = runs.items()
    for folder, config in others:
        for field in COMMON_FIELDS:
            section, name = field.split(".")
            ours, theirs = reference[section][name], config[section][name]
            if ours != theirs:
                raise ConfigError(
                    f"config.{field} is {ours!r} in {first} and {theirs!r} in {folder}: the runs "
                    "of a figure need the same views and number of landmarks"
                )
    return runs


def _open_faces(config: ConfigDict, asked: Mapping[str, Any]) -> Protocol:
    """The labelled faces under one protocol and crop."""
    faces = dict(asked)
    if faces.get("score") is not None and faces.get("fit") is None:
        faces |= {"fit": faces["score"], "allow_duplicates": True}  # nothing is fitted
    names = faces.get("protocol_names") or config.eval.protocols
    if len(names) > 1 and faces.get("fit") is None:
        raise ConfigError(f"a figure has one protocol; choose a --protocol: {', '.join(names)}")
    if len(faces.get("crops", ())) > 1:
        raise ConfigError("a figure has one crop; give --crop once")
    opened = run_evaluation.open_faces(config, **faces)
    protocol = next((p for p in opened if p.crop == config.data.crop), opened[0])
    return protocol if asked.get("fit") else dataclasses.replace(protocol, notes=())


def measure(runs: Mapping[str, ConfigDict], protocol: Protocol, *, num_shown: int = 16) -> Measured:
    """Detects all scored faces with every run; the module's docstring has the structure.

    Raises:
      UserError: a run has no checkpoint, or the labels define no frame.
    """
    labels = protocol.score.points
    frame = consistency.frames(labels, protocol.eyes)
    rows = np.linspace(0, len(labels) - 1, min(num_shown, len(labels))).round().astype(int)
    measured: list[dict[str, Any]] = []
    notes = dict.fromkeys(protocol.notes)
    for folder, config in runs.items():
        run = _measure_run(folder, config, protocol, frame, rows)
        first = measured[0] if measured else run
        places = [_places(one["consistency"]) for one in (first, run)]
        measured.append(run | {"colors": matched(*places).tolist()})
        own = run_folder.read_record(Path(folder)).all_notes()
        notes |= dict.fromkeys([task_of(config).describe(config), *own])
    mean_shape = protocol.fit.points.mean(0, dtype=np.float64)
    return {
        "format": 1,
        "protocol": protocol.name,
        "crop": protocol.crop,
        "num_landmarks": len(measured[0]["colors"]),
        "score": {"name": protocol.score.name, "faces": len(labels)},
        "frame": consistency.describe(frame, labels),
        "mean_shape": consistency.of_standing(mean_shape, frame),
        "runs": measured,
        "shown": rows.tolist(),
        "notes": list(notes),
    }


def _measure_run(
    folder: str, config: ConfigDict, protocol: Protocol, frame: Frames, shown: np.ndarray
) -> dict[str, Any]:
    restored = checkpoints.restore(Path(folder), config)
    detector = ViewDetector(config, trained_variables(restored.state))
    landmarks = detector(protocol.score.views)
    if not np.isfinite(landmarks).all():
        raise WorkdirError(f"{folder}: its landmarks are not finite; did the training diverge?")
    eye_distance = metrics.inter_ocular(protocol.score.points, protocol.eyes, protocol.score.names)
    return {
        "run": folder,
        "composition": config.objective.composition,
        "seed": config.seed,
        "steps": restored.step,
        "training_minutes": round(restored.seconds / 60, 2),
        "spread": scores.relative_spread(landmarks, eye_distance),
        "consistency": consistency.of_landmarks(landmarks, frame),
        "landmarks": np.round(landmarks[shown].astype(float), 5).tolist(),
    }


def _places(measured: Mapping[str, Any]) -> np.ndarray:
    """The landmarks' mean places `[K, 2]` in the frame."""
    return np.array([point["place"] for point in measured["per_point"]])


def matched(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Matches points `[K, 2]` one to one, by the smallest sum of distances.

    Returns:
      `[K]` for each point of `second` the index of its partner in `first`.
    """
    distances = np.linalg.norm(first[:, None] - second, axis=-1)
    partners, points = linear_sum_assignment(distances)
    return partners[np.argsort(points)]


def page(figure: Measured, views: np.ndarray, tile: int = 128) -> figures.Figure:
    """The figure: `views` `[E, S, S, 3]` of the faces shown, once for every run."""
    methods = {}
    for run in figure["runs"]:
        name = (
            f"{run['run']}: {run['composition']}, {run['steps']} steps, consistency "
            f"{run['consistency']['rms']:.1f} %, spread {run['spread']:.0f} %"
        )
        # A landmark's colour is that of its index.
        methods[name] = np.array(run["landmarks"])[:, np.argsort(run["colors"])]
    return figures.methods_page(views, methods, title=score_tables.describe(figure), tile=tile)


def to_markdown(figure: Measured) -> str:
    """The landmarks of every run from the most to the least consistent, and the means."""
    runs, score = figure["runs"], figure["score"]
    ranked = [_ranked(run) for run in runs]
    rows = [
        [str(rank + 1), *(cell for run in ranked for cell in run[rank])]
        for rank in range(figure["num_landmarks"])
    ]
    means = [("", scores.consistency_text(run["consistency"])) for run in runs]
    spreads = [("", scores.decimals(run["spread"])) for run in runs]
    rows.append(["mean", *(cell for pair in means for cell in pair)])
    rows.append(["spread", *(cell for pair in spreads for cell in pair)])
    header = ["Rank"]
    for run in runs:
        header += [f"{run['run']}: landmark", f"{run['composition']}, consistency"]
    notes = [
        f"{scores.notes([scores.METRICS['consistency']])} {score_tables.STILL_NOTE} Landmarks are "
        "numbered from 0, each run's own.",
        *(_better(run, runs[0]) for run in runs[1:]),
        f"The labelled points themselves have {figure['frame']['labelled']['rms']:.2f}, the mean "
        f"shape, standing still in the view, {figure['mean_shape']['rms']:.2f}.",
        "Colours of the first run are its landmarks' numbers. Each landmark of another run has the "
        "colour of the first run's landmark nearest to its place on the face, one to one; where "
        "none is near, equal colours mean nothing.",
        f"Faces: {score['faces']} ({score['name']}). {'; '.join(map(_training, runs))}.",
        score_tables.CROPS_NOTE,
        *(f"Note: {note}" for note in figure["notes"]),
    ]
    return Table(header, rows, f"Consistency: {score_tables.describe(figure)}", notes).to_markdown()


def _ranked(run: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Each landmark's number with its colour, and its consistency; the most consistent first."""
    points = run["consistency"]["per_point"]
    order = sorted(range(len(points)), key=lambda index: points[index]["rms"])
    return [
        (f"{index} (colour {run['colors'][index]})", scores.consistency_text(points[index]))
        for index in order
    ]


def _better(run: Mapping[str, Any], first: Mapping[str, Any]) -> str:
    """How many landmarks of a run are more consistent than the first run's of the same colour."""
    ours, theirs = (one["consistency"]["per_point"] for one in (run, first))
    pairs = zip(ours, run["colors"], strict=True)
    wins = sum(point["rms"] < theirs[color]["rms"] for point, color in pairs)
    means = " against ".join(f"{one['consistency']['rms']:.2f}" for one in (run, first))
    return (
        f"{run['run']} against {first['run']}: mean consistency {means}; {wins} of {len(ours)} "
        "landmarks are more consistent than the one of the same colour."
    )


def _training(run: Mapping[str, Any]) -> str:
    return (
        f"{run['run']}: {run['composition']}, seed {run['seed']}, {run['steps']} steps in "
        f"{run['training_minutes']:g} minutes"
    )
