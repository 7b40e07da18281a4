"""One sitting of a run on a machine that is at hand for minutes: train, hand over, evaluate."""

import hashlib
import io
import json
import time
import zipfile
from collections.abc import Sequence
from pathlib import Path

from ml_collections import ConfigDict

from landmarks_jax import config as configuration
from landmarks_jax.data import lists, loader, prepared, shrink
from landmarks_jax.data.framing import CROPS
from landmarks_jax.data.sources import registry
from landmarks_jax.evaluation import run_evaluation
from landmarks_jax.system import files
from landmarks_jax.system.errors import ConfigError, WorkdirError
from landmarks_jax.training import checkpoints, loop, reports, run_transfer

HANDOVER = "transfer"
RESULTS = "results.zip"


def sit(
    config: ConfigDict,
    workdir: Path,
    out: Path,
    *,
    start: float,
    minutes: float,
    reserve: float,
    photos: Sequence[str] = (),
    canvases: Path = Path("prepared"),
    handed: Path | None = None,
    command: Sequence[str] = (),
) -> int:
    """Prepares the photos, trains, writes the handover and evaluates, within some minutes.

    What was trained is handed over before anything is evaluated: a kill then costs the tables.

    Args:
      config: the configuration; its own limits hold as well.
      workdir: the run's folder; a run goes on from the checkpoints in it.
      out: the folder for the handover and the results.
      start: when the sitting began, by `time.monotonic()`.
      minutes: the sitting's length; training gets what the rest leaves of it.
      reserve: minutes kept back for what follows the training.
      photos: folders of photos to train on, in place of the configuration's; see `on_canvases`.
      canvases: the folder that keeps their prepared form, for every run that wants the same.
      handed: a handover to start from where the run has no checkpoint.
      command: the command line that asked for this, for the record.

    Returns:
      0, or 128 plus the number of the signal that ended it; nothing was evaluated then.

    Raises:
      UserError: something a user can act on.
    """
    configuration.validate(config)
    if photos:
        if config.objective.task != "landmarks":
            raise ConfigError(
                "--photos: folders of photos have no joints; a run on joints takes those of "
                "config.data.roots"
            )
        config = on_canvases(config, photos, canvases)
    _check_faces(config, workdir)
    deadline = start + 60 * (minutes - reserve)
    code = loop.train(config, workdir, handover=handed, deadline=deadline)
    restored = run_evaluation.restore(workdir, checkpoints.read_config(workdir))
    written = run_transfer.write(restored, workdir, out / HANDOVER)
    size = sum(path.stat().st_size for path in written) / 2**20
    print(
        f"{out / HANDOVER}: step {restored.step}, {len(written)} files, {size:.1f} MiB", flush=True
    )
    if code:
        return code
    if config.eval.protocols:
        print(run_evaluation.evaluate_run(workdir, command=command), flush=True)
    files.write_file(out / RESULTS, results(workdir), WorkdirError)
    spent = (time.monotonic() - start) / 60
    print(f"{out / RESULTS}: after {spent:.1f} of {minutes:g} minutes")
    return 0


def _check_faces(config: ConfigDict, workdir: Path) -> None:
    """Opens the labelled faces that lie in files, so that a lack of them costs no training."""
    names = [name for name in config.eval.protocols if name != "synthetic"]
    if config.objective.task == "pose" and config.eval.protocols:
        run_evaluation.open_people(workdir, config)
    elif names:
        run_evaluation.open_faces(config, names)


def on_canvases(config: ConfigDict, photos: Sequence[str], canvases: Path) -> ConfigDict:
    """The configuration on the prepared form of folders of photos, which is made if need be.

    Args:
      config: the configuration; its `data.exclude` holds. Points, which the box crop needs, are
        those of `points.csv` in the folder.
      photos: folders of photos, such as `landmarks-jax prepare --shrink` makes; `DIR:tight` cuts a
        folder's photos so, whatever the configuration's crop. One named n times counts n times.
      canvases: the folder that keeps prepared forms.
    """
    roots = [str(_canvases_of(config, text, canvases)) for text in photos]
    config = config.copy_and_resolve_references()
    with config.unlocked():
        config.data.source, config.data.roots = "prepared", tuple(roots)
        config.data.landmarks = ""
    return config


def _canvases_of(config: ConfigDict, text: str, canvases: Path) -> Path:
    """The folder with the prepared form of one folder of photos, which is made if need be."""
    name, _, crop = text.rpartition(":")
    config = config.copy_and_resolve_references()
    with config.unlocked():
        if name and crop in CROPS:
            config.data.crop = crop
        else:
            name = text
        photos = Path(name)
        folder = canvases / f"{photos.resolve().name}-{_fingerprint(config, photos)}"
        config.data.source, config.data.roots = "folder", (name,)
        config.data.split = "all"  # of the folder; its source may have had splits
        points = photos / shrink.POINTS
        wanted = config.data.crop == "box" and points.exists()
        config.data.landmarks = str(points) if wanted else ""
    if not folder.exists():
        prepared.prepare(registry.open_source(config.data), loader.framing_of(config), folder)
    return folder


def _fingerprint(config: ConfigDict, photos: Path) -> str:
    """Of what the canvases are made from: other photos or another cut never find these."""
    files = [path for path in photos.rglob("*") if path.is_file()]
    content = [
        repr(loader.framing_of(config)),
        sorted((path.relative_to(photos).as_posix(), path.stat().st_size) for path in files),
        [line for path in config.data.exclude for _, line in lists.read_lines(path)],
    ]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:12]


def results(workdir: Path) -> bytes:
    """A zip file of what a run has to show: tables, their JSON, metrics, the newest picture."""
    shown = [
        *(workdir / name for name in (checkpoints.CONFIG_FILE, checkpoints.RUN_FILE)),
        workdir / reports.METRICS_FILE,
        *sorted((workdir / run_evaluation.FOLDER).glob("*")),
        *sorted((workdir / "pictures").glob("*.png"))[-1:],
    ]
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w", zipfile.ZIP_DEFLATED) as file:
        for path in shown:
            if path.is_file():
                file.write(path, path.relative_to(workdir))
    return data.getvalue()
