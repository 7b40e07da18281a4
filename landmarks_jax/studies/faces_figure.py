"""The paper's qualitative figure (Fig. 2): the same faces under several runs, and consistency.

What the picture and its table show is plain JSON, the source of both:

    format          1
    protocol, crop, num_landmarks, score   as in `protocols.evaluate`
    frame           likewise
    mean_shape      its consistency, standing still
    runs            in the order given, the first one at the top:
      run, composition, seed, steps, training_minutes
      spread        mean distance between a photo's landmarks, per cent of its eye distance
      consistency   of `consistency.of_landmarks`, over all faces scored
      colors        [K] the colour of each landmark, so that colours say the same in all runs as
                    far as they can: the first run's are their numbers, and each of another run's
                    landmarks has that of the first run's one that lies at the same place of the
                    face, one to one, by the smallest sum of distances between mean places
      landmarks     [E, K, 2] of the faces shown, normalised to the view
    shown           [E] rows of the faces scored
    notes, provenance   of the runs, and of this figure
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from landmarks_jax.evaluation import consistency, metrics, run_evaluation, score_tables
from landmarks_jax.evaluation.protocols import Protocol
from landmarks_jax.inference.detector import ViewDetector
from landmarks_jax.system import figures
from landmarks_jax.system.errors import ConfigError, WorkdirError
from landmarks_jax.tasks import task_of
from landmarks_jax.training import checkpoints, run_folder

Figure = dict[str, Any]

# What runs must have in common to be shown the same views and compared point by point.
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
    """Makes the figure of finished runs: `out`, and beside it its `.json` and its `.md`.

    Args:
      folders: of the runs, the baseline first.
      out: the picture, a `.png`.
      faces: keywords of `evaluate.open_faces`; `score` alone will do, without `fit`. Of a named
        protocol's crops that of the runs' training is taken, or else the first.
      num_shown: how many faces, evenly spaced among those scored, are in the picture.
      tile: the side at which a face is shown, in pixels.
      command: the command line that asked for this, for the record.

    Returns:
      The table, as Markdown.

    Raises:
      UserError: a run or the faces cannot be used, or nothing can be written.
    """
    if out.suffix != ".png":
        raise ConfigError(f"--out {out}: must be the name of a picture that ends in .png")
    runs = _open_runs(folders)
    protocol = _open_faces(next(iter(runs.values())), faces)
    figure = measure(runs, protocol, num_shown=num_shown)
    figure["provenance"] = run_evaluation.environment(command)
    markdown = to_markdown(figure)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.with_suffix(".json").write_text(json.dumps(figure, allow_nan=False) + "\n")
        out.with_suffix(".md").write_text(markdown)
        figures.save(page(figure, protocol.score.views[figure["shown"]], tile), out)
    except OSError as error:
        raise WorkdirError(f"--out {out}: cannot be written ({error})") from error
    return markdown


def _open_runs(folders: Sequence[str]) -> dict[str, ConfigDict]:
    """The runs' configurations by folder, fit to be compared."""
    if len(folders) < 2:
        raise ConfigError("give the folders of two runs or more, the baseline first")
    runs: dict[str, ConfigDict] = {}
    for folder in folders:
        if not run_folder.is_run(Path(folder)):
            raise WorkdirError(f"{folder}: not a run, it has no {run_folder.CONFIG_FILE}")
        if Path(folder).resolve() in {Path(known).resolve() for known in runs}:
            raise WorkdirError(f"{folder}: is given twice; name each run once")
        if run_folder.newest_step(Path(folder)) is None:
            raise WorkdirError(f"{folder}: has no checkpoint yet; train it first")
        config = run_folder.read_config(Path(folder))
        run_evaluation.need_landmarks(Path(folder), config, "shown beside others")
        runs[folder.rstrip("/")] = config
    (first, wanted), *others = runs.items()
    for folder, config in others:
        for field in COMMON_FIELDS:
            section, name = field.split(".")
            ours, theirs = wanted[section][name], config[section][name]
            if ours != theirs:
                raise ConfigError(
                    f"config.{field} is {ours!r} in {first} and {theirs!r} in {folder}: one "
                    "figure needs runs that see the same views and find as many points"
                )
    return runs


def _open_faces(config: ConfigDict, asked: Mapping[str, Any]) -> Protocol:
    """The labelled faces, under one crop."""
    faces = dict(asked)
    if faces.get("score") is not None and faces.get("fit") is None:
        faces["fit"] = faces["score"]  # nothing is fitted here
    names = faces.get("protocol_names") or config.eval.protocols
    if len(names) > 1 and faces.get("fit") is None:
        raise ConfigError(f"one figure is of one protocol; choose a --protocol: {', '.join(names)}")
    if len(faces.get("crops", ())) > 1:
        raise ConfigError("one figure is of one crop; give --crop once")
    opened = run_evaluation.open_faces(config, **faces)
    return next((p for p in opened if p.crop == config.data.crop), opened[0])


def measure(
    runs: Mapping[str, ConfigDict], protocol: Protocol, *, num_shown: int = 16
) -> dict[str, Any]:
    """Detects all scored faces with every run; the module's docstring has the structure.

    Raises:
      UserError: a run has no checkpoint, or the labels give no frame.
    """
    labels = protocol.score.points
    eye_distance = metrics.inter_ocular(labels, protocol.eyes)
    frame = consistency.frames(labels, protocol.eyes)
    rows = np.linspace(0, len(labels) - 1, min(num_shown, len(labels))).round().astype(int)
    measured: list[dict[str, Any]] = []
    notes: dict[str, None] = {}
    for folder, config in runs.items():
        restored = checkpoints.restore(Path(folder), config)
        detector = ViewDetector(config, run_evaluation.trained_variables(restored.state))
        landmarks = detector(protocol.score.views)
        if not np.isfinite(landmarks).all():
            raise WorkdirError(f"{folder}: its landmarks are not finite; did the training diverge?")
        own = consistency.of_landmarks(landmarks, frame)
        first = measured[0]["consistency"] if measured else own
        spread = float((metrics.spread(landmarks) / eye_distance).mean())
        measured.append(
            {
                "run": folder,
                "composition": config.objective.composition,
                "seed": config.seed,
                "steps": restored.step,
                "training_minutes": round(restored.seconds / 60, 2),
                "spread": round(100.0 * spread, 4),
                "consistency": own,
                "colors": matched(_places(first), _places(own)).tolist(),
                "landmarks": np.round(landmarks[rows].astype(float), 5).tolist(),
            }
        )
        notes |= dict.fromkeys(
            [task_of(config).describe(config), *run_folder.read_record(Path(folder)).all_notes()]
        )
    return {
        "format": 1,
        "protocol": protocol.name,
        "crop": protocol.crop,
        "num_landmarks": len(measured[0]["colors"]),
        "score": {"name": protocol.score.name, "faces": len(labels)},
        "frame": {
            "shape": np.round(frame.shape, 5).tolist(),
            "labelled": consistency.measure(frame(labels)),
        },
        "mean_shape": consistency.of_standing(protocol.fit.points.mean(0, dtype=np.float64), frame),
        "runs": measured,
        "shown": rows.tolist(),
        "notes": list(notes),
    }


def _places(measured: Mapping[str, Any]) -> np.ndarray:
    """The points' mean places `[K, 2]` in the frame."""
    return np.array([point["place"] for point in measured["per_point"]])


def matched(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Assigns points to points, one to one, by the smallest sum of distances.

    Args:
      first: `[K, 2]`.
      second: `[K, 2]`.

    Returns:
      `[K]` for each of the second its partner among the first.
    """
    # Only now: the figure alone needs it.
    from optax.assignment import hungarian_algorithm  # noqa: PLC0415

    distances = jnp.asarray(np.linalg.norm(first[:, None] - second, axis=-1))
    partners, points = (np.asarray(side) for side in hungarian_algorithm(distances))
    return partners[np.argsort(points)]


def page(figure: Figure, views: np.ndarray, tile: int = 128) -> figures.Figure:
    """The picture: `views` `[E, S, S, 3]` of the faces shown, once under every run."""
    methods = {}
    for run in figure["runs"]:
        name = (
            f"{run['run']}: {run['composition']}, {run['steps']} steps, consistency "
            f"{run['consistency']['rms']:.1f} %, spread {run['spread']:.0f} %"
        )
        # Colours are given to landmarks by their place in the array.
        methods[name] = np.array(run["landmarks"])[:, np.argsort(run["colors"])]
    return figures.methods_page(views, methods, title=score_tables.describe(figure), tile=tile)


def to_markdown(figure: Figure) -> str:
    """The landmarks of every run from the most to the least consistent, and the means."""
    ranked = [_ranked(run) for run in figure["runs"]]
    rows = [
        [str(rank + 1), *(cell for run in ranked for cell in run[rank])]
        for rank in range(figure["num_landmarks"])
    ]
    means = [("", score_tables.consistency_text(run["consistency"])) for run in figure["runs"]]
    rows.append(["mean", *(cell for pair in means for cell in pair)])
    spreads = [("", f"{run['spread']:.2f}") for run in figure["runs"]]
    rows.append(["spread between the points", *(cell for pair in spreads for cell in pair)])
    header = ["Rank"]
    for run in figure["runs"]:
        header += [f"{run['run']}: point", f"{run['composition']}, consistency"]
    score = figure["score"]
    notes = [
        f"Consistency: {score_tables.CONSISTENCY_NOTE} In brackets the median distance, and what "
        "the point would have if it stood still at its mean place in the view. Points are numbered "
        "from 0, each run's own.",
        *map(_better, figure["runs"][1:], [figure["runs"][0]] * len(figure["runs"])),
        f"The labelled points themselves have {figure['frame']['labelled']['rms']:.2f}, the mean "
        f"shape, standing still in the view, {figure['mean_shape']['rms']:.2f}.",
        "Colours of the first run are its points' numbers. Each point of another run has the "
        "colour of the first run's one nearest to its place on the face, one to one; where there "
        "is none near, equal colours mean nothing.",
        f"Faces: {score['faces']} ({score['name']}). {'; '.join(map(_training, figure['runs']))}.",
        score_tables.CROPS_NOTE,
        *(f"Note: {note}" for note in figure["notes"]),
    ]
    return score_tables.section(
        f"Consistency: {score_tables.describe(figure)}", header, rows, notes
    )


def _ranked(run: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Each landmark's number with its colour and its consistency, the most consistent first."""
    points = run["consistency"]["per_point"]
    order = sorted(range(len(points)), key=lambda index: points[index]["rms"])
    return [
        (f"{index} (colour {run['colors'][index]})", score_tables.consistency_text(points[index]))
        for index in order
    ]


def _better(run: Mapping[str, Any], first: Mapping[str, Any]) -> str:
    """How many points of a run are more consistent than those of the first of the same colour."""
    ours, theirs = (one["consistency"]["per_point"] for one in (run, first))
    pairs = zip(ours, run["colors"], strict=True)
    wins = sum(point["rms"] < theirs[color]["rms"] for point, color in pairs)
    means = " against ".join(f"{one['consistency']['rms']:.2f}" for one in (run, first))
    return (
        f"{run['run']} against {first['run']}: mean consistency {means}; {wins} of {len(ours)} "
        "points are more consistent than the one of the same colour."
    )


def _training(run: Mapping[str, Any]) -> str:
    return (
        f"{run['run']}: {run['composition']}, seed {run['seed']}, {run['steps']} steps in "
        f"{run['training_minutes']:g} minutes"
    )
