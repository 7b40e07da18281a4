"""Refine points of photos by their features, without labels and without training (ours).

landmarks-jax refine --config NAME --out DIR [--config.SECTION.FIELD=value ...]
landmarks-jax refine --config selftrain_start_cpu --out refined
landmarks-jax refine --config selftrain_start_cpu --workdir runs/mine --out refined

Points start from the grid and the detector of config.targets or, with --workdir, from the points of
a run on its own photos; then only the section targets of the configuration is used, and the last
of its iterations. They move to where features look alike in all photos: those of VGG, or
histograms of gradients (--config.targets.network=hog), which need no weights.

Writes points.npz with `names` [N], `points` [N, G, 2], normalised to the canvas (with the center
crop the whole photo: -1 is its left or upper edge, 1 the right or lower one), `confidence` [N, G],
1 where a point looks as in all photos and 0 where it may as well be elsewhere, `followed` [G], how
far a point moves with a photo that is warped (with config.targets.keep), `seconds`, and `merging`,
by which landmarks [K, 2] of a photo are `merging @ points`: [K, G] or, with config.targets.mirror,
[2 K, G], for the photo and then for its mirror image. A run with config.targets.mirror has 2 K
points a photo: those it finds in the photo, then in its mirror image. Then points.png, a page of
faces to look at.
"""

import time
from pathlib import Path

from ml_collections import ConfigDict

from landmarks_jax.cli.command import Call, Command, Flag

_FLAGS = (
    Flag("out", "The folder to write to.", required=True),
    Flag("workdir", "A run whose points are refined on its own photos."),
)


def _run(call: Call) -> None:
    from landmarks_jax import config as configuration  # noqa: PLC0415
    from landmarks_jax.data import loader  # noqa: PLC0415
    from landmarks_jax.system import files  # noqa: PLC0415
    from landmarks_jax.tasks import self_training  # noqa: PLC0415
    from landmarks_jax.training import start_points, targets  # noqa: PLC0415
    from landmarks_jax.training.refiner import Refiner  # noqa: PLC0415

    config, out = call.flags.config, Path(call.flags.out)
    configuration.validate(config)
    files.check_writable(out, folder=True)
    started = time.monotonic()
    if call.flags.workdir is None:
        self_training.check_targets(config)
        start, later = start_points.first(config), False
        refiner = Refiner(config)
    else:
        config, variables = _run_of(Path(call.flags.workdir), config)
        self_training.check_targets(config)
        refiner = Refiner(config)
        start, later = start_points.own(config, loader.open_loader(config), variables), True
    keep = 0 if later else config.targets.keep
    made = refiner.run(start, targets.schedule(config, later=later), keep=keep)
    weights = targets.merging_of(config, made.points, start.mirrored, later=later)
    targets.write(out / "points.npz", refiner, made, weights, started)
    print(f"{out}: {made.points.shape[1]} points of {len(made.points):,} photos")


def _run_of(workdir: Path, with_targets: ConfigDict) -> tuple[ConfigDict, dict]:
    """The configuration of a run with the given section `targets`, and its detector's variables."""
    from landmarks_jax import config as configuration  # noqa: PLC0415
    from landmarks_jax.evaluation import run_evaluation  # noqa: PLC0415
    from landmarks_jax.training import checkpoints, run_folder  # noqa: PLC0415
    from landmarks_jax.training.state import trained_variables  # noqa: PLC0415

    config = run_folder.read_config(workdir)
    run_evaluation.need_landmarks(workdir, config, "refined")
    state = checkpoints.restore(workdir, config).state
    config = configuration.with_fields(config, {"targets": with_targets.targets})
    return config, trained_variables(state)


COMMAND = Command(_run, _FLAGS, config="The configuration whose photos are refined.")
