"""Runs of the tables' cells as training and evaluation leave them, with numbers made by hand."""

import json
from pathlib import Path

from landmarks_jax.configs import paper
from landmarks_jax.studies.paper_cells import CELLS, Base, config_of, folder_of
from landmarks_jax.training import run_folder

NOTE = "perceptual loss of Caffe VGG-16, 3 taps (relu1_2, relu2_2, relu3_3)"


def base_of(config=None, **overrides):
    """A base of the paper's configuration; `train__steps=4` changes a field as a flag would."""
    config = paper.get_config() if config is None else config
    fields = {name.replace("__", "."): value for name, value in overrides.items()}
    for field, value in fields.items():
        section, _, name = field.rpartition(".")
        (config[section] if section else config)[name] = value
    return Base("configs/paper.py", config, fields)


def entries(means, counts=(1, 10)):
    """Forward errors over N: those below all with a deviation of a tenth of them."""
    below = [
        {"n": n, "draws": 10, "mean": mean, "std": mean / 10, "per_point": [mean] * 5}
        for n, mean in zip(counts, means[:-1], strict=True)
    ]
    return [*below, {"n": 99, "draws": 1, "mean": means[-1], "std": None, "per_point": [0.0] * 5}]


def result_of(key, running, *, steps, batch=None, notes=(NOTE,)):
    """A result in which `running` and `batch` are forward errors at N = 1, 10 and all."""

    def scores(means, backward):
        return {
            "forward": entries(means),
            "backward": [{"n": 99, "draws": 1, "mean": backward, "std": None, "per_point": []}],
            "consistency": {"rms": 8.25},
            "spread": 100.0,
            "equivariance": {"error": 4.5, "compared": 9, "left_out": 0},
        }

    results = {"running": scores(running, 12.5)}
    if batch:
        results["batch"] = scores(batch, 13.5)
    results["untrained"] = scores((40.0, 30.0, 23.9), 60.0)
    results["mean_shape"] = {"forward": entries((40.0, 26.0, 24.1))}
    return {
        "format": 1,
        "protocol": key[0],
        "crop": key[1],
        "num_landmarks": 10,
        "point_names": ["a", "b", "c", "d", "e"],
        "fit": {"name": "fit.txt", "faces": 99},
        "score": {"name": "score.txt", "faces": 9},
        "notes": list(notes),
        "results": results,
        "breakdown": [],
        "provenance": {
            "command": "landmarks-jax eval",
            "steps": steps,
            "training_minutes": steps / 100,
            "trained_on": ["1 x H200"],
        },
    }


def write_run(runs, cell, base, *results, seed=0, steps=None, saved=None):
    """The folder of a cell's run; `saved` is the newest checkpoint's step, if not the log's."""
    config = config_of(CELLS[cell], base, seed)
    steps = config.train.steps if steps is None else steps
    folder = Path(folder_of(CELLS[cell], seed, str(runs)))
    weights = "w" * 64 if config.perceptual.weights else ""
    run_folder.claim(folder, config, run_folder.Record("d" * 64, weights, init={}))
    run_folder.write_log(folder, [{"step": steps, "seconds": 0.6 * steps}])
    (folder / "evaluation").mkdir()
    (folder / "checkpoints" / str(steps if saved is None else saved)).mkdir(parents=True)
    for result in results:
        path = folder / "evaluation" / f"{result['protocol']}-{result['crop']}.json"
        path.write_text(json.dumps(result))
    return folder
