"""A training session of limited length: prepares photos, trains, writes transfer files, evaluates.

For machines that are available for minutes only, such as a borrowed accelerator.
"""

import contextlib
import hashlib
import io
import json
import time
import zipfile
from collections.abc import Sequence
from pathlib import Path

import jax
from ml_collections import ConfigDict

from landmarks_jax import config as configuration
from landmarks_jax.data import lists, loader, prepared, shrink
from landmarks_jax.data.framing import CROPS
from landmarks_jax.data.sources import registry
from landmarks_jax.evaluation import pckh, run_evaluation
from landmarks_jax.system import files
from landmarks_jax.system.errors import ConfigError, UserError, WorkdirError
from landmarks_jax.tasks import task_of
from landmarks_jax.training import (
    init_from,
    loop,
    refiner,
    run_folder,
    run_inputs,
    sharding,
    start_points,
    transfer_files,
    transfer_start,
)
from landmarks_jax.training import state as states

TRANSFER = "transfer"
RESULTS = "results.zip"


def run_session(
    config: ConfigDict,
    workdir: Path,
    out: Path,
    *,
    start: float,
    minutes: float,
    reserve: float,
    photos: Sequence[str] = (),
    canvases: Path = Path("prepared"),
    transfer_from: Path | None = None,
    command: Sequence[str] = (),
) -> int:
    """Prepares photos, trains, writes transfer files and evaluates, within some minutes.

    Transfer files are written whenever a state is saved, and `results.zip` before the evaluation
    and after it, so that whatever ends the session leaves what was done by then.

    Args:
      config: the configuration; its own limits hold as well.
      workdir: the run's folder; a run continues from the checkpoints in it.
      out: the folder for `transfer/` and `results.zip`.
      start: when the session began, on the clock of `time.monotonic()`.
      minutes: length of the session, preparation and compilation included.
      reserve: minutes of it kept for what follows the training.
      photos: folders of photos that replace the configuration's; see `on_canvases`.
      canvases: the folder that keeps their prepared form, shared by all runs.
      transfer_from: transfer files to begin from if the run has no checkpoint.
      command: the command line, for the record.

    Returns:
      0, or 128 plus the number of the signal that ended the training; nothing was evaluated then.

    Raises:
      UserError: something a user can act on.
    """
    _check_start(config, workdir, out, transfer_from, photos=photos)
    if photos:
        config = on_canvases(config, photos, canvases)
    deadline = start + 60 * (minutes - reserve)
    code = _train(config, workdir, out, transfer_from, deadline=deadline)
    # Before the evaluation too, which may be cut off.
    files.write_file(out / RESULTS, results(workdir), WorkdirError)
    if code:
        return code
    _check_trained(workdir)
    if config.eval.protocols:
        print(run_evaluation.evaluate_run(workdir, command=command), flush=True)
        files.write_file(out / RESULTS, results(workdir), WorkdirError)
    spent = (time.monotonic() - start) / 60
    print(f"{out / RESULTS}: after {spent:.1f} of {minutes:g} minutes")
    return 0


def _train(
    config: ConfigDict, workdir: Path, out: Path, transfer_from: Path | None, *, deadline: float
) -> int:
    """Trains as `loop.train`; writes the results also if that fails, as its last transfer may."""
    try:
        return loop.train(
            config,
            workdir,
            transfer_from=transfer_from,
            transfer_to=out / TRANSFER,
            deadline=deadline,
        )
    except Exception:
        if run_folder.is_run(workdir):
            with contextlib.suppress(UserError, OSError):  # the first error is the one to say
                files.write_file(out / RESULTS, results(workdir), WorkdirError)
        raise


def _check_start(
    config: ConfigDict,
    workdir: Path,
    out: Path,
    transfer_from: Path | None,
    *,
    photos: Sequence[str],
) -> None:
    """Refuses what would end the session only after its photos are prepared, or at its end."""
    configuration.validate(config)
    configuration.check_devices(config, jax.device_count())
    if photos:
        _check_task(config)
    files.check_writable(out, WorkdirError, folder=True)
    bundle = None
    if transfer_from is not None and run_folder.newest_step(workdir) is None:
        bundle = transfer_files.read(transfer_from)
        transfer_start.check_config(bundle, config)
    init_from.find(config, workdir, bundle)
    open_inputs(config)
    networks = task_of(config).build_networks(config)
    state = states.abstract_state(config, networks, sharding.make_mesh())
    transfer_files.check_sizes(config, state)
    with run_folder.locked(workdir):
        pass  # the training locks it again


def _check_trained(workdir: Path) -> None:
    """Raises WorkdirError if time ran out before the first step."""
    if run_folder.newest_step(workdir) is None:
        raise WorkdirError(
            f"{workdir}: the time was up before the first step; rerun the command to continue, or "
            "give more --minutes"
        )


def open_inputs(config: ConfigDict) -> None:
    """Opens all that training and evaluation read but photos, so that a missing file costs no time.

    Raises:
      UserError: weights, a detector to start from, or labelled faces cannot be read.
    """
    task = task_of(config)
    run_inputs.load_frozen(config, task.build_networks(config))
    if task.MAKES_TARGETS:
        start_points.first(config)
        refiner.read_weights(config)
    names = [name for name in config.eval.protocols if name != "synthetic"]
    if task.ON_JOINTS and config.eval.protocols:
        pckh.open_people(config)
    elif names:
        run_evaluation.open_faces(config, names)


def on_canvases(config: ConfigDict, photos: Sequence[str], canvases: Path) -> ConfigDict:
    """The configuration with its photos replaced by the prepared form of folders of photos.

    Args:
      config: the configuration; its `data.exclude` applies. The box crop takes its points from
        `points.csv` in the folder. For self-training the canvases are as large as its features
        need.
      photos: folders of photos, such as `landmarks-jax prepare --shrink` makes. `DIR:tight`
        overrides the configuration's crop. A folder given n times counts n times.
      canvases: the folder that keeps prepared forms; missing ones are prepared.

    Raises:
      ConfigError: the task needs more than photos.
      DataError: a photo cannot be read.
    """
    _check_task(config)
    cut = config
    if task_of(config).MAKES_TARGETS and config.targets.view_size > config.views.size:
        cut = refiner.at_feature_size(config)  # training shrinks them
    roots = [str(_canvases_of(cut, text, canvases)) for text in photos]
    fields = {"source": "prepared", "roots": tuple(roots), "landmarks": ""}
    return configuration.with_fields(config, {f"data.{key}": fields[key] for key in fields})


def _check_task(config: ConfigDict) -> None:
    if task_of(config).ON_JOINTS:
        raise ConfigError(
            "--photos: folders of photos have no joints; a run of the pose task reads "
            "config.data.roots"
        )


def _canvases_of(config: ConfigDict, text: str, canvases: Path) -> Path:
    name, _, crop = text.rpartition(":")
    if not name or crop not in CROPS:
        name, crop = text, config.data.crop
    photos = Path(name)
    points = photos / shrink.POINTS
    fields = {
        "source": "folder",
        "roots": (name,),
        "crop": crop,
        "split": "all",  # `landmarks-jax prepare --shrink` has applied the split
        "landmarks": str(points) if crop == "box" and points.exists() else "",
    }
    config = configuration.with_fields(config, {f"data.{key}": fields[key] for key in fields})
    folder = canvases / f"{photos.resolve().name}-{_fingerprint(config, photos)}"
    if not folder.exists():
        prepared.prepare(registry.open_source(config.data), loader.framing_of(config), folder)
    return folder


def _fingerprint(config: ConfigDict, photos: Path) -> str:
    """Digest of what the canvases are made from: photos and their points, framing, choice."""
    points = config.data.landmarks
    paths = [path for path in photos.rglob("*") if path.is_file()]
    content = [
        repr(loader.framing_of(config)),
        sorted((path.relative_to(photos).as_posix(), files.sha256_of(path)) for path in paths),
        [line for path in config.data.exclude for _, line in lists.read_lines(path)],
        config.data.max_photos,
        files.sha256_of(Path(points)) if points else "",
    ]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:12]


def results(workdir: Path) -> bytes:
    """A zip file of a run's configuration, record, log, evaluation and newest preview."""
    names = (run_folder.CONFIG_FILE, run_folder.RECORD_FILE, run_folder.METRICS_FILE)
    paths = [
        *(workdir / name for name in names),
        *sorted((workdir / run_folder.EVALUATION).glob("*")),
        *sorted((workdir / run_folder.PICTURES).glob("*.png"))[-1:],
    ]
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w", zipfile.ZIP_DEFLATED) as file:
        for path in paths:
            if path.is_file():
                file.write(path, path.relative_to(workdir))
    return data.getvalue()
