"""Finished runs as read from their folders: configuration, log and evaluations, no checkpoint."""

import json
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from landmarks_jax import config as configuration
from landmarks_jax.evaluation.labelled_faces import PROTOCOLS
from landmarks_jax.evaluation.score_tables import Result
from landmarks_jax.system.errors import WorkdirError, reason
from landmarks_jax.tasks import task_of
from landmarks_jax.training import run_folder

FORMAT = 1

# A protocol's name and its crop.
Key = tuple[str, str]


@dataclass(frozen=True)
class Run:
    """A run.

    Attributes:
      name: its folder, as the user gave it.
      config: its configuration.
      digests: of the photos, of the perceptual network and of the features that the detector
        reads, by the names of `run.json`'s fields; "" for none.
      steps: steps by the last line of its log, None without a log.
      minutes: minutes by the last line of its log, None without a log.
      results: results of `protocols.evaluate` by protocol and crop.
    """

    name: str
    config: ConfigDict
    digests: dict[str, str]
    steps: int | None
    minutes: float | None
    results: dict[Key, Result]


def read_runs(folders: Sequence[str]) -> list[Run]:
    """Reads runs.

    Raises:
      WorkdirError: a folder is not a run, is named twice, or a file in it is damaged; or no run
        has an evaluation.
    """
    check_folders(folders)
    runs = [read_run(folder) for folder in folders]
    if not any(run.results for run in runs):
        command = shlex.join(["landmarks-jax", "eval", "--workdir", runs[0].name])
        raise WorkdirError(f"{', '.join(folders)}: not scored yet; run `{command}`")
    return runs


def check_folders(folders: Sequence[str]) -> None:
    """Refuses folders that are not runs, or not different ones.

    Raises:
      WorkdirError: naming the folder.
    """
    known = set()
    for folder in folders:
        path = Path(folder)
        if not run_folder.is_run(path):
            raise WorkdirError(f"{folder}: not a run, it has no {run_folder.CONFIG_FILE}")
        if path.resolve() in known:
            raise WorkdirError(f"{folder}: named twice; name each run once")
        known.add(path.resolve())


def read_run(name: str) -> Run:
    """Reads one run, scored or not.

    Raises:
      WorkdirError: the folder is not a run on landmarks, or a file in it is damaged.
    """
    folder = Path(name)
    config = run_folder.read_config(folder)
    if task_of(config).ON_JOINTS:
        raise WorkdirError(f"{name}: a run on joints; only runs on landmarks can be compared")
    record = run_folder.read_record(folder)
    log = run_folder.read_log(folder)
    steps, minutes = (log[-1]["step"], round(log[-1]["seconds"] / 60, 2)) if log else (None, None)
    paths = sorted((folder / run_folder.EVALUATION).glob("*.json"))
    results = dict(map(_read_result, paths))
    digests = {
        "data_digest": record.data_digest,
        "weights_digest": record.weights_digest,
        "init.features_sha256": record.init.get("features_sha256", ""),
    }
    return Run(name.rstrip("/"), config, digests, steps, minutes, results)


def _read_result(path: Path) -> tuple[Key, Result]:
    """Reads an evaluation and its key, so far as it can be recognised as one."""
    try:
        result = json.loads(path.read_text())
        if result["format"] == FORMAT and result["results"]["running"]["forward"]:
            return (result["protocol"], result["crop"]), result
        problem = "another format"
    except (ValueError, OSError, KeyError, TypeError, RecursionError) as error:
        problem = reason(error)
    raise WorkdirError(
        f"{path}: not an evaluation of format {FORMAT} ({problem}); rerun `landmarks-jax eval`, or "
        "remove it"
    )


def scoring_command(run: Run, key: Key, scored: Sequence[Result]) -> str:
    """The command that scores a run under a protocol.

    Args:
      run: the run.
      key: the protocol and its crop.
      scored: results of other runs under it, whose command names the faces if the protocol has no
        name.
    """
    protocol, crop = key
    start = ["landmarks-jax", "eval", "--workdir", run.name]
    if protocol in PROTOCOLS:
        return shlex.join([*start, "--protocol", protocol])
    for result in scored:
        words = shlex.split(result["provenance"]["command"])[2:]
        if flags := _without_workdir(words):
            return shlex.join([*start, *flags])
    return shlex.join([*start, "--fit", "FACES", "--score", "FACES", "--crop", crop])


def _without_workdir(flags: Sequence[str]) -> list[str]:
    """Flags of an evaluation without the one that names the run."""
    kept, skip = [], False
    for flag in flags:
        name, equals, _ = flag.lstrip("-").partition("=")
        if skip or (name == "workdir" and flag.startswith("-")):
            skip = not skip and not equals
            continue
        kept.append(flag)
    return kept


def seed_groups(runs: Sequence[Run]) -> list[list[Run]]:
    """Groups of runs that differ only in the seed, in the order given."""
    groups: list[list[Run]] = []
    for run in runs:
        for group in groups:
            if _same_but_seed(group[0], run):
                group.append(run)
                break
        else:
            groups.append([run])
    return groups


def _same_but_seed(one: Run, other: Run) -> bool:
    fields = {field for field, *_ in configuration.differences(one.config, other.config)}
    # Lengths may differ between sessions of a run, but not between seeds of an experiment.
    lengths = [(r.config.train.steps, r.config.train.minutes) for r in (one, other)]
    return fields <= {"seed"} and one.digests == other.digests and lengths[0] == lengths[1]


def differences(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """The differences between runs.

    Returns:
      For each field {"field", "values": [{"value", "runs": names}]}. Photos and networks of others
      are compared by their digests, None without.
    """
    pairs = [
        {field: (a, b) for field, a, b in configuration.differences(runs[0].config, run.config)}
        for run in runs
    ]
    differing = []
    for field in sorted({field for pair in pairs for field in pair}):
        first = next(pair[field][0] for pair in pairs if field in pair)
        values = [pair[field][1] if field in pair else first for pair in pairs]
        differing.append(_by_value(f"config.{field}", values, runs))
    for name in runs[0].digests:
        digests = [run.digests[name][:12] or None for run in runs]
        if len(set(digests)) > 1:
            differing.append(_by_value(f"{run_folder.RECORD_FILE}: {name}", digests, runs))
    return differing


def _by_value(field: str, values: Sequence[Any], runs: Sequence[Run]) -> dict[str, Any]:
    entries: list[dict[str, Any]] = []
    for value, run in zip(values, runs, strict=True):
        for entry in entries:
            if entry["value"] == value:
                entry["runs"].append(run.name)
                break
        else:
            entries.append({"value": value, "runs": [run.name]})
    return {"field": field, "values": entries}
